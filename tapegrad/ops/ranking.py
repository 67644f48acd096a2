"""What needs the order of a dimension's elements in part only: topk, kthvalue, median, nanmedian, mode."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tapegrad.kernels.ranking import make_find_first, make_find_rank
from tapegrad.kernels.sort import FIXED_WORDS, SCRATCH_WORDS, make_sort_row
from tapegrad.native.cache import jit
from tapegrad.native.dtypes import FLOAT32, INT64, ITEM_BYTES, POINTERS
from tapegrad.native.pointers import int64_at, stack_words
from tapegrad.ops.calls import call_several, expect_tensor, function, functions, normal_dim, shape_of
from tapegrad.ops.reduction_rules import KEEPDIM, MASK, PARAMETER, extents, reduced_shape
from tapegrad.ops.reductions import ValuesIndices
from tapegrad.ops.references import axis_of
from tapegrad.ops.registry import OF_ENTRY, Op, declare
from tapegrad.ops.validity import Attributes, Operands, along_one, every, masked, needed
from tapegrad.runtime.handle import Tensor
from tapegrad.runtime.layout import (
    GENERAL,
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
_MEDIAN, _NANMEDIAN, _MODE = -1, -2, -3  # in place of a rank


@jit
def _set_scratch(st, frame):
    """The second result has places; the third is scratch for rows that are too long for the workspace."""
    words = stack_words(3)
    extents(slot_of(st, input_slot(frame, 0)), attribute(frame, MASK), words)
    n = int64_at(words)[1]
    slot_of(st, output_slot(frame, 1)).dtype = INT64
    scratch = slot_of(st, output_slot(frame, 2))
    scratch.dtype = INT64
    scratch.ndim = 1
    shape_in(scratch)[0] = FIXED_WORDS + SCRATCH_WORDS * n if n > _IN_WORKSPACE else 0
    return 0


@jit
def _scratch_address(st, frame, n):
    return data_address(st, output_slot(frame, 2)) if n > _IN_WORKSPACE else state_of(st).workspace


def ranked_infer(st, frame):
    for k in range(2):
        y = slot_of(st, output_slot(frame, k))
        reduced_shape(slot_of(st, input_slot(frame, 0)), y, attribute(frame, MASK), attribute(frame, KEEPDIM))
    return _set_scratch(st, frame)


def _ranked_kernel(dtype: int, result_dtype: int) -> Callable[..., int]:
    pointer, size, floating = POINTERS[dtype], ITEM_BYTES[dtype], dtype >= FLOAT32
    find, sort_row = make_find_rank(dtype), make_sort_row(dtype)

    @jit
    def count_numbers(x, n, stride):
        numbers = 0
        for i in range(n):
            numbers += 1 if x[i * stride] == x[i * stride] else 0
        return numbers

    @jit
    def rank_of(parameter, x, n, stride):
        """Where a nan is, the median is one; they come last in order."""
        if parameter >= 0:
            return parameter
        numbers = count_numbers(x, n, stride) if floating else n
        if parameter == _NANMEDIAN:
            return max((numbers - 1) // 2, 0)
        return (n - 1) // 2 if numbers == n else numbers

    @jit
    def commonest(x, places, n, stride):
        """Return the last place of the longest run of a sorted row, the first such run."""
        best = 0
        longest = 0
        run = 0
        for i in range(n):
            same = i > 0 and x[places[i] * stride] == x[places[i - 1] * stride]
            run = run + 1 if same else 1
            if run > longest:
                longest = run
                best = places[i]
        return best

    def kernel(st, frame):
        words = stack_words(3)
        extents(slot_of(st, input_slot(frame, 0)), attribute(frame, MASK), words)
        outer, n, inner = int64_at(words)[0], int64_at(words)[1], int64_at(words)[2]
        scratch = _scratch_address(st, frame, n)
        x_address = data_address(st, input_slot(frame, 0))
        y = pointer(data_address(st, output_slot(frame, 0)))
        index = int64_at(data_address(st, output_slot(frame, 1)))
        parameter = attribute(frame, PARAMETER)
        for r in range(outer):
            for column in range(inner):
                start = x_address + (r * n * inner + column) * size
                x = pointer(start)
                if parameter == _MODE:
                    place = commonest(x, int64_at(sort_row(start, n, inner, 0, scratch)), n, inner)
                else:
                    place = find(start, n, inner, rank_of(parameter, x, n, inner), scratch)
                index[r * inner + column] = place
                y[r * inner + column] = x[place * inner]
        return 0

    return kernel


def first_infer(st, frame):
    x = slot_of(st, input_slot(frame, 0))
    for k in range(2):
        y = slot_of(st, output_slot(frame, k))
        y.ndim = x.ndim
        for d in range(x.ndim):
            shape_in(y)[d] = attribute(frame, PARAMETER) if (attribute(frame, MASK) >> d) & 1 else shape_in(x)[d]
    return _set_scratch(st, frame)


def _first_kernel(dtype: int, result_dtype: int) -> Callable[..., int]:
    pointer, size = POINTERS[dtype], ITEM_BYTES[dtype]
    find = make_find_first(dtype)

    def kernel(st, frame):
        words = stack_words(3)
        extents(slot_of(st, input_slot(frame, 0)), attribute(frame, MASK), words)
        outer, n, inner = int64_at(words)[0], int64_at(words)[1], int64_at(words)[2]
        count, descending = attribute(frame, PARAMETER), attribute(frame, PARAMETER + 1)
        scratch = _scratch_address(st, frame, n)
        x_address, y_address = data_address(st, input_slot(frame, 0)), data_address(st, output_slot(frame, 0))
        index_address = data_address(st, output_slot(frame, 1))
        for r in range(outer if count > 0 else 0):
            for column in range(inner):
                start = x_address + (r * n * inner + column) * size
                places = int64_at(find(start, n, inner, count, descending, scratch, FIXED_WORDS))
                to = r * count * inner + column
                x, y, index = pointer(start), pointer(y_address + to * size), int64_at(index_address + to * 8)
                for i in range(count):
                    index[i * inner] = places[i]
                    y[i * inner] = x[places[i] * inner]
        return 0

    return kernel


def _reference(x: Any, attributes: tuple[int, ...]) -> Any:
    axis, parameter = axis_of(attributes), attributes[PARAMETER]
    order = np.argsort(x, axis, kind="stable")
    n = x.shape[axis]
    if parameter == _MODE:
        ordered = np.take_along_axis(x, order, axis)
        equal = np.sum(np.expand_dims(ordered, axis) == np.expand_dims(ordered, axis + 1), axis)
        first = np.argmax(equal, axis, keepdims=True)
        rank = first + np.take_along_axis(equal, first, axis) - 1
    else:
        rank = np.full_like(order.take([0], axis), (n - 1) // 2 if parameter < 0 else parameter)
    place = np.take_along_axis(order, rank, axis)
    return np.take_along_axis(x, place, axis), place, np.zeros(0, np.int64)


def _first_reference(x: Any, attributes: tuple[int, ...]) -> Any:
    axis = axis_of(attributes)
    order = np.argsort(-x.astype(np.float64) if attributes[PARAMETER + 1] else x, axis, kind="stable")
    order = order.take(range(attributes[PARAMETER]), axis)
    return np.take_along_axis(x, order, axis), order, np.zeros(0, np.int64)


def _ranks_exist(x: Operands, a: Attributes) -> bool:
    """A rank is one of a row's, and the ops take no rank of no elements; so many first ones there are."""
    shape = needed(x, 0).shape
    n = shape[masked(a[MASK], shape)[0]] if shape else 1
    return 0 <= a[PARAMETER] <= n if len(a) > 4 else _MODE <= a[PARAMETER] < n and n > 0


