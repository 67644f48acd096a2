"""Weighted sums of windows along rows and columns: average pooling, interpolation and the transposes of both.

y[p, i, j] = sum over t, u of r[i, t] c[j, u] x[p, a_i + t, b_j + u] / (d_i e_j). What r, a and d are is data: a table
of int64 words (floats by their bits), HEADER words of header, then for each of the m results where its window starts,
how many elements it has, what the sum is divided by, and the weights [taps, m]. The same code thus does every such
layer, and its gradient by the table of the transpose. First the rows are combined, into one row of x, then its columns.

The header says where columns follow a pattern: result f q + r, for LOW <= q < HIGH and r < f, has its window at
s q + o_r, and always the same weights. With f = 1 (pooling), or f = 2 and s = 1 (enlarging by 2), eight q go together.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic
from numba.np.numpy_support import from_dtype

from tapegrad.kernels.max_pool import load_apart
from tapegrad.kernels.reduce_lanes import Vectors
from tapegrad.native.cache import jit
from tapegrad.native.dtypes import ITEM_BYTES, NUMPY_DTYPES, POINTERS, SCALARS
from tapegrad.native.parallel import SCRATCH_BYTES, parallel_for
from tapegrad.native.pointers import float64_at, int64_at

M, N, TAPS, PHASES, STRIDE, LOW, HIGH, PHASE_TAPS, DIVIDED, HEADER = range(10)
X, Y, ROWS, COLUMNS, HEIGHT, WIDTH, NEW_HEIGHT, NEW_WIDTH, COUNT, TASK = range(10)  # the words of a context
WORDS = 16
WEIGHTS_BYTES = 1 << 12  # of the scratch: the weights of the pattern
LONGEST_ROW = (SCRATCH_BYTES - WEIGHTS_BYTES) // 8  # that can be combined from rows and then taken apart again
MOST_PHASE_TAPS = WEIGHTS_BYTES // 16
_TASK_WORK = 1 << 17  # multiplications in one task

_I32, _I64 = ir.IntType(32), ir.IntType(64)


@jit
def starts_of(table):
    return int64_at(table + 8 * HEADER)


@jit
def counts_of(table):
    return int64_at(table + 8 * (HEADER + int64_at(table)[M]))


@jit
def divisors_of(table):
    return float64_at(table + 8 * (HEADER + 2 * int64_at(table)[M]))


@jit
def weights_of(table):
    return float64_at(table + 8 * (HEADER + 3 * int64_at(table)[M]))


@jit
def is_sound(table, words, n):
    """Return whether a table of so many words fits rows of ``n`` elements: nothing outside will be read."""
    head = int64_at(table)
    if words < HEADER or head[M] < 0 or head[TAPS] < 0 or head[N] != n:
        return False
    m, taps = head[M], head[TAPS]
    if words != HEADER + (3 + taps) * m or head[PHASE_TAPS] > MOST_PHASE_TAPS:
        return False
    starts, counts = starts_of(table), counts_of(table)
    for j in range(m):
        if starts[j] < 0 or counts[j] < 0 or counts[j] > taps or starts[j] + counts[j] > n:
            return False
    if head[LOW] >= head[HIGH]:
        return True
    if head[LOW] < 0 or head[HIGH] * head[PHASES] > m or head[PHASES] < 1 or head[PHASES] > 2 or head[STRIDE] < 0:
        return False
    reach = (head[HIGH] - 1 - head[LOW]) * head[STRIDE] + head[PHASE_TAPS]
    for r in range(head[PHASES]):
        if starts[head[LOW] * head[PHASES] + r] + reach > n:
            return False
    return head[PHASE_TAPS] <= taps


def _make_block(dtype: int, lanes: int, phases: int, fixed: int | None) -> Callable[..., Any]:
    """Return an intrinsic ``block(x, y, w, first, second, stride, taps)``: sums for ``lanes`` q and all phases.

    ``first`` and ``second`` are where the windows of the two phases start; w has the weights of the one, then of the
    other. ``fixed`` is the stride where it is known.
    """

    def build(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        x, y, w, first, second, stride, taps = args
        vectors = Vectors(builder, dtype, dtype)
        vectors.lanes = lanes
        vectors.loaded = vectors.type = ir.VectorType(vectors.element, lanes)
        sums = []
        for r, start in enumerate((first, second)[:phases]):
            total = cgutils.alloca_once_value(builder, ir.Constant(vectors.type, None))
            with cgutils.for_range(builder, taps, intp=_I64) as loop:
                place = builder.add(loop.index, builder.mul(taps, _I64(r)))
                weight = vectors.splat(builder.load(builder.gep(w, [place])))
                v = load_apart(vectors, x, builder.add(start, loop.index), fixed or stride)
                product = builder.fmul(weight, v, flags=("contract",))
                builder.store(builder.fadd(product, builder.load(total), flags=("contract",)), total)
            sums.append(builder.load(total))
        value = sums[0]
        if phases == 2:
            mask = [_I32(k // 2 + lanes * (k % 2)) for k in range(2 * lanes)]
            value = builder.shuffle_vector(*sums, ir.Constant(ir.VectorType(_I32, 2 * lanes), mask))
        builder.store(value, builder.bitcast(y, value.type.as_pointer()), align=vectors.size)
        return context.get_dummy_value()

    pointer = types.CPointer(from_dtype(NUMPY_DTYPES[dtype]))
    signature = types.none(pointer, pointer, pointer, *[types.int64] * 4)

    @intrinsic
    def block(typing_context, x, y, w, first, second, stride, taps):  # type: ignore[no-untyped-def]
        return signature, build

    return block  # type: ignore[no-any-return]


def _make_combine(dtype: int) -> Callable[..., int]:
    """Return ``combine(x, y, table, i, n)``: y = the weighted sum of rows of ``n`` elements that window i has."""
    pointer, size, scalar = POINTERS[dtype], ITEM_BYTES[dtype], SCALARS[dtype]

    @jit
    def combine(x_address, y_address, table, i, n):
        m = int64_at(table)[M]
        count, weights = counts_of(table)[i], weights_of(table)
        x_address += starts_of(table)[i] * n * size
        y = pointer(y_address)
        done = min(count, 3)
        a, w0 = pointer(x_address), scalar(weights[i]) if count > 0 else scalar(0)
        b, w1 = pointer(x_address + n * size), scalar(weights[m + i]) if count > 1 else scalar(0)
        c, w2 = pointer(x_address + 2 * n * size), scalar(weights[2 * m + i]) if count > 2 else scalar(0)
        if count == 0:
            for k in range(np.uintp(n)):
                y[k] = scalar(0)
        elif done == 1:
            for k in range(np.uintp(n)):
                y[k] = w0 * a[k]
        elif done == 2:
            for k in range(np.uintp(n)):
                y[k] = w0 * a[k] + w1 * b[k]
        else:
            for k in range(np.uintp(n)):
                y[k] = w0 * a[k] + w1 * b[k] + w2 * c[k]
        for t in range(done, count):
            a, w0 = pointer(x_address + t * n * size), scalar(weights[t * m + i])
            for k in range(np.uintp(n)):
                y[k] += w0 * a[k]
        return 0

    return combine


def _make_spread(dtype: int) -> Callable[..., int]:
    """Return ``spread(x, y, table, w)``: a row of results from a row x; w has the weights of the table's pattern."""
    pointer, size, scalar = POINTERS[dtype], ITEM_BYTES[dtype], SCALARS[dtype]
    one, two, any_stride = (_make_block(dtype, *kind) for kind in ((8, 1, 1), (8, 1, 2), (4, 1, None)))
    both, both_four = (_make_block(dtype, lanes, 2, 1) for lanes in (8, 4))

    @jit
    def pooled(x, y, w, start, stride, taps, lanes):
        """Do ``lanes`` neighbours; few taps need no loop."""
        if lanes == 4:
            any_stride(x, y, w, start, 0, stride, taps)
        elif stride == 1 and taps == 3:
            one(x, y, w, start, 0, 1, 3)
        elif stride == 1:
            one(x, y, w, start, 0, 1, taps)
        elif taps == 2:
            two(x, y, w, start, 0, 2, 2)
        elif taps == 3:
            two(x, y, w, start, 0, 2, 3)
        else:
            two(x, y, w, start, 0, 2, taps)
        return 0

    @jit
    def enlarged(x, y, w, first, second, taps, lanes):
        if lanes == 4:
            both_four(x, y, w, first, second, 1, taps)
        elif taps == 1:
            both(x, y, w, first, second, 1, 1)
        elif taps == 2:
            both(x, y, w, first, second, 1, 2)
        else:
            both(x, y, w, first, second, 1, taps)
        return 0

    @jit
    def pattern(x, y_address, table, w):
        """Do the columns of the pattern; return whether that was possible."""
        head, starts = int64_at(table), starts_of(table)
        n, phases, stride, taps = head[HIGH] - head[LOW], head[PHASES], head[STRIDE], head[PHASE_TAPS]
        if n < 4 or (phases == 2 and stride != 1):
            return False
        lanes = 8 if n >= 8 and (stride == 1 or stride == 2) else 4
        column = head[LOW] * phases
        first = starts[column]
        second = starts[column + 1] if phases == 2 else 0
        for q in range(0, n, lanes):
            k = min(q, n - lanes)
            y = pointer(y_address + (column + k * phases) * size)
            if phases == 2:
                enlarged(x, y, w, first + k, second + k, taps, lanes)
            else:
                pooled(x, y, w, first + k * stride, stride, taps, lanes)
        return True

    @jit
    def spread(x_address, y_address, table, w_address):
        head = int64_at(table)
        m, starts, counts, weights = head[M], starts_of(table), counts_of(table), weights_of(table)
        x, y = pointer(x_address), pointer(y_address)
        low, high = head[LOW] * head[PHASES], head[HIGH] * head[PHASES]
        if not pattern(x, y_address, table, pointer(w_address)):
            low, high = m, m
        for k in range(low + m - high):
            j = k if k < low else k - low + high
            total = scalar(weights[j]) * x[starts[j]] if counts[j] > 0 else scalar(0)
            for t in range(1, counts[j]):
                total += scalar(weights[t * m + j]) * x[starts[j] + t]
            y[j] = total
        return 0

    return spread


