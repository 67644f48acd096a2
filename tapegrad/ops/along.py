"""Gathers and scatters along one dimension by indices that an op found there: the gradients of max, sort, cummax, ...

x is [outer, n, inner]; the indices are [outer, k, inner], where k = 1 may lack its dimension.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tapegrad.native.dtypes import POINTERS
from tapegrad.native.pointers import int64_at, stack_words
from tapegrad.ops.reduction_rules import MASK, extents
from tapegrad.ops.references import adding_back, at_places, axis_of
from tapegrad.ops.registry import OF_ENTRY, Op, declare
from tapegrad.ops.validity import (
    Attributes,
    Operands,
    Rule,
    along_one,
    every,
    int64,
    masked,
    needed,
    same_shape,
    without,
)
from tapegrad.runtime.layout import (
    BAD_INDEX,
    GENERAL,
    attribute,
    data_address,
    input_slot,
    output_slot,
    shape_in,
    slot_of,
    state_of,
)


def like_index_infer(st, frame):
    y = slot_of(st, output_slot(frame, 0))
    index = slot_of(st, input_slot(frame, 1))
    y.ndim = index.ndim
    for d in range(index.ndim):
        shape_in(y)[d] = shape_in(index)[d]
    return 0


def _take_kernel(dtype: int, result_dtype: int) -> Callable[..., int]:
    pointer = POINTERS[dtype]

    def kernel(st, frame):
        words = stack_words(3)
        extents(slot_of(st, input_slot(frame, 0)), attribute(frame, MASK), words)
        outer, n, inner = int64_at(words)[0], int64_at(words)[1], int64_at(words)[2]
        x = pointer(data_address(st, input_slot(frame, 0)))
        y = pointer(data_address(st, output_slot(frame, 0)))
        index = int64_at(data_address(st, input_slot(frame, 1)))
        block = slot_of(st, input_slot(frame, 1)).numel // max(outer, 1)
        for r in range(outer):
            column = 0
            for i in range(block):
                k = index[r * block + i]
                if k < 0 or k >= n:
                    state_of(st).error_value0 = k
                    state_of(st).error_value1 = n
                    return BAD_INDEX
                y[r * block + i] = x[(r * n + k) * inner + column]
                column = column + 1 if column + 1 < inner else 0
        return 0

    return kernel


def _indexed(at: int) -> Rule:
    """The indices have the shape of an operand but for the one dimension, which may be gone."""

    def rule(x: Operands, a: Attributes) -> bool:
        shape, index = needed(x, at).shape, needed(x, 1).shape
        (dim,) = masked(a[MASK], shape) or [len(shape)]
        rest = without(shape, dim)
        return index == rest or (len(index) == len(shape) and without(index, dim) == rest)

    return rule


declare(
    Op(
        name="take_at",
        valid=every(along_one, int64(1), _indexed(0)),
        inputs=("input", "index"),
        kind=GENERAL,
        infer=like_index_infer,
        kernel=_take_kernel,
        vjp=lambda g, y, x, index: (g.put_at(index, x, attributes=OF_ENTRY), None),
        unpromoted=("index",),
        contiguous=("input", "index"),
        public=False,
        reference=lambda x, index, attributes: at_places(x, index, axis_of(attributes)),
        samples=lambda make: [
            ((make(2, 3, 4), make.integers(2, 5, 4, high=3)), {"attributes": (0, 0b10, 1, 0)}),
            ((make(3, 4), make.integers(3, high=4)), {"attributes": (0, 0b10, 1, 0)}),
        ],
        math="x at the indices along one dimension",
    )
)


def like_third_infer(st, frame):
    y = slot_of(st, output_slot(frame, 0))
    model = slot_of(st, input_slot(frame, 2))
    y.ndim = model.ndim
    for d in range(model.ndim):
        shape_in(y)[d] = shape_in(model)[d]
    return 0


def _put_kernel(dtype: int, result_dtype: int) -> Callable[..., int]:
    pointer = POINTERS[dtype]

    def kernel(st, frame):
        words = stack_words(3)
        row = slot_of(st, output_slot(frame, 0))
        extents(row, attribute(frame, MASK), words)
        outer, n, inner = int64_at(words)[0], int64_at(words)[1], int64_at(words)[2]
        g = pointer(data_address(st, input_slot(frame, 0)))
        y = pointer(data_address(st, output_slot(frame, 0)))
        index = int64_at(data_address(st, input_slot(frame, 1)))
        block = slot_of(st, input_slot(frame, 1)).numel // max(outer, 1)
        for i in range(np.uintp(row.numel)):
            y[i] = 0
        for r in range(outer):
            column = 0
            for i in range(block):
                k = index[r * block + i]
                if k < 0 or k >= n:
                    state_of(st).error_value0 = k
                    state_of(st).error_value1 = n
                    return BAD_INDEX
                y[(r * n + k) * inner + column] += g[r * block + i]
                column = column + 1 if column + 1 < inner else 0
        return 0

    return kernel


def _along_third(x: Operands, a: Attributes) -> bool:
    return along_one(x[2:], a)


declare(
    Op(
        name="put_at",
        valid=every(_along_third, int64(1), same_shape(0, 1), _indexed(2)),
        inputs=("input", "index", "like"),
        kind=GENERAL,
        infer=like_third_infer,
        kernel=_put_kernel,
        vjp=lambda g, y, x, index, like: (g.take_at(index, attributes=OF_ENTRY), None, None),
        shape_only=("like",),
        unpromoted=("index", "like"),
        contiguous=("input", "index"),
        public=False,
        reference=adding_back(lambda x, index, attributes: at_places(x, index, axis_of(attributes))),
        samples=lambda make: [
            ((make(2, 5, 4), make.integers(2, 5, 4, high=3), make(2, 3, 4)), {"attributes": (0, 0b10, 1, 0)}),
            ((make(3), make.integers(3, high=4), make(3, 4)), {"attributes": (0, 0b10, 1, 0)}),
        ],
        math="zeros like `like`, with x added at the indices along one dimension",
    )
)
