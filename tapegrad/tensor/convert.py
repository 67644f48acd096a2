"""Conversions: to NumPy arrays and Python numbers, between dtypes."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import numpy.typing as npt

from tapegrad.native.dtypes import FLOAT32
from tapegrad.ops.calls import call, function, functions, tensor_method
from tapegrad.ops.registry import registry
from tapegrad.runtime.dtype import DTYPES, bool_, dtype_of, float32, float64, int32, int64, uint8
from tapegrad.runtime.dtype import dtype as DType
from tapegrad.runtime.errors import refuse_reading
from tapegrad.runtime.handle import Tensor, wrap
from tapegrad.runtime.layout import REQUIRES_GRAD
from tapegrad.runtime.machine import machine
from tapegrad.tensor.construct import check_device

_detach_slot, _flags_of, _array_of = machine.detach_slot, machine.flags_of, machine.array_of
_item_of, _numbers_of, _shape_of = machine.item_of, machine.numbers_of, machine.shape_of


def _numpy_api() -> tuple[int, int]:
    """Return the addresses of PyArray_New and PyArray_SetBaseObject: places 93 and 282 of NumPy's table."""
    core: Any = getattr(np, "_core", None) or np.core  # the name in NumPy 2, that in NumPy 1
    capsule = core._multiarray_umath._ARRAY_API
    get_pointer = ctypes.pythonapi.PyCapsule_GetPointer
    get_pointer.restype, get_pointer.argtypes = ctypes.c_void_p, (ctypes.py_object, ctypes.c_char_p)
    table = (ctypes.c_void_p * 283).from_address(get_pointer(capsule, None))
    return int(table[93] or 0), int(table[282] or 0)


_ARRAY_ARGUMENTS = (*_numpy_api(), np.ndarray, None, [dtype.numpy.num for dtype in DTYPES])


def array_of(tensor: Tensor) -> npt.NDArray[Any]:
    """Return a NumPy array over a tensor's memory, whether or not it requires a gradient; it keeps the memory alive."""
    keeper = wrap(_detach_slot(tensor._handle, 0))
    return _array_of(keeper._handle, keeper, *_ARRAY_ARGUMENTS)


functions["_array_of"] = array_of


@tensor_method("numpy")
def numpy(self: Tensor, *, force: bool = False) -> npt.NDArray[Any]:
    """Return a NumPy array over the same memory: a write to one is seen in the other.

    Args:
        force: detach first where the tensor requires a gradient.

    Raises:
        RuntimeError: the tensor requires a gradient and ``force`` is false.
    """
    if machine.capturing:
        refuse_reading("numpy()")
    if _flags_of(self._handle) & REQUIRES_GRAD and not force:
        raise RuntimeError("Can't call numpy() on Tensor that requires grad. Use tensor.detach().numpy() instead.")
    return array_of(self)


@tensor_method("__array__")
def _as_array(self: Tensor, dtype: Any = None, copy: bool | None = None) -> npt.NDArray[Any]:
    array: npt.NDArray[Any] = self.numpy()
    if dtype is not None:
        array = array.astype(dtype, copy=bool(copy))
    return array.copy() if copy else array


Tensor.__array_priority__ = 1000.0  # type: ignore[attr-defined]


def _no_ufunc(self: Tensor, ufunc: Any, kind: str, *inputs: Any, **kwargs: Any) -> Any:
    """Let ``numpy_scalar + tensor`` reach the tensor's own reflected operator; other NumPy functions get arrays."""
    reflected = _REFLECTED.get(ufunc.__name__)
    if kind == "__call__" and len(inputs) == 2 and not isinstance(inputs[0], Tensor) and reflected and not kwargs:
        left = inputs[0]
        if isinstance(left, np.ndarray) and left.ndim > 0:
            left = functions["_from_array"](left)
        return getattr(self, reflected)(left.item() if isinstance(left, np.generic | np.ndarray) else left)
    arrays = [item.numpy() if isinstance(item, Tensor) else item for item in inputs]
    return getattr(ufunc, kind)(*arrays, **kwargs)


_REFLECTED = {
    "add": "__radd__",
    "subtract": "__rsub__",
    "multiply": "__rmul__",
    "divide": "__rtruediv__",
    "true_divide": "__rtruediv__",
    "power": "__rpow__",
    "remainder": "__rmod__",
    "floor_divide": "__rfloordiv__",
    "matmul": "__rmatmul__",
    "less": "__gt__",
    "greater": "__lt__",
    "less_equal": "__ge__",
    "greater_equal": "__le__",
    "equal": "__eq__",
    "not_equal": "__ne__",
}
Tensor.__array_ufunc__ = _no_ufunc  # type: ignore[attr-defined]


@tensor_method("item")
def item(self: Tensor) -> Any:
    """Return the value of a tensor of one element as a Python number; RuntimeError for other sizes."""
    if machine.capturing:
        refuse_reading("item() or a conversion to a Python number")
    value = _item_of(self._handle)
    if value == ():
        raise RuntimeError(f"a Tensor with {self.numel()} elements cannot be converted to Scalar")
    return value


