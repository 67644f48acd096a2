"""Attention o = dropout(softmax(scale q k^T + mask)) v, forward and backward, without the matrix of scores in memory.

Online softmax over tiles of keys as in FlashAttention (Dao et al. 2022, arXiv:2205.14135; the backward pass recomputes
the tiles from the logarithms of the rows' sums): a tile of ROWS x 4 panels of scores is made by the matrix product's
register tile, exponentiated in place, and multiplied by v. Scores are in units of ln 2, so that 2**x serves for e**x.
With P the softmax, M the dropout's factors and g the gradient of o,
    D = sum over columns of g o,    gS = P (M (g v^T) - D),    gq = scale gS k,  gk = scale gS^T q,  gv = (P M)^T g.

Keys are taken in chunks whose packed transposes stay within a thread's scratch memory. A task is one head and, forward,
TASK_ROWS rows of it; small heads go several to a task.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from tapegrad.kernels.gemm_micro import host_tile, multiply_kernel
from tapegrad.kernels.gemm_pack import pack_kernel
from tapegrad.kernels.philox_words import GROUP, GROUP_BLOCKS, fill_words
from tapegrad.kernels.reduce_lanes import greater_number, row_reducer, step_of
from tapegrad.kernels.vector_exp import exp2_below
from tapegrad.kernels.vector_math import log2
from tapegrad.native.cache import jit, jit_sums
from tapegrad.native.dtypes import DTYPE_NAMES, ITEM_BYTES, POINTERS, SCALARS, UINT8
from tapegrad.native.pointers import float64_from_bits, int64_at, pointer_to

ROWS = 64
TASK_ROWS = 256
MOST_WIDTH = 1024  # of heads: beyond, packed keys would not fit
TASK_WORK = 1 << 21  # multiplications a task, where a head is smaller
_CHUNK_BYTES = 1 << 20
LOG2_E = math.log2(math.e)

# the words of a task's context: addresses, then strides in elements of batch, head and row, then sizes
Q, K, V, O, G, GQ, GK, GV, LSE, MASK, MARK = range(11)  # noqa: E741 (the letters of the formulas)
Q_STRIDES, K_STRIDES, V_STRIDES, O_STRIDES, G_STRIDES, MASK_STRIDES = 11, 14, 17, 20, 23, 26  # the mask's are four
BATCHES, HEADS, LENGTH, KEYS, WIDTH, VALUE_WIDTH, CAUSAL, SCALE, DROPOUT, MASK_KIND, SHARE, BLOCKS = range(30, 42)
NO_MASK, BOOL_MASK, FLOAT_MASK = range(3)

_uint32_at = pointer_to(np.uint32)
_uint8_at = POINTERS[UINT8]


@jit
def _head(c, address, strides, index, size):
    """Return where head ``index`` (batch x heads + head) of an operand begins."""
    batch, head = index // c[HEADS], index % c[HEADS]
    return c[address] + (batch * c[strides] + head * c[strides + 1]) * size


def make_tiles(dtype: int) -> dict[str, Any]:
    """Return the helpers that forward and backward share."""
    pointer, size, scalar = POINTERS[dtype], ITEM_BYTES[dtype], SCALARS[dtype]
    tile, array_dtype = host_tile(), np.dtype(DTYPE_NAMES[dtype])
    panel = tile.vectors * tile.vector_bytes // size
    gap, height = panel * size, tile.rows
    multiply, pack = multiply_kernel(array_dtype, tile), pack_kernel(array_dtype, tile)
    columns = 4 * panel
    largest = row_reducer(dtype, dtype, -np.inf, step_of(greater_number), greater_number)

    @jit
    def chunk_of(width):
        """Return how many rows of keys or values, packed as columns, are taken at a time."""
        return max(_CHUNK_BYTES // ((width + 1) * gap), 4) * panel // columns * columns

    @jit
    def pack_transposed(source, stride, target, count, width):
        """Pack ``count`` rows as the columns of panels."""
        pack(source, size, stride * size, target, gap * (width + 1), width, count)
        return 0

    @jit
    def times_packed(a, stride, packed, first, width, out, rows, n):
        """Write out[rows, n] = A[rows, width] @ packed columns from ``first`` on; out's rows are ``columns`` apart."""
        b = packed + first // panel * gap * (width + 1)
        multiply(
            a, stride * size, size, stride * size * height, b, gap, gap * (width + 1), out, columns * size, width, n,
            0, rows,
        )  # fmt: skip
        return 0

    @jit
    def times(a, row_step, column_step, b, stride, out, out_stride, rows, depth, n, add):
        """Write or add out[rows, n] = A[rows, depth] @ B[depth, n], with steps in elements."""
        multiply(
            a, row_step * size, column_step * size, row_step * size * height, b, stride * size, gap, out,
            out_stride * size, depth, n, add, rows,
        )  # fmt: skip
        return 0

    @jit
    def scale_row(s, n, factor):
        for i in range(np.uintp(n)):
            s[i] = s[i] * factor

    @jit
    def mask_row(c, s, n, factor, index, row, first):
        """Bring a row of raw scores to s factor + mask log2(e)."""
        batch, head, at = index // c[HEADS], index % c[HEADS], MASK_STRIDES
        offset = batch * c[at] + head * c[at + 1] + row * c[at + 2] + first * c[at + 3]
        step = c[at + 3]
        if c[MASK_KIND] == BOOL_MASK:
            m = _uint8_at(c[MASK] + offset)
            low = scalar(-np.inf)
            if step == 1:
                for i in range(np.uintp(n)):
                    s[i] = s[i] * factor if m[i] != 0 else low
            else:
                for i in range(n):
                    s[i] = s[i] * factor if m[i * step] != 0 else low
        else:
            f = pointer(c[MASK] + offset * size)
            unit = scalar(LOG2_E)
            if step == 1:
                for i in range(np.uintp(n)):
                    s[i] = s[i] * factor + f[i] * unit
            else:
                for i in range(n):
                    s[i] = s[i] * factor + f[i * step] * unit

    @jit
    def finish_scores(c, s, n, index, row, first):
        """Bring a row of raw scores to units of ln 2 and mask it."""
        factor = scalar(float64_from_bits(c[SCALE]) * LOG2_E)
        if c[MASK_KIND] == NO_MASK:
            scale_row(s, n, factor)
        else:
            mask_row(c, s, n, factor, index, row, first)

    @jit
    def columns_seen(c, row, first, n):
        """Return how many of n columns from ``first`` on a row attends to."""
        return min(max(row + 1 - first, 0), n) if c[CAUSAL] != 0 else n

    @jit
    def drop(c, source, target, n, index, row, first, scratch):
        """Multiply a row of n numbers by the dropout's factors; element (index, row, column) has a word of its own."""
        x, y = pointer(source), pointer(target)
        keep = 1.0 - float64_from_bits(c[DROPOUT])
        limit = np.uint64(keep * 2.0**32 + 0.5)
        factor, zero = scalar(1.0 / keep if keep > 0 else 0.0), scalar(0)
        at = (index * c[LENGTH] + row) * c[KEYS] + first
        group = at // GROUP
        words = _uint32_at(scratch)
        seed, block = np.uint64(int64_at(c[MARK])[0]), np.uint64(int64_at(c[MARK])[1] + GROUP_BLOCKS * group)
        fill_words(scratch, block, seed, at + n - group * GROUP)
        skip = at - group * GROUP
        for i in range(n):
            y[i] = x[i] * (factor if np.uint64(words[skip + i]) < limit else zero)

    return {
        "panel": panel, "columns": columns, "chunk_of": chunk_of, "pack_transposed": pack_transposed,
        "times_packed": times_packed, "times": times, "finish_scores": finish_scores, "columns_seen": columns_seen,
        "drop": drop, "largest": largest, "scale_row": scale_row,
    }  # fmt: skip


