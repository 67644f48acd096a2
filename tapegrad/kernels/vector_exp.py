"""Exponentials as straight-line code: exp, exp2, expm1, sigmoid and silu.

x = n ln 2 + r with |r| <= ln 2 / 2; the polynomials are minimax fits (Remez) of (e**r - 1 - r) / r**2, and 2**n is
applied in two exact factors, so that results may be subnormal.
"""

from tapegrad.kernels.vector_primitives import (
    absolute,
    bits,
    clamp,
    constant,
    copysign,
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
_INTEGER_ONE = integer(1, 1)
ZERO = constant(0.0)
INFINITY = constant(float("inf"))
TWO = constant(2.0)
ONE = constant(1.0)
LOG2_E = constant(1.4426950408889634)
LN2_HIGH = constant(0.693145751953125, 0.6931471805598903)  # few bits: n * LN2_HIGH is exact
LN2_LOW = constant(1.42860682030941723212e-6, 5.497923018708371e-14)
# Beyond these the result is 0 or inf in any case; n stays within what two factors can scale by.
_EXP_LOW = constant(-104.0, -746.0)
_EXP_HIGH = constant(89.0, 710.0)
_LOGISTIC_ZERO = constant(150.0, 1000.0)  # e**-z is 0 from here on, times any x in question
_EXPM1_LOW = constant(-30.0, -60.0)
_LARGEST_EXPONENT = constant(127.0, 1023.0)
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
# (2**r - 1) / r, |r| <= 1/2: relative errors 2**-32.0 and 2**-61.9
_EXP2 = polynomial(
    [
        0.6931471824645996,
        0.24022650718688965,
        0.05550410598516464,
        0.009618056938052177,
        0.0013333669630810618,
        0.000154613284394145,
        1.5252658158715349e-05,
    ],
    [
        0.6931471805599453,
        0.24022650695910072,
        0.055504108664821625,
        0.009618129107628437,
        0.0013333558146406627,
        0.00015403530393466044,
        1.5252733841381348e-05,
        1.3215486721444961e-06,
        1.0178057168000199e-07,
        7.0549322440095945e-09,
        4.455805053936351e-10,
        2.5678462248903266e-11,
    ],
)

# 2**r, |r| <= 1/2, with 2**0 = 1: relative error 2**-23.5 in five steps, for sums that are rounded to float32 anyway
_EXP2_SHORT = polynomial(
    [1.0, 0.6931469440460205, 0.24022231996059418, 0.05550779402256012, 0.009671999141573906, 0.00132546026725322],
    [
        1.0,
        0.6931471805599453,
        0.24022650695910072,
        0.055504108664821625,
        0.009618129107628437,
        0.0013333558146406627,
        0.00015403530393466044,
        1.5252733841381348e-05,
        1.3215486721444961e-06,
        1.0178057168000199e-07,
        7.0549322440095945e-09,
        4.455805053936351e-10,
        2.5678462248903266e-11,
    ],
)
_BIASED_MAGIC = constant(1.5 * 2.0**23 + 127, 1.5 * 2.0**52 + 1023)  # its sum with n ends in the bits of 2**n
_LEAST_NORMAL = constant(-126.0, -1022.0)
_LEAST_EXP = constant(-87.0, -708.0)


@helper
def exp2_below(x):
    """Return 2**x for x <= 0, good to 2 units in the last place; 0 where that is no normal number.

    Half the instructions of exp2: what softmax spends its time on.
    """
    shifted = x + _BIASED_MAGIC(x)
    r = x - (shifted - _BIASED_MAGIC(x))
    scale = from_bits(shift_left(bits(shifted), _MANTISSA(bits(shifted))))
    return select(x < _LEAST_NORMAL(x), ZERO(x), _EXP2_SHORT(r) * scale)


@helper
def exp_below(x):
    """Return e**x for x <= 0 as exp2_below does; the error of x log2(e) adds 1e-8 x to the relative one in float32."""
    shifted = muladd(x, LOG2_E(x), _BIASED_MAGIC(x))
    r = muladd(x, LOG2_E(x), -(shifted - _BIASED_MAGIC(x)))
    scale = from_bits(shift_left(bits(shifted), _MANTISSA(bits(shifted))))
    return select(x < _LEAST_EXP(x), ZERO(x), _EXP2_SHORT(r) * scale)


@helper
def integer_of(shifted):
    """Return n for shifted = MAGIC + n."""
    return int_sub(bits(shifted), MAGIC_BITS(bits(shifted)))


@helper
def scale_shifted(p, shifted):
    """Return p * 2**n for shifted = MAGIC + n, by two factors: one could overflow where the product does not."""
    n = integer_of(shifted)
    half = shift_right(n, _INTEGER_ONE(n))
    return p * power_of_two(half) * power_of_two(int_sub(n, half))


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
    scale = power_of_two(integer_of(shifted))
    return muladd(scale, expm1_reduced(r), scale - ONE(x))


@elementary
def exp(x):
    """Return e**x."""
    x = clamp(x, _EXP_LOW(x), _EXP_HIGH(x))
    shifted, r = reduce_exp(x)
    return scale_shifted(ONE(x) + expm1_reduced(r), shifted)


@helper
def exp2_of_small(r):
    """Return 2**r for |r| <= 1/2."""
    return muladd(_EXP2(r), r, ONE(r))


@helper
def split_integer(x):
    """Return (MAGIC + n, r): x = n + r, |r| <= 1/2."""
    shifted = x + MAGIC(x)
    return shifted, x - (shifted - MAGIC(x))


@elementary
def exp2(x):
    """Return 2**x."""
    shifted, r = split_integer(clamp(x, _EXP2_LOW(x), _EXP2_HIGH(x)))
    return scale_shifted(exp2_of_small(r), shifted)


@elementary
def expm1(x):
    """Return e**x - 1, accurate near 0."""
    shifted, r = reduce_exp(clamp(x, _EXPM1_LOW(x), _EXP_HIGH(x)))
    huge = shifted > MAGIC(x) + _LARGEST_EXPONENT(x)  # 2**n overflows where the result does not
    scale = power_of_two(integer_of(shifted - select(huge, ONE(x), ZERO(x))))
    y = muladd(scale, expm1_reduced(r), scale - ONE(x)) * select(huge, TWO(x), ONE(x))
    return select(x == ZERO(x), x, y)


@elementary
def sigmoid(x):
    """Return 1 / (1 + e**-x), which may be subnormal."""
    e = exp(-absolute(x))
    return select(x < ZERO(x), e, ONE(x)) / (ONE(x) + e)


@helper
def logistic_product(x, z, low):
    """Return x / (1 + e**-(z + low)) for z of x's sign; subnormal results keep their digits."""
    t = absolute(z)
    far = t > _LOGISTIC_ZERO(t)
    shifted, r = reduce_exp(-select(far, _LOGISTIC_ZERO(t), t))
    r = r - copysign(select(far, ZERO(t), absolute(low)), low * z)
    bounded = select(x < -_LOGISTIC_ZERO(t), (x - x) - _LOGISTIC_ZERO(t), x)  # -inf gives nan, as -inf * 0 does
    p = expm1_reduced(r)
    tail = scale_shifted(muladd(p, bounded, bounded), shifted)
    return select(z < ZERO(z), tail, x) / (ONE(t) + scale_shifted(ONE(t) + p, shifted))


@elementary
def silu(x):
    """Return x / (1 + e**-x)."""
    return logistic_product(x, x, ZERO(x))
