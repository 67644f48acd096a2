"""Tensors put together or looked up as sets: products, combinations, block diagonals, isin, places of flat indices."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from tapegrad.ops.calls import call, expect_tensor, function, functions, shape_of
from tapegrad.ops.creation import from_array
from tapegrad.ops.registry import registry
from tapegrad.runtime.handle import Tensor


def _vectors(tensors: Sequence[Tensor], name: str) -> list[Tensor]:
    for tensor in tensors:
        ndim = len(shape_of(expect_tensor(tensor, name, "tensors")))
        if ndim != 1:
            raise RuntimeError(f"{name}: Expect a 1D vector, but got shape {list(shape_of(tensor))}")
    return list(tensors)


@function(method=False)
def cartesian_prod(*tensors: Tensor) -> Tensor:
    """Return all tuples of elements of 1-d tensors, [product of the lengths, count]; the last one varies fastest."""
    vectors = _vectors(tensors, "cartesian_prod")
    if len(vectors) == 1:
        return vectors[0]
    grid = functions["meshgrid"](*vectors, indexing="ij")
    return functions["stack"]([functions["reshape"](part, (-1,)) for part in grid], 1)


@function(method=False)
def combinations(input: Tensor, r: int = 2, with_replacement: bool = False) -> Tensor:
    """Return all choices of ``r`` elements of a 1-d tensor, in the order of their places, [count, r].

    Args:
        input: [n].
        with_replacement: whether an element may be chosen several times.
    """
    (vector,) = _vectors([input], "combinations")
    if r < 0:
        raise RuntimeError(f"Expect a non-negative number, but got {r}")
    choose = itertools.combinations_with_replacement if with_replacement else itertools.combinations
    places = np.array(list(choose(range(shape_of(vector)[0]), r)), np.int64).reshape(-1, r)
    if r == 0:
        return functions["empty"](0, dtype=vector.dtype)
    return vector[from_array(np.ascontiguousarray(places))]


@function(method=False)
def block_diag(*tensors: Tensor) -> Tensor:
    """Return a matrix with the given ones (vectors are rows) along its diagonal, zeros elsewhere; differentiable."""
    blocks = [functions["atleast_2d"](tensor) for tensor in tensors]
    for k, block in enumerate(blocks):
        if len(shape_of(block)) > 2:
            raise RuntimeError(f"Input tensors must have 2 or fewer dimensions. Input {k} has {block.dim()} dimensions")
    columns = sum(shape_of(block)[1] for block in blocks)
    rows, before = [], 0
    for block in blocks:
        height, width = shape_of(block)
        left = functions["zeros"](height, before, dtype=block.dtype)
        right = functions["zeros"](height, columns - before - width, dtype=block.dtype)
        rows.append(functions["cat"]([left, block, right], 1))
        before += width
    return functions["cat"](rows, 0)


@function(method=False)
def isin(elements: Any, test_elements: Any, *, assume_unique: bool = False, invert: bool = False) -> Tensor:
    """Return whether each element is among others: bool, of the shape of ``elements``.

    Args:
        elements: a tensor or number.
        test_elements: a tensor or number.
        assume_unique: accepted for torch's sake.
        invert: whether to return the opposite.
    """
    tensors = [value if isinstance(value, Tensor) else as_scalar(value) for value in (elements, test_elements)]
    values, others = tensors
    common = functions["result_type"](values, others)
    values, others = (functions["to_dtype"](tensor.detach(), common) for tensor in (values, others))
    ordered = functions["sort"](functions["reshape"](others, (-1,))).values
    count = shape_of(ordered)[0]
    if count == 0:
        found = functions["zeros"](shape_of(values), dtype="bool")
    else:
        place = functions["clamp"](functions["searchsorted"](ordered, values), max=count - 1)
        found = functions["take"](ordered, place) == values
    return functions["logical_not"](found) if invert else found


@function(method=False)
def unravel_index(indices: Tensor, shape: Any) -> tuple[Tensor, ...]:
    """Return the index in each dimension of flat indices into a tensor of a shape.

    Args:
        indices: a tensor of int64, in row-major order.
        shape: the indexed tensor's shape.
    """
    lengths = (shape,) if isinstance(shape, int) else tuple(shape)
    steps = [int(np.prod(lengths[d + 1 :], dtype=np.int64)) for d in range(len(lengths))]
    remainder, divide = functions["remainder"], functions["floor_divide"]
    return tuple([remainder(divide(indices, step), n) for step, n in zip(steps, lengths, strict=True)])


@function(method=False)
def vander(x: Tensor, N: int | None = None, increasing: bool = False) -> Tensor:
    """Return the Vandermonde matrix [n, N] of a vector: powers N-1 .. 0 of each element, or 0 .. N-1.

    Args:
        x: [n].
        N: the number of powers; by default n.
        increasing: whether the powers rise.
    """
    (vector,) = _vectors([x], "vander")
    count = shape_of(vector)[0] if N is None else N
    columns = [vector**k for k in range(count)]
    return functions["stack"](columns if increasing else columns[::-1], 1)


@function()
def addr(input: Tensor, vec1: Tensor, vec2: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    """Return ``beta * input + alpha * outer(vec1, vec2)``."""
    product = functions["outer"](vec1, vec2)
    product = product if alpha == 1 else product * alpha
    return product if beta == 0 else product + (input if beta == 1 else input * beta)


@function()
def renorm(input: Tensor, p: float, dim: int, maxnorm: float) -> Tensor:
    """Return the tensor with each slice along ``dim`` scaled down to a p-norm of at most ``maxnorm``.

    Raises:
        RuntimeError: a ``p`` or ``maxnorm`` that is not positive, or a tensor of fewer than two dimensions.
    """
    ndim = len(shape_of(expect_tensor(input, "renorm")))
    if p <= 0:
        raise RuntimeError("renorm: non-positive-norm not supported")
    if ndim < 2:
        raise RuntimeError(f"renorm: input needs at least 2 dimensions, got {ndim} dimensions")
    if maxnorm < 0:
        raise RuntimeError(f"renorm: expected maxnorm to be >= 0 but got {maxnorm}")
    others = [d for d in range(ndim) if d != dim % ndim]
    norms = functions["vector_norm"](input, p, others, True) if "vector_norm" in functions else _norms(input, p, others)
    return input * functions["where"](norms > maxnorm, maxnorm / (norms + 1e-7), 1.0)


def _norms(input: Tensor, p: float, dims: list[int]) -> Any:
    return functions["norm"](input, p, dims, True)


@function(method=False)
def is_floating_point(input: Tensor) -> bool:
    """Return whether the dtype is a float one."""
    return bool(expect_tensor(input, "is_floating_point").is_floating_point())


def as_scalar(value: Any) -> Tensor:
    """Return a number as a 0-d tensor."""
    return call(registry["clone"], value)
