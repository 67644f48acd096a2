"""The elementary functions of float32 and float64, for use inside compiled loops, which the vectoriser takes whole.

Inside a kernel ``exp(x)`` with x float32 or float64 gives the same dtype. From Python, the same code runs on arrays.
"""

import math

from tapegrad.kernels.vector_erf import erf, erfc, gelu
from tapegrad.kernels.vector_exp import exp, sigmoid
from tapegrad.kernels.vector_hyperbolic import tanh
from tapegrad.kernels.vector_log import log
from tapegrad.kernels.vector_primitives import constant, elementary, floor, select, square_root, truncate
from tapegrad.kernels.vector_trig import cos, sin

_ONE = constant(1.0)
_TWO = constant(2.0)
_HALF = constant(0.5)
_ZERO = constant(0.0)
_CUBIC = constant(0.044715)
_SQRT_TWO_OVER_PI = constant(math.sqrt(2 / math.pi))


def _libm(name, doc):
    function = getattr(math, name)

    def body(x):
        return function(x)

    body.__name__ = name
    body.__doc__ = doc
    return elementary(body)


exp2 = elementary(lambda x: 2.0**x)
expm1 = _libm("expm1", "Return e**x - 1.")
log2 = _libm("log2", "Return the logarithm to base 2.")
log10 = _libm("log10", "Return the logarithm to base 10.")
log1p = _libm("log1p", "Return log(1 + x).")
tan = _libm("tan", "Return the tangent of x radians.")
asin = _libm("asin", "Return the arc sine.")
acos = _libm("acos", "Return the arc cosine.")
atan = _libm("atan", "Return the arc tangent.")
sinh = _libm("sinh", "Return the hyperbolic sine.")
cosh = _libm("cosh", "Return the hyperbolic cosine.")
asinh = _libm("asinh", "Return the inverse hyperbolic sine.")
acosh = _libm("acosh", "Return the inverse hyperbolic cosine.")
atanh = _libm("atanh", "Return the inverse hyperbolic tangent.")
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
def atan2(y, x):
    """Return the angle of the point (x, y)."""
    return math.atan2(y, x)


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
def silu(x):
    """Return x sigmoid(x)."""
    return x * sigmoid(x)


@elementary
def softplus(x):
    """Return log(1 + e**x)."""
    return select(x > _ZERO(x), x, _ZERO(x)) + log1p(exp(-abs(x)))


@elementary
def log_sigmoid(x):
    """Return log(sigmoid(x))."""
    return -softplus(-x)


@elementary
def gelu_tanh(x):
    """Return gelu's approximation x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x**3)))."""
    inner = (x + x * x * x * _CUBIC(x)) * _SQRT_TWO_OVER_PI(x)
    return _HALF(x) * x * (_ONE(x) + tanh(inner))


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
