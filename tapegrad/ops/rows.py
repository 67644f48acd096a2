"""A batch in one call: the rows of up to three tensors, of whatever dtypes, at one range of an order of row numbers."""

from collections.abc import Callable

import numpy as np

from tapegrad.native.cache import jit
from tapegrad.native.dtypes import INT64
from tapegrad.native.parallel import parallel_for
from tapegrad.native.pointers import int64_at, pointer_to, prefetch, stack_words
from tapegrad.ops.index_ops import check_indices
from tapegrad.ops.registry import Op, declare
from tapegrad.ops.validity import Attributes, Operands, is_few
from tapegrad.runtime.layout import (
    BAD_ARGUMENT,
    GENERAL,
    attribute,
    data_address,
    input_slot,
    item_bytes,
    output_slot,
    shape_in,
    slot_of,
    state_of,
    strides_in,
)

MOST_TENSORS = 3
_ORDER, _SOURCE, _LENGTH, _STEP, _TO, _SIZE, _COUNT, _EACH = range(8)  # the words that a task reads
_TASK_BYTES = 1 << 18
# Fetching the beginning of the row after the next, the rest of which the processor then fetches by itself, gathers rows
# of 3 KB out of 190 MB at 9.2 GB/s, without it 7.5; whole rows give 7.7.
_AHEAD, _PREFETCHED = 2, 512  # rows, bytes
_bytes_at = pointer_to(np.uint8)


def rows_infer(st, frame):
    """The results have the dtypes and shapes of the tensors, but for their first length; absent ones are empty."""
    order = slot_of(st, input_slot(frame, 0))
    start = attribute(frame, 0)
    count = attribute(frame, 1)
    if start < 0 or count < 0 or start + count > order.numel:
        return BAD_ARGUMENT
    for k in range(MOST_TENSORS):
        result = slot_of(st, output_slot(frame, k))
        result.ndim = 1
        shape_in(result)[0] = 0
        if input_slot(frame, k + 1) < 0:
            continue
        source = slot_of(st, input_slot(frame, k + 1))
        if source.ndim < 1:
            return BAD_ARGUMENT
        result.dtype = source.dtype
        result.ndim = source.ndim
        for d in range(source.ndim):
            shape_in(result)[d] = shape_in(source)[d]
        shape_in(result)[0] = count
    return 0


@jit
def _is_one_piece(row):
    """Return whether the elements of a row of the tensor lie in row-major order without gaps."""
    expected = 1
    for d in range(row.ndim - 1, 0, -1):
        if shape_in(row)[d] > 1 and strides_in(row)[d] != expected:
            return False
        expected *= shape_in(row)[d]
    return True


@jit
def _copy(to, source, size):
    """Copy bytes, eight at a time as far as they go."""
    y = int64_at(to)
    x = int64_at(source)
    words = size >> 3
    for i in range(np.uintp(words)):
        y[i] = x[i]
    tail = _bytes_at(to + 8 * words)
    rest = _bytes_at(source + 8 * words)
    for i in range(np.uintp(size - 8 * words)):
        tail[i] = rest[i]


@jit
def _copy_scattered(row, to, source, item):
    """Copy the elements of a row that lie apart, one by one."""
    n = 1
    for d in range(1, row.ndim):
        n *= shape_in(row)[d]
    for i in range(n):
        rest = i
        offset = 0
        for d in range(row.ndim - 1, 0, -1):
            offset += (rest % shape_in(row)[d]) * strides_in(row)[d]
            rest //= shape_in(row)[d]
        _copy(to + i * item, source + offset * item, item)


@jit
def _row_at(w, i):
    """Return the address of the row that is the i-th of the batch."""
    at = int64_at(w[_ORDER])[i]
    return w[_SOURCE] + (at + w[_LENGTH] if at < 0 else at) * w[_STEP]


@jit
def _gather_piece(context, k, scratch):
    """Copy the rows of one task; those to come are fetched into the cache meanwhile, or each would be waited for."""
    w = int64_at(context)
    first = k * w[_EACH]
    last = min(first + w[_EACH], w[_COUNT])
    for i in range(first, last):
        if i + _AHEAD < last:
            ahead = _row_at(w, i + _AHEAD)
            for line in range(0, min(w[_SIZE], _PREFETCHED), 64):
                prefetch(ahead + line)
        _copy(w[_TO] + i * w[_SIZE], _row_at(w, i), w[_SIZE])
    return 0


@jit
def _gather(st, row, order, count, to, source):
    """Copy ``count`` rows, whose numbers have been checked."""
    context = stack_words(8)
    w = int64_at(context)
    n = shape_in(row)[0]
    item = item_bytes(row.dtype)
    w[_ORDER] = order
    w[_SOURCE] = source
    w[_LENGTH] = n
    w[_STEP] = strides_in(row)[0] * item
    w[_TO] = to
    w[_SIZE] = row.numel // n * item
    w[_COUNT] = count
    w[_EACH] = max(1, _TASK_BYTES // w[_SIZE])
    if _is_one_piece(row):
        return parallel_for(state_of(st).pool, _gather_piece, context, (count + w[_EACH] - 1) // w[_EACH])
    for i in range(count):
        _copy_scattered(row, to + i * w[_SIZE], _row_at(w, i), item)
    return 0


def _rows_kernel(dtype: int, result_dtype: int) -> Callable[..., int]:
    def kernel(st, frame):
        order = data_address(st, input_slot(frame, 0)) + 8 * attribute(frame, 0)
        count = attribute(frame, 1)
        for k in range(MOST_TENSORS):
            if input_slot(frame, k + 1) < 0:
                continue
            row = slot_of(st, input_slot(frame, k + 1))
            n = shape_in(row)[0]
            status = check_indices(st, int64_at(order), count, -n, n, 0)
            if status < 0:
                return status
            if row.numel > 0 and count > 0:
                source = data_address(st, input_slot(frame, k + 1))
                _gather(st, row, order, count, data_address(st, output_slot(frame, k)), source)
        return 0

    return kernel


def _makes_rows(x: Operands, a: Attributes) -> bool:
    return (
        len(a) >= 2
        and all(0 <= n < 1 << 31 for n in a)
        and all(found is None or is_few(a[1], *found.shape[1:]) for found in x[1:])
    )


ROWS = declare(
    Op(
        name="rows",
        valid=_makes_rows,
        inputs=("order", "a", "b", "c"),
        optional=("a", "b", "c"),
        kind=GENERAL,
        dtypes=1 << INT64,
        outputs=MOST_TENSORS,
        infer=rows_infer,
        kernel=_rows_kernel,
        unpromoted=("a", "b", "c"),
        contiguous=("order",),
        public=False,
        samples="an int64 operand decides the dtype: tests/test_loader.py",
        math="rows of a, b and c at order[start : start + count]",
    )
)