def _declare(name: str, infer: Callable[..., int], kernel: Any, reference: Any, samples: Any, math: str) -> Op:
    return declare(
        Op(
            name=name,
            inputs=("input",),
            kind=GENERAL,
            outputs=3,
            infer=infer,
            valid=every(along_one, _ranks_exist),
            kernel=kernel,
            vjp=lambda g, y, x: g[0].put_at(y[1], x, attributes=OF_ENTRY),
            contiguous=("input",),
            public=False,
            reference=reference,
            samples=samples,
            math=math,
        )
    )


_RANKED = _declare(
    "ranked",
    ranked_infer,
    _ranked_kernel,
    _reference,
    lambda make: [
        ((make(2, 7, 3),), {"attributes": (0, 0b10, 1, 4)}),
        ((make(40),), {"attributes": (0, 0b1, 1, 11)}),
        ((make(3, 6),), {"attributes": (0, 0b10, 1, _MEDIAN)}),
        ((make(3, 6),), {"attributes": (0, 0b10, 1, _NANMEDIAN)}),
        ((np.rint(2 * make(2, 9, 3, low=0)),), {"attributes": (0, 0b10, 1, _MODE)}, {"gradient": False}),
    ],
    "the element of a rank, the median or the commonest one, and its place; the third result is scratch",
)
_FIRST = _declare(
    "first_in_order",
    first_infer,
    _first_kernel,
    _first_reference,
    lambda make: [
        ((make(2, 7, 3),), {"attributes": (0, 0b10, 1, 4, 0)}),
        ((make(50),), {"attributes": (0, 0b1, 1, 40, 1)}, {"dtypes": ("float32", "float64")}),
        ((make(3, 4),), {"attributes": (0, 0b1, 1, 0, 0)}),
    ],
    "the first elements in order along a dimension, and their places; the third result is scratch",
)


