"""Sums of contiguous arrays over any set of dimensions."""

from collections.abc import Callable

import numpy as np

from tapegrad.native.cache import jit
from tapegrad.native.dtypes import ITEM_BYTES, POINTERS, SCALARS
from tapegrad.native.pointers import int64_at



def make_sum(dtype: int) -> Callable[..., int]:
    """Return ``sum_into(x, y, ndim, shape, out_strides)``: add each element of ``x`` to its place in ``y``.

    ``shape`` and ``out_strides`` are addresses of int64 words along the dimensions of ``x``; a stride of 0 sums that
    dimension. ``y`` must hold its starting value.
    """
    pointer, scalar, itemsize = POINTERS[dtype], SCALARS[dtype], ITEM_BYTES[dtype]

    @jit
    def row_sum(x, n):
        total = scalar(0)
        for i in range(np.uintp(n)):
            total += x[i]
        return total

    @jit
    def sum_into(x_address, y_address, ndim, shape_address, strides_address, index_address):
        shape = int64_at(shape_address)
        strides = int64_at(strides_address)
        index = int64_at(index_address)
        n = shape[ndim - 1] if ndim > 0 else 1
        inner = strides[ndim - 1] if ndim > 0 else 0
        rows = 1
        for d in range(ndim - 1):
            rows *= shape[d]
            index[d] = 0
        offset = 0
        for r in range(rows):
            x = pointer(x_address + r * n * itemsize)
            y = pointer(y_address + offset * itemsize)
            if inner == 0:
                y[0] += row_sum(x, n)
            elif inner == 1:
                for i in range(np.uintp(n)):
                    y[i] += x[i]
            else:
                for i in range(n):
                    y[i * inner] += x[i]
            d = ndim - 2
            while d >= 0:
                index[d] += 1
                offset += strides[d]
                if index[d] < shape[d]:
                    break
                offset -= shape[d] * strides[d]
                index[d] = 0
                d -= 1
        return 0

    return sum_into
