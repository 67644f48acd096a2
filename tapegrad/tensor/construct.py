"""Tensors from Python data and NumPy arrays, by copy or over the same memory."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import numpy.typing as npt

from tapegrad.ops.calls import check_ndim, functions
from tapegrad.runtime.dtype import dtype as DType
from tapegrad.runtime.dtype import dtype_of, dtype_of_array, get_default_dtype, int64, native_dtype
from tapegrad.runtime.errors import raise_status, refuse_reading
from tapegrad.runtime.handle import Tensor, wrap
from tapegrad.runtime.layout import INFERENCE, REQUIRES_GRAD
from tapegrad.runtime.machine import machine

_tensor_of, _wrap_array = machine.tensor_of, machine.wrap_array
_QUICK = frozenset((float, int, bool, list))  # what machine.tensor_of may know what to do with
_ADDRESS, _STORAGE = 8, 12  # their positions among fields_of
_INFERENCE_MODE = 2  # bit of machine.modes()


def tensor(data: Any, *, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """Return a new tensor with a copy of the data.

    Args:
        data: a number, a nested sequence of numbers, a NumPy array or scalar, or a tensor.
        dtype: the dtype of the result; by default that of the data, Python floats taking the default dtype.
        device: only ``"cpu"``.
        requires_grad: whether operations on the result are to be recorded.

    Returns:
        A leaf tensor of the data's shape.

    Raises:
        TypeError: the data has no dtype that tapegrad knows.
        ValueError: the nested sequences differ in length.
        RuntimeError: ``requires_grad`` for a dtype that is not floating point.

    Example:
        >>> import tapegrad as tg
        >>> tg.tensor([[1.0, 2.0], [3.0, 4.0]])
        tensor([[1., 2.],
                [3., 4.]])
    """
    if device is not None:
        check_device(device)
    if dtype is None and type(data) in _QUICK:
        handle = _tensor_of(data)
        if handle >= 0:
            result = wrap(handle)
            _note_data(result)
            if requires_grad:
                require_grad(result)
            return result
    array = _array(data, dtype)
    result = copy_of_array(array)
    if requires_grad:
        require_grad(result)
    return result


def as_tensor(data: Any, dtype: Any = None, device: Any = None) -> Tensor:
    """Return the data as a tensor, without a copy where it is a tensor or a NumPy array of the wanted dtype.

    Args:
        data: a tensor, an array, a number or nested sequences of numbers.
        dtype: the dtype; by default that of the data.
        device: ``cpu`` or None: there is no other.
    """
    check_device(device)
    if isinstance(data, Tensor):
        return data if dtype is None else functions["to_dtype"](data, dtype)
    if isinstance(data, np.ndarray) and (dtype is None or dtype_of(dtype).numpy == data.dtype):
        return from_numpy(data)
    return tensor(data, dtype=dtype)


def from_numpy(array: npt.NDArray[Any]) -> Tensor:
    """Return a tensor over the memory of a NumPy array: a write to one is seen in the other.

    Args:
        array: of any shape and a dtype that tapegrad has, with strides of whole elements, not negative.

    Raises:
        TypeError: not an array, or a dtype without a counterpart.
        ValueError: negative strides, strides that are no multiple of the element size, or a foreign byte order.
    """
    if not isinstance(array, np.ndarray):
        raise TypeError(f"expected np.ndarray (got {type(array).__name__})")
    quick = native_dtype(array.dtype)
    if quick is not None:
        owner = machine.keep(array)
        handle = _wrap_array(array, quick.code, owner)
        if handle >= 0:
            return wrap(handle)
        machine.owners.pop(owner)
    dtype = dtype_of_array(array)
    if not array.dtype.isnative:
        raise ValueError("given numpy array has byte order different from the native byte order: convert it first")
    if any(stride < 0 for stride in array.strides):
        raise ValueError(
            "At least one stride in the given numpy array is negative, and tensors with negative strides are not "
            "currently supported. (You can probably work around this by making a copy of your array with array.copy().)"
        )
    if any(stride % dtype.itemsize for stride in array.strides):
        raise ValueError("given numpy array strides not a multiple of the element byte size: copy the array first")
    check_ndim(array.ndim, "from_numpy")
    raise TypeError(f"can't convert np.ndarray of type {array.dtype}")


def _array(data: Any, dtype: Any) -> npt.NDArray[Any]:
    """Return the data as a native NumPy array of a dtype that tapegrad has."""
    if isinstance(data, Tensor):
        refuse_reading("tensor() of a tensor's numbers")
        array = functions["_array_of"](data)
    elif isinstance(data, np.ndarray | np.generic):
        array = np.asarray(data)
    else:
        array = _array_of_python(data)
        if dtype is None:
            array = _in_default_dtype(array)
    if dtype is not None:
        return array.astype(dtype_of(dtype).numpy)
    dtype_of_array(array)
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def _array_of_python(data: Any) -> npt.NDArray[Any]:
    try:
        array = np.array(data, dtype=np.float64) if data == [] else np.array(data)
    except ValueError:
        raise ValueError("expected sequences of equal length at every level of the nested data") from None
    return np.array(_numbers(data)) if array.dtype == object else array


def _in_default_dtype(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return Python's floats in the default dtype, its ints as int64."""
    if array.dtype == np.float64:
        return array.astype(get_default_dtype().numpy)
    return array.astype(int64.numpy) if array.dtype.kind in "iu" else array


def _numbers(data: Any) -> Any:
    """Replace tensors inside nested sequences by their numbers."""
    if isinstance(data, Tensor):
        return functions["_array_of"](data)
    if isinstance(data, list | tuple):
        return [_numbers(item) for item in data]
    if isinstance(data, bool | int | float | np.generic):
        return data
    raise TypeError(f"new(): invalid data type '{type(data).__name__}'")


def copy_of_array(array: npt.NDArray[Any]) -> Tensor:
    """Return a new tensor with the numbers of an array whose dtype tapegrad has."""
    check_ndim(array.ndim, "tensor")
    result = empty(array.shape, dtype_of_array(array))
    source = np.ascontiguousarray(array)
    ctypes.memmove(machine.fields_of(result._handle)[_ADDRESS], source.ctypes.data, source.nbytes)
    _note_data(result)
    return result


def _note_data(tensor: Tensor) -> None:
    if machine.capturing:
        machine.made_of_data.append(machine.fields_of(tensor._handle)[_STORAGE])


functions["_from_array"] = copy_of_array


def empty(shape: tuple[int, ...], dtype: DType) -> Tensor:
    """Return a tensor whose numbers are not set."""
    handle = machine.new_tensor(dtype.code, *shape)
    if handle < 0:
        raise_status(handle)
    return wrap(handle)


def require_grad(target: Tensor) -> None:
    """Make a tensor one whose gradient is wanted; RuntimeError for a dtype that has no derivatives."""
    if machine.dtype_of(target._handle) < 4:
        raise RuntimeError("Only Tensors of floating point and complex dtype can require gradients")
    if machine.flags_of(target._handle) & INFERENCE and not machine.modes() & _INFERENCE_MODE:
        raise RuntimeError("Setting requires_grad=True on inference tensor outside InferenceMode is not allowed.")
    machine.set_flags(target._handle, REQUIRES_GRAD, 0)


def check_device(device: Any) -> None:
    """Accept the CPU under any of its names; RuntimeError for other devices."""
    if device is not None and str(device).split(":")[0] != "cpu":
        raise RuntimeError(f"tapegrad computes on the CPU only, got device {str(device)!r}")
