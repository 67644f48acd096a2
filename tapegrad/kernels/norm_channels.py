"""Normalisation of channels: batch norm of a contiguous [n, channels, size] array, in training and in use.

Where a plane (the size elements of one channel in one sample) is long, a task goes through the planes of a channel:
once for the sums of x - k and (x - k)**2, k being the first plane's mean, once to write. Short planes are taken as
columns instead: the rows' contiguous pieces of some channels are added up column by column, and the columns of a
channel are put together as Chan, Golub and LeVeque do (1983, doi:10.1080/00031305.1983.10483115). Sums of up to BLOCK
elements are in the data's precision, theirs in float64.
"""

from collections.abc import Callable

import numpy as np

from tapegrad.kernels.norm_rows import BLOCK, TASK
from tapegrad.native.cache import jit, jit_sums
from tapegrad.native.dtypes import FLOAT64, ITEM_BYTES, POINTERS, SCALARS
from tapegrad.native.pointers import float64_from_bits, int64_at

SHORT = 192  # elements of a plane below which columns are faster
_COLUMNS = 512  # at most at a time
_FEWEST = 64  # columns, as long as there are so many
_ROWS = 256  # of a column that are added in the data's precision

# the words of a task's context
X, W, B, Y, MEAN, RSTD, G, GX, GW, GB = range(10)
RUNNING_MEAN, RUNNING_VAR, SAMPLES, CHANNELS, SIZE, EPS, MOMENTUM, SHARE = range(10, 18)


