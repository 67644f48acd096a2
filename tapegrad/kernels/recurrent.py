"""The time loops of recurrent layers: every task takes some rows of the batch through all steps, there or back.

At each step one product with the packed recurrent weight serves all gates, and the gates' functions run over the same
rows while they are in the first-level cache. Row ``r`` of the batch at step ``t`` is the row t * time_stride + r *
batch_stride of the arrays that have one row for each step of each sequence; in packed sequences it is offsets[t] + r,
and only the sequences that have not ended take part. The loops over a row have few arrays each: LLVM checks at run time
that the written one overlaps no other, and gives up where there are too many pairs.

LSTM (Hochreiter and Schmidhuber 1997, doi:10.1162/neco.1997.9.8.1735), with gates i, f, g, o in this order:
    c = f c_before + i g        h = o tanh(c)
GRU (Cho et al. 2014, arXiv:1406.1078), with gates r, z, n and the product m = W_hn h_before + b_hn:
    n = tanh(x_n + r m)         h = (1 - z) n + z h_before
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from tapegrad.kernels.vector_exp import ONE, expm1_reduced, integer_of, power_of_two, reduce_exp
from tapegrad.kernels.vector_math import tanh
from tapegrad.kernels.vector_primitives import clamp, constant, helper, muladd
from tapegrad.native.cache import jit
from tapegrad.native.dtypes import ITEM_BYTES, POINTERS, SCALARS
from tapegrad.native.pointers import call1, int64_at, stack_words

TANH, RELU, LSTM, GRU = range(4)

# words of a task's context, the operands first
(
    H, C, GATES, PACKED, Y, BEFORE, MEMORY, BIAS, OFFSETS, INPUT, SLOPES, SLOPES_H,
    STEPS, BATCH, TIME_STRIDE, BATCH_STRIDE, REVERSE, WIDTH, Y_STRIDE, INPUT_WIDTH, BLOCK, GEMM,
) = range(22)  # fmt: skip
WORDS = 22

_LEAST, _MOST = constant(-87.0, -708.0), constant(87.0, 708.0)  # e**x and its inverse are normal numbers

_SMALL, _LARGE = 8, 16  # rows of the batch in a task: the register tile has 8; 16 read the weights half as often


@helper
def sigmoid(x):
    """Return 1 / (1 + e**-x), not below the least normal numbers: a quarter faster than with subnormal ones."""
    shifted, r = reduce_exp(clamp(-x, _LEAST(x), _MOST(x)))
    scale = power_of_two(integer_of(shifted))
    return ONE(x) / (ONE(x) + muladd(scale, expm1_reduced(r), scale))


@jit
def block_rows(batch):
    """Return how many rows of the batch one task takes."""
    return _LARGE if batch > _LARGE else _SMALL


@jit
def _first_row(context, t):
    w = int64_at(context)
    return int64_at(w[OFFSETS])[t] if w[OFFSETS] != 0 else t * w[TIME_STRIDE]


@jit
def _active(context, t):
    """Return how many sequences have a step ``t``."""
    w = int64_at(context)
    if w[OFFSETS] == 0:
        return w[BATCH]
    return int64_at(w[OFFSETS])[t + 1] - int64_at(w[OFFSETS])[t]


@jit
def _multiply(context, m, n, k, a, rsa, c, rsc, accumulate):
    """C (+)= A @ B for the packed B of the context."""
    w, words = int64_at(context), stack_words(13)
    p = int64_at(words)
    p[0], p[1], p[2], p[3], p[4], p[5], p[6], p[7], p[8] = m, n, k, a, rsa, w[PACKED], c, rsc, accumulate
    return call1(w[GEMM], words)


def _make_copy(dtype: int) -> Callable[..., int]:
    pointer, size = POINTERS[dtype], ITEM_BYTES[dtype]

    @jit
    def copy_rows(source, source_stride, target, target_stride, rows, n):
        for r in range(rows):
            x, y = pointer(source + r * source_stride * size), pointer(target + r * target_stride * size)
            for j in range(np.uintp(n)):
                y[j] = x[j]
        return 0

    return copy_rows


def make_forward(dtype: int, mode: int) -> Callable[..., int]:
    """Return the body ``task(context, k, scratch)`` that takes the block ``k`` of the batch through all steps.

    GATES [rows, gates * width] has the inputs' share of the sums and gets the gates. Where there is INPUT [rows,
    input_width], the task computes the inputs' share itself: PACKED is both weights, one above the other, BIAS the sum
    of both biases, and GATES may be absent. H, C [batch, width] have the states before and get those after the last
    step. Y gets the states h, and, where they are wanted, BEFORE the h before each step and MEMORY the c before each
    step, or a GRU's m. A GRU has no INPUT, and BIAS is its recurrent one.
    """
    pointer, size, scalar = POINTERS[dtype], ITEM_BYTES[dtype], SCALARS[dtype]
    copy_rows = _make_copy(dtype)
    gates = {LSTM: 4, GRU: 3}.get(mode, 1)

    @jit
    def activate(context, rows, g_address, stride):
        """The gates of plain layers."""
        n = int64_at(context)[WIDTH]
        whole = stride == n
        for r in range(1 if whole else rows):
            g = pointer(g_address + r * stride * size)
            for j in range(np.uintp(n * rows if whole else n)):
                if mode == RELU:
                    g[j] = scalar(0) if g[j] <= scalar(0) else g[j]
                else:
                    g[j] = tanh(g[j])
        return 0

    @jit
    def lstm_row(n, g_address, c_address, h_address):
        g, c, h = pointer(g_address), pointer(c_address), pointer(h_address)
        for j in range(np.uintp(2 * n)):
            g[j] = sigmoid(g[j])
        candidate, out = pointer(g_address + 2 * n * size), pointer(g_address + 3 * n * size)
        for j in range(np.uintp(n)):
            candidate[j] = tanh(candidate[j])
        for j in range(np.uintp(n)):
            out[j] = sigmoid(out[j])
        forget = pointer(g_address + n * size)
        for j in range(np.uintp(n)):
            c[j] = forget[j] * c[j] + g[j] * candidate[j]
        for j in range(np.uintp(n)):
            h[j] = out[j] * tanh(c[j])
        return 0

    @jit
    def gru_row(n, g_address, s_address, h_address):
        g, s, h = pointer(g_address), pointer(s_address), pointer(h_address)
        for j in range(np.uintp(2 * n)):
            g[j] = sigmoid(g[j] + s[j])
        update, new, m = (
            pointer(g_address + n * size),
            pointer(g_address + 2 * n * size),
            pointer(s_address + 2 * n * size),
        )
        for j in range(np.uintp(n)):
            new[j] = tanh(new[j] + g[j] * m[j])
        for j in range(np.uintp(n)):
            h[j] = (h[j] - new[j]) * update[j] + new[j]
        return 0

    @jit
    def finish_rows(context, b, row, rows, g, g_stride, h, h_stride):
        """Compute gates and states of plain layers and LSTM from the gates' sums."""
        w = int64_at(context)
        n = w[WIDTH]
        if mode == LSTM:
            c = w[C] + b * n * size
            if w[MEMORY] != 0:
                copy_rows(c, n, w[MEMORY] + row * n * size, w[BATCH_STRIDE] * n, rows, n)
            for r in range(rows):
                lstm_row(n, g + r * g_stride * size, c + r * n * size, h + r * h_stride * size)
        else:
            activate(context, rows, g, g_stride)
            copy_rows(g, g_stride, h, h_stride, rows, n)
        return 0

    @jit
    def step(context, first, b, rows, a, a_width, scratch):
        """Take one step; the rows of A [rows, a_width] end in the states h."""
        w = int64_at(context)
        n, stride = w[WIDTH], w[BATCH_STRIDE]
        row = first + b * stride
        h = a + (a_width - n) * size
        if w[BEFORE] != 0:
            copy_rows(h, a_width, w[BEFORE] + row * n * size, stride * n, rows, n)
        g, g_stride = w[GATES] + row * gates * n * size, stride * gates * n
        if w[GATES] == 0:
            g, g_stride = scratch, gates * n
        if mode == GRU:
            if w[BIAS] != 0:
                copy_rows(w[BIAS], 0, scratch, 3 * n, rows, 3 * n)
            _multiply(context, rows, 3 * n, n, h, n, scratch, 3 * n, 1 if w[BIAS] != 0 else 0)
            for r in range(rows):
                s = scratch + r * 3 * n * size
                if w[MEMORY] != 0:
                    copy_rows(s + 2 * n * size, 0, w[MEMORY] + (row + r * stride) * n * size, 0, 1, n)
                gru_row(n, g + r * g_stride * size, s, h + r * n * size)
        else:
            add = 1
            if w[INPUT] != 0:
                copy_rows(
                    w[INPUT] + row * w[INPUT_WIDTH] * size, stride * w[INPUT_WIDTH], a, a_width, rows, a_width - n
                )
                add = 1 if w[BIAS] != 0 else 0
                if add != 0:
                    copy_rows(w[BIAS], 0, g, g_stride, rows, gates * n)
            _multiply(context, rows, gates * n, a_width, a, a_width, g, g_stride, add)
            finish_rows(context, b, row, rows, g, g_stride, h, a_width)
        copy_rows(h, a_width, w[Y] + row * w[Y_STRIDE] * size, stride * w[Y_STRIDE], rows, n)
        return 0

    @jit
    def task(context, k, scratch):
        w = int64_at(context)
        b, n, rest = k * w[BLOCK], w[WIDTH], scratch
        height = min(w[BLOCK], w[BATCH] - b)
        a = h = w[H] + b * n * size
        a_width = n
        if w[INPUT] != 0:
            a, a_width = scratch, w[INPUT_WIDTH] + n
            rest = scratch + (height * a_width * size + 63) // 64 * 64
            copy_rows(h, n, a + (a_width - n) * size, a_width, height, n)
        for s in range(w[STEPS]):
            t = w[STEPS] - 1 - s if w[REVERSE] != 0 else s
            rows = min(height, _active(context, t) - b)
            if rows > 0:
                step(context, _first_row(context, t), b, rows, a, a_width, rest)
        if w[INPUT] != 0:
            copy_rows(a + (a_width - n) * size, a_width, h, n, height, n)
        return 0

    return task


