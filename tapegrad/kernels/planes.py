"""Planes: reads, writes and sums at places, y[p, i] = x[p, at[p, i]] and its transpose; means, and their transpose.

Places are int32 or int64. A negative place is none: it reads zero and writes nothing. The sums of a plane are made in
the order of the places.
"""

from collections.abc import Callable

import numpy as np

from tapegrad.kernels.reduce_lanes import add, row_reducer, step_of
from tapegrad.native.cache import jit
from tapegrad.native.dtypes import INT32, INT64, ITEM_BYTES, POINTERS, SCALARS
from tapegrad.native.parallel import parallel_for
from tapegrad.native.pointers import int64_at

WHOLE, PART, AT, WIDE, PLANES, N, M, FRESH, TASK = range(9)  # the words of a context: addresses, then sizes
WORDS = 16
GATHER, SCATTER, PLACE = range(3)
_TASK_WORK = 1 << 16
_BLOCK = 2048
_narrow, _wide = POINTERS[INT32], POINTERS[INT64]


def make_planes(dtype: int, mode: int) -> Callable[..., int]:
    """Return ``run(words, threads)``: gather the part from the whole, or add it to, or place it in, the whole.

    The context has the addresses of the whole [PLANES, N], the part and its places [PLANES, M], whether the places are
    int64, and whether the whole starts from zeros.
    """
    pointer, size, zero = POINTERS[dtype], ITEM_BYTES[dtype], SCALARS[dtype](0)

    @jit
    def walk(whole, part, at, n, m):
        for i in range(np.uintp(m)):
            k = at[i]
            if mode == GATHER:
                part[i] = whole[k] if 0 <= k < n else zero
            elif 0 <= k < n:
                whole[k] = whole[k] + part[i] if mode == SCATTER else part[i]

    @jit
    def task(context, k, scratch):
        words = int64_at(context)
        n, m = words[N], words[M]
        for p in range(k * words[TASK], min(words[PLANES], (k + 1) * words[TASK])):
            whole, part = pointer(words[WHOLE] + p * n * size), pointer(words[PART] + p * m * size)
            if words[FRESH]:
                for i in range(np.uintp(n)):
                    whole[i] = zero
            if words[WIDE]:
                walk(whole, part, _wide(words[AT] + p * m * 8), n, m)
            else:
                walk(whole, part, _narrow(words[AT] + p * m * 4), n, m)
        return 0

    @jit
    def run(context, threads):
        words = int64_at(context)
        words[TASK] = max(1, _TASK_WORK // max(1, words[N] // 4 + words[M]))
        return parallel_for(threads, task, context, (words[PLANES] + words[TASK] - 1) // words[TASK])

    return run


def make_plane_mean(dtype: int, transposed: bool) -> Callable[..., int]:
    """Return ``run(words, threads)``: part[p] = the mean of whole[p]; or its transpose, whole[p, i] = part[p] / N."""
    pointer, size, scalar = POINTERS[dtype], ITEM_BYTES[dtype], SCALARS[dtype]
    total = row_reducer(dtype, dtype, 0, step_of(add), add)

    @jit
    def mean(x_address, n):
        """Sum in blocks, so that rounding errors stay those of a block."""
        result = 0.0
        for first in range(0, n, _BLOCK):
            result += np.float64(total(pointer(x_address + first * size), min(n - first, _BLOCK), scalar(0)))
        return scalar(result / n)

    @jit
    def task(context, k, scratch):
        words = int64_at(context)
        n, part = words[N], pointer(words[PART])
        for p in range(k * words[TASK], min(words[PLANES], (k + 1) * words[TASK])):
            if transposed:
                share, whole = part[p] / scalar(n), pointer(words[WHOLE] + p * n * size)
                for i in range(np.uintp(n)):
                    whole[i] = share
            else:
                part[p] = mean(words[WHOLE] + p * n * size, n)
        return 0

    @jit
    def run(context, threads):
        words = int64_at(context)
        words[TASK] = max(1, _TASK_WORK * 4 // max(1, words[N]))
        return parallel_for(threads, task, context, (words[PLANES] + words[TASK] - 1) // words[TASK])

    return run


@jit
def bad_place(at_address, count, n):
    """Return the first of ``count`` int64 places that is not in 0 .. n - 1, or -1."""
    at = int64_at(at_address)
    for i in range(count):
        if at[i] < 0 or at[i] >= n:
            return i
    return -1
