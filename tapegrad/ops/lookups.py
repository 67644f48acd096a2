"""Calls of the ops at indices: errors in torch's words, in-place writes, indices made of masks and lists."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NoReturn

import numpy as np

from tapegrad.native.dtypes import BOOL, FLOAT32, INT64, UINT8
from tapegrad.ops.calls import call, functions, operand, shape_of
from tapegrad.ops.creation import from_array
from tapegrad.ops.index_ops import FLAT_INDEX, LOOKUP, NONZERO
from tapegrad.ops.registry import Op, registry
from tapegrad.ops.view_ops import EXPAND
from tapegrad.ops.views import contiguous_copy, is_contiguous
from tapegrad.ops.writing import rebase, write
from tapegrad.runtime.errors import raise_status
from tapegrad.runtime.handle import Tensor, wrap
from tapegrad.runtime.layout import BAD_INDEX
from tapegrad.runtime.machine import machine

_STORAGE = 12  # position of the storage among fields_of


def tensor_of(array: Any) -> Tensor:
    """Return a tensor with a copy of an array."""
    return from_array(np.ascontiguousarray(array).reshape(np.shape(array)))


functions["_from_array"] = tensor_of


class IndexRangeError(IndexError, RuntimeError):
    """An index is out of range. (torch raises an IndexError or a RuntimeError, depending on the function.)"""


def raise_index(status: int) -> NoReturn:
    """Raise the exception of a failed op at indices."""
    if status != BAD_INDEX:
        raise_status(status)
    state = machine.state
    index, dim, length = int(state["error_value0"]), int(state["error_slot0"]), int(state["error_value1"])
    raise IndexRangeError(f"index {index} is out of bounds for dimension {dim} with size {length}")


def call_at(op: Op, *operands: Any, attributes: Sequence[int] = ()) -> Tensor:
    """Emit an op that takes indices; return its result, or raise IndexError with the index that is out of range."""
    words = [value._handle if value.__class__ is Tensor else operand(value, op.name) for value in operands]
    handle = machine.emit(op.code, len(words), *words, *attributes)
    if handle < 0:
        raise_index(handle)
    return wrap(handle)


def write_at(op: Op, target: Tensor, *operands: Any, attributes: Sequence[int] = ()) -> Tensor:
    """Let an op at indices write into its first operand, ``target``, and return that.

    A target that is not contiguous gets the result of the op copied into it.
    """
    if not is_contiguous(target):
        return write(target, call_at(op, target, *operands, attributes=attributes))
    separate = [_apart(value, target) for value in operands]
    words = [operand(value, op.name) for value in (target, *separate)]
    status = machine.emit_in_place(op.code, target._handle, len(words), *words, *attributes)
    if status < 0:
        raise_index(status)
    if status == 1:
        rebase(target)
    return target


def _apart(value: Any, target: Tensor) -> Any:
    """Return an operand whose memory the write does not change."""
    if not isinstance(value, Tensor):
        return value
    storages = (machine.fields_of(tensor._handle)[_STORAGE] for tensor in (value, target))
    return contiguous_copy(value) if len(set(storages)) == 1 else value


def as_int64(index: Tensor) -> Tensor:
    """Return indices as int64."""
    return index if machine.dtype_of(index._handle) == INT64 else call(registry["cast"], index, attributes=(INT64,))


def as_mask(tensor: Tensor) -> Tensor:
    """Return where a tensor is not zero, as a mask."""
    return tensor if machine.dtype_of(tensor._handle) == BOOL else call(registry["cast"], tensor, attributes=(BOOL,))


def check_index_dtype(index: Tensor, name: str) -> Tensor:
    """Return indices as int64; RuntimeError, in torch's words, if they are neither int64 nor int32."""
    dtype = machine.dtype_of(index._handle)
    if dtype >= FLOAT32 or dtype <= UINT8:
        raise RuntimeError(f"{name}(): Expected dtype int32/int64 for index")
    return as_int64(index)


def flat_nonzero(mask: Tensor) -> Tensor:
    """Return the indices of a mask's true elements, counted in the flat mask."""
    return call(NONZERO, mask, attributes=(0,))


def is_mask(index: Tensor) -> bool:
    return machine.dtype_of(index._handle) in (BOOL, UINT8)


def index_tensor(index: Any) -> Tensor:
    """Return what was given as an index (a tensor, an array, a list) as a tensor; IndexError for other dtypes."""
    if not isinstance(index, Tensor):
        array = np.asarray(_plain(index))
        if array.size == 0 and not isinstance(index, np.ndarray):
            array = array.astype(np.int64)
        if array.dtype.kind not in "biu":
            raise IndexError(_WRONG_DTYPE)
        index = tensor_of(array if array.dtype == bool else array.astype(np.int64))
    if machine.dtype_of(index._handle) >= FLOAT32:
        raise IndexError(_WRONG_DTYPE)
    return index


_WRONG_DTYPE = "tensors used as indices must be long, int, byte or bool tensors"


def _plain(value: Any) -> Any:
    if isinstance(value, Tensor):
        return np.array(value.tolist())
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def flat_index(indices: Sequence[Tensor], lengths: Sequence[int], dim: int) -> Tensor:
    """Return one index into consecutive dimensions of the given lengths, from one index tensor for each.

    Raises:
        IndexError: the indices do not broadcast together, or one is out of range.
    """
    if len(indices) == 1:
        return as_int64(indices[0])
    shapes = [shape_of(index) for index in indices]
    try:
        shape = np.broadcast_shapes(*shapes)
    except ValueError:
        listed = ", ".join(str(list(shape)) for shape in shapes)
        raise IndexError(
            f"shape mismatch: indexing tensors could not be broadcast together with shapes {listed}"
        ) from None
    wide = [as_int64(index) for index in indices]
    wide = [index if shape_of(index) == shape else call(EXPAND, index, attributes=shape) for index in wide]
    return call_at(FLAT_INDEX, *wide, attributes=(dim, *lengths))


def look_up(tensor: Tensor, index: Tensor, dim: int, count: int = 1, *, negative: bool = True) -> Tensor:
    """Return the blocks of a tensor at indices into ``count`` dimensions from ``dim`` on."""
    return call_at(LOOKUP, tensor, index, attributes=(dim, count, int(negative)))


def block_shape(tensor: Tensor, index: Tensor, dim: int, count: int = 1) -> tuple[int, ...]:
    """Return the shape of what look_up gives."""
    shape = shape_of(tensor)
    return (*shape[:dim], *shape_of(index), *shape[dim + count :])


def values_for(value: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Return values in the shape in which they are written at indices; a single number stays one.

    Raises:
        RuntimeError: the values do not broadcast to the shape.
    """
    have = shape_of(value)
    if math.prod(have) == 1 or have == shape:
        return value
    while len(have) > len(shape) and have[0] == 1:
        value = functions["squeeze"](value, 0)
        have = have[1:]
    try:
        fits = np.broadcast_shapes(have, shape) == shape
    except ValueError:
        fits = False
    if not fits:
        raise RuntimeError(
            f"shape mismatch: value tensor of shape {list(have)} cannot be broadcast to indexing result of shape "
            f"{list(shape)}"
        )
    return call(EXPAND, value, attributes=shape) if have != shape else value
