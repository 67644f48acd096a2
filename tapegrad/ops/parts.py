"""Views that keep a part: narrow, select, diagonal, windows, splits, and as_strided."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from tapegrad.ops.calls import call, expect_tensor, function, functions, normal_dim, shape_of
from tapegrad.ops.parameters import complete
from tapegrad.ops.registry import registry
from tapegrad.ops.view_ops import DIAGONAL, INDEX, SELECT, SKIP, SLICE, UNFOLD
from tapegrad.runtime.errors import raise_status
from tapegrad.runtime.handle import Tensor, wrap
from tapegrad.runtime.machine import machine

_emit = machine.emit


def slice_dim(tensor: Tensor, dim: int, start: int, stop: int, step: int = 1) -> Tensor:
    """Return ``tensor[start:stop:step]`` along a dimension counted from the front."""
    handle = _emit(INDEX.code, 1, tensor._handle, SKIP, dim, SLICE, start, stop, step)
    if handle < 0:
        raise_status(handle)
    return wrap(handle)


@function()
def narrow(input: Tensor, dim: int, start: int, length: int) -> Tensor:
    """Return a view of ``length`` indices of dimension ``dim``, from ``start`` on.

    Raises:
        IndexError: no such dimension, or ``start`` outside it.
        RuntimeError: the range leaves the dimension.
    """
    shape = shape_of(expect_tensor(input, "narrow"))
    if not shape:
        raise RuntimeError("narrow() cannot be applied to a 0-dim tensor.")
    dim = normal_dim(dim, len(shape))
    start, length = int(start), int(length)
    if length < 0:
        raise RuntimeError("narrow(): length must be non-negative.")
    if not -shape[dim] <= start <= shape[dim]:
        raise IndexError(
            f"start out of range (expected to be in range of [{-shape[dim]}, {shape[dim]}], but got {start})"
        )
    start += shape[dim] if start < 0 else 0
    if start + length > shape[dim]:
        raise RuntimeError(f"start ({start}) + length ({length}) exceeds dimension size ({shape[dim]}).")
    return slice_dim(input, dim, start, start + length)


@function()
def select(input: Tensor, dim: int, index: int) -> Tensor:
    """Return a view of one index of dimension ``dim``, which the result no longer has.

    Args:
        index: the index; a negative one counts from the end.

    Raises:
        IndexError: no such dimension or index.
    """
    shape = shape_of(expect_tensor(input, "select"))
    if not shape:
        raise IndexError("select() cannot be applied to a 0-dim tensor.")
    dim = normal_dim(dim, len(shape))
    if not -shape[dim] <= index < shape[dim]:
        raise IndexError(f"select(): index {index} out of range for tensor of size {list(shape)} at dimension {dim}")
    return call(INDEX, input, attributes=(SKIP, dim, SELECT, int(index)))


@function()
def diagonal(input: Tensor, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Tensor:
    """Return a view of the diagonals of the matrices in ``dim1`` and ``dim2``, as a new last dimension."""
    ndim = len(shape_of(expect_tensor(input, "diagonal")))
    first, second = normal_dim(dim1, ndim), normal_dim(dim2, ndim)
    if first == second:
        raise RuntimeError(f"diagonal dimensions cannot be identical {dim1}, {dim2}")
    return call(DIAGONAL, input, attributes=(offset, first, second))


def _unfold(self: Tensor, dimension: int, size: int, step: int) -> Tensor:
    """Return a view of the windows of ``size`` indices, ``step`` apart, along a dimension, as a new last dimension.

    Args:
        dimension: the dimension.
    """
    shape = shape_of(self)
    dim = normal_dim(dimension, len(shape))
    if step <= 0:
        raise RuntimeError(f"step is {step} but must be > 0")
    length = shape[dim] if shape else 1
    if not 0 <= size <= length:
        raise RuntimeError(f"maximum size for tensor at dimension {dim} is {length} but size is {size}")
    return call(UNFOLD, self, attributes=(dim, size, step))


_unfold.__name__ = _unfold.__qualname__ = "unfold"
Tensor.unfold = _unfold  # type: ignore[attr-defined]


@function()
def unbind(input: Tensor, dim: int = 0) -> tuple[Tensor, ...]:
    """Return views of each index of a dimension."""
    shape = shape_of(expect_tensor(input, "unbind"))
    if not shape:
        raise IndexError("Dimension specified as 0 but tensor has no dimensions")
    dim = normal_dim(dim, len(shape))
    code, source = INDEX.code, input._handle
    skip = (SKIP, dim, SELECT) if dim else (SELECT,)
    handles = [_emit(code, 1, source, *skip, k) for k in range(shape[dim])]
    if handles and min(handles) < 0:
        raise_status(min(handles))
    return tuple([wrap(handle) for handle in handles])


def _pieces(tensor: Tensor, dim: int, bounds: Sequence[int]) -> tuple[Tensor, ...]:
    code, source = INDEX.code, tensor._handle
    skip = (SKIP, dim, SLICE) if dim else (SLICE,)
    pieces = []
    for start, stop in pairwise(bounds):
        handle = _emit(code, 1, source, *skip, start, stop, 1)
        if handle < 0:
            raise_status(handle)
        pieces.append(wrap(handle))
    return tuple(pieces)


@function(aliases=("split_with_sizes",))
def split(tensor: Tensor, split_size_or_sections: Any = None, dim: int = 0, *, split_size: Any = None) -> Any:
    """Return views of consecutive parts of a dimension: all of one length but the last, or of given lengths.

    Args:
        tensor: at least 1-d.
        split_size_or_sections: a length, or the list of the lengths.
        dim: the dimension.
        split_size: the first argument under the name it has in the method.

    Raises:
        RuntimeError: the lengths do not add up to the dimension's.
    """
    shape = shape_of(expect_tensor(tensor, "split"))
    if not shape:
        raise RuntimeError("split expects at least a 1-dimensional tensor")
    dim = normal_dim(dim, len(shape))
    size = split_size if split_size_or_sections is None else split_size_or_sections
    if not isinstance(size, int):
        if any(length < 0 for length in size) or sum(size) != shape[dim]:
            raise RuntimeError(
                f"split_with_sizes expects split_sizes to sum exactly to {shape[dim]} (input tensor's size at "
                f"dimension {dim}), but got split_sizes={list(size)}"
            )
        return _pieces(tensor, dim, [sum(size[:k]) for k in range(len(size) + 1)])
    if size < 0 or (size == 0 and shape[dim] != 0):
        raise RuntimeError(f"split expects split_size be non-negative, but got split_size={size}")
    length = shape[dim]
    return _pieces(tensor, dim, [*range(0, length, size), length] if length else [0, 0])


@function()
def chunk(input: Tensor, chunks: int, dim: int = 0) -> tuple[Tensor, ...]:
    """Return views of at most ``chunks`` consecutive parts of a dimension, of equal length but for the last."""
    shape = shape_of(expect_tensor(input, "chunk"))
    if not shape:
        raise RuntimeError("chunk expects at least a 1-dimensional tensor")
    if chunks <= 0:
        raise RuntimeError(f"chunk expects `chunks` to be greater than 0, got: {chunks}")
    dim = normal_dim(dim, len(shape))
    length = shape[dim]
    if length == 0:
        return _pieces(input, dim, [0] * (chunks + 1))
    return _pieces(input, dim, [*range(0, length, -(-length // chunks)), length])


@function()
def tensor_split(input: Tensor, indices_or_sections: Any, dim: int = 0) -> tuple[Tensor, ...]:
    """Return views of consecutive parts of a dimension: so many nearly equal ones, or those between indices."""
    shape = shape_of(expect_tensor(input, "tensor_split"))
    if not shape:
        raise RuntimeError("tensor_split expected at least a 1-dimensional tensor, but got a tensor with 0 dims")
    dim = normal_dim(dim, len(shape))
    given = indices_or_sections.tolist() if isinstance(indices_or_sections, Tensor) else indices_or_sections
    if isinstance(given, int):
        if given <= 0:
            raise RuntimeError(f"number of sections must be larger than 0, got {given}")
        short, longer = divmod(shape[dim], given)
        return _pieces(input, dim, [k * short + min(k, longer) for k in range(given + 1)])
    bounds = [0, *given, shape[dim]]
    return _pieces(input, dim, bounds)


def _split_along(name: str, dim: int, least: int) -> None:
    def split_dim(input: Tensor, indices_or_sections: Any) -> tuple[Tensor, ...]:
        ndim = len(shape_of(input))
        if ndim < least:
            raise RuntimeError(f"torch.{name} requires a tensor with at least {least} dimension, but got {ndim}")
        return tensor_split(input, indices_or_sections, 0 if ndim == 1 else dim)

    split_dim.__name__ = split_dim.__qualname__ = name
    split_dim.__doc__ = f"Return views of consecutive parts of dimension {dim}; see ``tensor_split``."
    complete(split_dim)
    functions[name] = split_dim
    setattr(Tensor, name, split_dim)


for _name, _dim, _least in (("vsplit", 0, 2), ("hsplit", 1, 1), ("dsplit", 2, 3)):
    _split_along(_name, _dim, _least)


@function()
def as_strided(input: Tensor, size: Sequence[int], stride: Sequence[int], storage_offset: int | None = None) -> Tensor:
    """Return a view of the tensor's storage by shape, strides and offset, all counted in elements.

    Args:
        size: the view's shape.
        stride: how many elements apart neighbours along each dimension are.
        storage_offset: the first element's place in the storage; by default that of the tensor.

    Raises:
        RuntimeError: the view would leave the storage.
    """
    fields = machine.fields_of(expect_tensor(input, "as_strided")._handle)
    offset = fields[4] if storage_offset is None else storage_offset
    if len(size) != len(stride):
        raise RuntimeError("mismatch in length of strides and shape")
    if min((*size, *stride, offset), default=0) < 0:
        raise RuntimeError(f"as_strided: Negative values are not supported: size {list(size)}, strides {list(stride)}")
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    itemsize = 1 << (0, 0, 2, 3, 2, 3)[fields[1]]
    if math.prod(size) and (last + 1) * itemsize > fields[14]:
        raise RuntimeError(
            f"setStorage: sizes {list(size)}, strides {list(stride)}, storage offset {offset}, and itemsize {itemsize} "
            f"requiring a storage size of {(last + 1) * itemsize} are out of bounds for storage of size {fields[14]}"
        )
    return call(registry["as_strided"], input, attributes=(len(size), offset, *size, *stride))
