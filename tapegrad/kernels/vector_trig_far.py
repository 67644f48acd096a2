"""Sine, cosine and tangent of every finite number: what is left to do where vector_trig's reduction ends.

float32 multiplies by the 96 bits of 2/pi that matter for the exponent at hand, in integers (Payne and Hanek, 1983), as
straight-line code. float64 would need those bits from a table by exponent, and LLVM does not vectorise such loads on
Zen 4 (28 ns an element): the C library's functions (10 to 20 ns) serve as well.
"""

import math

import numpy as np

from tapegrad.kernels.vector_primitives import (
    absolute,
    bits,
    elementary,
    elementary_of,
    from_bits,
    funnel_left,
    helper,
    int_add,
    int_and,
    int_or,
    int_sub,
    int_xor,
    muladd,
    multiply_high,
    multiply_low,
    select,
    shift_left,
    shift_right,
    shift_right_logical,
    to_float,
)
from tapegrad.kernels.vector_trig import (
    SIGN,
    cos_near,
    cos_reduced,
    is_far,
    sin_near,
    sin_reduced,
    tan_near,
)

# The bits of 2/pi behind 25 zeros, as signed words.
_WORDS = (0x00000051, 0x7CC1B727, 0x220A94FE, 0x13ABE8FA, 0x9A6EE06D - 2**32, 0xB14ACC9E - 2**32, 0x21C820FF)
_W0, _W1, _W2, _W3, _W4, _W5, _W6 = (np.int32(word) for word in _WORDS)
_TOP_FRACTION = np.float32(np.pi / 2 * 2.0**-32)
_MIDDLE = np.float32(np.pi / 2 * 2.0**-61)
_BOTTOM = np.float32(np.pi / 2 * 2.0**-86)
_I1, _I2, _I8, _I23, _I30, _I31, _I32, _I64, _I127 = (np.int32(k) for k in (1, 2, 8, 23, 30, 31, 32, 64, 127))
_EIGHTH = np.int32(1 << 29)
_FRACTION_MASK, _HIDDEN_BIT = np.int32(0x7FFFFF), np.int32(0x800000)
_INFINITY, _NAN = np.float32(np.inf), np.float32(np.nan)
_TWO = np.int32(2)


@helper
def _reduce(x):
    """Return (q, r): |x| = q pi/2 + r, |r| <= pi/4, q modulo 4."""
    t = absolute(x)
    i = bits(t)
    s = int_sub(shift_right(i, _I23), _I127)  # x = mantissa * 2**(s - 23)
    odd = int_and(s, _I32) != np.int32(0)
    second = int_and(s, _I64) != np.int32(0)
    b0, b1, b2 = select(odd, _W1, _W0), select(odd, _W2, _W1), select(odd, _W3, _W2)
    b3, b4, b5 = select(odd, _W4, _W3), select(odd, _W5, _W4), select(odd, _W6, _W5)
    a0, a1, a2, a3 = select(second, b2, b0), select(second, b3, b1), select(second, b4, b2), select(second, b5, b3)
    shift = int_and(s, _I31)
    mantissa = int_or(int_and(i, _FRACTION_MASK), _HIDDEN_BIT)
    w0, w1, w2 = funnel_left(a0, a1, shift), funnel_left(a1, a2, shift), funnel_left(a2, a3, shift)
    # mantissa * (w0 w1 w2) is x * 2/pi modulo 4, times 2**94: its top word as an integer, the others as floats.
    top = int_add(multiply_low(mantissa, w0), multiply_high(mantissa, w1))
    middle = to_float(shift_right_logical(multiply_low(mantissa, w1), _I1))
    bottom = to_float(mantissa) * to_float(shift_right_logical(w2, _I8))
    quadrant = shift_right_logical(int_add(top, _EIGHTH), _I30)
    rest = muladd(middle, _MIDDLE, bottom * _BOTTOM)
    r = muladd(to_float(shift_left(top, _I2)), _TOP_FRACTION, rest)
    small = t < np.float32(1.0)
    r = select(small, t, select(t < _INFINITY, r, _NAN))
    return select(small, np.int32(0), quadrant), r


@helper
def _quadrant_value(q, r):
    """Return sin(q pi/2 + r)."""
    odd = int_and(q, _I1) != _I1
    y = select(odd, sin_reduced(r), cos_reduced(r))
    return from_bits(int_xor(bits(y), shift_left(int_and(q, _TWO), _I30)))


def _sin_single(x):
    q, r = _reduce(x)
    y = _quadrant_value(q, r)
    return from_bits(int_xor(bits(y), int_and(bits(x), SIGN(q))))


def _cos_single(x):
    q, r = _reduce(x)
    return _quadrant_value(int_add(q, _I1), r)


def _tan_single(x):
    q, r = _reduce(x)
    odd = int_and(q, _I1) == _I1
    s, c = sin_reduced(r), cos_reduced(r)
    y = select(odd, -c, s) / select(odd, s, c)
    return from_bits(int_xor(bits(y), int_and(bits(x), SIGN(q))))


@elementary_of(_sin_single, lambda x: math.sin(x))
def sin_far(x):
    """Return the sine of x radians, of any size; a vectorised loop takes float32 only."""


@elementary_of(_cos_single, lambda x: math.cos(x))
def cos_far(x):
    """Return the cosine of x radians, of any size; a vectorised loop takes float32 only."""


@elementary_of(_tan_single, lambda x: math.tan(x))
def tan_far(x):
    """Return the tangent of x radians, of any size; a vectorised loop takes float32 only."""


@elementary
def sin(x):
    """Return the sine of x radians."""
    return sin_far(x) if is_far(x) else sin_near(x)


@elementary
def cos(x):
    """Return the cosine of x radians."""
    return cos_far(x) if is_far(x) else cos_near(x)


@elementary
def tan(x):
    """Return the tangent of x radians."""
    return tan_far(x) if is_far(x) else tan_near(x)
