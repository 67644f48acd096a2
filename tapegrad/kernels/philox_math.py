"""What turns random words into floats: units, the logarithm of a unit, points of the circle; all of it vectorises.

The polynomials are Chebyshev interpolants (mpmath.chebyfit) in z = s * s and z = t * t; the powers rise. There are no
special cases and the circle's angle needs no reduction, so these are shorter than the vector maths of the same names.
"""

import numpy as np
from numba.core import types
from numba.extending import intrinsic

from tapegrad.kernels.vector_primitives import (
    bits,
    constant,
    from_bits,
    helper,
    int_and,
    int_sub,
    int_xor,
    integer,
    polynomial,
    select,
    shift_left,
    shift_right,
)

_none, _bit0, _bit1, _to_sign = integer(0, 0), integer(1, 1), integer(2, 2), integer(30, 62)
_half_root, _mantissa = integer(0x3F3504F3, 0x3FE6A09E667F3BCD), integer(23, 52)
_one, _two, _ln2 = constant(1.0), constant(2.0), constant(0.6931471805599453)
_log_series = polynomial(
    [0.666666856, 0.3998855099, 0.2959031736],
    [
        0.666666666666666991,
        0.399999999998932218,
        0.285714286288109956,
        0.222222106742385152,
        0.181829225135159416,
        0.153306173067433049,
        0.146300313641228605,
    ],
)
_sine_series = polynomial(
    [1.570796322, -0.6459634777, 0.07968021765, -0.004602149213],
    [
        1.57079632679489661,
        -0.645964097506244316,
        0.0796926262460430031,
        -0.00468175413234097599,
        0.000160441150742190911,
        -3.5986433529823097e-6,
        5.63393378153785395e-8,
    ],
)
_cosine_series = polynomial(
    [1.0, -1.233700541, 0.2536692037, -0.0208600695, 0.0009036280664],
    [
        1.0,
        -1.23370055013616981,
        0.253669507901046709,
        -0.0208634807633112091,
        0.000919260274183155721,
        -0.0000252020367704602584,
        4.71060972675782301e-7,
        -6.32125686962858841e-9,
    ],
)


@intrinsic
def _to_float(typing_context, i):  # type: ignore[no-untyped-def]
    """Convert an int32 to float32, an int64 to float64 (Numba makes a float64 of either)."""
    kind = {types.int32: types.float32, types.int64: types.float64}[i]

    def build(context, builder, signature, args):  # type: ignore[no-untyped-def]
        return builder.sitofp(args[0], context.get_value_type(kind))

    return kind(i), build


@helper
def unit32(word):  # type: ignore[no-untyped-def]
    """[0, 1) with 24 bits; through int32, for which every vector unit has a conversion."""
    return np.float32(np.int32(word >> np.uint32(8))) * np.float32(2**-24)


@helper
def unit64(word):  # type: ignore[no-untyped-def]
    """[0, 1) with 53 bits."""
    return np.float64(np.int64(word >> np.uint64(11))) * 2.0**-53


@helper
def positive32(word):  # type: ignore[no-untyped-def]
    """(0, 1] with 31 bits, which is what the tail of a logarithm shows: the least is 2**-32."""
    return np.float32(np.int32(word >> np.uint32(1))) * np.float32(2**-31) + np.float32(2**-32)


@helper
def positive64(word):  # type: ignore[no-untyped-def]
    """(0, 1] with 53 bits: the least is 2**-54."""
    return np.float64(np.int64(word >> np.uint64(11))) * 2.0**-53 + 2.0**-54


@helper
def log_of_unit(x):  # type: ignore[no-untyped-def]
    """Return log x for x of (0, 1]: x = 2**e m with m of sqrt(1/2) .. sqrt(2), log m = 2 atanh((m - 1) / (m + 1))."""
    b = bits(x)
    exponent = shift_right(int_sub(b, _half_root(b)), _mantissa(b))
    m = from_bits(int_sub(b, shift_left(exponent, _mantissa(b))))
    s = (m - _one(m)) / (m + _one(m))
    z = s * s
    return _to_float(exponent) * _ln2(x) + (_two(s) * s + s * z * _log_series(z))


@helper
def _circle(quarter, t):  # type: ignore[no-untyped-def]
    """Return cosine and sine of the angle of ``quarter + t`` quarter turns; ``quarter`` in its two lowest bits."""
    z = t * t
    cosine, sine = _cosine_series(z), t * _sine_series(z)
    odd = int_and(quarter, _bit0(quarter)) != _none(quarter)
    x, y = select(odd, sine, cosine), select(odd, cosine, sine)
    x_sign = shift_left(
        int_and(int_xor(quarter, shift_left(quarter, _bit0(quarter))), _bit1(quarter)), _to_sign(quarter)
    )
    y_sign = shift_left(int_and(quarter, _bit1(quarter)), _to_sign(quarter))
    return from_bits(int_xor(bits(x), x_sign)), from_bits(int_xor(bits(y), y_sign))


@helper
def circle32(word):  # type: ignore[no-untyped-def]
    """Return a point of the unit circle: two bits choose the quarter, 30 the angle in it."""
    t = np.float32(np.int32(word << np.uint32(2))) * np.float32(2**-32)
    return _circle(np.int32(word >> np.uint32(30)), t)


@helper
def circle64(word):  # type: ignore[no-untyped-def]
    """Return a point of the unit circle: two bits choose the quarter, 62 the angle in it."""
    t = np.float64(np.int64(word << np.uint64(2))) * 2.0**-64
    return _circle(np.int64(word >> np.uint64(62)), t)
