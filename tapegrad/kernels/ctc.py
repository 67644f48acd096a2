"""Connectionist temporal classification: the sum over all alignments, forwards and backwards, in logarithms.

Graves et al. 2006, doi:10.1145/1143844.1143891. The labels l of a sequence, with blanks between and around them, are
l'_0 .. l'_2L. With x[t, c] the log probability of class c at step t, and a skip over a blank allowed between two
different labels only,
    alpha[t, s] = x[t, l'_s] + log(e**alpha[t-1, s] + e**alpha[t-1, s-1] + e**alpha[t-1, s-2])
    loss = -log(e**alpha[T-1, 2L] + e**alpha[T-1, 2L-1])
beta is the same from the end. The gradient is torch's: e**x less the share of alignments that have class c at step t,
which is right for x that come from log_softmax.
"""

from collections.abc import Callable

import numpy as np

from tapegrad.kernels.vector_math import exp, log
from tapegrad.native.cache import jit
from tapegrad.native.dtypes import ITEM_BYTES, POINTERS, SCALARS
from tapegrad.native.pointers import int64_at

# words of a task's context
X, TARGETS, LENGTHS, ALPHA, LOSS, GRADIENT, G, STEPS, BATCH, CLASSES, STATES, BLANK, ZERO_INFINITY = range(13)

MOST_STATES = 1 << 16  # five rows of them fit in a task's scratch memory


def _make_rows(dtype: int) -> Callable[..., int]:
    """Return the step of the recursion: one row of alpha or beta from the one before."""
    pointer, scalar = POINTERS[dtype], SCALARS[dtype]

    @jit
    def next_row(before_address, shift, skips_address, x_address, y_address, n):
        """y[s] = x[s] + log of the sum of e**before at s, s + shift and, where allowed, s + 2 shift."""
        a = pointer(before_address)
        b = pointer(before_address + shift)
        c = pointer(before_address + 2 * shift)
        skips, x, y = pointer(skips_address), pointer(x_address), pointer(y_address)
        for s in range(np.uintp(n)):
            third = c[s] + skips[s]
            top = a[s] if a[s] > b[s] else b[s]
            top = top if top > third else third
            top = scalar(0) if top == scalar(-np.inf) else top
            y[s] = x[s] + (top + log(exp(a[s] - top) + exp(b[s] - top) + exp(third - top)))
        return 0

    return next_row