def make_backward(dtype: int, mode: int) -> Callable[..., int]:
    """Return the body ``task(context, k, scratch)`` that takes the gradients of block ``k`` back through all steps.

    H and C have the gradients of the last states and get those of the first; Y has that of the states h, or is 0.
    SLOPES [rows, gates * width] gets the gradient of the gates' sums; a GRU's SLOPES_H that of the product with h.
    """
    pointer, size, scalar = POINTERS[dtype], ITEM_BYTES[dtype], SCALARS[dtype]
    gates = {LSTM: 4, GRU: 3}.get(mode, 1)
    one = scalar(1)

    @jit
    def add_row(x_address, y_address, n):
        x, y = pointer(x_address), pointer(y_address)
        for j in range(np.uintp(n)):
            y[j] += x[j]
        return 0

    @jit
    def plain_row(n, g_address, d_address, h_address):
        g, d, h = pointer(g_address), pointer(d_address), pointer(h_address)
        for j in range(np.uintp(n)):
            if mode == RELU:
                d[j] = h[j] if g[j] > scalar(0) else scalar(0)
            else:
                d[j] = h[j] * (one - g[j] * g[j])
        return 0

    @jit
    def lstm_row(n, g_address, m_address, d_address, h_address, c_address, scratch):
        i, f, g = pointer(g_address), pointer(g_address + n * size), pointer(g_address + 2 * n * size)
        o, before = pointer(g_address + 3 * n * size), pointer(m_address)
        di, df, dg = pointer(d_address), pointer(d_address + n * size), pointer(d_address + 2 * n * size)
        do, dh, dc, t = pointer(d_address + 3 * n * size), pointer(h_address), pointer(c_address), pointer(scratch)
        for j in range(np.uintp(n)):
            t[j] = tanh(f[j] * before[j] + i[j] * g[j])
        for j in range(np.uintp(n)):
            do[j] = dh[j] * t[j] * (o[j] * (one - o[j]))
        for j in range(np.uintp(n)):
            dc[j] += dh[j] * o[j] * (one - t[j] * t[j])
        for j in range(np.uintp(n)):
            di[j] = dc[j] * g[j] * (i[j] * (one - i[j]))
        for j in range(np.uintp(n)):
            df[j] = dc[j] * before[j] * (f[j] * (one - f[j]))
        for j in range(np.uintp(n)):
            dg[j] = dc[j] * i[j] * (one - g[j] * g[j])
        for j in range(np.uintp(n)):
            dc[j] *= f[j]
        return 0

    @jit
    def gru_row(n, g_address, m_address, b_address, d_address, e_address, h_address):
        r, z, new = pointer(g_address), pointer(g_address + n * size), pointer(g_address + 2 * n * size)
        m, before, dh = pointer(m_address), pointer(b_address), pointer(h_address)
        dr, dz, dn = pointer(d_address), pointer(d_address + n * size), pointer(d_address + 2 * n * size)
        e, em = pointer(e_address), pointer(e_address + 2 * n * size)
        for j in range(np.uintp(n)):
            dn[j] = dh[j] * (one - z[j]) * (one - new[j] * new[j])
        for j in range(np.uintp(n)):
            em[j] = dn[j] * r[j]
        for j in range(np.uintp(n)):
            dr[j] = dn[j] * m[j] * (r[j] * (one - r[j]))
        for j in range(np.uintp(n)):
            dz[j] = dh[j] * (before[j] - new[j]) * (z[j] * (one - z[j]))
        for j in range(np.uintp(2 * n)):
            e[j] = dr[j]
        for j in range(np.uintp(n)):
            dh[j] *= z[j]
        return 0

    @jit
    def step(context, first, b, rows, scratch):
        w = int64_at(context)
        n, stride = w[WIDTH], w[BATCH_STRIDE]
        row = first + b * stride
        h, c = w[H] + b * n * size, w[C] + b * n * size
        for r in range(rows):
            at, dh = row + r * stride, h + r * n * size
            g, d, m = w[GATES] + at * gates * n * size, w[SLOPES] + at * gates * n * size, w[MEMORY] + at * n * size
            if w[Y] != 0:
                add_row(w[Y] + at * w[Y_STRIDE] * size, dh, n)
            if mode == LSTM:
                lstm_row(n, g, m, d, dh, c + r * n * size, scratch)
            elif mode == GRU:
                gru_row(n, g, m, w[BEFORE] + at * n * size, d, w[SLOPES_H] + at * 3 * n * size, dh)
            else:
                plain_row(n, g, d, dh)
        slopes = w[SLOPES_H] if mode == GRU else w[SLOPES]
        a = slopes + row * gates * n * size
        _multiply(context, rows, n, gates * n, a, stride * gates * n, h, n, 1 if mode == GRU else 0)
        return 0

    @jit
    def task(context, k, scratch):
        w = int64_at(context)
        b = k * w[BLOCK]
        for s in range(w[STEPS]):
            t = s if w[REVERSE] != 0 else w[STEPS] - 1 - s
            rows = min(w[BLOCK], _active(context, t) - b)
            if rows > 0:
                step(context, _first_row(context, t), b, rows, scratch)
        return 0

    return task


__all__: list[Any] = ["GRU", "LSTM", "RELU", "TANH", "block_rows", "make_backward", "make_forward"]
