"""Rows of a matrix taken, weighted and added at indices: what embeddings are made of, as tasks for threads.

Taking is cut by rows of the result; adding by columns, since indices repeat: each element is written by one task, in
the order of the indices, so that the number of threads does not change a bit. An index below 0 is left out.
"""

from typing import Any

import numpy as np

from tapegrad.native.cache import jit
from tapegrad.native.dtypes import ITEM_BYTES, POINTERS, SCALARS
from tapegrad.native.parallel import parallel_for
from tapegrad.native.pointers import int64_at, stack_words

TASK_BYTES = 1 << 20  # a task moves about so much, in some 40 microseconds
_LINE = 16  # columns of a task are a multiple of this: 64 bytes of float32


@jit
def _rows_per_task(row_bytes):
    return max(1, TASK_BYTES // max(row_bytes, 1))


@jit
def _columns_per_task(rows, width, item_bytes):
    wanted = TASK_BYTES // max(rows * item_bytes, 1) + 1
    return min(max(width, 1), (wanted + _LINE - 1) // _LINE * _LINE)


@jit
def _tasks(count, each):
    return (count + each - 1) // each


def make_clear(dtype: int) -> Any:
    """Return ``clear(pool, y, n)``, which puts zeros into n elements."""
    pointer, scalar, each = POINTERS[dtype], SCALARS[dtype], TASK_BYTES // ITEM_BYTES[dtype]
    item_bytes = ITEM_BYTES[dtype]

    @jit
    def body(context, k, scratch):
        words = int64_at(context)
        y = pointer(words[0] + k * each * item_bytes)
        for i in range(np.uintp(min(each, words[1] - k * each))):
            y[i] = scalar(0)
        return 0

    @jit
    def clear(pool, y, n):
        context = stack_words(2)
        words = int64_at(context)
        words[0] = y
        words[1] = n
        return parallel_for(pool, body, context, _tasks(n, each))

    return clear


def make_take(dtype: int) -> Any:
    """Return ``take(pool, y, x, index, n, width, weights)``: row i of y is row index[i] of x, or zeros.

    Where ``weights`` is not 0, the row is multiplied by weights[i].
    """
    pointer, scalar, item_bytes = POINTERS[dtype], SCALARS[dtype], ITEM_BYTES[dtype]

    @jit
    def body(context, k, scratch):
        words = int64_at(context)
        index = int64_at(words[2])
        weights = pointer(words[5])
        width = np.uintp(words[4])
        for i in range(k * words[6], min(words[3], (k + 1) * words[6])):
            y = pointer(words[0] + i * words[4] * item_bytes)
            if index[i] < 0:
                for j in range(width):
                    y[j] = scalar(0)
                continue
            x = pointer(words[1] + index[i] * words[4] * item_bytes)
            if words[5] == 0:
                for j in range(width):
                    y[j] = x[j]
            else:
                factor = weights[i]
                for j in range(width):
                    y[j] = x[j] * factor
        return 0

    @jit
    def take(pool, y, x, index, n, width, weights):
        context = stack_words(7)
        words = int64_at(context)
        words[0] = y
        words[1] = x
        words[2] = index
        words[3] = n
        words[4] = width
        words[5] = weights
        words[6] = _rows_per_task(width * item_bytes)
        return parallel_for(pool, body, context, _tasks(n, words[6]))

    return take


def make_add(dtype: int) -> Any:
    """Return ``add(pool, y, x, source, target, n, width, weights)``: row target[i] of y grows by row source[i] of x.

    ``source`` 0 stands for i itself. Where ``weights`` is not 0, the row of x is multiplied by weights[i].
    """
    pointer, scalar, item_bytes = POINTERS[dtype], SCALARS[dtype], ITEM_BYTES[dtype]

    @jit
    def body(context, k, scratch):
        words = int64_at(context)
        source, target, width = int64_at(words[2]), int64_at(words[3]), words[5]
        weights = pointer(words[6])
        first = k * words[7]
        columns = np.uintp(min(words[7], width - first))
        for i in range(words[4]):
            row = source[i] if words[2] != 0 else i
            if row < 0 or target[i] < 0:
                continue
            y = pointer(words[0] + (target[i] * width + first) * item_bytes)
            x = pointer(words[1] + (row * width + first) * item_bytes)
            factor = weights[i] if words[6] != 0 else scalar(1)
            for j in range(columns):
                y[j] += x[j] * factor
        return 0

    @jit
    def add(pool, y, x, source, target, n, width, weights):
        context = stack_words(8)
        words = int64_at(context)
        words[0] = y
        words[1] = x
        words[2] = source
        words[3] = target
        words[4] = n
        words[5] = width
        words[6] = weights
        words[7] = _columns_per_task(n, width, item_bytes)
        return parallel_for(pool, body, context, _tasks(width, words[7]))

    return add


def make_dots(dtype: int) -> Any:
    """Return ``dots(pool, y, g, x, target, source, n, width)``: y[i] is row target[i] of g times row source[i] of x."""
    pointer, scalar, item_bytes = POINTERS[dtype], SCALARS[dtype], ITEM_BYTES[dtype]

    @jit
    def body(context, k, scratch):
        words = int64_at(context)
        target, source = int64_at(words[3]), int64_at(words[4])
        y = pointer(words[0])
        for i in range(k * words[7], min(words[5], (k + 1) * words[7])):
            total = scalar(0)
            if target[i] >= 0 and source[i] >= 0:
                g = pointer(words[1] + target[i] * words[6] * item_bytes)
                x = pointer(words[2] + source[i] * words[6] * item_bytes)
                for j in range(np.uintp(words[6])):
                    total += g[j] * x[j]
            y[i] = total
        return 0

    @jit
    def dots(pool, y, g, x, target, source, n, width):
        context = stack_words(8)
        words = int64_at(context)
        words[0] = y
        words[1] = g
        words[2] = x
        words[3] = target
        words[4] = source
        words[5] = n
        words[6] = width
        words[7] = _rows_per_task(width * item_bytes)
        return parallel_for(pool, body, context, _tasks(n, words[7]))

    return dots