@tensor_method("tolist")
def tolist(self: Tensor) -> Any:
    """Return the numbers as nested lists, or as a number for a 0-d tensor."""
    if machine.capturing:
        refuse_reading("tolist()")
    numbers = _numbers_of(self._handle)
    shape = _shape_of(self._handle)
    if not shape:
        return numbers[0]
    if 0 in shape:
        return array_of(self).tolist()
    for length in shape[:0:-1]:
        numbers = [numbers[k : k + length] for k in range(0, len(numbers), length)]
    return numbers


@tensor_method("__bool__")
def _truth(self: Tensor) -> bool:
    if machine.capturing:
        refuse_reading("the truth of a tensor")
    value = _item_of(self._handle)
    if value == ():
        kind = "no values" if self.numel() == 0 else "more than one value"
        raise RuntimeError(f"Boolean value of Tensor with {kind} is ambiguous")
    return bool(value)


@tensor_method("__float__")
def _float(self: Tensor) -> float:
    return float(item(self))


@tensor_method("__int__")
def _int(self: Tensor) -> int:
    return int(item(self))


@tensor_method("__index__")
def _index(self: Tensor) -> int:
    if machine.dtype_of(self._handle) >= FLOAT32 or self.numel() != 1:
        raise TypeError("only integer tensors of a single element can be converted to an index")
    return int(self.item())


@tensor_method("__complex__")
def _complex(self: Tensor) -> complex:
    return complex(self.item())


@tensor_method("__format__")
def _format(self: Tensor, spec: str) -> str:
    return format(self.item(), spec) if self.dim() == 0 else object.__format__(self, spec)


def to_dtype(tensor: Tensor, dtype: Any) -> Tensor:
    """Return the tensor in another dtype: itself if it has that dtype already.

    Args:
        tensor: the tensor.
        dtype: a dtype, or its name.
    """
    wanted: DType = dtype_of(dtype)
    if machine.dtype_of(tensor._handle) == wanted.code:
        return tensor
    return call(registry["cast"], tensor, attributes=(wanted.code,))


functions["to_dtype"] = to_dtype


@tensor_method("to")
def to(
    self: Tensor, *args: Any, dtype: Any = None, device: Any = None, non_blocking: bool = False, copy: bool = False
) -> Tensor:
    """Return the tensor in another dtype, or like another tensor; the only device is the CPU.

    Args:
        *args: a dtype, a device, a device and a dtype, or a tensor whose dtype is taken.
        dtype: the dtype by name.
        device: the device by name.
        non_blocking: accepted for torch's sake.
        copy: return a copy even where nothing changes.
    """
    for arg in args:
        if isinstance(arg, Tensor):
            dtype = arg.dtype
        elif isinstance(arg, DType):
            dtype = arg
        elif isinstance(arg, bool):
            copy = arg
        elif arg is not None:
            device = arg
    check_device(device)
    result = self if dtype is None else to_dtype(self, dtype)
    return call(registry["clone"], result) if copy and result is self else result


@tensor_method("type")
def type_(self: Tensor, dtype: Any = None) -> Any:
    """Return the name of the tensor's type, or the tensor in another dtype."""
    if dtype is None:
        return f"tapegrad.{_TYPE_NAMES[machine.dtype_of(self._handle)]}Tensor"
    return to_dtype(self, dtype)


_TYPE_NAMES = ("Bool", "Byte", "Int", "Long", "Float", "Double")


def _caster(name: str, dtype: DType) -> None:
    def cast(self: Tensor) -> Tensor:
        return to_dtype(self, dtype)

    cast.__name__ = name
    cast.__doc__ = f"Return the tensor as {dtype.name}."
    setattr(Tensor, name, cast)


for _name, _dtype in (
    ("float", float32),
    ("double", float64),
    ("long", int64),
    ("int", int32),
    ("byte", uint8),
    ("bool", bool_),
):
    _caster(_name, _dtype)


@tensor_method("type_as")
def type_as(self: Tensor, other: Tensor) -> Tensor:
    """Return the tensor in the dtype of the tensor ``other``."""
    return to_dtype(self, other.dtype)


@tensor_method("cpu")
def cpu(self: Tensor) -> Tensor:
    """Return the tensor itself: its memory is the CPU's."""
    return self


@function(method=False)
def result_type(tensor1: Any, tensor2: Any) -> DType:
    """Return the dtype in which an operation of the two tensors or numbers computes.

    Args:
        tensor1: a tensor or a number.
        tensor2: another.
    """
    return call(registry["add"], _one(tensor1), _one(tensor2)).dtype


def _one(value: Any) -> Any:
    """Return a tensor of the same dtype and number of dimensions, of one element."""
    if not isinstance(value, Tensor):
        return value
    return wrap(machine.new_tensor(value.dtype.code, *([1] * value.dim())))


@function(method=False)
def is_tensor(obj: Any) -> bool:
    """Return whether an object is a tensor.

    Args:
        obj: the object.
    """
    return isinstance(obj, Tensor)
