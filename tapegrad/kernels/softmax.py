"""Softmax, its logarithm and their gradients along one dimension of a contiguous [outer, n, inner] array.

Rows (inner = 1) of up to SHORT elements are taken in blocks that stay in the first-level cache: the maximum of each
row, one loop of exponentials over the whole block (a row of ten alone would not fill a vector), the sum of each row.
Longer ones are summed as they are exponentiated. A nan is not looked for: it spreads by the sum. Otherwise 256 columns
go together. Tasks are some rows, or one of the outer arrays.
"""

from collections.abc import Callable

import numpy as np

from tapegrad.kernels.reduce_lanes import add, greater_number, row_reducer, step_of
from tapegrad.kernels.streaming import finish_stream, is_streamed, stream
from tapegrad.kernels.vector_exp import exp_below
from tapegrad.kernels.vector_math import exp, log
from tapegrad.native.cache import jit, jit_sums
from tapegrad.native.dtypes import FLOAT64, ITEM_BYTES, POINTERS, SCALARS
from tapegrad.native.parallel import parallel_for
from tapegrad.native.pointers import int64_at, stack_words

# the words of a task's context
X, TARGET, G, OUTER, LENGTH, INNER, SHARE = range(7)

TASK = 49152  # elements of a task
BLOCK = 2048
SHORT = 128  # elements of a row, of which many go together
_WIDTH = 256


