"""Inverse trigonometric functions as straight-line code; the polynomials are minimax fits (Remez)."""

from tapegrad.kernels.vector_exp import INFINITY, ONE, ZERO
from tapegrad.kernels.vector_primitives import (
    absolute,
    bits,
    constant,
    copysign,
    elementary,
    helper,
    integer,
    muladd,
    polynomial,
    select,
    square_root,
)

_HALF = constant(0.5)
_MINUS_TWO = constant(-2.0)
_PI_HIGH = constant(3.1415927410125732, 3.141592653589793)
_PI_LOW = constant(-8.742278000372485e-08, 1.2246467991473532e-16)
_PIO2_HIGH = constant(1.5707963705062866, 1.5707963267948966)
_PIO2_LOW = constant(-4.3711390001862426e-08, 6.123233995736766e-17)
_TAN_PI_8 = constant(0.41421356237309503)
_TAN_3PI_8 = constant(2.414213562373095)
_QUARTER = constant(0.25)
_NEAR_OVERFLOW = constant(2.0**126, 2.0**1022)
_NEAR_UNDERFLOW = constant(2.0**-100, 2.0**-900)
_UP = constant(2.0**40, 2.0**100)
_INTEGER_ZERO = integer(0, 0)

# (asin(s) - s) / s**3 in s**2, |s| <= 1/2: relative errors of asin 2**-31.7 and 2**-59.8
_ASIN = polynomial(
    [
        0.16666659712791443,
        0.07500510662794113,
        0.04451574757695198,
        0.031817398965358734,
        0.014403394423425198,
        0.037564124912023544,
    ],
    [
        0.16666666666666763,
        0.07499999999970265,
        0.04464285717511769,
        0.030381942683749406,
        0.02237221565703174,
        0.017351600143350295,
        0.0139809609098522,
        0.011397779877183331,
        0.010786509895222979,
        0.0036831056838576926,
        0.021763362341327846,
        -0.021077120702195636,
        0.0326767942813995,
    ],
)
# (atan(s) - s) / s**3 in s**2, |s| <= tan(pi/8): relative errors of atan 2**-30.5 and 2**-59.5
_ATAN = polynomial(
    [-0.33333316445350647, 0.1999848335981369, -0.1424373984336853, 0.10595144331455231, -0.06081166863441467],
    [
        -0.333333333333332,
        0.1999999999995366,
        -0.14285714280203832,
        0.1111111078380622,
        -0.0909089776688337,
        0.07692060359080782,
        -0.06663105433677294,
        0.05847897292674456,
        -0.050393306338463305,
        0.03806495583518128,
        -0.01790735061884948,
    ],
)


@helper
def _asin_parts(t):
    """Return (large, p): asin(t) = p for small t = |x|, pi/2 - 2p for large."""
    large = t > _HALF(t)
    z = select(large, muladd(-_HALF(t), t, _HALF(t)), t * t)
    s = select(large, square_root(z), t)
    return large, muladd(s * z, _ASIN(z), s)


@elementary
def asin(x):
    """Return the arc sine; nan beyond 1."""
    large, p = _asin_parts(absolute(x))
    y = select(large, muladd(_MINUS_TWO(p), p, _PIO2_HIGH(p)) + _PIO2_LOW(p), p)
    return copysign(y, x)


@elementary
def acos(x):
    """Return the arc cosine; nan beyond 1."""
    large, p = _asin_parts(absolute(x))
    signed = copysign(p, x)
    small_y = _PIO2_HIGH(x) - (signed - _PIO2_LOW(x))
    twice = p + p
    large_y = select(x < ZERO(x), _PI_HIGH(x) - (twice - _PI_LOW(x)), twice)
    return select(large, large_y, small_y)


@helper
def _atan_reduced(q):
    """Return atan(q) - q for |q| <= tan(pi/8)."""
    z = q * q
    return q * z * _ATAN(z)


@elementary
def atan(x):
    """Return the arc tangent."""
    t = absolute(x)
    large, middle = t > _TAN_3PI_8(t), t > _TAN_PI_8(t)
    top = select(large, -ONE(t), select(middle, t - ONE(t), t))
    bottom = select(large, t, select(middle, t + ONE(t), ONE(t)))
    q = top / bottom
    high = select(large, _PIO2_HIGH(t), select(middle, _HALF(t) * _PIO2_HIGH(t), ZERO(t)))
    low = select(large, _PIO2_LOW(t), select(middle, _HALF(t) * _PIO2_LOW(t), ZERO(t)))
    return copysign(high + (q + (_atan_reduced(q) + low)), x)


@elementary
def atan2(y, x):
    """Return the angle of the point (x, y), with C99's values for zeros and infinities."""
    a, b = absolute(y), absolute(x)
    swap = a > b
    top, bottom = select(swap, b, a), select(swap, a, b)
    diagonal = (top == INFINITY(top)) & (bottom == INFINITY(top))
    top, bottom = select(diagonal, ONE(top), top), select(diagonal, ONE(top), bottom)
    scale = select(bottom > _NEAR_OVERFLOW(top), _QUARTER(top), ONE(top))
    scale = select(bottom < _NEAR_UNDERFLOW(top), _UP(top), scale)
    top, bottom = top * scale, bottom * scale
    middle = top > _TAN_PI_8(top) * bottom
    q = select(middle, top - bottom, top) / select(middle, top + bottom, bottom)
    q = select((top == ZERO(top)) & (bottom == ZERO(top)), ZERO(top), q)
    # The angle is base + sign * (q + tail): octants are put together in the constants, not by subtraction.
    flip = swap != (bits(x) < _INTEGER_ZERO(bits(x)))
    quarters = select(middle, _HALF(top), ZERO(top))
    quarters = select(swap, ONE(top) - quarters, quarters)
    quarters = select(bits(x) < _INTEGER_ZERO(bits(x)), ONE(top) + ONE(top) - quarters, quarters)
    tail = muladd(quarters, _PIO2_LOW(top), select(flip, -_atan_reduced(q), _atan_reduced(q)))
    return copysign(muladd(quarters, _PIO2_HIGH(top), select(flip, -q, q) + tail), y)
