"""The elementary functions of float32 and float64, for use inside compiled loops, which the vectoriser takes whole.

Inside a kernel ``exp(x)`` with x float32 or float64 gives the same dtype. From Python, the same code runs on arrays.
"""

import math

from tapegrad.kernels.vector_erf import erf, erfc, gelu, gelu_tanh
from tapegrad.kernels.vector_exp import exp, exp2, expm1, sigmoid, silu
from tapegrad.kernels.vector_hyperbolic import acosh, asinh, atanh, cosh, sinh, tanh
from tapegrad.kernels.vector_inverse_trig import acos, asin, atan, atan2
from tapegrad.kernels.vector_log import log, log1p, log2, log10, log_sigmoid, softplus
from tapegrad.kernels.vector_primitives import constant, elementary, floor, square_root, truncate
from tapegrad.kernels.vector_trig import cos, sin, tan

_ONE = constant(1.0)
_TWO = constant(2.0)
_HALF = constant(0.5)
_ZERO = constant(0.0)


def _libm(name, doc):
    function = getattr(math, name)

    def body(x):
        return function(x)

    body.__name__ = name
    body.__doc__ = doc
    return elementary(body)


lgamma = _libm("lgamma", "Return the logarithm of |gamma(x)|.")


@elementary
def sqrt(x):
    """Return the square root."""
    return square_root(x)


@elementary
def rsqrt(x):
    """Return 1 / sqrt(x)."""
    return _ONE(x) / square_root(x)


@elementary
def pow(x, y):
    """Return x**y."""
    return math.pow(x, y)


@elementary
def fmod(x, y):
    """Return the remainder of x / y with the sign of x."""
    return x - y * truncate(x / y)


@elementary
def remainder(x, y):
    """Return the remainder of x / y with the sign of y."""
    return x - y * floor(x / y)


@elementary
def digamma(x):
    """Return the derivative of lgamma."""
    total = _ZERO(x)
    while x < 10:
        total -= 1 / x
        x += 1
    z = 1 / (x * x)
    return total + math.log(x) - 0.5 / x - z * (1 / 12 - z * (1 / 120 - z * (1 / 252 - z * (1 / 240 - z / 132))))


@elementary
def erfinv(x):
    """Return the inverse of erf."""
    w = -math.log1p(-x * x)
    y = math.copysign(math.sqrt(max(w, 0.0)), x) * 0.88
    for _ in range(30):
        y -= (erf(y) - x) * math.exp(y * y) * 0.886226925452758
    return y


__all__ = [
    "acos",
    "acosh",
    "asin",
    "asinh",
    "atan",
    "atan2",
    "atanh",
    "cos",
    "cosh",
    "digamma",
    "erf",
    "erfc",
    "erfinv",
    "exp",
    "exp2",
    "expm1",
    "fmod",
    "gelu",
    "gelu_tanh",
    "lgamma",
    "log",
    "log1p",
    "log2",
    "log10",
    "log_sigmoid",
    "pow",
    "remainder",
    "rsqrt",
    "sigmoid",
    "silu",
    "sin",
    "sinh",
    "softplus",
    "sqrt",
    "tan",
    "tanh",
]
