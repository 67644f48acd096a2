"""Sorting along a dimension; what needs the order in part only is in ranking.py."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tapegrad.kernels.sort import FIXED_WORDS, SCRATCH_WORDS, make_sort_row
from tapegrad.native.dtypes import INT64, ITEM_BYTES, POINTERS
from tapegrad.native.pointers import int64_at, stack_words
from tapegrad.ops.calls import call_several, expect_tensor, function, normal_dim, shape_of
from tapegrad.ops.reduction_rules import MASK, PARAMETER, extents, set_same_shapes
from tapegrad.ops.reductions import ValuesIndices
from tapegrad.ops.registry import OF_ENTRY, Op, declare
from tapegrad.ops.validity import along_one
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
    order = np.argsort(x, dim, kind="stable")
    if descending:
        order = np.flip(x.shape[dim] - 1 - np.argsort(np.flip(x, dim), dim, kind="stable"), dim)
    return np.take_along_axis(x, order, dim), order


_SORT = declare(
    Op(
        name="sort",
        valid=along_one,
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
