"""What Python calls: the entry points of the tape machine, each a compiled function with Python objects as arguments.

Operands come as ints (handles), as 1-tuples of a Python number (which becomes a constant of the op) or as None
(absent); attributes as ints or floats. Results are handles, or negative statuses that errors.py turns into exceptions.
"""

from numba import types

from tapegrad.native.cache import jit
from tapegrad.native.dtypes import BOOL, FLOAT64, INT64
from tapegrad.native.fastcall import (
    as_float64,
    as_int64,
    bool_type,
    clear_error,
    error_occurred,
    float_type,
    from_int64,
    new_tuple,
    none,
    set_tuple_item,
    tuple_item,
    tuple_type,
    type_of,
)
from tapegrad.native.pointers import call4, float64_at, float64_bits, int64_at, pointer_to, stack_words
from tapegrad.runtime.blocks import class_bytes, give_back_heap, give_block, size_class, take_block, trim
from tapegrad.runtime.emit import release_temporaries
from tapegrad.runtime.layout import (
    BAD_ARGUMENT,
    CALL_SITE,
    CONTIGUOUS,
    FRAME_ATTRIBUTE_COUNT,
    FRAME_INPUT_COUNT,
    FRAME_INPUTS,
    MAX_OUTPUTS,
    RECORD_SITES,
    SIZE_OVERFLOW,
    TEMPORARY,
    WRAPPED,
    data_address,
    handle_row,
    item_bytes,
    shape_in,
    slot_of,
    state_of,
    storage_row,
    strides_in,
)
from tapegrad.runtime.memory import (
    drain,
    new_handle,
    new_slot,
    new_storage,
    release,
    release_handle,
    retain,
    share_memory,
    slot_of_handle,
)
from tapegrad.runtime.rebase import rebase as rebase_family
from tapegrad.runtime.strides import set_contiguous
from tapegrad.runtime.sweep import give, mark_needed
from tapegrad.runtime.tables import reserve
from tapegrad.runtime.threads import ask_python, enter_thread, modes_of, set_modes

_float32_at, _int32_at, _uint8_at = pointer_to("f4"), pointer_to("i4"), pointer_to("u1")


@jit
def tuple_of(values, length):
    """Return a Python tuple of the first ``length`` of some words."""
    result = new_tuple(length)
    for k in range(length):
        set_tuple_item(result, k, from_int64(values[k]))
    return result


@jit
def _constant(st, number):
    """Return a slot for a Python number: 0-d, of the number's own dtype, weak in promotion."""
    slot = new_slot(st)
    row = slot_of(st, slot)
    storage = new_storage(st, 8)
    if storage < 0:
        release(st, slot)
        return storage
    row.storage = storage
    row.ndim = 0
    row.numel = 1
    row.flags = WRAPPED | CONTIGUOUS | TEMPORARY
    kind = type_of(number)
    if kind == float_type():
        row.dtype = FLOAT64
        float64_at(data_address(st, slot))[0] = as_float64(number)
    else:
        row.dtype = BOOL if kind == bool_type() else INT64
        int64_at(data_address(st, slot))[0] = as_int64(number)
    return slot


@jit
def _operand(st, python_object):
    if python_object == none():
        return types.int64(-1)
    if type_of(python_object) == tuple_type():
        return _constant(st, tuple_item(python_object, 0))
    return slot_of_handle(st, as_int64(python_object))


@jit
def _python_status():
    """Return BAD_ARGUMENT, and take the exception away, if an int did not fit into 64 bits; else 0."""
    if error_occurred() == 0:
        return 0
    clear_error()
    return BAD_ARGUMENT


@jit
def _attribute(python_object):
    if type_of(python_object) == float_type():
        return float64_bits(as_float64(python_object))
    return as_int64(python_object)


@jit
def _fill_frame(st, frame, args, first, count):
    """Write operands and attributes, ``args[first]`` being the number of operands, into a frame; return a status."""
    objects = int64_at(args)
    words = int64_at(frame)
    inputs = as_int64(objects[first])
    words[FRAME_INPUT_COUNT] = inputs
    words[FRAME_ATTRIBUTE_COUNT] = count - first - 1 - inputs
    for k in range(inputs):
        words[FRAME_INPUTS + k] = _operand(st, objects[first + 1 + k])
    for k in range(first + 1 + inputs, count):
        words[FRAME_INPUTS + k - first - 1] = _attribute(objects[k])
    return _python_status()


