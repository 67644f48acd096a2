"""pow as straight-line code.

x**y = 2**(y log2 |x|). An error of the logarithm is multiplied by up to 1075, so float32 works in float64, and float64
carries the logarithm as a sum of two doubles: with s = f / (2 + f), log(1 + f) = s (2 + 2/3 s**2 + s**4 R(s**2)).
"""

import numpy as np

from tapegrad.kernels.vector_exp import (
    INFINITY,
    ONE,
    ZERO,
    exp2_of_small,
    integer_of,
    power_of_two,
    scale_shifted,
    split_integer,
)
from tapegrad.kernels.vector_log import NAN, reduce_log
from tapegrad.kernels.vector_primitives import (
    absolute,
    bits,
    clamp,
    constant,
    elementary,
    elementary_of,
    floor,
    fma,
    muladd,
    polynomial,
    select,
)

_HALF = constant(0.5)
_TWO = constant(2.0)
_LOG2_E_HIGH = constant(1.4426950408889634)
_LOG2_E_LOW = constant(2.0355273740931033e-17)
_TWO_THIRDS_HIGH = constant(0.6666666666666666)
_TWO_THIRDS_LOW = constant(3.700743415417188e-17)
_LIMIT = constant(200.0, 1100.0)  # 2**limit is infinite, 2**-limit is 0

# (log2((1 + s) / (1 - s)) / s - 2 / ln 2) / s**2 in s**2, |s| <= 0.1716: relative error 2**-36
_LOG2_SHORT = polynomial([], [0.9617966791692293, 0.5770828581860687, 0.4117059151532684, 0.3402270890990389])
# (log((1 + s) / (1 - s)) / s - 2 - 2/3 s**2) / s**4 in s**2: relative error of the logarithm 2**-72
_LOG_LONG = polynomial(
    [],
    [
        0.3999999999999998,
        0.28571428571445145,
        0.22222222217527537,
        0.1818181887142006,
        0.1538455679489125,
        0.13336320372566873,
        0.11674758071022846,
        0.11989520162732531,
    ],
)
# (2**r - 1) / r, |r| <= 1/2: relative error 2**-32
_EXP2_SHORT = polynomial(
    [],
    [
        0.6931471824645996,
        0.24022650718688965,
        0.05550410598516464,
        0.009618056938052177,
        0.0013333669630810618,
        0.000154613284394145,
        1.5252658158715349e-05,
    ],
)


def _magnitude_single(x, y):
    a = np.float64(absolute(x))
    k, f = reduce_log(a)
    s = f / (f + 2.0)
    z = s * s
    log2_a = muladd(s, muladd(z, _LOG2_SHORT(z), _TWO(z) * _LOG2_E_HIGH(z)), k)
    log2_a = select(a == 0.0, -INFINITY(a), select(a < INFINITY(a), log2_a, a))
    p = clamp(np.float64(y) * log2_a, -200.0, 200.0)
    shifted, r = split_integer(p)
    return np.float32(muladd(_EXP2_SHORT(r), r, 1.0) * power_of_two(integer_of(shifted)))


def _magnitude_double(x, y):
    a = absolute(x)
    k, f = reduce_log(a)
    d = f + 2.0
    inverse = 1.0 / d
    s = f * inverse
    s_low = (fma(-s, d, f) - s * (f - (d - 2.0))) * inverse
    z = s * s
    z_low = fma(s, s, -z) + 2.0 * s * s_low
    u = _TWO_THIRDS_HIGH(z) * z
    u_low = fma(_TWO_THIRDS_HIGH(z), z, -u) + (_TWO_THIRDS_HIGH(z) * z_low + _TWO_THIRDS_LOW(z) * z)
    w = z * z * _LOG_LONG(z)
    v = u + w
    b = 2.0 + v
    b_low = ((2.0 - b) + v) + (((u - v) + w) + u_low)
    m = s * b
    m_low = fma(s, b, -m) + (s * b_low + s_low * b)
    g = m * _LOG2_E_HIGH(m)
    g_low = fma(m, _LOG2_E_HIGH(m), -g) + (m * _LOG2_E_LOW(m) + m_low * _LOG2_E_HIGH(m))
    high = k + g
    low = ((k - high) + g) + g_low
    plain = (a > 0.0) & (a < INFINITY(a))
    high = select(plain, high, select(a == 0.0, -INFINITY(a), a))
    p = y * high
    p_low = fma(y, high, -p) + y * low
    p_low = select((absolute(p) < _LIMIT(p)) & plain, p_low, ZERO(p))
    shifted, r = split_integer(clamp(p, -_LIMIT(p), _LIMIT(p)))
    r = r + p_low
    return scale_shifted(exp2_of_small(r), shifted)


@elementary_of(_magnitude_single, _magnitude_double)
def _magnitude(x, y):
    """Return |x|**y, but nan for 0 * inf in y log2 |x|."""


@elementary
def pow(x, y):
    """Return x**y, with C99's values for zeros, infinities, nans and negative x."""
    one = (x == ONE(x)) | (y == ZERO(x))
    a = absolute(x)
    m = _magnitude(x, y)
    m = select((a == ONE(x)) & (y == y), ONE(x), m)  # (-1)**inf
    half = _HALF(y) * y
    integral = floor(y) == y
    odd = integral & (floor(half) != half)
    negative = bits(x) < bits(ZERO(x))
    m = select(negative & odd, -m, m)
    root = (x < ZERO(x)) & (a < INFINITY(x)) & (absolute(y) < INFINITY(x))
    m = select(root & (floor(y) != y), NAN(x), m)
    return select(one, ONE(x), m)
