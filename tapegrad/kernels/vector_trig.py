"""Sine, cosine and tangent as straight-line code, up to 2**17 in float32 and 2**32 in float64.

sin x = (-1)**n sin(r) with r = x - n pi, |r| <= pi/2; the cosine is the sine of pi/2 - x, whose n is half-way between
two integers; the tangent takes n pi/2. n pi is subtracted in three fused steps, the first of them exact, so that r is
accurate beside the zeros too. The polynomials are minimax fits (Remez). vector_trig_far.py has larger arguments.
"""

from tapegrad.kernels.vector_exp import MAGIC, ONE
from tapegrad.kernels.vector_primitives import (
    absolute,
    bits,
    constant,
    elementary,
    fma,
    from_bits,
    helper,
    int_and,
    int_xor,
    integer,
    muladd,
    polynomial,
    select,
    shift_left,
)

_FAR = constant(2.0**17, 2.0**32)
_HALF = constant(0.5)
_MINUS_HALF = constant(-0.5)
_ONE_OVER_PI = constant(0.3183098861837907)
_TWO_OVER_PI = constant(0.6366197723675814)
# pi and pi/2 in three parts
_PI_1 = constant(3.1415927410125732, 3.141592653589793)
_PI_2 = constant(-8.742277657347586e-08, 1.2246467991473532e-16)
_PI_3 = constant(-3.4302490200117637e-15, -2.9947698097183397e-33)
_PIO2_1 = constant(1.5707963705062866, 1.5707963267948966)
_PIO2_2 = constant(-4.371138828673793e-08, 6.123233995736766e-17)
_PIO2_3 = constant(-1.7151245100058819e-15, -1.4973849048591698e-33)
SIGN = integer(-(1 << 31), -(1 << 63))
_SIGN_PLACE = integer(31, 63)
_INTEGER_ONE = integer(1, 1)

# (sin(r) - r) / r**3 in r**2, |r| <= 1.6 and pi/2: relative errors of the sine 2**-27.0 and 2**-61.7
_SIN_WIDE = polynomial(
    [-0.1666665838917451, 0.008333034452835335, -0.0001980715871170566, 2.600170060062205e-06],
    [
        -0.16666666666666666,
        0.008333333333333194,
        -0.0001984126984120921,
        2.7557319211135628e-06,
        -2.505210687265364e-08,
        1.60589396985914e-10,
        -7.642991303758537e-13,
        2.721173055858262e-15,
    ],
)
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


@helper
def is_far(x):
    """Return whether ``x`` is beyond the range of ``sin_near``, ``cos_near`` and ``tan_near``."""
    return absolute(x) > _FAR(x)


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
def _signed_sine(r, shifted):
    """Return (-1)**n sin(r) for |r| <= pi/2 and shifted = MAGIC + n."""
    z = r * r
    i = bits(muladd(z * r, _SIN_WIDE(z), r))
    return int_xor(i, shift_left(bits(shifted), _SIGN_PLACE(i)))


@elementary
def sin_near(x):
    """Return the sine of x radians where `is_far` does not hold."""
    t = absolute(x)
    shifted = muladd(t, _ONE_OVER_PI(t), MAGIC(t))
    n = shifted - MAGIC(t)
    r = fma(-n, _PI_3(t), fma(-n, _PI_2(t), fma(-n, _PI_1(t), t)))
    i = _signed_sine(r, shifted)
    return from_bits(int_xor(i, int_and(bits(x), SIGN(i))))


@elementary
def cos_near(x):
    """Return the cosine of x radians where `is_far` does not hold."""
    t = absolute(x)
    shifted = muladd(t, _ONE_OVER_PI(t), _MINUS_HALF(t)) + MAGIC(t)
    n = (shifted - MAGIC(t)) + _HALF(t)
    r = fma(n, _PI_3(t), fma(n, _PI_2(t), fma(n, _PI_1(t), -t)))
    return from_bits(_signed_sine(r, shifted))


@elementary
def tan_near(x):
    """Return the tangent of x radians where `is_far` does not hold."""
    t = absolute(x)
    shifted = muladd(t, _TWO_OVER_PI(t), MAGIC(t))
    n = shifted - MAGIC(t)
    r = fma(-n, _PIO2_3(t), fma(-n, _PIO2_2(t), fma(-n, _PIO2_1(t), t)))
    q = bits(shifted)
    odd = int_and(q, _INTEGER_ONE(q)) == _INTEGER_ONE(q)
    s, c = sin_reduced(r), cos_reduced(r)
    y = select(odd, -c, s) / select(odd, s, c)
    return from_bits(int_xor(bits(y), int_and(bits(x), SIGN(q))))
