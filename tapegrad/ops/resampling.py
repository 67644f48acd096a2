"""The op of average pooling and interpolation, and the tables that say what it computes; see kernels/resample.py."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from tapegrad.kernels.resample import (
    COLUMNS,
    COUNT,
    HEADER,
    HEIGHT,
    LONGEST_ROW,
    MOST_PHASE_TAPS,
    NEW_HEIGHT,
    NEW_WIDTH,
    ROWS,
    WIDTH,
    M,
    X,
    Y,
    is_sound,
    make_resample,
)
from tapegrad.native.cache import jit
from tapegrad.native.dtypes import INT64
from tapegrad.native.pointers import int64_at, stack_words
from tapegrad.ops.calls import call, shape_of
from tapegrad.ops.creation import from_array
from tapegrad.ops.registry import FLOATS, OF_ENTRY, Op, declare
from tapegrad.ops.validity import Attributes, Operands, given, is_few, needed
from tapegrad.runtime.handle import Tensor
from tapegrad.runtime.layout import (
    BAD_ARGUMENT,
    GENERAL,
    attribute,
    data_address,
    input_slot,
    output_slot,
    shape_in,
    slot_of,
    state_of,
)

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Windows:
    """For each of m results, a window of ``n`` elements: where it starts, how many it has, their weights, a divisor.

    Args:
        n: how many elements there are.
        start: int64 [m], not falling.
        count: int64 [m].
        weights: float64 [taps, m], zeros from a window's count on.
        divisor: float64 [m].
    """

    n: int
    start: Array
    count: Array
    weights: Array
    divisor: Array

    def transposed(self) -> Windows:
        """Return the windows of results that each element is in."""
        m, places = len(self.start), np.arange(self.n)
        first = np.searchsorted(self.start + self.count, places, "right")
        count = np.maximum(np.searchsorted(self.start, places, "right") - first, 0)
        taps = max(1, int(count.max(initial=0)))
        result = np.minimum(first + np.arange(taps)[:, None], max(m - 1, 0))  # [taps, n]
        inside = np.arange(taps)[:, None] < count
        weights = np.zeros((taps, self.n))
        alike = m > 0 and bool((self.divisor == self.divisor[0]).all())
        if m > 0:
            offset = np.clip(places - self.start[result], 0, len(self.weights) - 1)
            weights = np.where(inside, self.weights[offset, result] / (1.0 if alike else self.divisor[result]), 0.0)
        divisor = np.full(self.n, self.divisor[0] if alike else 1.0)
        return Windows(m, np.minimum(first, m - count), count, weights, divisor)

    def packed(self) -> Array:
        """Return the table of the windows."""
        m = len(self.start)
        divided = int(bool((self.divisor != 1).any()))
        header = np.array([m, self.n, len(self.weights), *self._pattern(), divided], np.int64)
        floats = np.concatenate([self.divisor[None], self.weights]).view(np.int64)
        return np.concatenate([header, self.start, self.count, floats.ravel()])

    def _pattern(self) -> tuple[int, int, int, int, int]:
        """Return the phases, stride, range and taps of the pattern that most columns follow."""
        found = [self._phases(phases) for phases in (1, 2)]
        return max(found, key=lambda pattern: pattern[0] * (pattern[3] - pattern[2]))

    def _phases(self, phases: int) -> tuple[int, int, int, int, int]:
        groups = len(self.start) // phases
        if groups < 4:
            return phases, 1, 0, 0, 0
        start = self.start[: groups * phases].reshape(groups, phases)
        count = self.count[: groups * phases].reshape(groups, phases)
        weights = self.weights[:, : groups * phases].reshape(-1, groups, phases)
        middle = groups // 2
        stride, taps = int(start[middle, 0] - start[middle - 1, 0]), int(count[middle].max())
        steps = (np.arange(groups) - middle)[:, None] * stride
        alike = (start - steps == start[middle]) & (count == count[middle]) & (start + taps <= self.n)
        alike &= (weights == weights[:, middle : middle + 1]).all(0)
        follows = alike.all(1)
        if not follows[middle] or taps > MOST_PHASE_TAPS or (phases == 2 and stride != 1):
            return phases, 1, 0, 0, 0
        low = (
            middle - int((~follows[: middle + 1])[::-1].argmax() if not follows[: middle + 1].all() else middle + 1) + 1
        )
        high = middle + int((~follows[middle:]).argmax() if not follows[middle:].all() else groups - middle)
        return phases, stride, low, high, taps


def full_windows(n: int, start: Array, weights: Array) -> Windows:
    """Return windows that all have as many elements as there are rows of weights."""
    m = len(start)
    return Windows(n, start.astype(np.int64), np.full(m, len(weights)), weights, np.ones(m))


def mean_windows(n: int, start: Array, stop: Array, divisor: Array) -> Windows:
    """Return windows of equal weights from ``start`` to ``stop``."""
    count = np.maximum(stop - start, 0).astype(np.int64)
    taps = max(1, int(count.max(initial=0)))
    start = np.clip(start, 0, n - count).astype(np.int64)
    return Windows(n, start, count, (np.arange(taps)[:, None] < count) * 1.0, divisor.astype(np.float64))


Tables = tuple[Tensor, Tensor]


def tables_of(make: Callable[..., Windows]) -> Callable[..., Tables]:
    """Return a function, with a cache, that gives the tables of the windows that ``make`` returns, and transposed."""

    @functools.lru_cache(maxsize=256)
    def tables(*arguments: Any) -> Tables:
        windows = make(*arguments)
        return from_array(windows.packed()), from_array(windows.transposed().packed())

    return tables


# ---- the op ----


@jit
def _split(st, frame, words):
    """Note what the dimension of the rows is, and the sizes: x is [planes, HEIGHT, WIDTH]. Return the dimension."""
    x = slot_of(st, input_slot(frame, 0))
    dim = x.ndim - attribute(frame, 0)
    words[HEIGHT] = shape_in(x)[dim]
    words[WIDTH] = 1
    for d in range(dim + 1, x.ndim):
        words[WIDTH] *= shape_in(x)[d]
    words[ROWS] = data_address(st, input_slot(frame, 1)) if input_slot(frame, 1) >= 0 else 0
    words[COLUMNS] = data_address(st, input_slot(frame, 2)) if input_slot(frame, 2) >= 0 else 0
    words[NEW_HEIGHT] = int64_at(words[ROWS])[M] if words[ROWS] != 0 else words[HEIGHT]
    words[NEW_WIDTH] = int64_at(words[COLUMNS])[M] if words[COLUMNS] != 0 else words[WIDTH]
    return dim


def resample_infer(st, frame):
    """Attributes: which dimension, counted from the end, the rows are; the columns are the last one, if rows is 2."""
    words = int64_at(stack_words(16))
    x, y = slot_of(st, input_slot(frame, 0)), slot_of(st, output_slot(frame, 0))
    if attribute(frame, 0) < 1 or attribute(frame, 0) > x.ndim:
        return BAD_ARGUMENT
    dim = _split(st, frame, words)
    rows, columns = input_slot(frame, 1), input_slot(frame, 2)
    if rows >= 0 and not is_sound(words[ROWS], slot_of(st, rows).numel, words[HEIGHT]):
        return BAD_ARGUMENT
    if columns >= 0 and not is_sound(words[COLUMNS], slot_of(st, columns).numel, words[WIDTH]):
        return BAD_ARGUMENT
    if (columns >= 0 and attribute(frame, 0) != 2) or (rows < 0 and columns < 0):
        return BAD_ARGUMENT
    if rows >= 0 and columns >= 0 and words[WIDTH] > LONGEST_ROW:
        return BAD_ARGUMENT
    y.ndim = x.ndim
    for d in range(x.ndim):
        shape_in(y)[d] = shape_in(x)[d]
    shape_in(y)[dim] = words[NEW_HEIGHT]
    if columns >= 0:
        shape_in(y)[x.ndim - 1] = words[NEW_WIDTH]
    return 0


def _resample_kernel(dtype: int, result_dtype: int) -> Callable[..., int]:
    resample = make_resample(dtype)

    def kernel(st, frame):
        context = stack_words(16)
        words = int64_at(context)
        _split(st, frame, words)
        words[X], words[Y] = data_address(st, input_slot(frame, 0)), data_address(st, output_slot(frame, 0))
        words[COUNT] = slot_of(st, output_slot(frame, 0)).numel // max(1, words[NEW_WIDTH])
        return resample(context, state_of(st).pool)

    return kernel


def _matrix(table: Any) -> Any:
    """Return a table's weights as a matrix [m, n]."""
    m, n, taps = (int(number) for number in table[:3])
    starts, counts = table[HEADER : HEADER + 2 * m].reshape(2, m)
    divisor, *weights = table[HEADER + 2 * m :].view(np.float64).reshape(1 + taps, m)
    matrix = np.zeros((m, n))
    for j in range(m):
        for t in range(counts[j]):
            matrix[j, starts[j] + t] = weights[t][j] / divisor[j]
    return matrix


