"""The gamma function's logarithm and its derivative, and the inverse of erf, as straight-line code.

float32 works in float64. The errors are a few ulp, but for the zeros of lgamma and digamma at negative x: there it is
the absolute error that is bounded.
"""

import numpy as np

from tapegrad.kernels.vector_erf import erf, erfc
from tapegrad.kernels.vector_exp import INFINITY, ONE, exp
from tapegrad.kernels.vector_log import NAN, log
from tapegrad.kernels.vector_primitives import (
    absolute,
    constant,
    copysign,
    elementary_of,
    floor,
    helper,
    nearest,
    polynomial,
    select,
    square_root,
)
from tapegrad.kernels.vector_trig import sin, tan

_HALF_LOG_2PI = 0.9189385332046728
_PI = 3.141592653589793
_SQRT_PI = 1.772453850905516
_HUGE = 1e305  # x (log x - 1) overflows a little above

# lgamma(1 + y) / (y (y - 1)), 0 <= y <= 2: relative error 2**-60
_LGAMMA_TOP = polynomial(
    [],
    [
        0.5772156649015329,
        1.7234746579610962,
        1.9876640019360283,
        1.1167214370909146,
        0.31729818991346587,
        0.04294409031963386,
        0.0023166409434990623,
        3.1053542895111694e-05,
    ],
)
_LGAMMA_BOTTOM = polynomial(
    [],
    [
        1.0,
        3.410728686338617,
        4.623428947499398,
        3.1801391723949104,
        1.1764874699286283,
        0.2291421685264102,
        0.021393566017098,
        0.0007727944224630538,
        6.151225169195735e-06,
    ],
)
# (lgamma(x) - (x - 1/2) log x + x - log(2 pi) / 2) x in 1 / x**2, x >= 8: absolute error 2**-60
_STIRLING = polynomial(
    [],
    [
        0.08333333333333333,
        -0.002777777777774099,
        0.0007936507898348556,
        -0.0005952366069436757,
        0.0008414728481326721,
        -0.001890539890261166,
        0.005069247825979683,
    ],
)
# (log x - 1 / (2x) - digamma(x)) x**2 in 1 / x**2, x >= 8: absolute error 2**-62
_DIGAMMA_FAR = polynomial(
    [],
    [
        0.08333333333333333,
        -0.008333333333331734,
        0.003968253966069873,
        -0.004166665528367752,
        0.0075754648173399575,
        -0.021051519631739245,
        0.08004469125955778,
        -0.2998146371272027,
    ],
)
# digamma(1 + y) / (1 + y - zero), 0 <= y <= 1: relative error 2**-59.9
_ZERO_HIGH = 1.4616321449683622
_ZERO_LOW = 9.549995429965697e-17
_DIGAMMA_TOP = polynomial(
    [],
    [
        1.2503801375034054,
        1.7839110084186738,
        0.859726690301204,
        0.1687265465099376,
        0.012447914226444477,
        0.00022696194145382194,
    ],
)
_DIGAMMA_BOTTOM = polynomial(
    [],
    [
        1.0,
        2.1102417495921513,
        1.5282296745914796,
        0.4810897367218109,
        0.06652209832482701,
        0.0034603883475609076,
        4.012509960007305e-05,
    ],
)
# erfinv(x) / x in w - 2.5, 0 <= w <= 5, and in sqrt(w) - 3 or - 4 beyond, w = -log(1 - x**2): 2**-23.5 in float32,
# a start for one step of Halley's method in float64 (2**-21)
_ERFINV_NEAR = polynomial(
    [
        1.5014093592812472,
        0.2466402861560189,
        -0.004177386777143119,
        -0.0012527418815054146,
        0.0002183444355936697,
        -4.963346521518976e-06,
        -3.462703625187723e-06,
        4.6617045967249373e-07,
        2.3232544149889793e-08,
        -8.791047234753455e-09,
    ]
)
_ERFINV_FAR = polynomial(
    [
        2.832977056503296,
        1.0016741752624512,
        0.00943490769714117,
        -0.007624749094247818,
        0.005765791051089764,
        -0.0036619973834604025,
        0.0012940262677147985,
        8.826149860396981e-05,
        -0.00016335074906237423,
    ],
    [
        3.8397843327868775,
        1.00950233527444,
        0.0012530179058137317,
        -0.0009180753297136921,
        0.0003394522803671285,
        -4.521674227101565e-05,
        3.182920512322237e-05,
        -7.428964987078923e-05,
        3.4383099551250475e-05,
        -4.05610235812579e-07,
        -1.6088813933581545e-06,
    ],
)
_FAR_CENTRE = constant(3.0, 4.0)
_HALF = constant(0.5)
_FIVE = constant(5.0)
_NEAR_CENTRE = constant(2.5)


