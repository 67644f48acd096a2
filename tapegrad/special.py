"""Special functions under the names that torch and SciPy give them."""

from typing import Any

from tapegrad.ops.calls import functions

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


def __getattr__(name: str) -> Any:
    if name in _NAMES:
        return functions[_NAMES[name]]
    raise AttributeError(f"module 'tapegrad.special' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(_NAMES)
