"""Copies, sums and fills over strided arrays of up to 8 dimensions, after merging those that are walked as one."""

from collections.abc import Callable
from typing import Any

import numpy as np

from tapegrad.native.cache import jit
from tapegrad.native.dtypes import ITEM_BYTES, POINTERS
from tapegrad.native.pointers import int64_at


@jit
def merge_pair(ndim, shape, a, b):
    """Merge dimensions that two arrays walk as one, outermost first, in place; return how many are left, at least 1."""
    last = -1
    for d in range(ndim):
        if shape[d] == 1:
            continue
        if last >= 0 and a[last] == shape[d] * a[d] and b[last] == shape[d] * b[d]:
            shape[last] *= shape[d]
        else:
            last += 1
            shape[last] = shape[d]
        a[last] = a[d]
        b[last] = b[d]
    if last < 0:
        shape[0] = 1
        a[0] = 1
        b[0] = 1
        return 1
    return last + 1


@jit
def next_row(ndim, shape, index, a, b, a_offset, b_offset):
    """Advance an odometer over all dimensions but the last; return the new offsets in both arrays."""
    d = ndim - 2
    while d >= 0:
        index[d] += 1
        a_offset += a[d]
        b_offset += b[d]
        if index[d] < shape[d]:
            break
        a_offset -= a[d] * shape[d]
        b_offset -= b[d] * shape[d]
        index[d] = 0
        d -= 1
    return a_offset, b_offset


def _walker(dtype: int, row: Callable[..., Any]) -> Callable[..., Any]:
    pointer, itemsize = POINTERS[dtype], ITEM_BYTES[dtype]

    @jit
    def walk(y_address, x_address, ndim, scratch):
        """``scratch`` is 32 words: from words 0, 8 and 16 the shape and the strides of y and x, then scratch.

        No length may be 0.
        """
        shape = int64_at(scratch)
        ys = int64_at(scratch + 64)
        xs = int64_at(scratch + 128)
        index = int64_at(scratch + 192)
        ndim = merge_pair(ndim, shape, ys, xs)
        rows = 1
        for d in range(ndim - 1):
            rows *= shape[d]
            index[d] = 0
        n = shape[ndim - 1]
        y_stride = ys[ndim - 1]
        x_stride = xs[ndim - 1]
        y_offset = 0
        x_offset = 0
        for _ in range(rows):
            y = pointer(y_address + y_offset * itemsize)
            x = pointer(x_address + x_offset * itemsize)
            row(y, x, n, y_stride, x_stride)
            y_offset, x_offset = next_row(ndim, shape, index, ys, xs, y_offset, x_offset)

    return walk


def make_strided_copy(dtype: int) -> Callable[..., Any]:
    """Return ``copy(y, x, ndim, scratch)``: y[i] = x[i], from addresses; see _walker for ``scratch``."""

    @jit
    def row(y, x, n, y_stride, x_stride):
        if y_stride == 1 and x_stride == 1:
            for i in range(np.uintp(n)):
                y[i] = x[i]
        elif y_stride == 1 and x_stride == -1:
            for i in range(n):
                y[i] = x[-i]
        else:
            for i in range(n):
                y[i * y_stride] = x[i * x_stride]

    return _walker(dtype, row)


def make_strided_add(dtype: int) -> Callable[..., Any]:
    """Return ``add(y, x, ndim, scratch)``: y[i] += x[i], in row-major order, so that elements of y may coincide."""

    @jit
    def row(y, x, n, y_stride, x_stride):
        if y_stride == 1 and x_stride == 1:
            for i in range(np.uintp(n)):
                y[i] += x[i]
        else:
            for i in range(n):
                y[i * y_stride] += x[i * x_stride]

    return _walker(dtype, row)
