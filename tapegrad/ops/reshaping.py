"""Copies in another arrangement, as users call them: repeat, flip, roll, rot90, triangles, diagonals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from tapegrad.ops.calls import call, expect_tensor, function, functions, normal_dim, shape_of, tensor_method
from tapegrad.ops.parameters import complete
from tapegrad.ops.parts import diagonal, select, slice_dim
from tapegrad.ops.reshaping_ops import DIAG_EMBED, FLIP, ROLL, TRIL, TRIU
from tapegrad.ops.view_ops import UNSQUEEZE
from tapegrad.ops.views import contiguous_copy, expand, is_contiguous, reshape, sizes, transpose
from tapegrad.runtime.handle import Tensor
from tapegrad.runtime.layout import MAX_NDIM


@function()
def clone(input: Tensor, *, memory_format: Any = None) -> Tensor:
    """Return a copy in new, contiguous memory; gradients flow through it."""
    return contiguous_copy(expect_tensor(input, "clone"))


@tensor_method("contiguous")
def contiguous(self: Tensor, memory_format: Any = None) -> Tensor:
    """Return the tensor itself if its elements are in row-major order, else a copy that is."""
    return self if is_contiguous(self) else contiguous_copy(self)


@tensor_method("repeat")
def repeat(self: Tensor, *repeats: Any) -> Tensor:
    """Return the tensor repeated along each dimension, with new dimensions in front where more are given.

    Args:
        *repeats: how often, for each dimension, as ints or as one sequence of them.
    """
    counts = sizes(repeats, "repeat")
    shape = shape_of(self)
    if len(counts) < len(shape):
        raise RuntimeError("Number of dimensions of repeat dims can not be smaller than number of dimensions of tensor")
    if any(count < 0 for count in counts):
        raise RuntimeError(f"Trying to create tensor with negative dimension {min(counts)}: {list(counts)}")
    full = (1,) * (len(counts) - len(shape)) + shape
    apart = [(count, n) if count != 1 and n != 1 else (count * n,) for count, n in zip(counts, full, strict=True)]
    before = [(1, n) if len(pair) == 2 else (n,) for pair, n in zip(apart, full, strict=True)]
    flat = [length for pair in before for length in pair]
    if len(flat) > MAX_NDIM:
        raise RuntimeError(f"repeat: at most {MAX_NDIM - len(full)} dimensions can be repeated at a time")
    wide = expand(reshape(self, *flat), [length for pair in apart for length in pair])
    result = reshape(wide, *[math.prod(pair) for pair in apart])
    return contiguous_copy(result) if all(count == 1 for count in counts) or not is_contiguous(result) else result


@function()
def tile(input: Tensor, *dims: Any) -> Tensor:
    """Return the tensor repeated along each dimension.

    Args:
        *dims: how often, for each of the last dimensions, as ints or as one sequence of them.
    """
    counts = sizes(dims, "tile")
    return repeat(input, (1,) * (len(shape_of(input)) - len(counts)) + counts)


@function()
def flip(input: Tensor, *dims: Any) -> Tensor:
    """Return a copy in reverse order along the given dimensions."""
    shape = shape_of(expect_tensor(input, "flip"))
    order = [normal_dim(d, len(shape)) for d in sizes(dims, "flip")]
    if len(set(order)) != len(order):
        raise RuntimeError(f"dim {max(order, key=order.count)} appears multiple times in the list of dims")
    return call(FLIP, input, attributes=(sum(1 << d for d in order),))


@function()
def fliplr(input: Tensor) -> Tensor:
    """Return a copy in reverse order along dimension 1."""
    if len(shape_of(input)) < 2:
        raise RuntimeError("Input must be >= 2-d.")
    return flip(input, 1)


@function()
def flipud(input: Tensor) -> Tensor:
    """Return a copy in reverse order along dimension 0."""
    if len(shape_of(input)) < 1:
        raise RuntimeError("Input must be >= 1-d.")
    return flip(input, 0)


@function()
def roll(input: Tensor, shifts: int | Sequence[int], dims: int | Sequence[int] | None = None) -> Tensor:
    """Return a copy moved along dimensions, what leaves at the end coming in at the front.

    Args:
        input: a tensor.
        shifts: places to move, for each of ``dims``.
        dims: the dimensions; without them the tensor is moved as if it were flat.
    """
    shape = shape_of(expect_tensor(input, "roll"))
    moves = [shifts] if isinstance(shifts, int) else list(shifts)
    along = [dims] if isinstance(dims, int) else list(dims or ())
    if not along:
        if len(moves) != 1:
            raise RuntimeError(f"shifts and dimensions must align. shifts: {len(moves)}, dims:{len(along)}")
        return reshape(call(ROLL, reshape(input, math.prod(shape)), attributes=(moves[0], 0)), shape)
    if len(moves) != len(along):
        raise RuntimeError(f"shifts and dimensions must align. shifts: {len(moves)}, dims:{len(along)}")
    for shift, dim in zip(moves, along, strict=True):
        input = call(ROLL, input, attributes=(shift, normal_dim(dim, len(shape)))) if shape else clone(input)
    return input


@function()
def rot90(input: Tensor, k: int = 1, dims: Sequence[int] = (0, 1)) -> Tensor:
    """Return a copy turned by ``k`` right angles in the plane of two dimensions, from the first to the second."""
    ndim = len(shape_of(input))
    if len(dims) != 2:
        raise RuntimeError(f"expected total rotation dims == 2, but got dims = {len(dims)}")
    first, second = (normal_dim(d, ndim) for d in dims)
    if first == second:
        raise RuntimeError(f"expected rotation dims to be different, but got dim0 = {dims[0]} and dim1 = {dims[1]}")
    if k % 4 == 1:
        return contiguous_copy(transpose(flip(input, second), first, second))
    if k % 4 == 2:
        return flip(input, first, second)
    if k % 4 == 3:
        return contiguous_copy(transpose(flip(input, first), first, second))
    return clone(input)


def _triangle(op: Any) -> None:
    name = op.name

    def triangle(input: Tensor, diagonal: int = 0, *, out: Tensor | None = None) -> Tensor:
        if len(shape_of(expect_tensor(input, name))) < 2:
            raise RuntimeError(f"{name}: input tensor must have at least 2 dimensions")
        result = call(op, input, attributes=(diagonal,))
        return result if out is None else functions["_write_out"](out, result)

    def triangle_(input: Tensor, diagonal: int = 0) -> Tensor:
        return functions["copy_"](input, triangle(input, diagonal))

    side = "above" if name == "tril" else "below"
    triangle.__name__ = triangle.__qualname__ = name
    triangle.__doc__ = f"Return a copy with zeros {side} a diagonal of the last two dimensions."
    triangle_.__name__ = triangle_.__qualname__ = f"{name}_"
    triangle_.__doc__ = f"Write zeros {side} a diagonal of the last two dimensions."
    complete(triangle)
    complete(triangle_)
    functions[name] = triangle
    setattr(Tensor, name, triangle)
    setattr(Tensor, f"{name}_", triangle_)


_triangle(TRIL)
_triangle(TRIU)


@function()
def trace(input: Tensor) -> Tensor:
    """Return the sum of a matrix's diagonal."""
    if len(shape_of(input)) != 2:
        raise RuntimeError("trace: expected a matrix")
    return diagonal(input).sum()