def make_ctc(dtype: int, backward: bool) -> Callable[..., int]:
    """Return the body ``task(context, k, scratch)`` for the sequence ``k``: its loss and alpha, or its gradient.

    X [steps, batch, classes]; LENGTHS [3, batch]: steps, labels, place of the first label in TARGETS; ALPHA [batch,
    steps, states]; LOSS and G [batch]; GRADIENT like X.
    """
    pointer, size, scalar = POINTERS[dtype], ITEM_BYTES[dtype], SCALARS[dtype]
    next_row = _make_rows(dtype)
    nothing = scalar(-np.inf)

    @jit
    def label(context, k, s):
        """Return the class l'_s."""
        w = int64_at(context)
        if s % 2 == 0:
            return w[BLANK]
        first = int64_at(w[LENGTHS])[2 * w[BATCH] + k]
        return int64_at(w[TARGETS])[first + s // 2]

    @jit
    def fill(address, n, value):
        y = pointer(address)
        for s in range(np.uintp(n)):
            y[s] = value
        return 0

    @jit
    def gather(context, k, t, n, address):
        """Write x[t, l'_s] for all s."""
        w = int64_at(context)
        x, y = pointer(w[X] + (t * w[BATCH] + k) * w[CLASSES] * size), pointer(address)
        for s in range(n):
            y[s] = x[label(context, k, s)]
        return 0

    @jit
    def note_skips(context, k, n, step, address):
        """Write 0 where s - step (step 2 or -2) is another label's place, so that one may come from there."""
        y = pointer(address)
        for s in range(n):
            other = s - step
            allowed = s % 2 == 1 and 0 <= other < n and label(context, k, s) != label(context, k, other)
            y[s] = scalar(0) if allowed else nothing
        return 0

    @jit
    def loss_of(alpha_address, steps, states, n):
        """Return the loss, given alpha's last row."""
        if steps == 0:
            return scalar(0) if n == 1 else scalar(np.inf)
        last = pointer(alpha_address + (steps - 1) * states * size)
        a = last[n - 1]
        b = last[n - 2] if n > 1 else nothing
        top = a if a > b else b
        if top == nothing:
            return scalar(np.inf)
        return -(top + log(exp(a - top) + exp(b - top)))

    @jit
    def forward_task(context, k, scratch):
        w = int64_at(context)
        lengths, states = int64_at(w[LENGTHS]), w[STATES]
        steps, n = lengths[k], 2 * lengths[w[BATCH] + k] + 1
        alpha = w[ALPHA] + k * w[STEPS] * states * size
        row = (states + 8) * size
        skips, x, before = scratch, scratch + row, scratch + 2 * row + 2 * size
        note_skips(context, k, n, 2, skips)
        fill(alpha, w[STEPS] * states, nothing)
        if steps > 0:
            gather(context, k, 0, n, x)
            for s in range(min(n, 2)):
                pointer(alpha)[s] = pointer(x)[s]
        fill(before - 2 * size, 2, nothing)
        for t in range(1, steps):
            source, target = pointer(alpha + (t - 1) * states * size), pointer(before)
            for s in range(np.uintp(n)):
                target[s] = source[s]
            gather(context, k, t, n, x)
            next_row(before, -size, skips, x, alpha + t * states * size, n)
        pointer(w[LOSS])[k] = loss_of(alpha, steps, states, n)
        return 0

    @jit
    def write_step(context, k, t, n, x_address, alpha_address, beta_address, loss):
        """Write the gradient of one step."""
        w = int64_at(context)
        place = (t * w[BATCH] + k) * w[CLASSES] * size
        source, y, g = pointer(w[X] + place), pointer(w[GRADIENT] + place), pointer(w[G])[k]
        x, alpha, beta = pointer(x_address), pointer(alpha_address), pointer(beta_address)
        for c in range(np.uintp(w[CLASSES])):
            y[c] = exp(source[c])
        for s in range(np.uintp(n)):
            both = alpha[s] + beta[s]
            x[s] = scalar(0) if both == nothing else exp(both + loss - x[s])
        for s in range(n):
            y[label(context, k, s)] -= x[s]
        for c in range(np.uintp(w[CLASSES])):
            y[c] *= g
        return 0

    @jit
    def backward_task(context, k, scratch):
        w = int64_at(context)
        lengths, states = int64_at(w[LENGTHS]), w[STATES]
        steps, n = lengths[k], 2 * lengths[w[BATCH] + k] + 1
        alpha = w[ALPHA] + k * w[STEPS] * states * size
        loss = loss_of(alpha, steps, states, n)
        lost = loss == scalar(np.inf)
        row = (states + 8) * size
        skips, x, before, beta = scratch, scratch + row, scratch + 2 * row, scratch + 3 * row
        note_skips(context, k, n, -2, skips)
        for t in range(steps if lost else 0, w[STEPS]):
            if t >= steps:
                fill(w[GRADIENT] + (t * w[BATCH] + k) * w[CLASSES] * size, w[CLASSES], scalar(0))
        if lost:
            rest = scalar(0) if w[ZERO_INFINITY] != 0 else scalar(np.nan)
            for t in range(steps):
                fill(w[GRADIENT] + (t * w[BATCH] + k) * w[CLASSES] * size, w[CLASSES], rest)
            return 0
        for back in range(steps):
            t = steps - 1 - back
            gather(context, k, t, n, x)
            if back == 0:
                fill(beta, n, nothing)
                for s in range(max(0, n - 2), n):
                    pointer(beta)[s] = pointer(x)[s]
            else:
                source, target = pointer(beta), pointer(before)
                for s in range(np.uintp(n)):
                    target[s] = source[s]
                fill(before + n * size, 2, nothing)
                next_row(before, size, skips, x, beta, n)
            write_step(context, k, t, n, x, alpha + t * states * size, beta, loss)
        return 0

    return backward_task if backward else forward_task