@jit
def _emit_args(st, args, count, first, target, results):
    """Emit ``args[0]`` on the operands from ``args[first]`` on; frames of many operands take a block of memory.

    The slots of all the results are written to ``results``; of each the caller gets a reference.
    """
    enter_thread(st)
    if state_of(st).anomaly & RECORD_SITES:
        status = ask_python(st, CALL_SITE, 0, 0)
        if status < 0:
            return status
    status = reserve(st, 2 * count)
    if status < 0:
        return status
    op = as_int64(int64_at(args)[0])
    frame = stack_words(64)
    index = -1
    if count > 48:
        index = size_class(8 * (count + 16))
        frame = take_block(st, index)
        if frame == 0:
            return BAD_ARGUMENT
    slot = _fill_frame(st, frame, args, first, count)
    if slot == 0:
        slot = call4(state_of(st).emit_function, st, op, frame, target)
    else:
        release_temporaries(st, frame)
    for k in range(MAX_OUTPUTS):
        int64_at(results)[k] = int64_at(frame)[k]
    if index >= 0:
        give_block(st, frame, index)
    return slot


def emit_op(self, args, count):
    """emit(op, operand_count, *operands, *attributes) -> handle of the first result, or a status"""
    st = as_int64(self)
    results = stack_words(3)
    slot = _emit_args(st, args, count, 1, -1, results)
    if slot < 0:
        return from_int64(slot)
    for k in range(1, MAX_OUTPUTS):
        if int64_at(results)[k] >= 0:
            release(st, int64_at(results)[k])
    return from_int64(new_handle(st, slot))


def emit_several(self, args, count):
    """emit_several(op, operand_count, *operands, *attributes) -> tuple of the handles of all results, or a status"""
    st = as_int64(self)
    results = stack_words(3)
    handles = int64_at(results)
    slot = _emit_args(st, args, count, 1, -1, results)
    if slot < 0:
        return from_int64(slot)
    length = 0
    while length < MAX_OUTPUTS and handles[length] >= 0:
        handles[length] = new_handle(st, handles[length])
        length += 1
    return tuple_of(handles, length)


def emit_in_place(self, args, count):
    """emit_in_place(op, target, operand_count, *operands, *attributes) -> 1: target rebound, 0: not, or a status"""
    st = as_int64(self)
    handle = as_int64(int64_at(args)[1])
    old = slot_of_handle(st, handle)
    retain(st, old)
    slot = _emit_args(st, args, count, 2, old, stack_words(3))
    if slot < 0:
        release(st, old)
        return from_int64(slot)
    row = handle_row(state_of(st).handles, handle)
    replaced = types.int64(row.slot)  # another one than ``old`` if another thread has written meanwhile
    row.slot = slot
    release(st, replaced)
    release(st, old)
    return from_int64(1 if slot != old else 0)


def release_tensor(self, args, count):
    """release(handle)"""
    st = as_int64(self)
    release_handle(st, as_int64(int64_at(args)[0]))
    drain(st)
    return from_int64(0)


def new_tensor(self, args, count):
    """new_tensor(dtype, *shape) -> handle of an uninitialised tensor, or a status"""
    st = as_int64(self)
    objects = int64_at(args)
    status = reserve(st, 1)
    if status < 0:
        return from_int64(status)
    slot = new_slot(st)
    row = slot_of(st, slot)
    row.dtype = as_int64(objects[0])
    row.ndim = count - 1
    for d in range(row.ndim):
        shape_in(row)[d] = as_int64(objects[1 + d])
    storage = types.int64(SIZE_OVERFLOW)
    state_of(st).error_op = -1  # no op of the registry
    if _python_status() == 0 and set_contiguous(row) and row.numel <= (1 << 60):
        storage = new_storage(st, row.numel * item_bytes(row.dtype))
    if storage < 0:
        release(st, slot)
        return from_int64(storage)
    row.storage = storage
    return from_int64(new_handle(st, slot))


