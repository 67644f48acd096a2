"""Normalisation of rows: layer, group, instance and root-mean-square norm of a contiguous [rows, n] array.

A row's mean and variance are two sums over it, the second of squared deviations from the first (no cancellation), and
the result is a third loop, all while the row is in the cache; the backward pass is two loops, in the first of which the
weight's and the bias's gradients are summed too. The factors are those of position (r % period, i // run) for element i
of row r: layer norm has period 1 and run 1, group norm as many groups and the size of a channel.

With x^ = (x - mean) rstd, a = g w and m the mean over a row,
    gx = rstd (a - m(a) - x^ m(a x^)),    gw = sum over rows of g x^,    gb = sum over rows of g
and without m(a) where nothing is subtracted from x (root mean square).

The work is cut into tasks of about TASK elements; each sums the factors' gradients of its own rows, and these partial
sums are added in order.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from tapegrad.kernels.streaming import LINE, finish_stream, is_streamed, stream
from tapegrad.native.cache import jit, jit_sums
from tapegrad.native.dtypes import FLOAT64, ITEM_BYTES, POINTERS, SCALARS
from tapegrad.native.pointers import float64_from_bits, int64_at

TASK = 49152
MOST_TASKS = 128  # so that the partial sums stay small beside the data
BLOCK = 4096  # elements summed in their own precision; the blocks' sums are added in float64

# the words of a task's context
X, W, B, Y, MEAN, RSTD, G, GX, PARTS, ROWS, LENGTH, PERIOD, RUN, EPS, SUBTRACTS, SHARE = range(16)


@jit
def share_of(rows, n):
    """Return how many rows a task takes."""
    if rows * n <= TASK + TASK // 2:
        return max(rows, 1)
    return max(TASK // max(n, 1), (rows + MOST_TASKS - 1) // MOST_TASKS, 1)


def make_sums(dtype: int) -> tuple[Any, Any]:
    """Return ``total(x, n)`` and ``squares(x, n, mean)``, the sum of (x - mean)**2, of float64."""
    pointer, size, scalar = POINTERS[dtype], ITEM_BYTES[dtype], SCALARS[dtype]

    @jit_sums
    def block_total(x, n):
        result = scalar(0)
        for i in range(np.uintp(n)):
            result += x[i]
        return result

    @jit_sums
    def block_squares(x, n, mean):
        result = scalar(0)
        for i in range(np.uintp(n)):
            d = x[i] - mean
            result += d * d
        return result

    @jit
    def total(address, n):
        result = 0.0
        for first in range(0, n, BLOCK):
            result += np.float64(block_total(pointer(address + first * size), min(n - first, BLOCK)))
        return result

    @jit
    def squares(address, n, mean):
        result = 0.0
        for first in range(0, n, BLOCK):
            result += np.float64(block_squares(pointer(address + first * size), min(n - first, BLOCK), mean))
        return result

    return total, squares


def make_norm_rows(dtype: int) -> Callable[..., int]:
    """Return the task ``forward(context, k, scratch)``."""
    pointer, size, scalar = POINTERS[dtype], ITEM_BYTES[dtype], SCALARS[dtype]
    total, squares = make_sums(dtype)

    @jit
    def scale_each(x, y, w, b_address, n, mean, rstd):
        if b_address == 0:
            for i in range(np.uintp(n)):
                y[i] = (x[i] - mean) * rstd * w[i]
        else:
            b = pointer(b_address)
            for i in range(np.uintp(n)):
                y[i] = (x[i] - mean) * rstd * w[i] + b[i]

    @jit
    def scale_run(x, y, factor, shift, n, mean):
        for i in range(np.uintp(n)):
            y[i] = (x[i] - mean) * factor + shift

    @jit
    def forward(context, k, scratch):
        c = int64_at(context)
        n, run, size_of_row = c[LENGTH], c[RUN], c[LENGTH] * size
        positions = n // run
        streamed = c[Y] != 0 and is_streamed(c[Y], size_of_row, size_of_row * c[ROWS])
        for r in range(k * c[SHARE], min((k + 1) * c[SHARE], c[ROWS])):
            x, y = c[X] + r * size_of_row, c[Y] + r * size_of_row
            out = scratch if streamed else y
            mean = scalar(total(x, n) / n) if c[SUBTRACTS] else scalar(0)
            rstd = scalar(1.0 / np.sqrt(squares(x, n, mean) / n + float64_from_bits(c[EPS])))
            pointer(c[MEAN])[r] = mean
            pointer(c[RSTD])[r] = rstd
            if c[Y] == 0:  # only the statistics are wanted
                continue
            place = (r % c[PERIOD]) * positions * size
            if run == 1:
                b = c[B] + place if c[B] != 0 else 0
                scale_each(pointer(x), pointer(out), pointer(c[W] + place), b, n, mean, rstd)
                if streamed:
                    stream(out, y, size_of_row)
                continue
            for p in range(positions):
                factor = rstd * pointer(c[W] + place)[p] if c[W] != 0 else rstd
                shift = pointer(c[B] + place)[p] if c[B] != 0 else scalar(0)
                at = p * run * size
                scale_run(pointer(x + at), pointer(out + at), factor, shift, run, mean)
            if streamed:
                stream(out, y, size_of_row)
        if streamed:
            finish_stream()
        return 0

    return forward


def make_norm_rows_backward(dtype: int) -> tuple[Any, Any]:
    """Return the task ``backward(context, k, scratch)`` and ``merge(parts, count, n, out, length)``.

    A task's partial sums are at ``PARTS`` + k times the size of both gradients: gw, then gb.
    """
    pointer, size, scalar = POINTERS[dtype], ITEM_BYTES[dtype], SCALARS[dtype]
    wide = POINTERS[FLOAT64]

    @jit_sums
    def sum_each(x, g, w, gw, gb, n, mean, rstd, sums):
        s = scalar(0)
        t = scalar(0)
        for i in range(np.uintp(n)):
            d = (x[i] - mean) * rstd
            a = g[i] * w[i]
            gw[i] += g[i] * d
            gb[i] += g[i]
            s += a
            t += a * d
        sums[0] += np.float64(s)
        sums[1] += np.float64(t)

    @jit_sums
    def sum_run(x, g, n, mean, sums):
        s = scalar(0)
        t = scalar(0)
        for i in range(np.uintp(n)):
            s += g[i]
            t += g[i] * (x[i] - mean)
        sums[0] += np.float64(s)
        sums[1] += np.float64(t)

    @jit
    def write_each(x, g, w, gx, n, mean, rstd, shift, slope):
        for i in range(np.uintp(n)):
            gx[i] = (g[i] * w[i]) * rstd - shift - (x[i] - mean) * slope

    @jit
    def write_run(x, g, gx, n, mean, factor, shift, slope):
        for i in range(np.uintp(n)):
            gx[i] = g[i] * factor - shift - (x[i] - mean) * slope

    @jit
    def clear(address, n):
        x = pointer(address)
        for i in range(np.uintp(n)):
            x[i] = scalar(0)

    @jit
    def row_each(c, r, gw, gb, sums, out):
        n, at, place = c[LENGTH], r * c[LENGTH] * size, (r % c[PERIOD]) * c[LENGTH] * size
        mean, rstd = pointer(c[MEAN])[r], pointer(c[RSTD])[r]
        sums[0] = 0.0
        sums[1] = 0.0
        for first in range(0, n, BLOCK):
            o, m = first * size, min(n - first, BLOCK)
            sum_each(
                pointer(c[X] + at + o), pointer(c[G] + at + o), pointer(c[W] + place + o), pointer(gw + place + o),
                pointer(gb + place + o), m, mean, rstd, sums,
            )  # fmt: skip
        if c[GX] == 0:  # only the factors' gradients are wanted
            return
        shift = scalar(np.float64(rstd) * sums[0] / n) if c[SUBTRACTS] else scalar(0)
        slope = scalar(np.float64(rstd) * np.float64(rstd) * sums[1] / n)
        write_each(
            pointer(c[X] + at), pointer(c[G] + at), pointer(c[W] + place), pointer(out), n, mean, rstd, shift,
            slope,
        )  # fmt: skip

    @jit
    def row_runs(c, r, gw, gb, sums, out):
        n, run, at = c[LENGTH], c[RUN], r * c[LENGTH] * size
        positions = n // run
        place = (r % c[PERIOD]) * positions * size
        mean, rstd = pointer(c[MEAN])[r], pointer(c[RSTD])[r]
        shift, slope = 0.0, 0.0
        for p in range(positions):
            o = at + p * run * size
            sums[0] = 0.0
            sums[1] = 0.0
            for first in range(0, run, BLOCK):
                part = o + first * size
                sum_run(pointer(c[X] + part), pointer(c[G] + part), min(run - first, BLOCK), mean, sums)
            weight = 1.0
            if c[W] != 0:
                weight = np.float64(pointer(c[W] + place)[p])
                pointer(gw + place)[p] += scalar(sums[1] * np.float64(rstd))
                pointer(gb + place)[p] += scalar(sums[0])
            shift += weight * sums[0]
            slope += weight * sums[1]
        if c[GX] == 0:
            return
        shift = np.float64(rstd) * shift / n if c[SUBTRACTS] else 0.0
        slope = np.float64(rstd) ** 3 * slope / n
        for p in range(positions):
            o = at + p * run * size
            factor = rstd * pointer(c[W] + place)[p] if c[W] != 0 else rstd
            write_run(
                pointer(c[X] + o), pointer(c[G] + o), pointer(out + o - at), run, mean, factor, scalar(shift),
                scalar(slope),
            )  # fmt: skip

    @jit
    def backward(context, k, scratch):
        c = int64_at(context)
        factors = c[PERIOD] * (c[LENGTH] // c[RUN]) if c[W] != 0 else 0
        gw = c[PARTS] + 2 * k * factors * size
        gb = gw + factors * size
        clear(gw, 2 * factors)
        sums, size_of_row = wide(scratch), c[LENGTH] * size
        streamed = c[GX] != 0 and is_streamed(c[GX], size_of_row, size_of_row * c[ROWS])
        for r in range(k * c[SHARE], min((k + 1) * c[SHARE], c[ROWS])):
            gx = c[GX] + r * size_of_row
            out = scratch + LINE if streamed else gx
            if c[RUN] == 1:
                row_each(c, r, gw, gb, sums, out)
            else:
                row_runs(c, r, gw, gb, sums, out)
            if streamed:
                stream(out, gx, size_of_row)
        if streamed:
            finish_stream()
        return 0

    @jit
    def merge(parts, count, n, out, length):
        """Write the sum over ``count`` parts, two gradients apart, of ``n`` factors; zeros up to ``length``."""
        y = pointer(out)
        clear(out, length)
        for k in range(count):
            x = pointer(parts + 2 * k * n * size)
            for i in range(np.uintp(n)):
                y[i] += x[i]

    return backward, merge
