"""Entry points that exchange numbers with Python: one, lists of them, and NumPy arrays over the same memory.

NumPy's arrays are read at the fixed places of their C struct (``PyArrayObject_fields``, the same in NumPy 1 and 2) and
made by functions of its C API, whose addresses Python hands over: an array costs 0.5 us so, by way of
``__array_interface__`` 2.5.
"""

from numba import types

from tapegrad.native.cache import jit
from tapegrad.native.dtypes import BOOL, FLOAT32, FLOAT64, INT32, INT64
from tapegrad.native.fastcall import (
    as_float64,
    as_int64,
    bool_type,
    clear_error,
    error_occurred,
    float_type,
    from_bool,
    from_float64,
    from_int64,
    hold_object,
    list_item,
    list_size,
    list_type,
    long_type,
    new_list,
    new_tuple,
    set_list_item,
    type_of,
)
from tapegrad.native.pointers import caller, float64_at, int64_at, pointer_to, stack_words
from tapegrad.runtime.layout import (
    BAD_ARGUMENT,
    MAX_NDIM,
    data_address,
    item_bytes,
    shape_in,
    slot_of,
    state_of,
    storage_of,
    strides_in,
)
from tapegrad.runtime.memory import foreign_storage, new_handle, new_slot, new_storage, release, slot_of_handle
from tapegrad.runtime.strides import mark_layout, set_contiguous
from tapegrad.runtime.tables import reserve

_float32_at, _int32_at, _uint8_at = pointer_to("f4"), pointer_to("i4"), pointer_to("u1")

_new_array = caller(
    types.int64,  # PyArray_New: the array, or 0
    types.int64,  # type
    types.int32,  # dimensions
    types.int64,  # shape
    types.int32,  # number of the dtype
    types.int64,  # strides
    types.int64,  # data
    types.int32,  # bytes of an element
    types.int32,  # flags
    types.int64,  # None
)
_set_base = caller(types.int32, types.int64, types.int64)
_WRITEABLE = 0x400

# words of PyArrayObject_fields
_DATA, _NDIM, _SHAPE, _STRIDES, _FLAGS = 2, 3, 4, 5, 8


@jit
def _number_at(address, dtype):
    """Return a new Python number."""
    if dtype == FLOAT32:
        return from_float64(types.float64(_float32_at(address)[0]))
    if dtype == FLOAT64:
        return from_float64(float64_at(address)[0])
    if dtype == INT64:
        return from_int64(int64_at(address)[0])
    if dtype == INT32:
        return from_int64(types.int64(_int32_at(address)[0]))
    if dtype == BOOL:
        return from_bool(types.int64(_uint8_at(address)[0] != 0))
    return from_int64(types.int64(_uint8_at(address)[0]))


@jit
def _store_number(address, dtype, number):
    if dtype == FLOAT32:
        _float32_at(address)[0] = as_float64(number)
    elif dtype == FLOAT64:
        float64_at(address)[0] = as_float64(number)
    elif dtype == INT64:
        int64_at(address)[0] = as_int64(number)
    elif dtype == INT32:
        _int32_at(address)[0] = as_int64(number)
    else:
        _uint8_at(address)[0] = as_int64(number)


def item_of(self, args, count):
    """item_of(handle) -> Python number of a tensor of one element; an empty tuple for one of another size"""
    st = as_int64(self)
    slot = slot_of_handle(st, as_int64(int64_at(args)[0]))
    if slot_of(st, slot).numel != 1:
        return new_tuple(0)
    return _number_at(data_address(st, slot), slot_of(st, slot).dtype)


def set_item(self, args, count):
    """set_item(handle, number): write the number into the first element of a tensor"""
    st = as_int64(self)
    objects = int64_at(args)
    slot = slot_of_handle(st, as_int64(objects[0]))
    _store_number(data_address(st, slot), slot_of(st, slot).dtype, objects[1])
    return from_int64(0)


def numel_of(self, args, count):
    """numel_of(handle) -> number of elements"""
    st = as_int64(self)
    return from_int64(slot_of(st, slot_of_handle(st, as_int64(int64_at(args)[0]))).numel)


def version_of(self, args, count):
    """version_of(handle) -> how many writes the tensor's memory has seen"""
    st = as_int64(self)
    return from_int64(storage_of(st, slot_of_handle(st, as_int64(int64_at(args)[0]))).version)


def numbers_of(self, args, count):
    """numbers_of(handle) -> list of all numbers, in row-major order"""
    st = as_int64(self)
    slot = slot_of_handle(st, as_int64(int64_at(args)[0]))
    row = slot_of(st, slot)
    numbers = new_list(row.numel)
    if numbers == 0 or row.numel == 0:
        return numbers
    index = int64_at(stack_words(8))
    for d in range(row.ndim):
        index[d] = 0
    address = data_address(st, slot)
    size = item_bytes(row.dtype)
    for i in range(row.numel):
        set_list_item(numbers, i, _number_at(address, row.dtype))
        d = row.ndim - 1
        while d >= 0:
            index[d] += 1
            address += strides_in(row)[d] * size
            if index[d] < shape_in(row)[d]:
                break
            address -= index[d] * strides_in(row)[d] * size
            index[d] = 0
            d -= 1
    return numbers


