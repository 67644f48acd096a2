"""The elementary functions of float32 and float64, for use inside compiled loops, which the vectoriser takes whole.

Inside a kernel ``exp(x)`` with x float32 or float64 gives the same dtype. From Python, the same code runs on arrays.
"""

from tapegrad.kernels.vector_erf import erf, erfc
from tapegrad.kernels.vector_exp import exp, exp2, expm1, sigmoid, silu
from tapegrad.kernels.vector_gelu import gelu, gelu_tanh
from tapegrad.kernels.vector_hyperbolic import acosh, asinh, atanh, cosh, sinh, tanh
from tapegrad.kernels.vector_inverse_trig import acos, asin, atan, atan2
from tapegrad.kernels.vector_log import log, log1p, log2, log10, log_sigmoid, softplus
from tapegrad.kernels.vector_pow import pow
from tapegrad.kernels.vector_primitives import constant, elementary, square_root
from tapegrad.kernels.vector_remainder import fmod, remainder
from tapegrad.kernels.vector_special import digamma, erfinv, lgamma
from tapegrad.kernels.vector_trig_far import cos, sin, tan

_ONE = constant(1.0)


@elementary
def sqrt(x):
    """Return the square root."""
    return square_root(x)


@elementary
def rsqrt(x):
    """Return 1 / sqrt(x)."""
    return _ONE(x) / square_root(x)


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
