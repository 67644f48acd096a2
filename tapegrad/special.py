"""Special functions under the names that torch and SciPy give them."""

from typing import Any

from tapegrad.ops.calls import functions
from tapegrad.ops.parameters import complete

_NAMES = {
    "digamma": "digamma",
    "erf": "erf",
    "erfc": "erfc",
    "erfinv": "erfinv",
    "exp2": "exp2",
    "expit": "sigmoid",
    "expm1": "expm1",
    "gammaln": "lgamma",
    "log1p": "log1p",
    "log_softmax": "log_softmax",
    "logit": "logit",
    "logsumexp": "logsumexp",
    "psi": "digamma",
    "round": "round",
    "sinc": "sinc",
    "softmax": "softmax",
    "xlogy": "xlogy",
}


_LOG_PI = 1.1447298858494002


def entr(input: Any) -> Any:
    """Return the entropy ``-x ln x`` of each element: 0 at 0, -inf below."""
    negative = functions["full_like"](input, -float("inf"))
    return functions["where"](input < 0, negative, -functions["xlogy"](input, input))


def ndtr(input: Any) -> Any:
    """Return the normal distribution's cumulative distribution function of each element."""
    return functions["erfc"](input * -(0.5**0.5)) * 0.5


def ndtri(input: Any) -> Any:
    """Return the inverse of ``ndtr``."""
    return functions["erfinv"](input * 2 - 1) * 2**0.5


def xlog1py(input: Any, other: Any) -> Any:
    """Return ``x ln(1 + y)`` of tensors; 0 where x is 0, even if the logarithm is not finite, and nan where y is."""
    zero = functions["logical_and"](input == 0, functions["logical_not"](functions["isnan"](other)))
    product = input * functions["log1p"](other)
    return functions["where"](zero, functions["zeros_like"](product), product)


def multigammaln(input: Any, p: int) -> Any:
    """Return the logarithm of the multivariate gamma function of dimension ``p``, for elements above (p - 1) / 2."""
    total = functions["lgamma"](input)
    for k in range(1, p):
        total = total + functions["lgamma"](input - k / 2)
    return total + p * (p - 1) / 4 * _LOG_PI


def __getattr__(name: str) -> Any:
    if name in _NAMES:
        return functions[_NAMES[name]]
    raise AttributeError(f"module 'tapegrad.special' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*_NAMES, "entr", "multigammaln", "ndtr", "ndtri", "xlog1py"])


for _function in (entr, multigammaln, ndtr, ndtri, xlog1py):
    complete(_function)