@helper
def _lgamma_positive(x):
    """Return lgamma(x) for x > 0."""
    large = x >= 8.0
    # Down to z in 2 .. 3 by the recurrence: lgamma(x) = log((x - 1) (x - 2) ... z) + lgamma(z).
    z = select(large, 2.0, x)
    product = 1.0
    for _ in range(5):
        above = z >= 3.0
        product = product * select(above, z - 1.0, 1.0)
        z = select(above, z - 1.0, z)
    small = z < 1.0
    y = select(small, z, z - 1.0)  # lgamma(1 + y)
    base = y * (y - 1.0) * (_LGAMMA_TOP(y) / _LGAMMA_BOTTOM(y))
    logarithm = log(select(large, x, select(small, z, product)))
    inverse = 1.0 / x
    series = inverse * _STIRLING(inverse * inverse)
    stirling = (x - 0.5) * (logarithm - 1.0) + (series + (_HALF_LOG_2PI - 0.5))
    return select(large, stirling, base + select(small, -logarithm, logarithm))


@helper
def _lgamma(x):
    t = absolute(x)
    y = _lgamma_positive(t)
    # lgamma(-t) = log(pi / (t |sin(pi t)|)) - lgamma(t)
    sine = absolute(sin(_PI * (t - nearest(t))))
    reflected = log(_PI / (t * sine)) - y
    whole = floor(t) == t
    negative = select(whole, INFINITY(t), select(t < 1e-20, y, reflected))
    y = select(x < 0.0, negative, y)
    return select(t < INFINITY(t), y, t)


@helper
def _digamma_positive(x):
    """Return digamma(x) for x > 0."""
    large = x >= 8.0
    # Down to z in 1 .. 2 by the recurrence: digamma(x) = 1/(x - 1) + 1/(x - 2) + ... + 1/z + digamma(z).
    small = x < 1.0
    z = select(large, 1.0, select(small, x + 1.0, x))
    top, bottom = select(small, -1.0, 0.0), select(small, x, 1.0)
    for _ in range(6):
        above = z >= 2.0
        z = select(above, z - 1.0, z)
        top = select(above, top * z + bottom, top)
        bottom = select(above, bottom * z, bottom)
    y = z - 1.0
    near = ((z - _ZERO_HIGH) - _ZERO_LOW) * (_DIGAMMA_TOP(y) / _DIGAMMA_BOTTOM(y)) + top / bottom
    inverse = 1.0 / x
    square = inverse * inverse
    return select(large, log(x) - (0.5 * inverse + square * _DIGAMMA_FAR(square)), near)


@helper
def _digamma(x):
    negative = x < 0.0
    y = _digamma_positive(select(negative, 1.0 - x, x))  # digamma(x) = digamma(1 - x) - pi / tan(pi x)
    fraction = x - nearest(x)
    y = y - select(negative, _PI / tan(_PI * fraction), 0.0)
    y = select(negative & (fraction == 0.0), NAN(x), y)
    return select(x == 0.0, copysign(INFINITY(x), -x), y)


def _lgamma_single(x):
    return np.float32(_lgamma(np.float64(x)))


def _lgamma_double(x):
    return _lgamma(x)


def _digamma_single(x):
    return np.float32(_digamma(np.float64(x)))


def _digamma_double(x):
    return _digamma(x)


@elementary_of(_lgamma_single, _lgamma_double)
def lgamma(x):
    """Return log|gamma(x)|."""


@elementary_of(_digamma_single, _digamma_double)
def digamma(x):
    """Return the derivative of lgamma; nan at negative integers, -+inf at +-0."""


@helper
def _erfinv_start(t):
    """Return erfinv(t) for 0 <= t < 1, by polynomials in log(1 - t**2) (Giles, GPU Computing Gems, 2012)."""
    w = -log((ONE(t) - t) * (ONE(t) + t))
    near = _ERFINV_NEAR(w - _NEAR_CENTRE(t))
    far = _ERFINV_FAR(square_root(w) - _FAR_CENTRE(t))
    return t * select(w < _FIVE(t), near, far)


def _erfinv_single(x):
    t = absolute(x)
    y = _erfinv_start(t)
    return copysign(select(t == ONE(t), INFINITY(t), y), x)


def _erfinv_double(x):
    t = absolute(x)
    y = _erfinv_start(t)
    residual = select(t < 0.5, erf(y) - t, (1.0 - t) - erfc(y))
    step = residual * (0.5 * _SQRT_PI) * exp(y * y)
    y = y - step / (1.0 + y * step)
    return copysign(select(t == 1.0, INFINITY(t), y), x)


@elementary_of(_erfinv_single, _erfinv_double)
def erfinv(x):
    """Return the inverse of erf: +-inf at +-1, nan beyond."""