def _dim_and_length(input: Tensor, dim: int, name: str) -> tuple[int, int]:
    shape = shape_of(expect_tensor(input, name))
    dim = normal_dim(dim, len(shape))
    if shape and shape[dim] == 0:
        raise IndexError(f"{name}(): Expected reduction dim {dim} to have non-zero size.")
    return (1 << dim, shape[dim]) if shape else (0, 1)


def _ranked(input: Tensor, mask: int, keepdim: bool, rank: int) -> ValuesIndices:
    attributes = (machine.dtype_of(input._handle), mask, int(keepdim), rank)
    return ValuesIndices(*call_several(_RANKED, input, attributes=attributes)[:2])


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
    if not shape:
        return _ranked(input, 0, True, 0)
    attributes = (machine.dtype_of(input._handle), 1 << dim, 1, int(k), int(largest))
    return ValuesIndices(*call_several(_FIRST, input, attributes=attributes)[:2])


@function()
def kthvalue(input: Tensor, k: int, dim: int = -1, keepdim: bool = False) -> ValuesIndices:
    """Return the k-th smallest element along a dimension (counted from 1) and its index."""
    mask, n = _dim_and_length(input, dim, "kthvalue")
    if not 1 <= k <= n:
        place = normal_dim(dim, len(shape_of(input)))
        raise RuntimeError(f"kthvalue(): selected number k out of range for dimension {place}")
    return _ranked(input, mask, keepdim, int(k) - 1)


def _median(input: Tensor, dim: int | None, keepdim: bool, name: str, rank: int) -> Any:
    if dim is not None:
        return _ranked(input, _dim_and_length(input, dim, name)[0], keepdim, rank)
    flat = functions["reshape"](expect_tensor(input, name), (-1,))
    if shape_of(flat) == (0,):
        return functions["sum"](flat) / 0.0 if input.is_floating_point() else functions["sum"](flat)
    return _ranked(flat, 1, False, rank).values


@function()
def median(input: Tensor, dim: int | None = None, keepdim: bool = False) -> Any:
    """Return the lower median: of all elements, or along ``dim`` with its index; nan where there is a nan."""
    return _median(input, dim, keepdim, "median", _MEDIAN)


@function()
def nanmedian(input: Tensor, dim: int | None = None, keepdim: bool = False) -> Any:
    """Return the lower median of what is not nan: of all elements, or along ``dim`` with its index."""
    return _median(input, dim, keepdim, "nanmedian", _NANMEDIAN)


@function()
def mode(input: Tensor, dim: int = -1, keepdim: bool = False) -> ValuesIndices:
    """Return the commonest element along a dimension, the smallest of several, and the last index where it is."""
    return _ranked(input, _dim_and_length(input, dim, "mode")[0], keepdim, _MODE)
