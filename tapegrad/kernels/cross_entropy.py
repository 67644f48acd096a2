"""Cross entropy of rows of logits and class indices: the loss, its gradient, and what their gradients need.

Row i with target t, weights w, smoothing s over C classes: p = softmax(x), q_c = (1 - s) w_t [c = t] + s / C w_c,
a = sum(q),
    loss_i = a log(sum(e**x)) - q.x        gradient_i = u_i (a p - q)
where u_i is the incoming gradient, divided by the sum of w_t for the mean; all are 0 for an ignored target.
"""

from collections.abc import Callable

import numpy as np

from tapegrad.kernels.softmax import BLOCK, SHORT, TASK, make_row_exponentials
from tapegrad.kernels.streaming import finish_stream, is_streamed, stream
from tapegrad.kernels.vector_math import exp, log
from tapegrad.native.cache import jit
from tapegrad.native.dtypes import FLOAT64, ITEM_BYTES, POINTERS, SCALARS
from tapegrad.native.parallel import parallel_for
from tapegrad.native.pointers import float64_bits, float64_from_bits, int64_at, stack_words

NONE, MEAN, SUM = range(3)
LOSS, GRADIENT, BOTH, TANGENT, SCALE, SCALE_SUM = range(6)

# the words of a task's context
H, X, T, W, Y, Z, ROWS, CLASSES, REDUCTION, IGNORED, SMOOTHING, DIVISOR, ALL_WEIGHTS, SHARE, PARTS = range(15)


@jit
def bad_target(t_address, rows, classes, ignored):
    """Return the first row whose target is no class, or -1."""
    t = int64_at(t_address)
    for r in range(rows):
        if t[r] != ignored and (t[r] < 0 or t[r] >= classes):
            return r
    return -1


def make_target_sums(dtype: int) -> tuple[Callable[..., float], Callable[..., float]]:
    """Return ``weight_of(w_address, target)`` and ``weight_sum(w_address, t_address, rows, ignored)``; w may be 0."""
    pointer = POINTERS[dtype]

    @jit
    def weight_of(w_address, target):
        return 1.0 if w_address == 0 else np.float64(pointer(w_address)[target])

    @jit
    def weight_sum(w_address, t_address, rows, ignored):
        t = int64_at(t_address)
        total = 0.0
        for r in range(rows):
            if t[r] != ignored:
                total += weight_of(w_address, t[r])
        return total

    return weight_of, weight_sum


