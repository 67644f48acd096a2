"""Sine, cosine and tangent as straight-line code: of every finite float32, and of float64 up to 2**51.

x = q pi/2 + r with |r| <= pi/4; the polynomials in r are minimax fits (Remez). float32 multiplies by the 96 bits of
2/pi that matter for the exponent at hand, in integers (Payne and Hanek, 1983). float64 subtracts n pi/2 in
three fused steps; beyond 2**51 the answer is nan.
"""

import numpy as np

from tapegrad.kernels.vector_exp import MAGIC, ONE
from tapegrad.kernels.vector_primitives import (
    absolute,
    bits,
    constant,
    elementary,
    elementary_of,
    fma,
    from_bits,
    funnel_left,
    helper,
    int_add,
    int_and,
    int_or,
    int_sub,
    int_xor,
    integer,
    muladd,
    multiply_high,
    multiply_low,
    polynomial,
    select,
    shift_left,
    shift_right,
    shift_right_logical,
    to_float,
)

INFINITY = constant(float("inf"))
NAN = constant(float("nan"))
_TWO_OVER_PI = constant(0.6366197723675814)
# pi/2 in three doubles
_PIO2_1 = constant(1.5707963267948966)
_PIO2_2 = constant(6.123233995736766e-17)
_PIO2_3 = constant(-1.4973849048591698e-33)
# The bits of 2/pi behind 25 zeros, as signed words.
_WORDS = (0x00000051, 0x7CC1B727, 0x220A94FE, 0x13ABE8FA, 0x9A6EE06D - 2**32, 0xB14ACC9E - 2**32, 0x21C820FF)
_W0, _W1, _W2, _W3, _W4, _W5, _W6 = (np.int32(word) for word in _WORDS)
_TOP_FRACTION = np.float32(np.pi / 2 * 2.0**-32)
_MIDDLE = np.float32(np.pi / 2 * 2.0**-61)
_BOTTOM = np.float32(np.pi / 2 * 2.0**-86)
_I1, _I2, _I8, _I23, _I30, _I31, _I32, _I64, _I127 = (np.int32(k) for k in (1, 2, 8, 23, 30, 31, 32, 64, 127))
_EIGHTH = np.int32(1 << 29)
# Up to here n is exact. Beyond, the bits of 2/pi would have to come from a table by exponent: LLVM does not vectorise
# such loads on Zen 4 (28 ns an element instead of 0.85). A nan from a finite x can be found and mended by math.sin.
_FAR = 2.0**51
_FRACTION_MASK, _HIDDEN_BIT = np.int32(0x7FFFFF), np.int32(0x800000)
SIGN = integer(-(1 << 31), -(1 << 63))
_INTEGER_ONE = integer(1, 1)
_INTEGER_TWO = integer(2, 2)
_TOP = integer(30, 62)

# (sin(r) - r) / r**3 and (cos(r) - 1 + r**2/2) / r**4 in r**2: for |r| <= 1
# in float32 (2**-34, 2**-38.6) and |r| <= pi/4 in float64 (2**-68.7, 2**-64.0)
_SIN = polynomial(
    [-0.1666666716337204, 0.008333316072821617, -0.00019836114370264113, 2.694809609238291e-06],
    [
        -0.16666666666666666,
        0.008333333333333323,
        -0.00019841269841254784,
        2.7557319214056765e-06,
        -2.505210487972905e-08,
        1.6058362891824886e-10,
        -7.578526607811951e-13,
    ],
)
_COS = polynomial(
    [0.0416666679084301, -0.0013888864777982235, 2.4795903300400823e-05, -2.69839233624225e-07],
    [
        0.041666666666666595,
        -0.001388888888887304,
        2.4801587288841905e-05,
        -2.7557314176383376e-07,
        2.087570043514404e-09,
        -1.1358514917875028e-11,
    ],
)
_MINUS_HALF = constant(-0.5)


def _reduce_single(x):
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
    r = select(small, t, select(t < INFINITY(t), r, NAN(t)))
    return select(small, np.int32(0), quadrant), r


def _reduce_double(x):
    t = absolute(x)
    shifted = muladd(t, _TWO_OVER_PI(t), MAGIC(t))
    n = shifted - MAGIC(t)
    r = fma(-n, _PIO2_3(t), fma(-n, _PIO2_2(t), fma(-n, _PIO2_1(t), t)))
    return bits(shifted), select(t < _FAR, r, np.nan)


@elementary_of(_reduce_single, _reduce_double)
def reduce_trig(x):
    """Return (q, r): |x| = q pi/2 + r, |r| <= pi/4, q modulo 4 as an integer of the float's width."""


@helper
def sin_reduced(r):
    """Return sin(r) for |r| <= pi/4."""
    z = r * r
    return muladd(z * r, _SIN(z), r)


@helper
def cos_reduced(r):
    """Return cos(r) for |r| <= pi/4."""
    z = r * r
    return muladd(z, muladd(z, _COS(z), _MINUS_HALF(z)), ONE(z))


@helper
def quadrant_value(q, r):
    """Return sin(q pi/2 + r)."""
    odd = int_and(q, _INTEGER_ONE(q)) != _INTEGER_ONE(q)
    y = select(odd, sin_reduced(r), cos_reduced(r))
    return from_bits(int_xor(bits(y), shift_left(int_and(q, _INTEGER_TWO(q)), _TOP(q))))


@elementary
def sin(x):
    """Return the sine of x radians."""
    q, r = reduce_trig(x)
    y = quadrant_value(q, r)
    return from_bits(int_xor(bits(y), int_and(bits(x), SIGN(q))))


@elementary
def cos(x):
    """Return the cosine of x radians."""
    q, r = reduce_trig(x)
    return quadrant_value(int_add(q, _INTEGER_ONE(q)), r)


@elementary
def tan(x):
    """Return the tangent of x radians."""
    q, r = reduce_trig(x)
    odd = int_and(q, _INTEGER_ONE(q)) == _INTEGER_ONE(q)
    s, c = sin_reduced(r), cos_reduced(r)
    y = select(odd, -c, s) / select(odd, s, c)
    return from_bits(int_xor(bits(y), int_and(bits(x), SIGN(q))))