@jit
def channels_a_task(samples, channels, size):
    """Return how many channels a task takes."""
    if samples * channels * size <= TASK + TASK // 2:
        return max(channels, 1)
    a_channel = max(samples * size, 1)
    share = max(TASK // a_channel, 1)
    if size < SHORT:
        share = max(share, _FEWEST // size)
    return share


@jit
def _channels_a_stripe(size):
    return max(_COLUMNS // size, 1)


def make_norm_channels(dtype: int) -> Callable[..., int]:
    """Return the task ``forward(context, k, scratch)``."""
    pointer, item, scalar = POINTERS[dtype], ITEM_BYTES[dtype], SCALARS[dtype]
    wide = POINTERS[FLOAT64]

    @jit_sums
    def shifted(x, n, shift, sums):
        s = scalar(0)
        q = scalar(0)
        for i in range(np.uintp(n)):
            d = x[i] - shift
            s += d
            q += d * d
        sums[0] += np.float64(s)
        sums[1] += np.float64(q)

    @jit
    def plane(address, n, shift, sums):
        for first in range(0, n, BLOCK):
            shifted(pointer(address + first * item), min(n - first, BLOCK), shift, sums)

    @jit
    def write_plane(x, y, n, mean, factor, shift):
        for i in range(np.uintp(n)):
            y[i] = (x[i] - mean) * factor + shift

    @jit
    def finish(c, channel, mean, squares):
        """Write a channel's statistics, and count them into the running ones."""
        count = c[SAMPLES] * c[SIZE]
        pointer(c[MEAN])[channel] = scalar(mean)
        variance = max(squares, 0.0) / count if squares == squares else squares
        pointer(c[RSTD])[channel] = scalar(1.0 / np.sqrt(variance + float64_from_bits(c[EPS])))
        if c[RUNNING_MEAN] != 0:
            momentum = float64_from_bits(c[MOMENTUM])
            running, spread = pointer(c[RUNNING_MEAN]), pointer(c[RUNNING_VAR])
            unbiased = variance * count / (count - 1)
            running[channel] = scalar((1 - momentum) * np.float64(running[channel]) + momentum * mean)
            spread[channel] = scalar((1 - momentum) * np.float64(spread[channel]) + momentum * unbiased)

    @jit
    def by_planes(c, channel, sums):
        n, size = c[SAMPLES], c[SIZE]
        step = c[CHANNELS] * size * item
        x, y = c[X] + channel * size * item, c[Y] + channel * size * item
        sums[0] = 0.0
        sums[1] = 0.0
        plane(x, size, scalar(0), sums)
        shift = scalar(sums[0] / size)
        if not np.isfinite(shift):
            shift = scalar(0)
        sums[0] = 0.0
        sums[1] = 0.0
        for k in range(n):
            plane(x + k * step, size, shift, sums)
        count = n * size
        finish(c, channel, np.float64(shift) + sums[0] / count, sums[1] - sums[0] * sums[0] / count)
        factor = pointer(c[RSTD])[channel] * (pointer(c[W])[channel] if c[W] != 0 else scalar(1))
        add = pointer(c[B])[channel] if c[B] != 0 else scalar(0)
        for k in range(n):
            write_plane(pointer(x + k * step), pointer(y + k * step), size, pointer(c[MEAN])[channel], factor, add)

    @jit
    def add_rows(x_address, step, rows, width, k, s, q):
        """Add the deviations from k, and their squares, of some rows to s and q."""
        whole = rows // 4 * 4
        for r in range(0, whole, 4):
            x0, x1 = pointer(x_address + r * step), pointer(x_address + (r + 1) * step)
            x2, x3 = pointer(x_address + (r + 2) * step), pointer(x_address + (r + 3) * step)
            for i in range(np.uintp(width)):
                d0, d1, d2, d3 = x0[i] - k[i], x1[i] - k[i], x2[i] - k[i], x3[i] - k[i]
                s[i] += (d0 + d1) + (d2 + d3)
                q[i] += (d0 * d0 + d1 * d1) + (d2 * d2 + d3 * d3)
        for r in range(whole, rows):
            x0 = pointer(x_address + r * step)
            for i in range(np.uintp(width)):
                d0 = x0[i] - k[i]
                s[i] += d0
                q[i] += d0 * d0

    @jit
    def column_sums(c, x_address, width, k_address, sums_address, scratch):
        """Write the columns' sums of x - k and (x - k)**2, k being the first row, as float64 beside each other."""
        k, s, q = pointer(k_address), pointer(scratch), pointer(scratch + 8 * _COLUMNS)
        sums = wide(sums_address)
        step = c[CHANNELS] * c[SIZE] * item
        first_row = pointer(x_address)
        for i in range(np.uintp(width)):
            k[i] = first_row[i] if np.isfinite(first_row[i]) else scalar(0)
            sums[i] = 0.0
            sums[width + i] = 0.0
        for first in range(0, c[SAMPLES], _ROWS):
            for i in range(np.uintp(width)):
                s[i] = scalar(0)
                q[i] = scalar(0)
            add_rows(x_address + first * step, step, min(c[SAMPLES] - first, _ROWS), width, k, s, q)
            for i in range(np.uintp(width)):
                sums[i] += np.float64(s[i])
                sums[width + i] += np.float64(q[i])

    @jit
    def merge_columns(c, channel, at, width, k, sums):
        """Put the columns from ``at`` on, which are one channel's, together."""
        n, size = c[SAMPLES], c[SIZE]
        mean, squares = 0.0, 0.0
        for j in range(at, at + size):
            mean += np.float64(k[j]) + sums[j] / n
            squares += max(sums[width + j] - sums[j] * sums[j] / n, 0.0) if sums[j] == sums[j] else sums[j]
        mean /= size
        if size > 1:
            for j in range(at, at + size):
                d = np.float64(k[j]) + sums[j] / n - mean
                squares += n * d * d
        finish(c, channel, mean, squares)

    @jit
    def by_columns(c, first, count, scratch):
        n, size = c[SAMPLES], c[SIZE]
        width, step, at = count * size, c[CHANNELS] * size * item, first * size * item
        k_address, sums_address = scratch + 16 * _COLUMNS, scratch + 24 * _COLUMNS
        column_sums(c, c[X] + at, width, k_address, sums_address, scratch)
        k, factor, shift = pointer(k_address), pointer(scratch), pointer(scratch + 8 * _COLUMNS)
        for j in range(count):
            channel = first + j
            merge_columns(c, channel, j * size, width, k, wide(sums_address))
            for i in range(j * size, (j + 1) * size):
                k[i] = pointer(c[MEAN])[channel]
                factor[i] = pointer(c[RSTD])[channel] * (pointer(c[W])[channel] if c[W] != 0 else scalar(1))
                shift[i] = pointer(c[B])[channel] if c[B] != 0 else scalar(0)
        for r in range(n):
            x, y = pointer(c[X] + at + r * step), pointer(c[Y] + at + r * step)
            for i in range(np.uintp(width)):
                y[i] = (x[i] - k[i]) * factor[i] + shift[i]

    @jit
    def forward(context, k, scratch):
        c = int64_at(context)
        start, stop = k * c[SHARE], min((k + 1) * c[SHARE], c[CHANNELS])
        if c[SIZE] >= SHORT:
            for channel in range(start, stop):
                by_planes(c, channel, wide(scratch))
            return 0
        stripe = _channels_a_stripe(c[SIZE])
        for first in range(start, stop, stripe):
            by_columns(c, first, min(stop - first, stripe), scratch)
        return 0

    return forward


def make_norm_channels_backward(dtype: int) -> Callable[..., int]:
    """Return the task ``backward(context, k, scratch)``: gx, and where wanted gw = sum(g x^) and gb = sum(g)."""
    pointer, item, scalar = POINTERS[dtype], ITEM_BYTES[dtype], SCALARS[dtype]
    wide = POINTERS[FLOAT64]

    @jit_sums
    def add_plane(x, g, n, mean, sums):
        s = scalar(0)
        t = scalar(0)
        for i in range(np.uintp(n)):
            s += g[i]
            t += g[i] * (x[i] - mean)
        sums[0] += np.float64(s)
        sums[1] += np.float64(t)

    @jit
    def write_plane(x, g, gx, n, mean, factor, shift, slope):
        for i in range(np.uintp(n)):
            gx[i] = g[i] * factor - shift - (x[i] - mean) * slope

    @jit
    def finish(c, channel, s, t, numbers):
        """Write a channel's gw and gb; put the factor, shift and slope of gx = g factor - shift - (x - mean) slope."""
        rstd = np.float64(pointer(c[RSTD])[channel])
        count = c[SAMPLES] * c[SIZE]
        if c[GW] != 0:
            pointer(c[GW])[channel] = scalar(t * rstd)
            pointer(c[GB])[channel] = scalar(s)
        factor = rstd * (np.float64(pointer(c[W])[channel]) if c[W] != 0 else 1.0)
        numbers[0] = factor
        numbers[1] = factor * s / count
        numbers[2] = factor * rstd * rstd * t / count

    @jit
    def by_planes(c, channel, sums):
        n, size = c[SAMPLES], c[SIZE]
        step, at = c[CHANNELS] * size * item, channel * size * item
        x, g, gx = c[X] + at, c[G] + at, c[GX] + at
        mean = pointer(c[MEAN])[channel]
        sums[0] = 0.0
        sums[1] = 0.0
        for k in range(n):
            for first in range(0, size, BLOCK):
                o = k * step + first * item
                add_plane(pointer(x + o), pointer(g + o), min(size - first, BLOCK), mean, sums)
        finish(c, channel, sums[0], sums[1], sums)
        factor, shift, slope = scalar(sums[0]), scalar(sums[1]), scalar(sums[2])
        for k in range(n):
            o = k * step
            write_plane(pointer(x + o), pointer(g + o), pointer(gx + o), size, mean, factor, shift, slope)

    @jit
    def add_rows(x_address, g_address, step, rows, width, mean, s, t):
        whole = rows // 2 * 2
        for r in range(0, whole, 2):
            x0, x1 = pointer(x_address + r * step), pointer(x_address + (r + 1) * step)
            g0, g1 = pointer(g_address + r * step), pointer(g_address + (r + 1) * step)
            for i in range(np.uintp(width)):
                s[i] += g0[i] + g1[i]
                t[i] += g0[i] * (x0[i] - mean[i]) + g1[i] * (x1[i] - mean[i])
        for r in range(whole, rows):
            x0, g0 = pointer(x_address + r * step), pointer(g_address + r * step)
            for i in range(np.uintp(width)):
                s[i] += g0[i]
                t[i] += g0[i] * (x0[i] - mean[i])

    @jit
    def column_sums(c, at, width, mean, sums, scratch):
        s, t = pointer(scratch), pointer(scratch + 8 * _COLUMNS)
        step = c[CHANNELS] * c[SIZE] * item
        for i in range(np.uintp(2 * width)):
            sums[i] = 0.0
        for first in range(0, c[SAMPLES], _ROWS):
            for i in range(np.uintp(width)):
                s[i] = scalar(0)
                t[i] = scalar(0)
            o = at + first * step
            add_rows(c[X] + o, c[G] + o, step, min(c[SAMPLES] - first, _ROWS), width, mean, s, t)
            for i in range(np.uintp(width)):
                sums[i] += np.float64(s[i])
                sums[width + i] += np.float64(t[i])

    @jit
    def by_columns(c, first, count, scratch):
        size = c[SIZE]
        width, step, at = count * size, c[CHANNELS] * size * item, first * size * item
        mean, sums = pointer(scratch + 16 * _COLUMNS), wide(scratch + 24 * _COLUMNS)
        for j in range(count):
            for i in range(j * size, (j + 1) * size):
                mean[i] = pointer(c[MEAN])[first + j]
        column_sums(c, at, width, mean, sums, scratch)
        factor, shift = pointer(scratch), pointer(scratch + 8 * _COLUMNS)
        slope, numbers = pointer(scratch + 40 * _COLUMNS), wide(scratch + 48 * _COLUMNS)
        for j in range(count):
            s, t = 0.0, 0.0
            for i in range(j * size, (j + 1) * size):
                s += sums[i]
                t += sums[width + i]
            finish(c, first + j, s, t, numbers)
            for i in range(j * size, (j + 1) * size):
                factor[i], shift[i], slope[i] = scalar(numbers[0]), scalar(numbers[1]), scalar(numbers[2])
        for r in range(c[SAMPLES]):
            o = at + r * step
            x, g, gx = pointer(c[X] + o), pointer(c[G] + o), pointer(c[GX] + o)
            for i in range(np.uintp(width)):
                gx[i] = g[i] * factor[i] - shift[i] - (x[i] - mean[i]) * slope[i]

    @jit
    def backward(context, k, scratch):
        c = int64_at(context)
        start, stop = k * c[SHARE], min((k + 1) * c[SHARE], c[CHANNELS])
        if c[SIZE] >= SHORT:
            for channel in range(start, stop):
                by_planes(c, channel, wide(scratch))
            return 0
        stripe = _channels_a_stripe(c[SIZE])
        for first in range(start, stop, stripe):
            by_columns(c, first, min(stop - first, stripe), scratch)
        return 0

    return backward


def make_affine_channels(dtype: int) -> Callable[..., int]:
    """Return the task ``affine(context, k, scratch)``: y = x w + b, b being optional, for SHARE samples of a task."""
    pointer, item, scalar = POINTERS[dtype], ITEM_BYTES[dtype], SCALARS[dtype]

    @jit
    def each(x, y, w, n):
        for i in range(np.uintp(n)):
            y[i] = x[i] * w[i]

    @jit
    def each_shifted(x, y, w, b, n):
        for i in range(np.uintp(n)):
            y[i] = x[i] * w[i] + b[i]

    @jit
    def plane(x, y, w, b, n):
        for i in range(np.uintp(n)):
            y[i] = x[i] * w + b

    @jit
    def affine(context, k, scratch):
        c = int64_at(context)
        size, channels = c[SIZE], c[CHANNELS]
        for r in range(k * c[SHARE], min((k + 1) * c[SHARE], c[SAMPLES])):
            at = r * channels * size * item
            if size == 1 and c[B] != 0:
                each_shifted(pointer(c[X] + at), pointer(c[Y] + at), pointer(c[W]), pointer(c[B]), channels)
            elif size == 1:
                each(pointer(c[X] + at), pointer(c[Y] + at), pointer(c[W]), channels)
            else:
                for j in range(channels):
                    o = at + j * size * item
                    b = pointer(c[B])[j] if c[B] != 0 else scalar(0)
                    plane(pointer(c[X] + o), pointer(c[Y] + o), pointer(c[W])[j], b, size)
        return 0

    return affine