def shape_of(self, args, count):
    """shape_of(handle) -> tuple"""
    st = as_int64(self)
    row = slot_of(st, slot_of_handle(st, as_int64(int64_at(args)[0])))
    return tuple_of(shape_in(row), row.ndim)


def strides_of(self, args, count):
    """strides_of(handle) -> tuple, in elements"""
    st = as_int64(self)
    row = slot_of(st, slot_of_handle(st, as_int64(int64_at(args)[0])))
    return tuple_of(strides_in(row), row.ndim)


FIELDS = (
    "slot dtype ndim numel offset flags producer version address grad base family storage serial "
    "storage_bytes read_only storage_refs storage_address"
).split()
_FIELD_COUNT = len(FIELDS)
_OF_STORAGE = (7, 8, 14, 15, 16, 17)


def fields_of(self, args, count):
    """fields_of(handle) -> tuple of ints in the order of FIELDS; zeros for what a slot whose memory was let go lacks"""
    st = as_int64(self)
    slot = slot_of_handle(st, as_int64(int64_at(args)[0]))
    row = slot_of(st, slot)
    values = int64_at(stack_words(18))
    values[0] = slot
    values[1] = row.dtype
    values[2] = row.ndim
    values[3] = row.numel
    values[4] = row.offset
    values[5] = row.flags
    values[6] = row.producer
    values[9] = row.grad
    values[10] = row.base
    values[11] = row.family
    values[12] = row.storage
    values[13] = row.serial
    if row.storage < 0:
        for k in _OF_STORAGE:
            values[k] = 0
        return tuple_of(values, _FIELD_COUNT)
    storage = storage_row(state_of(st).storages, row.storage)
    values[7] = storage.version
    values[8] = data_address(st, slot)
    values[14] = storage.bytes
    values[15] = storage.read_only
    values[16] = storage.refs
    values[17] = storage.address
    return tuple_of(values, _FIELD_COUNT)


def flags_of(self, args, count):
    """flags_of(handle) -> int"""
    st = as_int64(self)
    return from_int64(slot_of(st, slot_of_handle(st, as_int64(int64_at(args)[0]))).flags)


def set_flags(self, args, count):
    """set_flags(handle, set, clear)"""
    st = as_int64(self)
    objects = int64_at(args)
    row = slot_of(st, slot_of_handle(st, as_int64(objects[0])))
    row.flags = (row.flags | as_int64(objects[1])) & ~as_int64(objects[2])
    return from_int64(row.flags)


def dtype_of(self, args, count):
    """dtype_of(handle) -> dtype code"""
    st = as_int64(self)
    return from_int64(slot_of(st, slot_of_handle(st, as_int64(int64_at(args)[0]))).dtype)


def handle_of_slot(self, args, count):
    """handle_of_slot(slot) -> new handle of a slot, which it retains"""
    st = as_int64(self)
    status = reserve(st, 1)
    if status < 0:
        return from_int64(status)
    slot = as_int64(int64_at(args)[0])
    retain(st, slot)
    return from_int64(new_handle(st, slot))


def retain_slot(self, args, count):
    """retain_slot(handle) -> slot, with a reference that the caller passes on to compiled code"""
    st = as_int64(self)
    slot = slot_of_handle(st, as_int64(int64_at(args)[0]))
    retain(st, slot)
    return from_int64(slot)


def share_handle(self, args, count):
    """share_handle(handle): count one more user of a handle"""
    st = as_int64(self)
    handle_row(state_of(st).handles, as_int64(int64_at(args)[0])).refs += 1
    return from_int64(0)


def rebind(self, args, count):
    """rebind(handle, other): make the handle name the slot that ``other`` names"""
    st = as_int64(self)
    objects = int64_at(args)
    row = handle_row(state_of(st).handles, as_int64(objects[0]))
    old = types.int64(row.slot)
    slot = slot_of_handle(st, as_int64(objects[1]))
    retain(st, slot)
    row.slot = slot
    release(st, old)
    return from_int64(0)


def set_grad(self, args, count):
    """set_grad(handle, grad_handle or -1): make a tensor's ``.grad`` the given handle, which it counts as a user of"""
    st = as_int64(self)
    objects = int64_at(args)
    row = slot_of(st, slot_of_handle(st, as_int64(objects[0])))
    grad = as_int64(objects[1])
    old = types.int64(row.grad)
    if grad >= 0:
        handle_row(state_of(st).handles, grad).refs += 1
    row.grad = grad
    if old >= 0:
        release_handle(st, old)
        drain(st)
    return from_int64(0)