@function()
def diag_embed(input: Tensor, offset: int = 0, dim1: int = -2, dim2: int = -1) -> Tensor:
    """Return matrices, in the dimensions ``dim1`` and ``dim2``, with the last dimension of ``input`` on a diagonal."""
    ndim = len(shape_of(expect_tensor(input, "diag_embed"))) + 1
    first, second = normal_dim(dim1, ndim), normal_dim(dim2, ndim)
    if first == second:
        raise RuntimeError(f"diagonal dimensions cannot be identical {dim1}, {dim2}")
    return call(DIAG_EMBED, input, attributes=(offset, first, second))


@function()
def diag(input: Tensor, diagonal: int = 0) -> Tensor:
    """Return the matrix with a vector on its diagonal, or a copy of a matrix's diagonal."""
    ndim = len(shape_of(expect_tensor(input, "diag")))
    if ndim == 1:
        return diag_embed(input, diagonal)
    if ndim != 2:
        raise RuntimeError(f"diag(): Supports 1D or 2D tensors. Got {ndim}D")
    return contiguous_copy(functions["diagonal"](input, diagonal))


@function()
def diagflat(input: Tensor, offset: int = 0) -> Tensor:
    """Return the matrix with the elements of a tensor on a diagonal."""
    return diag_embed(reshape(input, -1), offset)


@function()
def diagonal_scatter(input: Tensor, src: Tensor, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Tensor:
    """Return a copy of ``input`` with ``src`` on a diagonal."""
    result = clone(input)
    diagonal(result, offset, dim1, dim2).copy_(src)
    return result


@function()
def select_scatter(input: Tensor, src: Tensor, dim: int, index: int) -> Tensor:
    """Return a copy of ``input`` with ``src`` at one index of a dimension."""
    result = clone(input)
    select(result, dim, index).copy_(src)
    return result


@function()
def slice_scatter(
    input: Tensor, src: Tensor, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1
) -> Tensor:
    """Return a copy of ``input`` with ``src`` in a slice of a dimension."""
    result = clone(input)
    dim = normal_dim(dim, len(shape_of(input)))
    stop = shape_of(input)[dim] if end is None else end
    slice_dim(result, dim, start or 0, stop, step).copy_(src)
    return result


def _at_least(name: str, ndim: int, places: tuple[int, ...]) -> None:
    """Define ``atleast_1d`` and its kin; ``places`` says where a tensor of so many dimensions gets new ones."""

    def widen(tensor: Tensor) -> Tensor:
        have = len(shape_of(tensor))
        return call(UNSQUEEZE, tensor, attributes=(places[have],)) if have < ndim else tensor

    def at_least(*tensors: Any) -> Any:
        if len(tensors) == 1 and isinstance(tensors[0], Tensor):
            return widen(tensors[0])
        return tuple(widen(tensor) for tensor in (tensors[0] if len(tensors) == 1 else tensors))

    at_least.__name__ = at_least.__qualname__ = name
    at_least.__doc__ = f"Return a view with at least {ndim} dimensions, of several tensors a tuple."
    complete(at_least)
    functions[name] = at_least


_at_least("atleast_1d", 1, (0b1,))
_at_least("atleast_2d", 2, (0b11, 0b01))
_at_least("atleast_3d", 3, (0b111, 0b101, 0b100))
