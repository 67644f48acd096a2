"""Hyperbolic functions and their inverses as straight-line code.

sinh and cosh split x = n ln 2 + r: sinh x = sinh(n ln 2) cosh r + cosh(n ln 2) sinh r, where the first factors are
(2**n -+ 2**-n) / 2 and the second ones polynomials (minimax fits by Remez): nothing cancels. The inverses use log1p.
"""

from tapegrad.kernels.vector_exp import MAGIC, ONE, TWO, ZERO, expm1_scaled, integer_of, power_of_two, reduce_exp
from tapegrad.kernels.vector_log import NAN, log1p
from tapegrad.kernels.vector_primitives import (
    absolute,
    constant,
    copysign,
    elementary,
    helper,
    muladd,
    polynomial,
    select,
    square_root,
)

_HALF = constant(0.5)
_FOUR = constant(4.0)
_TANH_ONE = constant(10.0, 20.0)  # tanh rounds to 1 from here on
_SINH_INFINITE = constant(90.0, 711.0)
_NEAR_OVERFLOW = constant(126.0, 1022.0)
_NEGLIGIBLE = constant(60.0)  # 2**-n beside 2**n from here on
_LARGE = constant(2.0**30, 2.0**56)  # sqrt(x*x + 1) rounds to x, 1/x is lost in log(2x)
_LN2 = constant(0.6931471805599453)

# (sinh(r) - r) / r**3 and (cosh(r) - 1 - r**2/2) / r**4 in r**2, |r| <= ln 2 / 2: below 2**-37 and 2**-61
_SINH = polynomial(
    [0.1666666716337204, 0.008333289064466953, 0.00019905205408576876],
    [0.16666666666666677, 0.008333333333321436, 0.00019841269886671932, 2.7557243610843042e-06, 2.5109261175800547e-08],
)
_COSH = polynomial(
    [0.0416666679084301, 0.0013888829853385687, 2.4873181246221066e-05],
    [
        0.041666666666666685,
        0.0013888888888873227,
        2.4801587349332777e-05,
        2.755725169675136e-07,
        2.0921810894796742e-09,
    ],
)


@helper
def _parts(x):
    """Return (2**n / 2, 2**-n / 2, sinh r, cosh r, scale) for |x|; the first two are divided by scale near overflow."""
    t = absolute(x)
    shifted, r = reduce_exp(select(t > _SINH_INFINITE(t), _SINH_INFINITE(t), t))
    huge = shifted > MAGIC(t) + _NEAR_OVERFLOW(t)
    bounded = select(shifted > MAGIC(t) + _NEGLIGIBLE(t), MAGIC(t) + _NEGLIGIBLE(t), shifted)
    up = power_of_two(integer_of(shifted - select(huge, _FOUR(t), ONE(t)) + select(huge, ONE(t), ZERO(t))))
    down = power_of_two(integer_of(MAGIC(t) + (MAGIC(t) - bounded) - ONE(t)))
    z = r * r
    sinh_r = muladd(z * r, _SINH(z), r)
    cosh_r = muladd(z, muladd(z, _COSH(z), _HALF(z)), ONE(z))
    return up, down, sinh_r, cosh_r, select(huge, _FOUR(t), ONE(t))


@elementary
def sinh(x):
    """Return the hyperbolic sine."""
    up, down, sinh_r, cosh_r, scale = _parts(x)
    y = muladd(up - down, cosh_r, (up + down) * sinh_r) * scale
    return copysign(y, x)


@elementary
def cosh(x):
    """Return the hyperbolic cosine."""
    up, down, sinh_r, cosh_r, scale = _parts(x)
    return muladd(up + down, cosh_r, (up - down) * sinh_r) * scale


@elementary
def tanh(x):
    """Return the hyperbolic tangent: with e = e**(2|x|) - 1, e / (e + 2)."""
    t = absolute(x)
    t = select(t > _TANH_ONE(t), _TANH_ONE(t), t)
    e = expm1_scaled(TWO(t) * t)
    return copysign(e / (e + TWO(t)), x)


@elementary
def asinh(x):
    """Return the inverse hyperbolic sine: log1p(t + t**2 / (1 + sqrt(1 + t**2))) for t = |x|."""
    t = absolute(x)
    large = t > _LARGE(t)
    b = select(large, ONE(t), t)
    square = b * b
    y = log1p(select(large, t, b + square / (ONE(t) + square_root(ONE(t) + square))))
    return copysign(y + select(large, _LN2(t), ZERO(t)), x)


@elementary
def acosh(x):
    """Return the inverse hyperbolic cosine: log1p(d + sqrt(d (d + 2))) for d = x - 1; nan below 1."""
    large = x > _LARGE(x)
    d = select(large, ONE(x), x) - ONE(x)
    y = log1p(select(large, x, d + square_root(d * (d + TWO(x))))) + select(large, _LN2(x), ZERO(x))
    return select(x < ONE(x), NAN(x), y)


@elementary
def atanh(x):
    """Return the inverse hyperbolic tangent: log1p(2 t / (1 - t)) / 2 for t = |x|; nan beyond 1."""
    t = absolute(x)
    return copysign(_HALF(t) * log1p(TWO(t) * t / (ONE(t) - t)), x)
