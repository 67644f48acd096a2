"""Ops of embeddings: rows of a table taken at indices, alone or summed in bags, and added back at them.

An index of -1 is one that does not count, so these ops need not know of padding. All indices are checked before
anything is written.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from tapegrad.kernels.row_moves import make_add, make_clear, make_dots, make_take
from tapegrad.native.cache import jit
from tapegrad.native.dtypes import POINTERS
from tapegrad.native.pointers import int64_at
from tapegrad.ops.index_ops import check_indices
from tapegrad.ops.registry import FLOATS, Op, declare
from tapegrad.ops.validity import Attributes, Operands, Rule, every, int64, is_few, needed
from tapegrad.runtime.layout import (
    GENERAL,
    MAX_NDIM,
    SHAPE_MISMATCH,
    TO_INT64,
    TOO_MANY_DIMS,
    data_address,
    input_slot,
    output_slot,
    shape_in,
    slot_of,
    state_of,
)


@jit
def _check(st, frame, k, low, rows):
    """Return 0 if the indices of operand k are in low .. rows - 1, else BAD_INDEX."""
    slot = input_slot(frame, k)
    return check_indices(st, int64_at(data_address(st, slot)), slot_of(st, slot).numel, low, rows, 0)


@jit
def _address(st, slot):
    return data_address(st, slot) if slot >= 0 else 0


@jit
def _agree(st, frame, a, b):
    """Return whether two operands have as many elements, or the second is absent."""
    other = input_slot(frame, b)
    return other < 0 or slot_of(st, input_slot(frame, a)).numel == slot_of(st, other).numel


@jit
def _width(row):
    return shape_in(row)[row.ndim - 1] if row.ndim > 0 else 0


# ---- one row for each index ----


def rows_infer(st, frame):
    x, index = slot_of(st, input_slot(frame, 0)), slot_of(st, input_slot(frame, 1))
    y = slot_of(st, output_slot(frame, 0))
    if x.ndim != 2 or not _agree(st, frame, 1, 2):
        return SHAPE_MISMATCH
    if index.ndim >= MAX_NDIM:
        return TOO_MANY_DIMS
    y.ndim = index.ndim + 1
    for d in range(index.ndim):
        shape_in(y)[d] = shape_in(index)[d]
    shape_in(y)[index.ndim] = shape_in(x)[1]
    return 0


def _take_kernel(low: int, weighted: bool) -> Callable[[int, int], Callable[..., int]]:
    def make(dtype: int, result_dtype: int) -> Callable[..., int]:
        take = make_take(dtype)

        def kernel(st, frame):
            x = slot_of(st, input_slot(frame, 0))
            status = _check(st, frame, 1, low, shape_in(x)[0])
            if status < 0:
                return status
            weights = _address(st, input_slot(frame, 2)) if weighted else 0
            y, n = output_slot(frame, 0), slot_of(st, input_slot(frame, 1)).numel
            source, index = data_address(st, input_slot(frame, 0)), data_address(st, input_slot(frame, 1))
            return take(state_of(st).pool, data_address(st, y), source, index, n, shape_in(x)[1], weights)

        return kernel

    return make


def _rows_reference(x: Any, index: Any, weights: Any = None) -> Any:
    rows = np.where((index >= 0)[..., None], x[np.maximum(index, 0)], 0)
    return rows if weights is None else rows * weights[..., None]


def _adding_reference(g: Any, index: Any, weights: Any, like: Any) -> Any:
    y, rows = np.zeros(like.shape), g.reshape(-1, like.shape[1])
    for k, at in enumerate(index.ravel()):
        if at >= 0:
            y[at] += rows[k] * (1 if weights is None else weights.ravel()[k])
    return y


def _makes_rows(rows: int, like: int) -> Rule:
    """The result has a row, as wide as the first operand, for each element (``like`` 0) or row of another operand."""

    def rule(x: Operands, a: Attributes) -> bool:
        shape, other = needed(x, 0).shape, needed(x, rows).shape
        return len(shape) == 2 and is_few(shape[1], *(other[:1] if like else other))

    return rule


EMBEDDING = declare(
    Op(
        name="embedding_rows",
        valid=every(int64(1), _makes_rows(1, 0)),
        inputs=("weight", "index", "counted", "weights"),
        optional=("weights",),
        kind=GENERAL,
        dtypes=FLOATS,
        infer=rows_infer,
        kernel=_take_kernel(0, weighted=False),
        vjp=lambda g, y, x, index, counted, weights: (g.embedding_add(counted, weights, x), None, None, None),
        shape_only=("counted", "weights"),
        unpromoted=("index", "counted"),
        contiguous=("weight", "index"),
        public=False,
        reference=lambda x, index, counted, weights: _rows_reference(x, index),
        samples=lambda make: [
            ((make(5, 3), np.array([[4, 0], [4, 1]]), np.array([[4, 0], [4, 1]]), None), {}),
            ((make(2, 4), np.zeros(0, np.int64), np.zeros(0, np.int64), None), {}),
        ],
        math="x[index]; the gradient counts the indices in `counted`, by their weights",
    )
)
declare(
    Op(
        name="embedding_take",
        valid=every(int64(1), _makes_rows(1, 0)),
        inputs=("input", "index", "weights"),
        optional=("weights",),
        kind=GENERAL,
        dtypes=FLOATS,
        infer=rows_infer,
        kernel=_take_kernel(-1, weighted=True),
        vjp=lambda g, y, x, index, weights: (g.embedding_add(index, weights, x), None, None),
        unpromoted=("index",),
        contiguous=("input", "index", "weights"),
        public=False,
        reference=_rows_reference,
        samples=lambda make: [
            ((make(5, 3), np.array([[4, -1], [4, 1]]), None), {}),
            ((make(5, 3), np.array([4, -1, 4, 1]), make(4)), {}, {"fixed": (2,)}),
        ],
        math="x[index] weights, zeros where index is -1",
    )
)


def add_infer(st, frame):
    """The result is like the last operand, a matrix."""
    g, like = slot_of(st, input_slot(frame, 0)), slot_of(st, input_slot(frame, 3))
    y = slot_of(st, output_slot(frame, 0))
    if like.ndim != 2 or _width(g) != shape_in(like)[1] or not _agree(st, frame, 1, 2):
        return SHAPE_MISMATCH
    if slot_of(st, input_slot(frame, 1)).numel * shape_in(like)[1] != g.numel:
        return SHAPE_MISMATCH
    y.ndim = 2
    shape_in(y)[0] = shape_in(like)[0]
    shape_in(y)[1] = shape_in(like)[1]
    return 0


def _add_kernel(dtype: int, result_dtype: int) -> Callable[..., int]:
    clear, add = make_clear(dtype), make_add(dtype)

    def kernel(st, frame):
        y = slot_of(st, output_slot(frame, 0))
        status = _check(st, frame, 1, -1, shape_in(y)[0])
        if status < 0:
            return status
        to, pool = data_address(st, output_slot(frame, 0)), state_of(st).pool
        if output_slot(frame, 0) != input_slot(frame, 3):
            clear(pool, to, y.numel)
        weights, n = _address(st, input_slot(frame, 2)), slot_of(st, input_slot(frame, 1)).numel
        g, index = data_address(st, input_slot(frame, 0)), data_address(st, input_slot(frame, 1))
        return add(pool, to, g, 0, index, n, shape_in(y)[1], weights)

    return kernel


declare(
    Op(
        name="embedding_add",
        valid=int64(1),
        inputs=("gradient", "index", "weights", "like"),
        optional=("weights",),
        kind=GENERAL,
        dtypes=FLOATS,
        infer=add_infer,
        kernel=_add_kernel,
        vjp=lambda h, y, g, index, weights, like: (h.embedding_take(index, weights), None, None, None),
        shape_only=("like",),
        unpromoted=("index", "like"),
        contiguous=("gradient", "index", "weights"),
        accumulates=True,
        public=False,
        reference=_adding_reference,
        samples=lambda make: [
            ((make(4, 3), np.array([4, -1, 4, 1]), None, make(5, 3)), {}),
            ((make(2, 2, 3), np.array([[0, 1], [1, 1]]), make(2, 2), make(2, 3)), {}, {"fixed": (2,)}),
            ((make(0, 3), np.zeros(0, np.int64), None, make(2, 3)), {}),
        ],
        math="zeros like `like`, with rows of g, by their weights, added at the indices",
    )
)


# ---- sums of rows ----


def move_infer(st, frame):
    """The result has as many rows as the last operand, and the columns of the first."""
    x, like = slot_of(st, input_slot(frame, 0)), slot_of(st, input_slot(frame, 4))
    y = slot_of(st, output_slot(frame, 0))
    if x.ndim != 2 or like.ndim == 0 or not _agree(st, frame, 1, 2) or not _agree(st, frame, 1, 3):
        return SHAPE_MISMATCH
    y.ndim = 2
    shape_in(y)[0] = shape_in(like)[0]
    shape_in(y)[1] = shape_in(x)[1]
    return 0


def _move_kernel(dtype: int, result_dtype: int) -> Callable[..., int]:
    clear, add = make_clear(dtype), make_add(dtype)

    def kernel(st, frame):
        x, y = slot_of(st, input_slot(frame, 0)), slot_of(st, output_slot(frame, 0))
        status = _check(st, frame, 1, -1, shape_in(x)[0])
        if status == 0:
            status = _check(st, frame, 2, -1, shape_in(y)[0])
        if status < 0:
            return status
        to, pool = data_address(st, output_slot(frame, 0)), state_of(st).pool
        if output_slot(frame, 0) != input_slot(frame, 4):
            clear(pool, to, y.numel)
        weights, n = _address(st, input_slot(frame, 3)), slot_of(st, input_slot(frame, 1)).numel
        source, target = data_address(st, input_slot(frame, 1)), data_address(st, input_slot(frame, 2))
        return add(pool, to, data_address(st, input_slot(frame, 0)), source, target, n, shape_in(y)[1], weights)

    return kernel


def _move_reference(x: Any, source: Any, target: Any, weights: Any, like: Any) -> Any:
    y = np.zeros((like.shape[0], x.shape[1]))
    for k, (a, b) in enumerate(zip(source, target, strict=True)):
        if a >= 0 and b >= 0:
            y[b] += x[a] * (1 if weights is None else weights[k])
    return y


_SOURCE, _TARGET = np.array([3, 1, 3, -1, 0]), np.array([0, 0, 2, 2, 2])

MOVE_ROWS = declare(
    Op(
        name="move_rows",
        valid=every(int64(1, 2), _makes_rows(4, 1)),
        inputs=("input", "source", "target", "weights", "like"),
        optional=("weights",),
        kind=GENERAL,
        dtypes=FLOATS,
        infer=move_infer,
        kernel=_move_kernel,
        vjp=lambda g, y, x, source, target, weights, like: (
            g.move_rows(target, source, weights, x),
            None,
            None,
            g.dot_rows(x, target, source),
            None,
        ),
        shape_only=("like",),
        unpromoted=("source", "target", "like"),
        contiguous=("input", "source", "target", "weights"),
        accumulates=True,
        public=False,
        reference=_move_reference,
        samples=lambda make: [
            ((make(4, 3), _SOURCE, _TARGET, make(5), np.zeros(3, np.int64)), {}),
            ((make(4, 3), _SOURCE, _TARGET, None, np.zeros(3, np.int64)), {}),
        ],
        math="y[target_i] = the sum of weights_i x[source_i]",
    )
)


def dot_infer(st, frame):
    g, x = slot_of(st, input_slot(frame, 0)), slot_of(st, input_slot(frame, 1))
    y = slot_of(st, output_slot(frame, 0))
    if g.ndim != 2 or x.ndim != 2 or shape_in(g)[1] != shape_in(x)[1] or not _agree(st, frame, 2, 3):
        return SHAPE_MISMATCH
    y.ndim = 1
    shape_in(y)[0] = slot_of(st, input_slot(frame, 2)).numel
    return 0


def _dot_kernel(dtype: int, result_dtype: int) -> Callable[..., int]:
    dots = make_dots(dtype)

    def kernel(st, frame):
        g, x = slot_of(st, input_slot(frame, 0)), slot_of(st, input_slot(frame, 1))
        status = _check(st, frame, 2, -1, shape_in(g)[0])
        if status == 0:
            status = _check(st, frame, 3, -1, shape_in(x)[0])
        if status < 0:
            return status
        return dots(
            state_of(st).pool,
            data_address(st, output_slot(frame, 0)),
            data_address(st, input_slot(frame, 0)),
            data_address(st, input_slot(frame, 1)),
            data_address(st, input_slot(frame, 2)),
            data_address(st, input_slot(frame, 3)),
            slot_of(st, input_slot(frame, 2)).numel,
            shape_in(x)[1],
        )

    return kernel


def _dot_reference(g: Any, x: Any, target: Any, source: Any) -> Any:
    return np.where((target >= 0) & (source >= 0), (g[target] * x[source]).sum(-1), 0)


declare(
    Op(
        name="dot_rows",
        valid=int64(2, 3),
        inputs=("gradient", "input", "target", "source"),
        kind=GENERAL,
        dtypes=FLOATS,
        infer=dot_infer,
        kernel=_dot_kernel,
        vjp=lambda h, y, g, x, target, source: (
            x.move_rows(source, target, h, g),
            g.move_rows(target, source, h, x),
            None,
            None,
        ),
        unpromoted=("target", "source"),
        contiguous=("gradient", "input", "target", "source"),
        public=False,
        reference=_dot_reference,
        samples=lambda make: [((make(3, 3), make(4, 3), _TARGET, _SOURCE), {})],
        math="g[target_i] . x[source_i]",
    )
)


# ---- the largest of the rows of a bag ----


def largest_infer(st, frame):
    """Operands: x, index, bag of each index, and a tensor with as many rows as there are bags."""
    x, like = slot_of(st, input_slot(frame, 0)), slot_of(st, input_slot(frame, 3))
    y = slot_of(st, output_slot(frame, 0))
    if x.ndim != 2 or like.ndim == 0 or not _agree(st, frame, 1, 2):
        return SHAPE_MISMATCH
    y.ndim = 2
    shape_in(y)[0] = shape_in(like)[0]
    shape_in(y)[1] = shape_in(x)[1]
    return 0


def _largest_kernel(dtype: int, result_dtype: int) -> Callable[..., int]:
    pointer = POINTERS[dtype]

    def kernel(st, frame):
        x, y = slot_of(st, input_slot(frame, 0)), slot_of(st, output_slot(frame, 0))
        bags, width = shape_in(y)[0], shape_in(y)[1]
        status = _check(st, frame, 1, -1, shape_in(x)[0])
        if status == 0:
            status = _check(st, frame, 2, -1, bags)
        if status < 0:
            return status
        values = pointer(data_address(st, input_slot(frame, 0)))
        index, bag = int64_at(data_address(st, input_slot(frame, 1))), int64_at(data_address(st, input_slot(frame, 2)))
        best = int64_at(data_address(st, output_slot(frame, 0)))
        for i in range(np.uintp(bags * width)):
            best[i] = -1
        for i in range(slot_of(st, input_slot(frame, 1)).numel):
            if index[i] < 0 or bag[i] < 0:
                continue
            row = bag[i] * width
            for j in range(width):
                old = best[row + j]
                value = values[index[i] * width + j]
                if old < 0 or value > values[old * width + j] or value != value:
                    best[row + j] = index[i]
        return 0

    return kernel


def _largest_reference(x: Any, index: Any, bags: Any, like: Any) -> Any:
    y = np.full((like.shape[0], x.shape[1]), -1)
    for b in range(like.shape[0]):
        rows = index[(bags == b) & (index >= 0)]
        if rows.size:
            y[b] = rows[np.argmax(x[rows], 0)]
    return y


LARGEST = declare(
    Op(
        name="largest_in_bags",
        valid=every(int64(1, 2), _makes_rows(3, 1)),
        inputs=("input", "index", "bags", "like"),
        kind=GENERAL,
        dtypes=FLOATS,
        result=TO_INT64,
        infer=largest_infer,
        kernel=_largest_kernel,
        shape_only=("like",),
        unpromoted=("index", "bags", "like"),
        contiguous=("input", "index", "bags"),
        public=False,
        reference=_largest_reference,
        samples=lambda make: [((make(4, 3), _SOURCE, _TARGET, np.zeros(3, np.int64)), {})],
        math="the row of x that is largest in each bag and column, -1 in an empty bag",
    )
)