def make_attention(dtype: int) -> Callable[..., int]:
    """Return the task ``forward(context, k, scratch)``; it writes o and the rows' log2 of sums of exponentials."""
    pointer, size, scalar = POINTERS[dtype], ITEM_BYTES[dtype], SCALARS[dtype]
    tools = make_tiles(dtype)
    columns, chunk_of, pack_transposed = tools["columns"], tools["chunk_of"], tools["pack_transposed"]
    times_packed, times, finish_scores = tools["times_packed"], tools["times"], tools["finish_scores"]
    columns_seen, drop, largest, scale_row = tools["columns_seen"], tools["drop"], tools["largest"], tools["scale_row"]
    packed_at = 2 * TASK_ROWS * 8  # behind maxima and sums
    tile_at = packed_at + 2 * _CHUNK_BYTES
    words_at = tile_at + ROWS * columns * size

    @jit_sums
    def exponentials(s, n, factor, top):
        total = scalar(0)
        for i in range(np.uintp(n)):
            e = exp2_below(s[i] * factor - top)
            s[i] = e
            total += e
        return total

    @jit
    def clear(x, first, last):
        for i in range(first, last):
            x[i] = scalar(0)

    @jit
    def softmax_row(c, s, n, width, index, row, first, place, o, scratch):
        """Turn a row of scores into exponentials; bring the row's sum and its row of o to the new maximum."""
        maxima, sums = pointer(scratch), pointer(scratch + TASK_ROWS * 8)
        factor = scalar(float64_from_bits(c[SCALE]) * LOG2_E)
        if c[MASK_KIND] != NO_MASK or factor < 0:
            finish_scores(c, s, n, index, row, first)
            factor = scalar(1)
        top = largest(s, n, scalar(0)) * factor if n > 0 else scalar(-np.inf)
        old = maxima[place]
        top = old if old > top else top
        shift = scalar(0) if top == scalar(-np.inf) else top
        total = exponentials(s, n, factor, shift)
        if old != top and old != scalar(-np.inf):
            correction = exp2_below(old - shift)
            sums[place] = sums[place] * correction
            scale_row(o, c[VALUE_WIDTH], correction)
        sums[place] += total
        maxima[place] = top
        if n < width:
            clear(s, n, width)

    @jit
    def tile_of(c, index, row, count, first, width, chunk_first, v, started, start, scratch):
        """Take ``count`` rows and ``width`` columns; ``first`` counts the keys from 0, ``chunk_first`` in the chunk."""
        scores = scratch + tile_at
        q = _head(c, Q, Q_STRIDES, index, size) + row * c[Q_STRIDES + 2] * size
        o = _head(c, O, O_STRIDES, index, size) + row * c[O_STRIDES + 2] * size
        times_packed(q, c[Q_STRIDES + 2], scratch + packed_at, chunk_first, c[WIDTH], scores, count, width)
        for r in range(count):
            s = scores + r * columns * size
            seen = columns_seen(c, row + r, first, width)
            out = pointer(o + r * c[O_STRIDES + 2] * size)
            softmax_row(c, pointer(s), seen, width, index, row + r, first, row + r - start, out, scratch)
            if float64_from_bits(c[DROPOUT]) > 0:
                drop(c, s, s, seen, index, row + r, first, scratch + words_at)
        times(
            scores, columns, 1, v + first * c[V_STRIDES + 2] * size, c[V_STRIDES + 2], o, c[O_STRIDES + 2], count,
            width, c[VALUE_WIDTH], started,
        )  # fmt: skip
        return 0

    @jit
    def finish(c, index, row, place, scratch):
        maxima, sums = pointer(scratch), pointer(scratch + TASK_ROWS * 8)
        o = pointer(_head(c, O, O_STRIDES, index, size) + row * c[O_STRIDES + 2] * size)
        total = sums[place]
        seen = total != scalar(0)
        scale_row(o, c[VALUE_WIDTH], scalar(1) / total if seen else scalar(0))
        lse = maxima[place] + log2(total) if seen else scalar(np.inf)
        pointer(c[LSE])[index * c[LENGTH] + row] = lse

    @jit
    def rows_of(c, index, start, stop, scratch):
        """Compute the rows start .. stop of a head."""
        k, v = _head(c, K, K_STRIDES, index, size), _head(c, V, V_STRIDES, index, size)
        maxima, sums = pointer(scratch), pointer(scratch + TASK_ROWS * 8)
        for r in range(stop - start):
            maxima[r] = scalar(-np.inf)
            sums[r] = scalar(0)
            clear(
                pointer(_head(c, O, O_STRIDES, index, size) + (start + r) * c[O_STRIDES + 2] * size), 0, c[VALUE_WIDTH]
            )
        keys = min(c[KEYS], stop) if c[CAUSAL] != 0 else c[KEYS]
        chunk = chunk_of(c[WIDTH])
        for base in range(0, keys, chunk):
            held = min(keys - base, chunk)
            pack_transposed(k + base * c[K_STRIDES + 2] * size, c[K_STRIDES + 2], scratch + packed_at, held, c[WIDTH])
            for row in range(start, stop, ROWS):
                count = min(stop - row, ROWS)
                last = min(base + held, row + count) if c[CAUSAL] != 0 else base + held
                for first in range(base, last, columns):
                    tile_of(c, index, row, count, first, min(last - first, columns), first - base, v, 1, start, scratch)
        for r in range(start, stop):
            finish(c, index, r, r - start, scratch)

    @jit
    def forward(context, k, scratch):
        c = int64_at(context)
        if c[BLOCKS] > 1:
            start = k % c[BLOCKS] * TASK_ROWS
            rows_of(c, k // c[BLOCKS], start, min(start + TASK_ROWS, c[LENGTH]), scratch)
            return 0
        for index in range(k * c[SHARE], min((k + 1) * c[SHARE], c[BATCHES] * c[HEADS])):
            for start in range(0, c[LENGTH], TASK_ROWS):
                rows_of(c, index, start, min(start + TASK_ROWS, c[LENGTH]), scratch)
        return 0

    return forward


def make_attention_backward(dtype: int) -> Callable[..., int]:
    """Return the task ``backward(context, k, scratch)``; gq, gk and gv are contiguous."""
    pointer, size, scalar = POINTERS[dtype], ITEM_BYTES[dtype], SCALARS[dtype]
    tools = make_tiles(dtype)
    columns, chunk_of, pack_transposed = tools["columns"], tools["chunk_of"], tools["pack_transposed"]
    times_packed, times, finish_scores = tools["times_packed"], tools["times"], tools["finish_scores"]
    columns_seen, drop = tools["columns_seen"], tools["drop"]
    keys_at, values_at = 0, _CHUNK_BYTES + (_CHUNK_BYTES >> 2)
    weights_at = 2 * values_at
    slopes_at = weights_at + ROWS * columns * size
    words_at = slopes_at + ROWS * columns * size

    @jit_sums
    def dot(x, y, n):
        total = scalar(0)
        for i in range(np.uintp(n)):
            total += x[i] * y[i]
        return total

    @jit
    def weights(s, n, factor, lse):
        for i in range(np.uintp(n)):
            s[i] = exp2_below(s[i] * factor - lse)

    @jit
    def slopes(p, t, n, d, factor):
        """Turn t = M (g v^T) into the scores' gradients, times the scale."""
        for i in range(np.uintp(n)):
            t[i] = p[i] * (t[i] - d) * factor

    @jit
    def clear(x, first, last):
        for i in range(first, last):
            x[i] = scalar(0)

    @jit
    def row_of_tile(c, p, t, seen, width, index, row, first, d, scratch):
        """Turn a row of raw scores into P M, and one of g v^T into the scores' gradients."""
        s = pointer(p)
        lse = pointer(c[LSE])[index * c[LENGTH] + row]
        factor = scalar(float64_from_bits(c[SCALE]) * LOG2_E)
        if c[MASK_KIND] != NO_MASK:
            finish_scores(c, s, seen, index, row, first)
            factor = scalar(1)
        weights(s, seen, factor, lse)
        dropped = float64_from_bits(c[DROPOUT]) > 0
        if dropped:
            drop(c, t, t, seen, index, row, first, scratch + words_at)
        slopes(s, pointer(t), seen, d, scalar(float64_from_bits(c[SCALE])))
        if dropped:
            drop(c, p, p, seen, index, row, first, scratch + words_at)
        if seen < width:
            clear(s, seen, width)
            clear(pointer(t), seen, width)

    @jit
    def tile_of(c, index, row, count, first, width, base, scratch):
        p, t = scratch + weights_at, scratch + slopes_at
        q = _head(c, Q, Q_STRIDES, index, size) + row * c[Q_STRIDES + 2] * size
        g = _head(c, G, G_STRIDES, index, size) + row * c[G_STRIDES + 2] * size
        o = _head(c, O, O_STRIDES, index, size) + row * c[O_STRIDES + 2] * size
        k = _head(c, K, K_STRIDES, index, size) + first * c[K_STRIDES + 2] * size
        e, f = c[WIDTH], c[VALUE_WIDTH]
        times_packed(q, c[Q_STRIDES + 2], scratch + keys_at, first - base, e, p, count, width)
        times_packed(g, c[G_STRIDES + 2], scratch + values_at, first - base, f, t, count, width)
        for r in range(count):
            seen = columns_seen(c, row + r, first, width)
            d = dot(pointer(g + r * c[G_STRIDES + 2] * size), pointer(o + r * c[O_STRIDES + 2] * size), f)
            at = r * columns * size
            row_of_tile(c, p + at, t + at, seen, width, index, row + r, first, d, scratch)
        gq = c[GQ] + (index * c[LENGTH] + row) * e * size
        gk = c[GK] + (index * c[KEYS] + first) * e * size
        gv = c[GV] + (index * c[KEYS] + first) * f * size
        times(p, 1, columns, g, c[G_STRIDES + 2], gv, f, width, count, f, 1)
        times(t, 1, columns, q, c[Q_STRIDES + 2], gk, e, width, count, e, 1)
        times(t, columns, 1, k, c[K_STRIDES + 2], gq, e, count, width, e, 1)
        return 0

    @jit
    def head(c, index, scratch):
        e, f = c[WIDTH], c[VALUE_WIDTH]
        clear(pointer(c[GQ] + index * c[LENGTH] * e * size), 0, c[LENGTH] * e)
        clear(pointer(c[GK] + index * c[KEYS] * e * size), 0, c[KEYS] * e)
        clear(pointer(c[GV] + index * c[KEYS] * f * size), 0, c[KEYS] * f)
        k, v = _head(c, K, K_STRIDES, index, size), _head(c, V, V_STRIDES, index, size)
        keys = min(c[KEYS], c[LENGTH]) if c[CAUSAL] != 0 else c[KEYS]
        chunk = min(chunk_of(e), chunk_of(f))
        for base in range(0, keys, chunk):
            held = min(keys - base, chunk)
            pack_transposed(k + base * c[K_STRIDES + 2] * size, c[K_STRIDES + 2], scratch + keys_at, held, e)
            pack_transposed(v + base * c[V_STRIDES + 2] * size, c[V_STRIDES + 2], scratch + values_at, held, f)
            for row in range(0, c[LENGTH], ROWS):
                count = min(c[LENGTH] - row, ROWS)
                last = min(base + held, row + count) if c[CAUSAL] != 0 else base + held
                for first in range(base, last, columns):
                    tile_of(c, index, row, count, first, min(last - first, columns), base, scratch)

    @jit
    def backward(context, k, scratch):
        c = int64_at(context)
        for index in range(k * c[SHARE], min((k + 1) * c[SHARE], c[BATCHES] * c[HEADS])):
            head(c, index, scratch)
        return 0

    return backward


def make_attention_weights(dtype: int) -> Callable[..., int]:
    """Return the task ``weights(context, k, scratch)``: the softmax of the scores itself, [batch, head, row, key]."""
    pointer, size, scalar = POINTERS[dtype], ITEM_BYTES[dtype], SCALARS[dtype]
    tools = make_tiles(dtype)
    columns, chunk_of, pack_transposed = tools["columns"], tools["chunk_of"], tools["pack_transposed"]
    times_packed, finish_scores = tools["times_packed"], tools["finish_scores"]
    columns_seen, largest, scale_row = tools["columns_seen"], tools["largest"], tools["scale_row"]
    tile_at = 2 * _CHUNK_BYTES

    @jit_sums
    def exponentials(s, n, top):
        total = scalar(0)
        for i in range(np.uintp(n)):
            e = exp2_below(s[i] - top)
            s[i] = e
            total += e
        return total

    @jit
    def copy(x, y, n):
        for i in range(np.uintp(n)):
            y[i] = x[i]

    @jit
    def softmax(c, s, n, index, row):
        seen = columns_seen(c, row, 0, n)
        finish_scores(c, s, seen, index, row, 0)
        top = largest(s, seen, scalar(0)) if seen > 0 else scalar(0)
        total = exponentials(s, seen, scalar(0) if top == scalar(-np.inf) else top)
        scale_row(s, seen, scalar(1) / total if total != scalar(0) else scalar(0))
        for i in range(seen, n):
            s[i] = scalar(0)

    @jit
    def weights(context, k, scratch):
        c = int64_at(context)
        n = c[KEYS]
        chunk = chunk_of(c[WIDTH])
        for index in range(k * c[SHARE], min((k + 1) * c[SHARE], c[BATCHES] * c[HEADS])):
            keys, q = _head(c, K, K_STRIDES, index, size), _head(c, Q, Q_STRIDES, index, size)
            p = c[O] + index * c[LENGTH] * n * size
            for base in range(0, n, chunk):
                held = min(n - base, chunk)
                stride = c[K_STRIDES + 2]
                pack_transposed(keys + base * stride * size, stride, scratch, held, c[WIDTH])
                for row in range(0, c[LENGTH], ROWS):
                    count = min(c[LENGTH] - row, ROWS)
                    for first in range(base, base + held, columns):
                        width = min(base + held - first, columns)
                        here = q + row * c[Q_STRIDES + 2] * size
                        out = scratch + tile_at
                        times_packed(here, c[Q_STRIDES + 2], scratch, first - base, c[WIDTH], out, count, width)
                        for r in range(count):
                            target = p + ((row + r) * n + first) * size
                            copy(pointer(out + r * columns * size), pointer(target), width)
            for row in range(c[LENGTH]):
                softmax(c, pointer(p + row * n * size), n, index, row)
        return 0

    return weights


def make_attention_drop(dtype: int) -> Callable[..., int]:
    """Return the task ``run(context, k, scratch)``: [batch, head, row, key] times the dropout's factors."""
    drop, size = make_tiles(dtype)["drop"], ITEM_BYTES[dtype]

    @jit
    def run(context, k, scratch):
        c = int64_at(context)
        n, chunk = c[KEYS], 4096
        for index in range(k * c[SHARE], min((k + 1) * c[SHARE], c[BATCHES] * c[HEADS])):
            for row in range(c[LENGTH]):
                for first in range(0, n, chunk):
                    at = ((index * c[LENGTH] + row) * n + first) * size
                    drop(c, c[Q] + at, c[O] + at, min(n - first, chunk), index, row, first, scratch)
        return 0

    return run