def make_cross_entropy(dtype: int, mode: int) -> Callable[..., int]:
    """Return ``run(pool, h, x, t, w, y, z, rows, n, reduction, ignored, smoothing)``; h to z are addresses.

    By mode, it writes: LOSS the loss to z; GRADIENT the gradient for x to y, given h that for the loss; BOTH the two;
    TANGENT the loss's change along h (like x) to z; SCALE a_i u_i for each row to y, given h like the loss; SCALE_SUM
    its transpose to z, given h of [rows].
    """
    writes_gradient, reduces = mode in (GRADIENT, BOTH), mode not in (GRADIENT, SCALE)
    pointer, size, scalar = POINTERS[dtype], ITEM_BYTES[dtype], SCALARS[dtype]
    exponentials, log_sum = make_row_exponentials(dtype)
    weight_of, weight_sum = make_target_sums(dtype)
    wide = POINTERS[FLOAT64]

    @jit
    def dot_q(v_address, shift, w_address, target, n, smoothing):
        """Return q.(v - shift)."""
        v = pointer(v_address)
        result = (1.0 - smoothing) * weight_of(w_address, target) * (np.float64(v[target]) - shift)
        if smoothing > 0:
            spread = 0.0
            for c in range(n):
                spread += weight_of(w_address, c) * (np.float64(v[c]) - shift)
            result += smoothing / n * spread
        return result

    @jit
    def tangent(h_address, x_address, target, w_address, n, a, top, total, smoothing):
        direction, x = pointer(h_address), pointer(x_address)
        mean = 0.0
        for c in range(n):
            mean += np.float64(direction[c]) * np.float64(exp(x[c] - scalar(top)))
        return a * mean / total - dot_q(h_address, 0.0, w_address, target, n, smoothing)

    @jit
    def write_gradient(y_address, e_address, target, w, n, u, a, total, smoothing):
        y, e = pointer(y_address), pointer(e_address)
        factor = scalar(u * a / total)
        for c in range(np.uintp(n)):
            y[c] = factor * e[c]
        y[target] -= scalar(u * (1.0 - smoothing) * weight_of(w, target))
        if smoothing > 0:
            for c in range(n):
                y[c] -= scalar(u * smoothing / n * weight_of(w, c))
        return 0

    @jit
    def task(context, k, scratch):
        """Take SHARE rows; leave the sum of what they give at PARTS + k."""
        c = int64_at(context)
        h, x, w, y_address, n, reduction = c[H], c[X], c[W], c[Y], c[CLASSES], c[REDUCTION]
        t, y, z, given, ignored = int64_at(c[T]), pointer(c[Y]), pointer(c[Z]), pointer(c[H]), c[IGNORED]
        smoothing, divisor = float64_from_bits(c[SMOOTHING]), float64_from_bits(c[DIVISOR])
        all_weights, start, stop = float64_from_bits(c[ALL_WEIGHTS]), k * c[SHARE], min((k + 1) * c[SHARE], c[ROWS])
        streamed = writes_gradient and is_streamed(y_address, n * size, c[ROWS] * n * size)
        maxima, sums, buffer = scratch, scratch + 8 * BLOCK, scratch + 16 * BLOCK
        block = 1 if mode == TANGENT else max(1, BLOCK // max(n, 1))
        grand = 0.0
        for first in range(start, stop, block):
            count = min(stop - first, block)
            place = first * n * size
            target_place = buffer if streamed else y_address + place
            if writes_gradient:
                exponentials(x + place, target_place, count, n, maxima, sums)
            elif mode == TANGENT or (mode == LOSS and n > SHORT):
                for r in range(count):
                    wide(sums)[r] = log_sum(x + place + r * n * size, n, maxima + 8 * r)
            elif mode == LOSS:
                exponentials(x + place, buffer, count, n, maxima, sums)
            for r in range(count):
                row = first + r
                target = t[row]
                keep = target != ignored
                a = 0.0
                if keep:
                    a = (1.0 - smoothing) * weight_of(w, target) + smoothing / n * all_weights
                if mode == SCALE:
                    u = np.float64(given[row if reduction == NONE else 0]) / divisor
                    y[row] = scalar(u * a) if keep else scalar(0)
                if reduces:
                    value = 0.0
                    here = x + row * n * size
                    if keep and mode == SCALE_SUM:
                        value = a * np.float64(given[row])
                    elif keep and mode == TANGENT:
                        direction = h + row * n * size
                        value = tangent(direction, here, target, w, n, a, wide(maxima)[r], wide(sums)[r], smoothing)
                    elif keep:
                        shift = wide(maxima)[r]
                        value = a * log(wide(sums)[r]) - dot_q(here, shift, w, target, n, smoothing)
                    if reduction == NONE:
                        z[row] = scalar(value)
                    grand += value
                if writes_gradient:
                    u = np.float64(given[row if reduction == NONE else 0]) / divisor
                    here = target_place + r * n * size
                    if keep:
                        write_gradient(here, here, target, w, n, u, a, wide(sums)[r], smoothing)
                    else:
                        zeros = pointer(here)
                        for j in range(np.uintp(n)):
                            zeros[j] = scalar(0)
            if streamed:
                stream(buffer, y_address + place, count * n * size)
        if streamed:
            finish_stream()
        wide(c[PARTS])[k] = grand
        return 0

    @jit
    def run(pool, h, x, t_address, w, y_address, z_address, rows, n, reduction, ignored, smoothing):
        context = stack_words(16)
        c = int64_at(context)
        parts = stack_words(128)
        c[H], c[X], c[T], c[W], c[Y], c[Z] = h, x, t_address, w, y_address, z_address
        c[ROWS], c[CLASSES] = rows, n
        c[REDUCTION], c[IGNORED], c[SMOOTHING], c[PARTS] = reduction, ignored, float64_bits(smoothing), parts
        divisor = weight_sum(w, t_address, rows, ignored) if reduction == MEAN else 1.0
        all_weights = np.float64(n)
        if w != 0:
            all_weights = 0.0
            for j in range(n):
                all_weights += np.float64(pointer(w)[j])
        c[DIVISOR], c[ALL_WEIGHTS] = float64_bits(divisor), float64_bits(all_weights)
        c[SHARE] = max(TASK // max(n, 1), (rows + 127) // 128, 1)
        count = (rows + c[SHARE] - 1) // c[SHARE]
        status = parallel_for(pool, task, context, count)
        grand = 0.0
        for k in range(count):
            grand += wide(parts)[k]
        if reduces and reduction != NONE:
            pointer(z_address)[0] = scalar(grand / divisor)
        return status

    return run
