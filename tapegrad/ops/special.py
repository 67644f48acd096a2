"""Special functions: the error function and its inverse, the logarithm of the gamma function and its derivatives."""

import math

import numpy as np

from tapegrad.kernels.loops import like
from tapegrad.kernels.vector_math import digamma, erf, erfc, erfinv, lgamma
from tapegrad.native.cache import jit
from tapegrad.ops.elementwise import elementwise
from tapegrad.runtime.layout import FLOATING

TWO_OVER_ROOT_PI = 2 / math.sqrt(math.pi)


def _scipy(name):
    """Return a function of scipy.special, loaded when it is called."""

    def reference(*args):
        import scipy.special

        return getattr(scipy.special, name)(*args)

    return reference


elementwise(
    "erf",
    lambda x: erf(x),
    result=FLOATING,
    vjp=lambda g, y, x: g * (TWO_OVER_ROOT_PI * (-(x * x)).exp()),
    reference=_scipy("erf"),
    math="erf x",
    doc="Return the error function of each element.",
)
elementwise(
    "erfc",
    lambda x: erfc(x),
    result=FLOATING,
    vjp=lambda g, y, x: g * (-TWO_OVER_ROOT_PI * (-(x * x)).exp()),
    reference=_scipy("erfc"),
    math="1 - erf x",
    doc="Return ``1 - erf(input)``, accurate where it is small.",
)
elementwise(
    "erfinv",
    lambda x: erfinv(x),
    result=FLOATING,
    vjp=lambda g, y, x: g * ((y * y).exp() / TWO_OVER_ROOT_PI),
    reference=_scipy("erfinv"),
    samples=[(-0.9, 0.9)],
    math="the y of erf y = x",
    doc="Return the inverse error function of each element.",
)
elementwise(
    "lgamma",
    lambda x: lgamma(x),
    result=FLOATING,
    vjp=lambda g, y, x: g * x.digamma(),
    aliases=("gammaln",),
    reference=_scipy("gammaln"),
    samples=[(0.3, 4)],
    math="ln |gamma(x)|",
    doc="Return the logarithm of the absolute value of the gamma function of each element.",
)
elementwise(
    "digamma",
    lambda x: digamma(x),
    result=FLOATING,
    vjp=lambda g, y, x: g * x.polygamma_of(1.0),
    aliases=("psi",),
    reference=_scipy("digamma"),
    samples=[(0.3, 4)],
    math="d ln gamma(x) / dx",
    doc="Return the derivative of ``lgamma`` of each element.",
)

# B(2k) / (2k)!: the coefficients of Euler and Maclaurin's formula
_BERNOULLI = (1 / 12, -1 / 720, 1 / 30240, -1 / 1209600, 1 / 47900160, -691 / 1307674368000, 1 / 74724249600)
_SHIFT = 10.0  # the sum's terms are added one by one up to here: then seven coefficients give float64's precision


@jit
def _hurwitz_zeta(s, q):
    """Return sum over k of (q + k)^-s by Euler and Maclaurin's formula (DLMF 25.11.8), in float64; s is an integer."""
    total = 0.0
    while q < _SHIFT:
        total += q**-s
        q += 1.0
    power = q**-s
    total += power * (q / (s - 1.0) + 0.5)
    factor = s * power / q
    for k in range(7):
        total += _BERNOULLI[k] * factor
        factor *= (s + 2.0 * k + 1.0) * (s + 2.0 * k + 2.0) / (q * q)
    return total


@jit
def _polygamma(x, n):
    if x <= 0.0 and np.floor(x) == x:
        return np.inf
    if x == np.inf:
        return 0.0
    if x < -1e6:  # the sum would take as many steps
        return np.nan
    factorial = 1.0
    for k in range(2, int(n) + 1):
        factorial *= k
    sign = 1.0 if int(n) % 2 == 1 else -1.0
    return sign * factorial * _hurwitz_zeta(n + 1.0, x)


elementwise(
    "polygamma_of",
    lambda x, n: like(_polygamma(float(x), float(n)), x),
    scalars={"n": None},
    result=FLOATING,
    vjp=lambda g, y, x, n: (g * x.polygamma_of(n + 1.0), None),
    public=False,
    reference=lambda x, n: _scipy("polygamma")(int(n), x),
    samples=[(0.3, 4), 2.0],
    math="the n-th derivative of digamma",
)