def make_resample(dtype: int) -> Callable[..., int]:
    """Return ``resample(words, threads)``: fill the result; ``words`` is the address of a context."""
    pointer, size, scalar = POINTERS[dtype], ITEM_BYTES[dtype], SCALARS[dtype]
    combine, spread = _make_combine(dtype), _make_spread(dtype)

    @jit
    def divide(words, y_address, i):
        rows, columns, n = words[ROWS], words[COLUMNS], words[NEW_WIDTH]
        divided = (rows != 0 and int64_at(rows)[DIVIDED]) or (columns != 0 and int64_at(columns)[DIVIDED])
        if not divided:
            return 0
        y = pointer(y_address)
        d = divisors_of(rows)[i] if rows != 0 else 1.0
        if columns == 0:
            for k in range(np.uintp(n)):
                y[k] = y[k] / scalar(d)
            return 0
        e = divisors_of(columns)
        for k in range(np.uintp(n)):
            y[k] = y[k] / scalar(d * e[k])
        return 0

    @jit
    def repeats(rows, i):
        """Return whether window i of the rows is the one before it: enlarging by a whole number gives equal rows."""
        starts, counts, divisors, weights = starts_of(rows), counts_of(rows), divisors_of(rows), weights_of(rows)
        if starts[i] != starts[i - 1] or counts[i] != counts[i - 1] or divisors[i] != divisors[i - 1]:
            return False
        m = int64_at(rows)[M]
        for t in range(counts[i]):
            if weights[t * m + i] != weights[t * m + i - 1]:
                return False
        return True

    @jit
    def do_row(words, plane, i, scratch):
        row = plane * words[NEW_HEIGHT] + i
        x = words[X] + plane * words[HEIGHT] * words[WIDTH] * size
        y = words[Y] + row * words[NEW_WIDTH] * size
        rows, columns, width = words[ROWS], words[COLUMNS], words[WIDTH]
        if columns == 0:
            combine(x, y, rows, i, width)
        else:
            line = x + i * width * size
            if rows != 0:
                line = x + starts_of(rows)[i] * width * size
                if counts_of(rows)[i] != 1 or weights_of(rows)[i] != 1.0:
                    line = scratch + WEIGHTS_BYTES
                    combine(x, line, rows, i, width)
            spread(line, y, columns, scratch)
        divide(words, y, i)
        return 0

    @jit
    def copy_weights(table, w_address):
        """Bring the weights of a table's pattern into one place, in the dtype of the elements."""
        head, weights, w = int64_at(table), weights_of(table), pointer(w_address)
        column = head[LOW] * head[PHASES]
        if head[LOW] < head[HIGH]:
            for r in range(head[PHASES]):
                for t in range(head[PHASE_TAPS]):
                    w[r * head[PHASE_TAPS] + t] = scalar(weights[t * head[M] + column + r])
        return 0

    @jit
    def task(context, k, scratch):
        words = int64_at(context)
        if words[COLUMNS] != 0:
            copy_weights(words[COLUMNS], scratch)
        rows, n = words[ROWS], words[NEW_WIDTH]
        first = k * words[TASK]
        plane, i = divmod(first, words[NEW_HEIGHT])
        for row in range(first, min(words[COUNT], first + words[TASK])):
            if i > 0 and row > first and rows != 0 and repeats(rows, i):
                before, y = pointer(words[Y] + (row - 1) * n * size), pointer(words[Y] + row * n * size)
                for j in range(np.uintp(n)):
                    y[j] = before[j]
            else:
                do_row(words, plane, i, scratch)
            i += 1
            if i == words[NEW_HEIGHT]:
                i, plane = 0, plane + 1
        return 0

    @jit
    def resample(context, threads):
        words = int64_at(context)
        work = words[NEW_WIDTH]
        if words[ROWS] != 0:
            work += words[WIDTH] * int64_at(words[ROWS])[TAPS]
        if words[COLUMNS] != 0:
            work += words[NEW_WIDTH] * int64_at(words[COLUMNS])[TAPS]
        words[TASK] = max(1, _TASK_WORK // max(1, work))
        return parallel_for(threads, task, context, (words[COUNT] + words[TASK] - 1) // words[TASK])

    return resample
