"""Error functions as straight-line code: erf, erfc, gelu.

The tails come from one function, erfcx(t) = e**(t*t) erfc(t), smooth over the whole half-line: (1 + 2t) erfcx(t) is a
polynomial in u = (t - a) / (t + a) (the variable of Shepherd and Laframboise, Math. Comp. 36, 1981); fits by Remez.
"""

from tapegrad.kernels.vector_exp import ONE, exp
from tapegrad.kernels.vector_primitives import (
    absolute,
    constant,
    copysign,
    elementary,
    fma,
    helper,
    muladd,
    polynomial,
    select,
)

ZERO = constant(0.0)
_HALF = constant(0.5)
_TWO = constant(2.0)
_CENTRE = constant(2.0, 3.75)
_FAR = constant(12.0, 30.0)  # erfc is 0 from here on
_SQRT_HALF = constant(0.7071067811865476)

# (1 + 2t) erfcx(t) in u, t <= 10.2 and 28: relative errors 2**-26.1 and 2**-56.4
_ERFCX = polynomial(
    [
        1.2769783735275269,
        -0.0927639827132225,
        -0.16603146493434906,
        0.16405542194843292,
        -0.054203882813453674,
        -0.008060142397880554,
        0.008630095049738884,
        0.0013133080210536718,
        -0.0012280005030333996,
        -0.000399448093958199,
    ],
    [
        1.2375126308378275,
        -0.1402405985855467,
        0.0035854154854627323,
        0.08227673849011108,
        -0.10880393014165701,
        0.09230432116157808,
        -0.05869339859144138,
        0.02836227739944556,
        -0.009746579541722925,
        0.0017556260286435861,
        0.0002937135972872764,
        -0.00029015504091971906,
        5.164915721759864e-05,
        2.2387562598434803e-05,
        -1.1443505081393614e-05,
        -9.809155466388831e-07,
        1.7487167557574232e-06,
        -4.7044029641137946e-08,
        -2.528785532228896e-07,
        1.508164466482748e-08,
        3.273087488075559e-08,
        -5.601607120036639e-10,
        -2.289151883516566e-09,
    ],
)
# erf(x) / x - 1 in x**2, |x| <= 1: relative errors of erf 2**-29.6 and 2**-62.7
_ERF_SMALL = polynomial(
    [
        0.12837916612625122,
        -0.3761262595653534,
        0.1128358542919159,
        -0.026853810995817184,
        0.00518832728266716,
        -0.0008010191959328949,
        7.853857096051797e-05,
    ],
    [
        0.1283791670955126,
        -0.3761263890318375,
        0.11283791670954857,
        -0.026866170645072896,
        0.005223977624780892,
        -0.0008548326978743869,
        0.00012055331036964029,
        -1.4925593508476471e-05,
        1.6460972842566583e-06,
        -1.6350025490857465e-07,
        1.4657881613171971e-08,
        -1.1365672640762484e-09,
        5.94527272586658e-11,
    ],
)


@helper
def erfcx(t):
    """Return e**(t*t) erfc(t) for 0 <= t."""
    denominator = muladd(_TWO(t), t, ONE(t))
    sum_ = t + _CENTRE(t)
    inverse = ONE(t) / (denominator * sum_)  # one division for both quotients
    return _ERFCX((t - _CENTRE(t)) * denominator * inverse) * sum_ * inverse


@helper
def erf_near_zero(x):
    """Return erf(x) for |x| <= 1."""
    return muladd(x, _ERF_SMALL(x * x), x)


@helper
def gauss(t):
    """Return e**(-t*t), with the square's rounding error made good."""
    square = t * t
    return exp(-square) * (ONE(t) - fma(t, t, -square))


@elementary
def erf(x):
    """Return the error function."""
    t = absolute(x)
    t = select(t > _FAR(t), _FAR(t), t)
    far = ONE(t) - exp(-t * t) * erfcx(t)
    return copysign(select(t < ONE(t), erf_near_zero(t), far), x)


@elementary
def erfc(x):
    """Return 1 - erf(x), accurate where that is tiny."""
    t = absolute(x)
    t = select(t > _FAR(t), _FAR(t), t)
    tail = gauss(t) * erfcx(t)
    return select(x < ZERO(x), _TWO(x) - tail, tail)


@elementary
def gelu(x):
    """Return x times the normal distribution function of x."""
    t = absolute(x)
    t = select(t > _FAR(t) * _TWO(t), _FAR(t) * _TWO(t), t)
    square = _HALF(t) * t * t
    tail = exp(-square) * (ONE(t) - fma(_HALF(t) * t, t, -square)) * (_HALF(t) * erfcx(t * _SQRT_HALF(t)))
    return select(x < ZERO(x), ZERO(x), x) - t * tail
