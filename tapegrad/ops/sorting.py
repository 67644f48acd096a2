"""Sorting along a dimension, and what follows from it: topk, kthvalue, median, mode."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tapegrad.kernels.sort import FIXED_WORDS, SCRATCH_WORDS, make_sort_row
from tapegrad.native.dtypes import INT64, ITEM_BYTES, POINTERS
from tapegrad.native.pointers import int64_at, stack_words
from tapegrad.ops.calls import call, call_several, expect_tensor, function, functions, normal_dim, shape_of
from tapegrad.ops.reduction_rules import MASK, PARAMETER, extents, set_same_shapes
from tapegrad.ops.reductions import ValuesIndices, count
from tapegrad.ops.references import axis_of
from tapegrad.ops.registry import OF_ENTRY, Op, declare, registry
from tapegrad.runtime.handle import Tensor
from tapegrad.runtime.layout import (
    GENERAL,
    TO_INT64,
    attribute,
    data_address,
    input_slot,
    output_slot,
    shape_in,
    slot_of,
    state_of,
)
from tapegrad.runtime.machine import WORKSPACE_BYTES, machine

_IN_WORKSPACE = (WORKSPACE_BYTES // 8 - FIXED_WORDS) // SCRATCH_WORDS  # elements of a row that fit there


def sort_infer(st, frame):
    """Values, indices, and scratch for rows that are too long for the workspace."""
    set_same_shapes(st, frame)
    words = stack_words(3)
    extents(slot_of(st, input_slot(frame, 0)), attribute(frame, MASK), words)
    n = int64_at(words)[1]
    slot_of(st, output_slot(frame, 1)).dtype = INT64
    scratch = slot_of(st, output_slot(frame, 2))
    scratch.dtype = INT64
    scratch.ndim = 1
    shape_in(scratch)[0] = FIXED_WORDS + SCRATCH_WORDS * n if n > _IN_WORKSPACE else 0
    return 0


def _sort_kernel(dtype: int, result_dtype: int) -> Callable[..., int]:
    pointer = POINTERS[dtype]
    size = ITEM_BYTES[dtype]
    sort_row = make_sort_row(dtype)

    def kernel(st, frame):
        words = stack_words(3)
        extents(slot_of(st, input_slot(frame, 0)), attribute(frame, MASK), words)
        outer, n, inner = int64_at(words)[0], int64_at(words)[1], int64_at(words)[2]
        long = n > _IN_WORKSPACE
        scratch = data_address(st, output_slot(frame, 2)) if long else state_of(st).workspace
        x_address, y_address = data_address(st, input_slot(frame, 0)), data_address(st, output_slot(frame, 0))
        index_address = data_address(st, output_slot(frame, 1))
        for r in range(outer):
            for column in range(inner):
                start = r * n * inner + column
                places = int64_at(sort_row(x_address + start * size, n, inner, attribute(frame, PARAMETER), scratch))
                x, y = pointer(x_address + start * size), pointer(y_address + start * size)
                index = int64_at(index_address + start * 8)
                for i in range(n):
                    index[i * inner] = places[i]
                    y[i * inner] = x[places[i] * inner]
        return 0

    return kernel


def _sort_reference(x: Any, dim: int, descending: bool = False, stable: bool = True) -> Any:
    order = np.argsort(x, dim, stable=True)
    if descending:
        order = np.flip(x.shape[dim] - 1 - np.argsort(np.flip(x, dim), dim, stable=True), dim)
    return np.take_along_axis(x, order, dim), order


_SORT = declare(
    Op(
        name="sort",
        inputs=("input",),
        kind=GENERAL,
        outputs=3,
        infer=sort_infer,
        kernel=_sort_kernel,
        vjp=lambda g, y, x: g[0].put_at(y[1], x, attributes=OF_ENTRY),
        contiguous=("input",),
        reference=_sort_reference,
        samples=lambda make: [
            ((make(2, 3, 4),), {"dim": 1, "stable": True}),
            ((make(3, 4),), {"dim": -1, "descending": True, "stable": True}),
            ((make(37),), {"dim": 0, "stable": True}),
        ],
        math="x in order along a dimension, and where its elements were; the third result is scratch",
    )
)


def _sorted(input: Tensor, dim: int, descending: bool) -> ValuesIndices:
    ndim = len(shape_of(input))
    dim = normal_dim(dim, ndim)
    attributes = (machine.dtype_of(input._handle), 1 << dim if ndim else 0, 1, int(descending))
    return ValuesIndices(*call_several(_SORT, input, attributes=attributes)[:2])


@function()
def sort(input: Tensor, dim: int = -1, descending: bool = False, *, stable: bool = True) -> ValuesIndices:
    """Return the elements in order along a dimension, and the indices they had; always stable, nan above all numbers.

    Example:
        >>> import tapegrad as tg
        >>> tg.sort(tg.tensor([3.0, 1.0, 2.0])).indices
        tensor([1, 2, 0])
    """
    return _sorted(expect_tensor(input, "sort"), dim, descending)


@function()
def argsort(input: Tensor, dim: int = -1, descending: bool = False, *, stable: bool = True) -> Tensor:
    """Return the indices that put the elements in order along a dimension."""
    return sort(input, dim, descending).indices


@function()
def msort(input: Tensor) -> Tensor:
    """Return the elements in order along the first dimension."""
    return sort(input, 0).values


@function()
def topk(input: Tensor, k: int, dim: int = -1, largest: bool = True, sorted: bool = True) -> ValuesIndices:
    """Return the k largest (or smallest) elements along a dimension, in order, and their indices.

    Raises:
        RuntimeError: there are fewer than k.
    """
    shape = shape_of(expect_tensor(input, "topk"))
    dim = normal_dim(dim, len(shape))
    if not 0 <= k <= (shape[dim] if shape else 1):
        raise RuntimeError("selected index k out of range")
    ordered = _sorted(input, dim, largest)
    if not shape:
        return ordered
    return ValuesIndices(*(functions["narrow"](part, dim, 0, k) for part in ordered))


def _at_place(input: Tensor, indices: Tensor, place: Any, dim: int, keepdim: bool) -> ValuesIndices:
    """Return the values and indices at one place of sorted ones (or a place for each row, a tensor)."""
    code, mask = machine.dtype_of(input._handle), 1 << dim if shape_of(input) else 0
    if isinstance(place, int):
        index = functions["narrow"](indices, dim, place, 1) if mask else indices
    else:
        index = call(registry["take_at"], indices, place, attributes=(INT64, mask, 1, 0))
    values = call(registry["take_at"], input, index, attributes=(code, mask, 1, 0))
    if keepdim or not mask:
        return ValuesIndices(values, index)
    return ValuesIndices(functions["squeeze"](values, dim), functions["squeeze"](index, dim))


def _length(input: Tensor, dim: int, name: str) -> tuple[int, int]:
    shape = shape_of(expect_tensor(input, name))
    dim = normal_dim(dim, len(shape))
    if shape and shape[dim] == 0:
        raise IndexError(f"{name}(): Expected reduction dim {dim} to have non-zero size.")
    return dim, shape[dim] if shape else 1


@function()
def kthvalue(input: Tensor, k: int, dim: int = -1, keepdim: bool = False) -> ValuesIndices:
    """Return the k-th smallest element along a dimension (counted from 1) and its index."""
    dim, n = _length(input, dim, "kthvalue")
    if not 1 <= k <= n:
        raise RuntimeError(f"kthvalue(): selected number k out of range for dimension {dim}")
    return _at_place(input, _sorted(input, dim, False).indices, k - 1, dim, keepdim)


def _median(input: Tensor, dim: int | None, keepdim: bool, name: str) -> Any:
    if dim is None:
        flat = functions["reshape"](expect_tensor(input, name), (-1,))
        if shape_of(flat) == (0,):
            return functions["sum"](flat) / 0.0 if input.is_floating_point() else functions["sum"](flat)
        return _median(flat, 0, False, name).values
    dim, n = _length(input, dim, name)
    indices = _sorted(input, dim, False).indices
    if input.dtype.is_floating_point:
        numbers = count(call(registry["is_number"], input), dim, True)
        if name == "median":  # nan if there is one, which is last in order
            place = functions["where"](numbers == n, (n - 1) // 2, numbers)
        else:
            place = functions["clamp"]((numbers - 1) // 2, min=0)
        return _at_place(input, indices, place, dim, keepdim)
    return _at_place(input, indices, (n - 1) // 2, dim, keepdim)


@function()
def median(input: Tensor, dim: int | None = None, keepdim: bool = False) -> Any:
    """Return the lower median: of all elements, or along ``dim`` with its index; nan where there is a nan."""
    return _median(input, dim, keepdim, "median")


@function()
def nanmedian(input: Tensor, dim: int | None = None, keepdim: bool = False) -> Any:
    """Return the lower median of what is not nan: of all elements, or along ``dim`` with its index."""
    return _median(input, dim, keepdim, "nanmedian")


def _mode_kernel(dtype: int, result_dtype: int) -> Callable[..., int]:
    """From sorted values, the place of the last element of the longest run (the first such run)."""
    pointer = POINTERS[dtype]

    def kernel(st, frame):
        words = stack_words(3)
        extents(slot_of(st, input_slot(frame, 0)), attribute(frame, MASK), words)
        outer, n, inner = int64_at(words)[0], int64_at(words)[1], int64_at(words)[2]
        x = pointer(data_address(st, input_slot(frame, 0)))
        y = int64_at(data_address(st, output_slot(frame, 0)))
        for r in range(outer):
            for column in range(inner):
                start = r * n * inner + column
                longest = 0
                run = 0
                for i in range(n):
                    same = i > 0 and x[start + i * inner] == x[start + (i - 1) * inner]
                    run = run + 1 if same else 1
                    if run > longest:
                        longest = run
                        y[r * inner + column] = i
        return 0

    return kernel


def mode_infer(st, frame):
    x = slot_of(st, input_slot(frame, 0))
    y = slot_of(st, output_slot(frame, 0))
    y.ndim = x.ndim
    for d in range(x.ndim):
        shape_in(y)[d] = 1 if (attribute(frame, MASK) >> d) & 1 else shape_in(x)[d]
    return 0


def _longest_run(x: Any, *, attributes: tuple[int, ...]) -> Any:
    axis = axis_of(attributes)
    equal = np.expand_dims(x, axis) == np.expand_dims(x, axis + 1)  # in a sorted row equal elements are one run
    first = np.argmax(equal.sum(axis), axis, keepdims=True)
    return first + np.take_along_axis(equal.sum(axis), first, axis) - 1


_MODE = declare(
    Op(
        name="longest_run",
        inputs=("input",),
        kind=GENERAL,
        result=TO_INT64,
        infer=mode_infer,
        kernel=_mode_kernel,
        contiguous=("input",),
        public=False,
        reference=_longest_run,
        samples=lambda make: [
            ((np.sort(np.rint(2 * make(2, 9, 3, low=0)), 1),), {"attributes": (INT64, 0b10, 1, 0)}),
            ((np.sort(np.rint(make(37, low=0))),), {"attributes": (INT64, 0b1, 1, 0)}),
        ],
        math="where the longest run of equal elements ends",
    )
)


@function()
def mode(input: Tensor, dim: int = -1, keepdim: bool = False) -> ValuesIndices:
    """Return the commonest element along a dimension, the smallest of several, and the last index where it is."""
    dim, _ = _length(input, dim, "mode")
    ordered = _sorted(input, dim, False)
    place = call(_MODE, ordered.values, attributes=(INT64, 1 << dim if shape_of(input) else 0, 1, 0))
    return _at_place(input, ordered.indices, place, dim, keepdim)
