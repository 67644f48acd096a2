"""A batch in one call: the rows of up to three tensors, of whatever dtypes, at one range of an order of row numbers."""

from collections.abc import Callable
from typing import Any

import numpy as np

from tapegrad.native.cache import jit
from tapegrad.native.dtypes import INT64
from tapegrad.native.pointers import int64_at, pointer_to
from tapegrad.ops.index_ops import check_indices
from tapegrad.ops.registry import Op, declare
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
    strides_in,
)

MOST_TENSORS = 3
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


def _rows_kernel(dtype: int, result_dtype: int) -> Callable[..., int]:
    def kernel(st, frame):
        order = int64_at(data_address(st, input_slot(frame, 0)) + 8 * attribute(frame, 0))
        count = attribute(frame, 1)
        for k in range(MOST_TENSORS):
            if input_slot(frame, k + 1) < 0:
                continue
            row = slot_of(st, input_slot(frame, k + 1))
            n = shape_in(row)[0]
            status = check_indices(st, order, count, -n, n, 0)
            if status < 0:
                return status
            if row.numel == 0 or count == 0:
                continue
            item = item_bytes(row.dtype)
            size = row.numel // n * item
            step = strides_in(row)[0] * item
            source = data_address(st, input_slot(frame, k + 1))
            to = data_address(st, output_slot(frame, k))
            whole = _is_one_piece(row)
            for i in range(count):
                at = order[i]
                at += n if at < 0 else 0
                if whole:
                    _copy(to + i * size, source + at * step, size)
                else:
                    _copy_scattered(row, to + i * size, source + at * step, item)
        return 0

    return kernel


def _rows_of(order: Any, *tensors: Any, attributes: tuple[int, int]) -> Any:
    chosen = order[attributes[0] : sum(attributes)]
    return tuple(x[chosen] for x in tensors)


ROWS = declare(
    Op(
        name="rows",
        inputs=("order", "a", "b", "c"),
        kind=GENERAL,
        dtypes=1 << INT64,
        outputs=MOST_TENSORS,
        infer=rows_infer,
        kernel=_rows_kernel,
        unpromoted=("a", "b", "c"),
        contiguous=("order",),
        public=False,
        reference=_rows_of,
        samples="an int64 operand decides the dtype: tests/test_loader.py",
        math="rows of a, b and c at order[start : start + count]",
    )
)
