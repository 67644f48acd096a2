"""The loops of every reduction: rows where the innermost dimension is reduced, blocks of columns where it is kept.

Both read x once, in the order of its memory. Where columns are reduced, up to 1024 accumulators stay in the first-level
cache while rows are merged into them. All cuts depend on the shape alone. How threads share them: see reduce_tasks.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from tapegrad.kernels.reduce_plan import (
    COUNT,
    KEPT,
    KEPT_INDEX,
    KEPT_INDEX_Y,
    KEPT_LENGTHS,
    KEPT_X,
    KEPT_Y,
    REDUCED,
    REDUCED_INDEX,
    REDUCED_LENGTHS,
    REDUCED_X,
    advance,
    move_to,
    product,
)
from tapegrad.native.cache import jit
from tapegrad.native.dtypes import ITEM_BYTES, POINTERS, SCALARS
from tapegrad.native.pointers import int64_at

WIDTH = 1024  # columns that are reduced at a time
_FOLD = 256  # narrow matrices are reduced as if so many columns wide, then folded


@dataclass(frozen=True)
class Reduction:
    """The parts of a reduction, each made of code that Numba compiles.

    Attributes:
        dtype, result, accumulator: codes of the dtypes of x, y and the accumulators.
        identity: what an accumulator starts from.
        row: ``row(x_address, n, c, scratch)`` reduces n contiguous elements.
        each: ``each(total, x, c)`` merges one element.
        merge: ``merge(a, b)`` puts two accumulators together.
        finish: ``finish(total, count, parameter)`` gives y's element.
        columns: ``columns(totals, x_address, row_stride, rows, n)`` merges contiguous rows; None to do so row by row.
        centred: whether c is y's element of a tensor ``centre`` like y; it is 0 otherwise.
    """

    dtype: int
    result: int
    accumulator: int
    identity: Any
    row: Callable[..., Any]
    each: Callable[..., Any]
    merge: Callable[..., Any]
    finish: Callable[..., Any]
    columns: Callable[..., Any] | None = None
    centred: bool = False


def make_rows(parts: Reduction) -> tuple[Callable[..., Any], Callable[..., int]]:
    """Return ``reduce_row(x_address, n, stride, c, scratch)``, a row's accumulator, and ``rows``.

    ``rows(plan, x_address, y_address, centre_address, parameter, scratch, first, count)`` writes ``count`` elements of
    y from the element ``first`` on.
    """
    x_pointer, y_pointer = POINTERS[parts.dtype], POINTERS[parts.result]
    x_bytes = ITEM_BYTES[parts.dtype]
    row, each, merge, finish, centred = parts.row, parts.each, parts.merge, parts.finish, parts.centred
    scalar = SCALARS[parts.accumulator]
    identity = scalar(parts.identity)
    reads_result = centred

    @jit
    def reduce_row(x_address, n, stride, c, scratch):
        if stride == 1:
            return row(x_address, n, c, scratch)
        x = x_pointer(x_address)
        total = identity
        for i in range(n):
            total = each(total, x[i * stride], c)
        return total

    @jit
    def rows(plan_address, x_address, y_address, centre_address, parameter, scratch, first, count):
        plan = int64_at(plan_address)
        y = y_pointer(y_address)
        centre = y_pointer(centre_address)
        kept = plan[KEPT]
        outer = max(plan[REDUCED] - 1, 0)
        n = plan[REDUCED_LENGTHS + outer] if plan[REDUCED] > 0 else 1
        stride = plan[REDUCED_X + outer] if plan[REDUCED] > 0 else 1
        repeats = product(plan_address, REDUCED_LENGTHS, outer)
        x_offset = move_to(plan_address, KEPT_INDEX, KEPT_LENGTHS, KEPT_X, kept, first)
        y_offset = move_to(plan_address, KEPT_INDEX_Y, KEPT_LENGTHS, KEPT_Y, kept, first)
        for _ in range(count):
            c = scalar(centre[y_offset]) if reads_result else scalar(0)
            total = reduce_row(x_address + x_offset * x_bytes, n, stride, c, scratch)
            place = x_offset
            for _ in range(repeats - 1):
                place += advance(plan_address, REDUCED_INDEX, REDUCED_LENGTHS, REDUCED_X, outer)
                total = merge(total, reduce_row(x_address + place * x_bytes, n, stride, c, scratch))
            for d in range(outer):
                plan[REDUCED_INDEX + d] = 0
            y[y_offset] = finish(total, plan[COUNT], parameter)
            x_offset += advance(plan_address, KEPT_INDEX, KEPT_LENGTHS, KEPT_X, kept)
            y_offset += advance(plan_address, KEPT_INDEX_Y, KEPT_LENGTHS, KEPT_Y, kept)
        return 0

    return reduce_row, rows


def _make_block(parts: Reduction) -> Callable[..., int]:
    """Return ``block(totals, x_address, row_stride, rows, stride, n, centre_address, centre_stride)``."""
    x_pointer, c_pointer = POINTERS[parts.dtype], POINTERS[parts.result]
    each, centred, x_bytes = parts.each, parts.centred, ITEM_BYTES[parts.dtype]
    fast = parts.columns
    scalar, total_pointer = SCALARS[parts.accumulator], POINTERS[parts.accumulator]

    @jit
    def merge_rows(totals_address, x_address, row_stride, rows, n):
        totals = total_pointer(totals_address)
        for r in range(rows):
            x = x_pointer(x_address + r * row_stride * x_bytes)
            for i in range(np.uintp(n)):
                totals[i] = each(totals[i], x[i], scalar(0))
        return 0

    contiguous = merge_rows if fast is None else fast

    @jit
    def block(totals_address, x_address, row_stride, rows, stride, n, centre_address, centre_stride):
        totals = total_pointer(totals_address)
        centre = c_pointer(centre_address)
        if stride == 1 and not centred:
            return contiguous(totals_address, x_address, row_stride, rows, n)
        for r in range(rows):
            x = x_pointer(x_address + r * row_stride * x_bytes)
            if stride == 1 and centre_stride == 1:
                for i in range(np.uintp(n)):
                    totals[i] = each(totals[i], x[i], scalar(centre[i]))
            else:
                for i in range(n):
                    c = scalar(centre[i * centre_stride]) if centred else scalar(0)
                    totals[i] = each(totals[i], x[i * stride], c)
        return 0

    return block


def make_columns(parts: Reduction) -> tuple[Callable[..., int], Callable[..., int]]:
    """Return ``columns(plan, x_address, y_address, centre_address, parameter, scratch)`` and ``part``.

    ``part(plan, x_address, centre_address, first_row, rows, totals_address, scratch)`` writes the accumulators of some
    rows of a matrix, which is what a plan describes that keeps one dimension and reduces one.
    """
    block, merge, finish, centred = _make_block(parts), parts.merge, parts.finish, parts.centred
    total_pointer, y_pointer = POINTERS[parts.accumulator], POINTERS[parts.result]
    x_bytes, y_bytes, total_bytes = ITEM_BYTES[parts.dtype], ITEM_BYTES[parts.result], ITEM_BYTES[parts.accumulator]
    identity = SCALARS[parts.accumulator](parts.identity)

    @jit
    def fill(totals_address, n):
        totals = total_pointer(totals_address)
        for i in range(np.uintp(n)):
            totals[i] = identity
        return 0

    @jit
    def narrow(totals_address, x_address, rows, n):
        """Reduce a dense matrix of few columns as one of many, then fold the accumulators together."""
        times = _FOLD // n
        wide = times * n
        fill(totals_address, wide)
        block(totals_address, x_address, wide, rows // times, 1, wide, x_address, 0)
        totals = total_pointer(totals_address)
        for k in range(1, times):
            folded = total_pointer(totals_address + k * n * total_bytes)
            for i in range(n):
                totals[i] = merge(totals[i], folded[i])
        done = rows // times * times
        return block(totals_address, x_address + done * n * x_bytes, n, rows - done, 1, n, x_address, 0)

    @jit
    def columns(plan_address, x_address, y_address, centre_address, parameter, scratch):
        plan = int64_at(plan_address)
        kept = plan[KEPT] - 1
        m, stride, y_stride = plan[KEPT_LENGTHS + kept], plan[KEPT_X + kept], plan[KEPT_Y + kept]
        outer = max(plan[REDUCED] - 1, 0)
        rows = plan[REDUCED_LENGTHS + outer] if plan[REDUCED] > 0 else 1
        row_stride = plan[REDUCED_X + outer] if plan[REDUCED] > 0 else 0
        repeats = product(plan_address, REDUCED_LENGTHS, outer)
        totals = total_pointer(scratch)
        foldable = (
            not centred and repeats == 1 and stride == 1 and row_stride == m and 2 * m <= _FOLD and rows * m > 512
        )
        x_offset = 0
        y_offset = 0
        for _ in range(product(plan_address, KEPT_LENGTHS, kept)):
            for first in range(0, m, WIDTH):
                n = min(m - first, WIDTH)
                place = x_offset + first * stride
                y_place = y_offset + first * y_stride
                centre = centre_address + y_place * y_bytes
                if foldable:
                    narrow(scratch, x_address + place * x_bytes, rows, n)
                else:
                    fill(scratch, n)
                    for _ in range(repeats):
                        block(scratch, x_address + place * x_bytes, row_stride, rows, stride, n, centre, y_stride)
                        place += advance(plan_address, REDUCED_INDEX, REDUCED_LENGTHS, REDUCED_X, outer)
                y = y_pointer(y_address + y_place * y_bytes)
                if y_stride == 1:
                    for i in range(np.uintp(n)):
                        y[i] = finish(totals[i], plan[COUNT], parameter)
                else:
                    for i in range(n):
                        y[i * y_stride] = finish(totals[i], plan[COUNT], parameter)
            x_offset += advance(plan_address, KEPT_INDEX, KEPT_LENGTHS, KEPT_X, kept)
            y_offset += advance(plan_address, KEPT_INDEX_Y, KEPT_LENGTHS, KEPT_Y, kept)
        return 0

    @jit
    def part(plan_address, x_address, centre_address, first_row, rows, totals_address, scratch):
        plan = int64_at(plan_address)
        m, stride, y_stride, row_stride = plan[KEPT_LENGTHS], plan[KEPT_X], plan[KEPT_Y], plan[REDUCED_X]
        x = x_address + first_row * row_stride * x_bytes
        if not centred and stride == 1 and row_stride == m and 2 * m <= _FOLD:
            narrow(scratch, x, rows, m)
            folded, totals = total_pointer(scratch), total_pointer(totals_address)
            for i in range(np.uintp(m)):
                totals[i] = folded[i]
            return 0
        for first in range(0, m, WIDTH):
            n, to, centre = min(m - first, WIDTH), totals_address + first * total_bytes, first * y_stride * y_bytes
            fill(to, n)
            block(to, x + first * stride * x_bytes, row_stride, rows, stride, n, centre_address + centre, y_stride)
        return 0

    return columns, part
