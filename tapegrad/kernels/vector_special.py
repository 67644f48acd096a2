"""The gamma function's logarithm and its derivative, and the inverse of erf, as straight-line code.

float32 works in float64. The errors are a few ulp, but for the zeros of lgamma and digamma at negative x: there it is
the absolute error that is bounded.
"""

import numpy as np

from tapegrad.kernels.vector_exp import INFINITY, ONE
from tapegrad.kernels.vector_log import NAN, log
from tapegrad.kernels.vector_primitives import (
    absolute,
    copysign,
    elementary_of,
    floor,
    helper,
    nearest,
    polynomial,
    select,
    square_root,
)
from tapegrad.kernels.vector_trig import sin_near, tan_near

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
# erfinv(x) / x with w = -log(1 - x**2) (Giles, GPU Computing Gems, 2012): in w - centre for small w, in sqrt(w) -
# centre beyond; relative errors 2**-23.5 in float32, 2**-51.8 in float64, which takes three pieces
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
    ],
    [
        1.6536545626831027,
        0.24015818242559042,
        -0.006033670871429175,
        -0.0007407025341726611,
        0.00018673420802882993,
        -1.3882523347664318e-05,
        -1.3654691898735284e-06,
        4.234787620150799e-07,
        -2.907037975347683e-08,
        -4.112624429754449e-09,
        1.0512175979554267e-09,
        -5.4157472936760315e-11,
        -1.2976900049869699e-11,
        2.634243418671139e-12,
        -8.11487605760008e-14,
        -4.064676287695933e-14,
        6.5883170568608435e-15,
        2.948012143634451e-17,
        -1.2928098389953512e-16,
        1.0758410453217132e-17,
        1.1006747554755082e-18,
        -1.6048792669512216e-19,
    ],
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
        4.849906401408584,
        1.0103004648645275,
        -0.00013871931837013536,
        -0.00021503011903039744,
        7.599527787671293e-05,
        -1.968178113404682e-05,
        4.526054923072581e-06,
        -9.929679227550439e-07,
        2.2903791447972907e-07,
        -6.77488389538568e-08,
        2.907215545283732e-08,
        -1.491126428832519e-08,
        7.710346387534025e-09,
        -3.822160677879595e-09,
        1.4468596061787964e-09,
        -2.46831740506979e-10,
        -1.1390645903646025e-11,
    ],
)
_ERFINV_MIDDLE = polynomial(
    [],
    [
        3.0838856104922208,
        1.0052589676941572,
        0.00537091455358375,
        -0.003751208507378249,
        0.002491442096558328,
        -0.0016882755612024122,
        0.0009532893689077863,
        -0.00035503745803986493,
        2.403123192360754e-05,
        6.82844574090903e-05,
        -4.731896247484351e-05,
        1.247670717507875e-05,
        2.925969202308645e-06,
        -4.016693474870224e-06,
        1.4977841635472768e-06,
        2.1244673969775526e-08,
        -2.700102675207576e-07,
        8.9446674360414e-08,
    ],
)


# The steps of the recurrences are written out: LLVM vectorises a loop over straight-line code; inner loops it unrolls
# too late for that.


@helper
def _lowered(z):
    return select(z >= 3.0, z - 1.0, z)


@helper
def _factor(z):
    return select(z >= 3.0, z - 1.0, 1.0)


@helper
def _lgamma_positive(x):
    """Return lgamma(x) for x > 0."""
    large = x >= 8.0
    # Down to z in 2 .. 3 by the recurrence: lgamma(x) = log((x - 1) (x - 2) ... z) + lgamma(z).
    z0 = select(large, 2.0, x)
    z1 = _lowered(z0)
    z2 = _lowered(z1)
    z3 = _lowered(z2)
    z4 = _lowered(z3)
    product = ((_factor(z0) * _factor(z1)) * (_factor(z2) * _factor(z3))) * _factor(z4)
    z = _lowered(z4)
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
    sine = absolute(sin_near(_PI * (t - nearest(t))))
    reflected = log(_PI / (t * sine)) - y
    whole = floor(t) == t
    negative = select(whole, INFINITY(t), select(t < 1e-20, y, reflected))
    y = select(x < 0.0, negative, y)
    return select(t < INFINITY(t), y, t)


@helper
def _digamma_top(top, bottom, z):
    return select(z >= 2.0, top * (z - 1.0) + bottom, top)


@helper
def _digamma_bottom(bottom, z):
    return select(z >= 2.0, bottom * (z - 1.0), bottom)


@helper
def _digamma_lowered(z):
    return select(z >= 2.0, z - 1.0, z)


@helper
def _digamma_positive(x):
    """Return digamma(x) for x > 0."""
    large = x >= 8.0
    # Down to z in 1 .. 2 by the recurrence: digamma(x) = 1/(x - 1) + 1/(x - 2) + ... + 1/z + digamma(z).
    small = x < 1.0
    z = select(large, 1.0, select(small, x + 1.0, x))
    top, bottom = select(small, -1.0, 0.0), select(small, x, 1.0)
    top, bottom, z = _digamma_top(top, bottom, z), _digamma_bottom(bottom, z), _digamma_lowered(z)
    top, bottom, z = _digamma_top(top, bottom, z), _digamma_bottom(bottom, z), _digamma_lowered(z)
    top, bottom, z = _digamma_top(top, bottom, z), _digamma_bottom(bottom, z), _digamma_lowered(z)
    top, bottom, z = _digamma_top(top, bottom, z), _digamma_bottom(bottom, z), _digamma_lowered(z)
    top, bottom, z = _digamma_top(top, bottom, z), _digamma_bottom(bottom, z), _digamma_lowered(z)
    top, bottom, z = _digamma_top(top, bottom, z), _digamma_bottom(bottom, z), _digamma_lowered(z)
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
    y = y - select(negative, _PI / tan_near(_PI * fraction), 0.0)
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
def _erfinv_variable(t):
    return -log((ONE(t) - t) * (ONE(t) + t))


def _erfinv_single(x):
    t = absolute(x)
    w = _erfinv_variable(t)
    far = _ERFINV_FAR(square_root(w) - np.float32(3))
    y = t * select(w < np.float32(5), _ERFINV_NEAR(w - np.float32(2.5)), far)
    return copysign(select(t == ONE(t), INFINITY(t), y), x)


def _erfinv_double(x):
    t = absolute(x)
    w = _erfinv_variable(t)
    s = square_root(w)
    far = select(s < 4.0, _ERFINV_MIDDLE(s - 3.25), _ERFINV_FAR(s - 5.0))
    y = t * select(w < 6.25, _ERFINV_NEAR(w - 3.125), far)
    return copysign(select(t == 1.0, INFINITY(t), y), x)


@elementary_of(_erfinv_single, _erfinv_double)
def erfinv(x):
    """Return the inverse of erf: +-inf at +-1, nan beyond."""
