"""Running sums, products, extrema and recurrences along one dimension of a contiguous [outer, n, inner] array.

One walk serves them all: a scan is a scalar step ``step(carry, a, b) -> carry`` over elements a of the first operand
and b of the second, forwards or backwards. Where inner > 1, 512 columns go together: the loop over them vectorises.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from tapegrad.kernels.loops import like
from tapegrad.kernels.vector_math import exp, log
from tapegrad.native.cache import jit
from tapegrad.native.dtypes import FLOAT32, FLOAT64, INT64, ITEM_BYTES, POINTERS, SCALARS

_WIDTH = 512


def make_scan(
    dtype: int, result: int, start: Any, step: Callable[..., Any], backward: bool = False, late: bool = False
) -> Callable[..., int]:
    """Return ``scan(a_address, b_address, y_address, outer, n, inner, scratch)``.

    The carry is float64 for float32, so that long sums stay accurate. ``late`` reads b one place earlier in the walk's
    order than a (the first b is 0).
    """
    a_pointer, y_pointer = POINTERS[dtype], POINTERS[result]
    carry_dtype = FLOAT64 if dtype >= FLOAT32 else INT64
    carries, scalar, y_scalar = POINTERS[carry_dtype], SCALARS[carry_dtype], SCALARS[result]
    size, y_size = ITEM_BYTES[dtype], ITEM_BYTES[result]
    first_carry = scalar(start)

    @jit
    def row(a_address, b_address, y_address, n):
        a, b, y = a_pointer(a_address), a_pointer(b_address), y_pointer(y_address)
        carry = first_carry
        for k in range(n):
            i = n - 1 - k if backward else k
            j = i + 1 if backward else i - 1
            factor = scalar(0) if late and k == 0 else scalar(b[j if late else i])
            carry = step(carry, scalar(a[i]), factor)
            y[i] = y_scalar(carry)
        return 0

    @jit
    def stripe(a_address, b_address, y_address, n, inner, width, scratch):
        carry = carries(scratch)
        for i in range(np.uintp(width)):
            carry[i] = first_carry
        for k in range(n):
            r = n - 1 - k if backward else k
            q = (r + 1 if backward else r - 1) if late else r
            a = a_pointer(a_address + r * inner * size)
            y = y_pointer(y_address + r * inner * y_size)
            if late and k == 0:
                for i in range(np.uintp(width)):
                    carry[i] = step(carry[i], scalar(a[i]), scalar(0))
                    y[i] = y_scalar(carry[i])
            else:
                b = a_pointer(b_address + q * inner * size)
                for i in range(np.uintp(width)):
                    carry[i] = step(carry[i], scalar(a[i]), scalar(b[i]))
                    y[i] = y_scalar(carry[i])
        return 0

    @jit
    def scan(a_address, b_address, y_address, outer, n, inner, scratch):
        for r in range(outer):
            start_a = r * n * inner * size
            start_y = r * n * inner * y_size
            if inner == 1:
                row(a_address + start_a, b_address + start_a, y_address + start_y, n)
                continue
            for first in range(0, inner, _WIDTH):
                a, y = start_a + first * size, start_y + first * y_size
                width = min(inner - first, _WIDTH)
                stripe(a_address + a, b_address + a, y_address + y, n, inner, width, scratch)
        return 0

    return scan


@jit
def add_step(carry, a, b):
    return carry + a


@jit
def multiply_step(carry, a, b):
    return carry * a


@jit
def recurrence_step(carry, a, b):
    """carry = a + b * carry."""
    return a + b * carry


@jit
def log_add_step(carry, a, b):
    """carry = log(e**carry + e**a); -inf stands for an empty sum, nan stays."""
    top = carry if carry > a or carry != carry else a
    low = a if carry > a or carry != carry else carry
    if top == np.inf or low == -np.inf or top != top:
        return top if low == low else low
    return top + log(1.0 + exp(low - top))


def make_running_extremum(dtype: int, largest: bool) -> Callable[..., int]:
    """Return ``run(x_address, y_address, index_address, outer, n, inner)``: the extremum so far and its last place."""
    pointer, indices_at = POINTERS[dtype], POINTERS[INT64]

    @jit
    def run(x_address, y_address, index_address, outer, n, inner):
        x, y, index = pointer(x_address), pointer(y_address), indices_at(index_address)
        for r in range(outer):
            for column in range(inner):
                place = r * n * inner + column
                best = x[place]
                where = 0
                for k in range(n):
                    value = x[place]
                    if (value >= best if largest else value <= best) or value != value:
                        if not (best != best and value == value):
                            best = value
                            where = k
                    y[place] = best
                    index[place] = where
                    place += inner
        return 0

    return run


def make_shift(dtype: int) -> Callable[..., int]:
    """Return ``shift(x_address, y_address, outer, n, inner, back, fill)``: y_i = x_(i-1), or x_(i+1); last ``fill``."""
    pointer, scalar = POINTERS[dtype], SCALARS[dtype]

    @jit
    def shift(x_address, y_address, outer, n, inner, back, fill):
        x, y = pointer(x_address), pointer(y_address)
        for r in range(outer):
            start = r * n * inner
            for i in range(n * inner):
                source = i + inner if back else i - inner
                inside = source >= 0 and source < n * inner
                y[start + i] = x[start + source] if inside else scalar(fill)
        return 0

    return shift


def make_decay(dtype: int) -> Callable[..., int]:
    """Return ``decay(y_address, a_address, outer, n, inner)``: a_i = exp(y_(i-1) - y_i), 0 where that is no number."""
    pointer = POINTERS[dtype]

    @jit
    def decay(y_address, a_address, outer, n, inner):
        y, a = pointer(y_address), pointer(a_address)
        for r in range(outer):
            start = r * n * inner
            for i in range(n * inner):
                k = start + i
                a[k] = like(0, y[k])
                if i >= inner and y[k - inner] != like(-np.inf, y[k]):
                    a[k] = exp(y[k - inner] - y[k])
        return 0

    return decay