def grad_of(self, args, count):
    """grad_of(handle) -> handle of ``.grad``, or -1"""
    st = as_int64(self)
    return from_int64(slot_of(st, slot_of_handle(st, as_int64(int64_at(args)[0]))).grad)


def detach_slot(self, args, count):
    """detach_slot(handle, extra_flags) -> handle of a tensor over the same memory that is no part of the graph"""
    st = as_int64(self)
    objects = int64_at(args)
    status = reserve(st, 1)
    if status < 0:
        return from_int64(status)
    source = slot_of(st, slot_of_handle(st, as_int64(objects[0])))
    slot = new_slot(st)
    row = slot_of(st, slot)
    share_memory(st, row, source)
    row.flags = (source.flags & CONTIGUOUS) | as_int64(objects[1])
    return from_int64(new_handle(st, slot))


def bump_version(self, args, count):
    """bump_version(handle): count a write that Python made into a tensor's memory"""
    st = as_int64(self)
    row = slot_of(st, slot_of_handle(st, as_int64(int64_at(args)[0])))
    storage_row(state_of(st).storages, row.storage).version += 1
    return from_int64(0)


def give_gradient(self, args, count):
    """give(slot, gradient_handle) -> 0 or a status: add a gradient to a slot's cotangent in the running sweep"""
    st = as_int64(self)
    enter_thread(st)
    objects = int64_at(args)
    status = reserve(st, 1)
    if status == 0:
        status = give(st, as_int64(objects[0]), slot_of_handle(st, as_int64(objects[1])))
    return from_int64(status)


def mark_needed_up_to(self, args, count):
    """mark_needed(top): mark every slot up to entry ``top`` that depends on a slot marked for this sweep"""
    return from_int64(mark_needed(as_int64(self), as_int64(int64_at(args)[0])))


def run_sweep(self, args, count):
    """sweep(top, retain_graph, accumulate) -> 0 or a status"""
    st = as_int64(self)
    objects = int64_at(args)
    enter_thread(st)
    status = call4(state_of(st).sweep_function, st, as_int64(objects[0]), as_int64(objects[1]), as_int64(objects[2]))
    return from_int64(status)


def modes_of_thread(self, args, count):
    """modes() -> bit 0: whether this thread records; bit 1: whether it is in inference mode"""
    st = as_int64(self)
    enter_thread(st)
    return from_int64(modes_of(state_of(st)))


def set_modes_of_thread(self, args, count):
    """set_modes(modes) -> this thread's modes before"""
    st = as_int64(self)
    enter_thread(st)
    before = modes_of(state_of(st))
    set_modes(state_of(st), as_int64(int64_at(args)[0]))
    return from_int64(before)


def trim_memory(self, args, count):
    """trim() -> bytes given back to the system"""
    freed = trim(as_int64(self))
    give_back_heap()
    return from_int64(freed)


def class_size(self, args, count):
    """class_size(bytes) -> bytes of the block that an allocation of so many bytes takes"""
    return from_int64(class_bytes(size_class(as_int64(int64_at(args)[0]))))


ENTRY_POINTS = {
    "emit": emit_op,
    "emit_in_place": emit_in_place,
    "emit_several": emit_several,
    "release": release_tensor,
    "new_tensor": new_tensor,
    "shape_of": shape_of,
    "strides_of": strides_of,
    "fields_of": fields_of,
    "flags_of": flags_of,
    "set_flags": set_flags,
    "dtype_of": dtype_of,
    "handle_of_slot": handle_of_slot,
    "retain_slot": retain_slot,
    "share_handle": share_handle,
    "rebind": rebind,
    "rebase": rebase_family,
    "set_grad": set_grad,
    "grad_of": grad_of,
    "detach_slot": detach_slot,
    "bump_version": bump_version,
    "give": give_gradient,
    "sweep": run_sweep,
    "mark_needed": mark_needed_up_to,
    "modes": modes_of_thread,
    "set_modes": set_modes_of_thread,
    "trim": trim_memory,
    "class_size": class_size,
}
