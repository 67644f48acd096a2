"""torch.nn.functional's forms of the activations: with ``inplace``, and softmax without a dimension."""

from __future__ import annotations

import warnings
from typing import Any

from tapegrad.ops.calls import functions, shape_of
from tapegrad.runtime.handle import Tensor

_f = functions
_relu, _relu_, _leaky_relu, _leaky_relu_ = _f["relu"], _f["relu_"], _f["leaky_relu"], _f["leaky_relu_"]
_silu, _silu_, _hardtanh, _hardtanh_ = _f["silu"], _f["silu_"], _f["hardtanh"], _f["hardtanh_"]


def relu(input: Tensor, inplace: bool = False) -> Tensor:
    """Return ``max(input, 0)``."""
    return _relu_(input) if inplace else _relu(input)


def threshold(input: Tensor, threshold: float, value: float, inplace: bool = False) -> Tensor:
    """Return ``input`` where it is above ``threshold``, else ``value``."""
    return _f["threshold_" if inplace else "threshold"](input, threshold, value)


def hardtanh(input: Tensor, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False) -> Tensor:
    """Return ``input`` kept within ``min_val`` and ``max_val``."""
    if min_val > max_val:
        raise ValueError("min_val cannot be greater than max_val")
    return _hardtanh_(input, min_val, max_val) if inplace else _hardtanh(input, min_val, max_val)


def relu6(input: Tensor, inplace: bool = False) -> Tensor:
    """Return ``min(max(input, 0), 6)``."""
    return _hardtanh_(input, 0.0, 6.0) if inplace else _hardtanh(input, 0.0, 6.0)


def hardswish(input: Tensor, inplace: bool = False) -> Tensor:
    """Return ``input * relu6(input + 3) / 6`` (Howard et al. 2019, arXiv:1905.02244)."""
    return _f["hardswish_" if inplace else "hardswish"](input)


def hardsigmoid(input: Tensor, inplace: bool = False) -> Tensor:
    """Return ``relu6(input + 3) / 6``."""
    return _f["hardsigmoid_" if inplace else "hardsigmoid"](input)


def elu(input: Tensor, alpha: float = 1.0, inplace: bool = False) -> Tensor:
    """Return ``input`` where it is positive, else ``alpha (exp(input) - 1)``."""
    return _f["elu_" if inplace else "elu"](input, alpha)


def selu(input: Tensor, inplace: bool = False) -> Tensor:
    """Return ``scale elu(input, alpha)`` with the constants of Klambauer et al. 2017, arXiv:1706.02515."""
    return _f["selu_" if inplace else "selu"](input)


def celu(input: Tensor, alpha: float = 1.0, inplace: bool = False) -> Tensor:
    """Return ``input`` where it is positive, else ``alpha (exp(input / alpha) - 1)``."""
    return _f["celu_" if inplace else "celu"](input, alpha)


def leaky_relu(input: Tensor, negative_slope: float = 0.01, inplace: bool = False) -> Tensor:
    """Return ``input`` where it is positive, else ``negative_slope input``."""
    return _leaky_relu_(input, negative_slope) if inplace else _leaky_relu(input, negative_slope)


def rrelu(
    input: Tensor, lower: float = 1.0 / 8, upper: float = 1.0 / 3, training: bool = False, inplace: bool = False
) -> Tensor:
    """Return ``input`` where it is positive, else ``input`` times a slope drawn from lower .. upper in training."""
    return _f["rrelu_" if inplace else "rrelu"](input, lower, upper, training)


def silu(input: Tensor, inplace: bool = False) -> Tensor:
    """Return ``input sigmoid(input)``."""
    return _silu_(input) if inplace else _silu(input)


def mish(input: Tensor, inplace: bool = False) -> Tensor:
    """Return ``input tanh(softplus(input))`` (Misra 2019, arXiv:1908.08681)."""
    return _f["mish_" if inplace else "mish"](input)


def _implicit_dim(input: Tensor, name: str, dim: int | None) -> int:
    if dim is not None:
        return dim
    warnings.warn(
        f"Implicit dimension choice for {name} has been deprecated. Change the call to include dim=X as an argument.",
        UserWarning,
        stacklevel=3,
    )
    return 0 if len(shape_of(input)) in (0, 1, 3) else 1


def softmax(input: Tensor, dim: int | None = None, _stacklevel: int = 3, dtype: Any = None) -> Tensor:
    """Return exp(input) over its sum along ``dim``."""
    return _f["softmax"](input, _implicit_dim(input, "softmax", dim), dtype)


def softmin(input: Tensor, dim: int | None = None, _stacklevel: int = 3, dtype: Any = None) -> Tensor:
    """Return softmax of ``-input`` along ``dim``."""
    return _f["softmin"](input, _implicit_dim(input, "softmin", dim), dtype)


def log_softmax(input: Tensor, dim: int | None = None, _stacklevel: int = 3, dtype: Any = None) -> Tensor:
    """Return the logarithm of softmax along ``dim``."""
    return _f["log_softmax"](input, _implicit_dim(input, "log_softmax", dim), dtype)


NAMES = (
    "celu",
    "elu",
    "hardsigmoid",
    "hardswish",
    "hardtanh",
    "leaky_relu",
    "log_softmax",
    "mish",
    "relu",
    "relu6",
    "rrelu",
    "selu",
    "silu",
    "softmax",
    "softmin",
    "threshold",
)