@jit
def _share(outer, n):
    """Return how many of the outer arrays a task takes."""
    if outer * n <= TASK + TASK // 2:
        return outer
    return max(TASK // max(n, 1), 1)


def make_row_exponentials(dtype: int) -> tuple[Callable[..., int], Callable[..., float]]:
    """Return ``exponentials(x, e, rows, n, maxima, sums)``, ``log_sum(x, n, maximum)``, all on addresses.

    The first writes e = exp(x - row's maximum) and the rows' maxima and sums of e (float64); the second returns the
    sum of exp(x - maximum) of a row, and writes only ``maximum``.
    """
    pointer, size, scalar = POINTERS[dtype], ITEM_BYTES[dtype], SCALARS[dtype]
    largest = row_reducer(dtype, dtype, -np.inf, step_of(greater_number), greater_number)
    total = row_reducer(dtype, dtype, 0, step_of(add), add)
    wide = POINTERS[FLOAT64]

    @jit
    def row_sum(e_address, n):
        result = 0.0
        for first in range(0, n, BLOCK):
            result += np.float64(total(pointer(e_address + first * size), min(n - first, BLOCK), scalar(0)))
        return result

    @jit_sums
    def exponentials_from(x, e, n, top):
        result = scalar(0)
        for i in range(np.uintp(n)):
            y = exp_below(x[i] - top)
            e[i] = y
            result += y
        return result

    @jit_sums
    def sum_from(x, n, top):
        result = scalar(0)
        for i in range(np.uintp(n)):
            result += exp_below(x[i] - top)
        return result

    @jit
    def long_rows(x_address, e_address, rows, n, maxima, sums):
        for r in range(rows):
            top = largest(pointer(x_address + r * n * size), n, scalar(0))
            maxima[r] = top
            sums[r] = 0.0
            for first in range(0, n, BLOCK):
                at = (r * n + first) * size
                part = exponentials_from(pointer(x_address + at), pointer(e_address + at), min(n - first, BLOCK), top)
                sums[r] += np.float64(part)

    @jit
    def exponentials(x_address, e_address, rows, n, maxima_address, sums_address):
        maxima, sums = wide(maxima_address), wide(sums_address)
        if n > SHORT:
            long_rows(x_address, e_address, rows, n, maxima, sums)
            return 0
        for r in range(rows):
            x, e = pointer(x_address + r * n * size), pointer(e_address + r * n * size)
            top = largest(x, n, scalar(0))
            maxima[r] = top
            for i in range(np.uintp(n)):
                e[i] = x[i] - top
        e = pointer(e_address)
        for i in range(np.uintp(rows * n)):
            e[i] = exp_below(e[i])
        for r in range(rows):
            sums[r] = row_sum(e_address + r * n * size, n)
        return 0

    @jit
    def log_sum(x_address, n, maximum_address):
        top = largest(pointer(x_address), n, scalar(0))
        wide(maximum_address)[0] = top
        result = 0.0
        for first in range(0, n, BLOCK):
            result += np.float64(sum_from(pointer(x_address + first * size), min(n - first, BLOCK), top))
        return result

    return exponentials, log_sum


def make_softmax(dtype: int, logarithm: bool) -> Callable[..., int]:
    """Return ``softmax(pool, x_address, y_address, outer, n, inner)``."""
    pointer, size, scalar = POINTERS[dtype], ITEM_BYTES[dtype], SCALARS[dtype]
    exponentials, _ = make_row_exponentials(dtype)
    wide = POINTERS[FLOAT64]

    @jit
    def finish_rows(x_address, y_address, rows, n, maxima_address, sums_address):
        maxima, sums = wide(maxima_address), wide(sums_address)
        for r in range(rows):
            x, y = pointer(x_address + r * n * size), pointer(y_address + r * n * size)
            if logarithm:
                top, rest = scalar(maxima[r]), scalar(log(sums[r]))
                for i in range(np.uintp(n)):
                    y[i] = (x[i] - top) - rest
            else:
                factor = scalar(1.0 / sums[r])
                for i in range(np.uintp(n)):
                    y[i] = y[i] * factor
        return 0

    @jit
    def stripe(x_address, y_address, n, inner, width, scratch):
        top, rest = pointer(scratch), pointer(scratch + 8 * _WIDTH)
        x = pointer(x_address)
        for i in range(np.uintp(width)):
            top[i] = x[i]
            rest[i] = scalar(0)
        for k in range(1, n):
            x = pointer(x_address + k * inner * size)
            for i in range(np.uintp(width)):
                top[i] = x[i] if x[i] > top[i] or x[i] != x[i] else top[i]
        for k in range(n):
            x, y = pointer(x_address + k * inner * size), pointer(y_address + k * inner * size)
            for i in range(np.uintp(width)):
                e = exp(x[i] - top[i])
                rest[i] += e
                y[i] = e
        for i in range(np.uintp(width)):
            rest[i] = log(rest[i]) if logarithm else scalar(1) / rest[i]
        for k in range(n):
            x, y = pointer(x_address + k * inner * size), pointer(y_address + k * inner * size)
            for i in range(np.uintp(width)):
                y[i] = (x[i] - top[i]) - rest[i] if logarithm else y[i] * rest[i]
        return 0

    @jit
    def rows_of(x_address, y_address, rows, n, scratch, streamed):
        """Take rows whose exponentials stay in the first-level cache, in scratch memory where y is streamed."""
        block, step = max(1, BLOCK // n), n * size
        maxima, sums, held = scratch, scratch + 8 * BLOCK, scratch + 16 * BLOCK
        for first in range(0, rows, block):
            count = min(rows - first, block)
            x, y = x_address + first * step, y_address + first * step
            out = held if streamed else y
            exponentials(x, out, count, n, maxima, sums)
            finish_rows(x, out, count, n, maxima, sums)
            if streamed:
                stream(out, y, count * step)
        if streamed:
            finish_stream()
        return 0

    @jit
    def task(context, k, scratch):
        c = int64_at(context)
        step = c[LENGTH] * c[INNER] * size
        start, stop = k * c[SHARE], min((k + 1) * c[SHARE], c[OUTER])
        if c[INNER] == 1:
            streamed = is_streamed(c[TARGET], step, step * c[OUTER])
            return rows_of(c[X] + start * step, c[TARGET] + start * step, stop - start, c[LENGTH], scratch, streamed)
        for r in range(start, stop):
            for first in range(0, c[INNER], _WIDTH):
                at = r * step + first * size
                stripe(c[X] + at, c[TARGET] + at, c[LENGTH], c[INNER], min(c[INNER] - first, _WIDTH), scratch)
        return 0

    @jit
    def softmax(pool, x, y, outer, n, inner):
        if n == 0 or outer == 0 or inner == 0:
            return 0
        context = stack_words(8)
        c = int64_at(context)
        c[X], c[TARGET], c[OUTER], c[LENGTH], c[INNER] = x, y, outer, n, inner
        c[SHARE] = _share(outer, n * inner)
        return parallel_for(pool, task, context, (outer + c[SHARE] - 1) // c[SHARE])

    return softmax


def make_softmax_backward(dtype: int, logarithm: bool) -> Callable[..., int]:
    """Return ``backward(pool, g_address, y_address, gx_address, outer, n, inner)``.

    gx = y (g - sum(g y)) for softmax's result y; gx = g - exp(y) sum(g) for log_softmax's.
    """
    pointer, size, scalar = POINTERS[dtype], ITEM_BYTES[dtype], SCALARS[dtype]

    @jit_sums
    def block_sum(g, y, n):
        result = scalar(0)
        for i in range(np.uintp(n)):
            result += g[i] if logarithm else g[i] * y[i]
        return result

    @jit
    def row(g_address, y_address, gx_address, n):
        g, y, gx = pointer(g_address), pointer(y_address), pointer(gx_address)
        wide_sum = 0.0
        for first in range(0, n, BLOCK):
            at = first * size
            wide_sum += np.float64(block_sum(pointer(g_address + at), pointer(y_address + at), min(n - first, BLOCK)))
        s = scalar(wide_sum)
        for i in range(np.uintp(n)):
            gx[i] = g[i] - exp(y[i]) * s if logarithm else y[i] * (g[i] - s)
        return 0

    @jit
    def stripe(g_address, y_address, gx_address, n, inner, width, scratch):
        s = pointer(scratch)
        for i in range(np.uintp(width)):
            s[i] = scalar(0)
        for k in range(n):
            g, y = pointer(g_address + k * inner * size), pointer(y_address + k * inner * size)
            for i in range(np.uintp(width)):
                s[i] += g[i] if logarithm else g[i] * y[i]
        for k in range(n):
            g, y = pointer(g_address + k * inner * size), pointer(y_address + k * inner * size)
            gx = pointer(gx_address + k * inner * size)
            for i in range(np.uintp(width)):
                gx[i] = g[i] - exp(y[i]) * s[i] if logarithm else y[i] * (g[i] - s[i])
        return 0

    @jit
    def task(context, k, scratch):
        c = int64_at(context)
        step = c[LENGTH] * c[INNER] * size
        streamed = c[INNER] == 1 and is_streamed(c[TARGET], step, step * c[OUTER])
        for r in range(k * c[SHARE], min((k + 1) * c[SHARE], c[OUTER])):
            g, y, gx = c[G] + r * step, c[X] + r * step, c[TARGET] + r * step
            if c[INNER] == 1:
                out = scratch if streamed else gx
                row(g, y, out, c[LENGTH])
                if streamed:
                    stream(out, gx, step)
                continue
            for first in range(0, c[INNER], _WIDTH):
                o = first * size
                stripe(g + o, y + o, gx + o, c[LENGTH], c[INNER], min(c[INNER] - first, _WIDTH), scratch)
        if streamed:
            finish_stream()
        return 0

    @jit
    def backward(pool, g, y, gx, outer, n, inner):
        context = stack_words(8)
        c = int64_at(context)
        c[G], c[X], c[TARGET], c[OUTER], c[LENGTH], c[INNER] = g, y, gx, outer, n, inner
        c[SHARE] = _share(outer, n * inner)
        return parallel_for(pool, task, context, (outer + c[SHARE] - 1) // max(c[SHARE], 1))

    return backward