def _resampled(x: Any, rows: Any, columns: Any, _: Any, __: Any, attributes: tuple[int, ...]) -> Any:
    dim = x.ndim - attributes[0]
    if rows is not None:
        x = np.moveaxis(np.tensordot(_matrix(rows), x, (1, dim)), 0, dim)
    return x if columns is None else x @ _matrix(columns).T


def _table_pair(n: int, start: Any, weights: Any) -> tuple[Any, Any]:
    windows = full_windows(n, np.array(start), np.array(weights))
    return windows.packed(), windows.transposed().packed()


def _samples(make: Any) -> Any:
    halves = _table_pair(9, np.arange(4) * 2, [[0.25] * 4, [0.5] * 4, [0.25] * 4])
    few = _table_pair(3, [0, 0, 1, 1], [[1.0, 0.7, 1.0, 0.2], [0.0, 0.3, 0.0, 0.8]])
    twice = _table_pair(12, np.arange(22) // 2, [[0.75, 0.25] * 11, [0.25, 0.75] * 11])
    fifth = _table_pair(31, np.arange(6) * 5 + 1, [[0.2] * 6] * 5)
    calls = [
        (make(2, 3, 9), few, halves, 2),
        (make(2, 3, 12), few, twice, 2),
        (make(1, 31), (None, None), fifth, 2),
        (make(9, 2, 3), halves, (None, None), 3),
        (make(0, 3, 9), few, halves, 2),
    ]
    layouts = {"layouts": ("strided", "transposed", "offset")}  # tables of equal words are none
    return [((x, r[0], c[0], r[1], c[1]), {"attributes": (at,)}, layouts) for x, r, c, at in calls]


def _has_tables(x: Operands, a: Attributes) -> bool:
    """The tables, which the shape rule reads, stay as they are; a window has at least one weight."""
    shape = needed(x, 0).shape
    if len(a) < 1 or not 1 <= a[0] <= len(shape):
        return False
    tables = [given(x, 1), given(x, 2)]
    if any(table is not None and not (table.fixed and table.dtype == INT64) for table in tables):
        return False
    places = [len(shape) - a[0], len(shape) - 1]
    lengths = {at: table.numel // 4 for at, table in zip(places, tables, strict=True) if table is not None}
    return is_few(*[lengths.get(d, n) for d, n in enumerate(shape)])


RESAMPLE = declare(
    Op(
        name="resample",
        valid=_has_tables,
        inputs=("input", "rows", "columns", "rows_back", "columns_back"),
        optional=("rows", "columns", "rows_back", "columns_back"),
        kind=GENERAL,
        dtypes=FLOATS,
        infer=resample_infer,
        kernel=_resample_kernel,
        vjp=lambda g, y, x, r, c, rb, cb: (g.resample(rb, cb, r, c, attributes=OF_ENTRY), None, None, None, None),
        unpromoted=("rows", "columns", "rows_back", "columns_back"),
        contiguous=("input", "rows", "columns", "rows_back", "columns_back"),
        public=False,
        reference=_resampled,
        samples=_samples,
        math="y_ij = sum of r_it c_ju x_{a_i + t, b_j + u}",
    )
)
_ABSENT = (None, None)


def resample(input: Tensor, tables: list[Tables]) -> Tensor:
    """Return weighted sums of windows along the last dimensions, for each of which there is a pair of tables."""
    count = len(tables)
    if count >= 2 and shape_of(input)[-1] <= LONGEST_ROW:
        (rows, rows_back), (columns, columns_back) = tables[-2:]
        input = call(RESAMPLE, input, rows, columns, rows_back, columns_back, attributes=(2,))
        rest = range(count - 2)
    else:
        columns, columns_back = tables[-1]
        input = call(RESAMPLE, input, None, columns, None, columns_back, attributes=(2,))
        rest = range(count - 1)
    for k in reversed(rest):
        input = resample_dim(input, tables[k], count - k)
    return input


def resample_dim(input: Tensor, tables: Tables, from_end: int) -> Tensor:
    """Return weighted sums of windows along one dimension, counted from the end."""
    return call(RESAMPLE, input, tables[0], None, tables[1], None, attributes=(from_end,))
