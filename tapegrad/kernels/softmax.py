"""Softmax, its logarithm and their gradients along one dimension of a contiguous [outer, n, inner] array.

Rows (inner = 1) are taken in blocks of up to 2048 elements that stay in the first-level cache: the maximum of each
row, one loop of exponentials over the whole block (a row of ten alone would not fill a vector), the sum of each row.
Otherwise 256 columns go together.
"""

from collections.abc import Callable

import numpy as np

from tapegrad.kernels.reduce_lanes import add, greater, row_reducer, step_of
from tapegrad.kernels.vector_math import exp, log
from tapegrad.native.cache import jit
from tapegrad.native.dtypes import FLOAT64, ITEM_BYTES, POINTERS, SCALARS

BLOCK = 2048
_WIDTH = 256


def make_row_exponentials(dtype: int) -> tuple[Callable[..., int], Callable[..., float]]:
    """Return ``exponentials(x, e, rows, n, maxima, sums)``, ``log_sum(x, n, buffer, maximum)``, all on addresses.

    The first writes e = exp(x - row's maximum) and the rows' maxima and sums of e (float64); the second returns the
    sum of exp(x - maximum) of a long row, in blocks, and writes only ``buffer`` (BLOCK elements) and ``maximum``.
    """
    pointer, size, scalar = POINTERS[dtype], ITEM_BYTES[dtype], SCALARS[dtype]
    largest = row_reducer(dtype, dtype, -np.inf, step_of(greater), greater)
    total = row_reducer(dtype, dtype, 0, step_of(add), add)
    wide = POINTERS[FLOAT64]

    @jit
    def row_sum(e_address, n):
        result = 0.0
        for first in range(0, n, BLOCK):
            result += np.float64(total(pointer(e_address + first * size), min(n - first, BLOCK), scalar(0)))
        return result

    @jit
    def exponentials(x_address, e_address, rows, n, maxima_address, sums_address):
        maxima, sums = wide(maxima_address), wide(sums_address)
        for r in range(rows):
            x, e = pointer(x_address + r * n * size), pointer(e_address + r * n * size)
            top = largest(x, n, scalar(0))
            maxima[r] = top
            for i in range(np.uintp(n)):
                e[i] = x[i] - top
        e = pointer(e_address)
        for i in range(np.uintp(rows * n)):
            e[i] = exp(e[i])
        for r in range(rows):
            sums[r] = row_sum(e_address + r * n * size, n)
        return 0

    @jit
    def log_sum(x_address, n, buffer_address, maximum_address):
        top = largest(pointer(x_address), n, scalar(0))
        wide(maximum_address)[0] = top
        buffer = pointer(buffer_address)
        result = 0.0
        for first in range(0, n, BLOCK):
            m = min(n - first, BLOCK)
            x = pointer(x_address + first * size)
            for i in range(np.uintp(m)):
                buffer[i] = exp(x[i] - top)
            result += np.float64(total(buffer, m, scalar(0)))
        return result

    return exponentials, log_sum


def make_softmax(dtype: int, logarithm: bool) -> Callable[..., int]:
    """Return ``softmax(x_address, y_address, outer, n, inner, scratch)``; scratch has 64 KiB."""
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
    def softmax(x_address, y_address, outer, n, inner, scratch):
        if n == 0:
            return 0
        step = n * inner * size
        if inner == 1:
            block = max(1, BLOCK // n)
            for first in range(0, outer, block):
                rows = min(outer - first, block)
                x, y = x_address + first * step, y_address + first * step
                exponentials(x, y, rows, n, scratch, scratch + 8 * BLOCK)
                finish_rows(x, y, rows, n, scratch, scratch + 8 * BLOCK)
            return 0
        for r in range(outer):
            for first in range(0, inner, _WIDTH):
                offset = r * step + first * size
                stripe(x_address + offset, y_address + offset, n, inner, min(inner - first, _WIDTH), scratch)
        return 0

    return softmax


def make_softmax_backward(dtype: int, logarithm: bool) -> Callable[..., int]:
    """Return ``backward(g_address, y_address, gx_address, outer, n, inner, scratch)``.

    gx = y (g - sum(g y)) for softmax's result y; gx = g - exp(y) sum(g) for log_softmax's.
    """
    pointer, size, scalar = POINTERS[dtype], ITEM_BYTES[dtype], SCALARS[dtype]
    total = row_reducer(dtype, dtype, 0, step_of(add), add)

    @jit
    def row(g_address, y_address, gx_address, n):
        g, y, gx = pointer(g_address), pointer(y_address), pointer(gx_address)
        wide_sum = 0.0
        for first in range(0, n, BLOCK):
            m = min(n - first, BLOCK)
            if logarithm:
                wide_sum += np.float64(total(pointer(g_address + first * size), m, scalar(0)))
            else:
                a, b = pointer(g_address + first * size), pointer(y_address + first * size)
                c = pointer(gx_address + first * size)
                for i in range(np.uintp(m)):
                    c[i] = a[i] * b[i]
                wide_sum += np.float64(total(c, m, scalar(0)))
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
    def backward(g_address, y_address, gx_address, outer, n, inner, scratch):
        step = n * inner * size
        for r in range(outer):
            g, y, gx = g_address + r * step, y_address + r * step, gx_address + r * step
            if inner == 1:
                row(g, y, gx, n)
                continue
            for first in range(0, inner, _WIDTH):
                o = first * size
                stripe(g + o, y + o, gx + o, n, inner, min(inner - first, _WIDTH), scratch)
        return 0

    return backward