@jit
def _dtype_of_number(st, kind):
    if kind == float_type():
        return types.int64(state_of(st).default_dtype)
    if kind == long_type():
        return types.int64(INT64)
    return types.int64(BOOL) if kind == bool_type() else types.int64(BAD_ARGUMENT)


def tensor_of(self, args, count):
    """tensor_of(number or list of numbers of one type) -> handle of a new tensor, or a status for other data"""
    st = as_int64(self)
    data = int64_at(args)[0]
    status = reserve(st, 1)
    if status < 0:
        return from_int64(status)
    is_list = type_of(data) == list_type()
    length = list_size(data) if is_list else types.int64(1)
    if length == 0:
        return from_int64(BAD_ARGUMENT)
    kind = type_of(list_item(data, 0) if is_list else data)
    dtype = _dtype_of_number(st, kind)
    for i in range(length if is_list else 0):
        if type_of(list_item(data, i)) != kind:
            dtype = types.int64(BAD_ARGUMENT)
    if dtype < 0:
        return from_int64(dtype)
    storage = new_storage(st, length * item_bytes(dtype))
    if storage < 0:
        return from_int64(storage)
    slot = new_slot(st)
    row = slot_of(st, slot)
    row.dtype = dtype
    row.ndim = 1 if is_list else 0
    shape_in(row)[0] = length
    set_contiguous(row)
    row.storage = storage
    address = data_address(st, slot)
    for i in range(length):
        _store_number(address + i * item_bytes(dtype), dtype, list_item(data, i) if is_list else data)
    if error_occurred() != 0:  # an int beyond 64 bits
        clear_error()
        release(st, slot)
        return from_int64(BAD_ARGUMENT)
    return from_int64(new_handle(st, slot))


def wrap_array(self, args, count):
    """wrap_array(array, dtype, owner) -> handle of a tensor over an array's memory, or BAD_ARGUMENT for its strides"""
    st = as_int64(self)
    objects = int64_at(args)
    array = int64_at(objects[0])
    dtype = as_int64(objects[1])
    size = item_bytes(dtype)
    ndim = array[_NDIM] & 0xFFFFFFFF
    shape = int64_at(array[_SHAPE])
    strides = int64_at(array[_STRIDES])
    status = reserve(st, 1) if ndim <= MAX_NDIM else types.int64(BAD_ARGUMENT)
    for d in range(ndim):
        if strides[d] < 0 or strides[d] % size != 0:
            status = types.int64(BAD_ARGUMENT)
    if status < 0:
        return from_int64(status)
    slot = new_slot(st)
    row = slot_of(st, slot)
    row.dtype = dtype
    row.ndim = ndim
    extent = size
    for d in range(ndim):
        shape_in(row)[d] = shape[d]
        strides_in(row)[d] = strides[d] // size
        extent += (shape[d] - 1) * strides[d]
    mark_layout(row)
    read_only = 0 if array[_FLAGS] & _WRITEABLE else 1
    extent = extent if row.numel > 0 else 0
    row.storage = foreign_storage(st, array[_DATA], extent, -1, as_int64(objects[2]), read_only)
    return from_int64(new_handle(st, slot))


def array_of(self, args, count):
    """array_of(handle, keeper, PyArray_New, PyArray_SetBaseObject, array type, None, numbers of the dtypes) -> array

    ``keeper`` is an object that keeps the memory as long as the array lives; the numbers are a list by dtype code.
    """
    st = as_int64(self)
    objects = int64_at(args)
    slot = slot_of_handle(st, as_int64(objects[0]))
    row = slot_of(st, slot)
    size = item_bytes(row.dtype)
    strides_address = stack_words(8)
    strides = int64_at(strides_address)
    shape_address = stack_words(8)
    shape = int64_at(shape_address)
    for d in range(row.ndim):
        shape[d] = shape_in(row)[d]
        strides[d] = strides_in(row)[d] * size
    array = _new_array(
        as_int64(objects[2]),
        objects[4],
        types.int32(row.ndim),
        shape_address,
        types.int32(as_int64(list_item(objects[6], row.dtype))),
        strides_address,
        data_address(st, slot),
        types.int32(size),
        types.int32(0 if storage_of(st, slot).read_only else _WRITEABLE),
        types.int64(0),
    )
    if array != 0:
        hold_object(objects[1])  # the array takes this reference over
        _set_base(as_int64(objects[3]), array, objects[1])
    return array


VALUE_ENTRY_POINTS = {
    "item_of": item_of,
    "set_item": set_item,
    "numel_of": numel_of,
    "version_of": version_of,
    "numbers_of": numbers_of,
    "tensor_of": tensor_of,
    "wrap_array": wrap_array,
    "array_of": array_of,
}
