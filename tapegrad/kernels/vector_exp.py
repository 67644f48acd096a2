"""Exponentials as straight-line code: exp, exp2, expm1, sigmoid, silu, log_sigmoid and softplus.

x = n ln 2 + r with |r| <= ln 2 / 2; the polynomials are minimax fits (Remez) of (e**r - 1 - r) / r**2, and 2**n is
applied in two exact factors, so that results may be subnormal.
"""

from tapegrad.kernels.vector_primitives import (
    bits,
    clamp,
    constant,
    elementary,
    from_bits,
    helper,
    int_add,
    int_sub,
    integer,
    muladd,
    polynomial,
    select,
    shift_left,
    shift_right,
)

# Adding 1.5 * 2**mantissa_bits rounds to the nearest integer and leaves it in the low bits of the sum.
MAGIC = constant(1.5 * 2.0**23, 1.5 * 2.0**52)
MAGIC_BITS = integer(0x4B400000, 0x4338000000000000)
_MANTISSA = integer(23, 52)
_BIAS = integer(127, 1023)
ONE = constant(1.0)
LOG2_E = constant(1.4426950408889634)
LN2_HIGH = constant(0.693145751953125, 0.6931471805598903)  # few bits: n * LN2_HIGH is exact
LN2_LOW = constant(1.42860682030941723212e-6, 5.497923018708371e-14)
# Beyond these the result is 0 or inf in any case; n stays within what two factors can scale by.
_EXP_LOW = constant(-104.0, -746.0)
_EXP_HIGH = constant(89.0, 710.0)
_EXP2_LOW = constant(-151.0, -1076.0)
_EXP2_HIGH = constant(128.0, 1024.0)

# (e**r - 1 - r) / r**2, relative errors of expm1: 2**-31.9 and 2**-61.7
_EXP_TAIL = polynomial(
    [0.5, 0.1666666567325592, 0.04166635870933533, 0.008333389647305012, 0.0013940718490630388, 0.00019845909264404327],
    [
        0.5,
        0.16666666666666677,
        0.041666666666666505,
        0.008333333333321608,
        0.001388888888896286,
        0.00019841269886206942,
        2.480158717190095e-05,
        2.7557244105254505e-06,
        2.755740290379764e-07,
        2.5109080992449187e-08,
        2.087533697485979e-09,
    ],
)


@helper
def scale_shifted(p, shifted):
    """Return p * 2**n for shifted = MAGIC + n, by two factors: one could overflow where the product does not."""
    n = int_sub(bits(shifted), MAGIC_BITS(bits(shifted)))
    half = shift_right(n, integer_one(n))
    return p * power_of_two(half) * power_of_two(int_sub(n, half))


integer_one = integer(1, 1)


@helper
def power_of_two(n):
    """Return 2**n for an integer n of a normal number's exponent."""
    return from_bits(shift_left(int_add(n, _BIAS(n)), _MANTISSA(n)))


@helper
def expm1_reduced(r):
    """Return e**r - 1 for |r| <= ln 2 / 2."""
    return muladd(_EXP_TAIL(r) * r, r, r)


@helper
def reduce_exp(x):
    """Return (MAGIC + n, r): x = n ln 2 + r."""
    shifted = muladd(x, LOG2_E(x), MAGIC(x))
    n = shifted - MAGIC(x)
    return shifted, muladd(-n, LN2_LOW(x), muladd(-n, LN2_HIGH(x), x))


@helper
def expm1_scaled(x):
    """Return e**x - 1 where 2**n does not overflow: 2**n (e**r - 1) + (2**n - 1)."""
    shifted, r = reduce_exp(x)
    n = int_sub(bits(shifted), MAGIC_BITS(bits(shifted)))
    scale = power_of_two(n)
    return muladd(scale, expm1_reduced(r), scale - ONE(x))


@elementary
def exp(x):
    """Return e**x."""
    x = clamp(x, _EXP_LOW(x), _EXP_HIGH(x))
    shifted, r = reduce_exp(x)
    return scale_shifted(ONE(x) + expm1_reduced(r), shifted)


@elementary
def sigmoid(x):
    """Return 1 / (1 + e**-x)."""
    e = exp(-abs(x))
    return select(x < 0, e, ONE(x)) / (ONE(x) + e)
