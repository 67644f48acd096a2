"""Activation functions as modules."""

from __future__ import annotations

from typing import Any

from tapegrad.nn import functional as F
from tapegrad.nn.factories import new_parameter
from tapegrad.nn.module import Module
from tapegrad.runtime.handle import Tensor


class _Activation(Module):
    """A function of each element, or along a dimension, with options that are attributes of the same names."""

    _function = ""  # its name in nn.functional
    _options: tuple[str, ...] = ()  # the attributes that the function gets
    _shown: tuple[str, ...] | None = None  # those that the text shows by name; else `extra_repr` is the class's own
    inplace = False

    def forward(self, input: Tensor) -> Tensor:
        """Return a tensor of the input's shape."""
        return getattr(F, self._function)(input, *[getattr(self, name) for name in self._options])

    def extra_repr(self) -> str:
        """Return the options."""
        shown = [f"{name}={getattr(self, name)!r}" for name in self._shown or ()]
        return ", ".join([*shown, *(["inplace=True"] if self.inplace else [])])


class _InPlace(_Activation):
    """An activation whose only option is whether it works in place."""

    _options = ("inplace",)

    def __init__(self, inplace: bool = False) -> None:
        super().__init__()
        self.inplace = inplace


class ReLU(_InPlace):
    """max(x, 0), each element.

    Args:
        inplace: write into the input.
    """

    _function = "relu"

    def forward(self, input: Tensor) -> Tensor:
        """Return a tensor of the input's shape."""
        return F.relu(input, self.inplace)


class ReLU6(_InPlace):
    """min(max(x, 0), 6), each element."""

    _function = "relu6"


class Hardsigmoid(_InPlace):
    """relu6(x + 3) / 6, each element."""

    _function = "hardsigmoid"

    def extra_repr(self) -> str:
        """Return nothing, as torch."""
        return ""


class Hardswish(Hardsigmoid):
    """x relu6(x + 3) / 6, each element (Howard et al. 2019, arXiv:1905.02244)."""

    _function = "hardswish"


class SiLU(_InPlace):
    """x sigmoid(x), each element."""

    _function = "silu"


class Mish(_InPlace):
    """x tanh(softplus(x)), each element (Misra 2019, arXiv:1908.08681)."""

    _function = "mish"


class SELU(_InPlace):
    """scale elu(x, alpha), each element, which keeps mean and variance (Klambauer et al. 2017, arXiv:1706.02515)."""

    _function = "selu"


class Sigmoid(_Activation):
    """1 / (1 + exp(-x)), each element."""

    _function = "sigmoid"


class LogSigmoid(_Activation):
    """-log(1 + exp(-x)), each element."""

    _function = "logsigmoid"


class Tanh(_Activation):
    """tanh(x), each element."""

    _function = "tanh"


class Tanhshrink(_Activation):
    """x - tanh(x), each element."""

    _function = "tanhshrink"


class Softsign(_Activation):
    """x / (1 + abs(x)), each element."""

    _function = "softsign"


class ELU(_Activation):
    """x where it is positive, else alpha (exp(x) - 1), each element (Clevert et al. 2015, arXiv:1511.07289).

    Args:
        alpha: minus the limit for small x.
        inplace: write into the input.
    """

    _function, _options, _shown = "elu", ("alpha", "inplace"), ("alpha",)

    def __init__(self, alpha: float = 1.0, inplace: bool = False) -> None:
        super().__init__()
        self.alpha, self.inplace = alpha, inplace


class CELU(ELU):
    """x where it is positive, else alpha (exp(x / alpha) - 1), each element (Barron 2017, arXiv:1704.07483).

    Args:
        alpha: minus the limit for small x.
    """

    _function = "celu"


class LeakyReLU(_Activation):
    """x where it is positive, else negative_slope x, each element.

    Args:
        negative_slope: the slope.
        inplace: write into the input.
    """

    _function, _options, _shown = "leaky_relu", ("negative_slope", "inplace"), ("negative_slope",)

    def __init__(self, negative_slope: float = 1e-2, inplace: bool = False) -> None:
        super().__init__()
        self.negative_slope, self.inplace = negative_slope, inplace


class RReLU(_Activation):
    """x where it is positive, else x times a slope, drawn in training, else the mean (Xu 2015, arXiv:1505.00853).

    Args:
        lower: the least slope.
        upper: the largest slope.
        inplace: write into the input.
    """

    _function, _options = "rrelu", ("lower", "upper", "training", "inplace")
    _shown = ("lower", "upper")

    def __init__(self, lower: float = 1.0 / 8, upper: float = 1.0 / 3, inplace: bool = False) -> None:
        super().__init__()
        self.lower, self.upper, self.inplace = lower, upper, inplace


class Hardtanh(_Activation):
    """x kept within min_val and max_val, each element.

    Args:
        min_val: the least value.
        max_val: the largest value.
        inplace: write into the input.
    """

    _function, _options, _shown = "hardtanh", ("min_val", "max_val", "inplace"), ("min_val", "max_val")

    def __init__(self, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False) -> None:
        super().__init__()
        self.min_val, self.max_val, self.inplace = min_val, max_val, inplace
        if not max_val > min_val:
            raise AssertionError("max_val must be larger than min_val")


class Threshold(_Activation):
    """x where it is above the threshold, else a value, each element.

    Args:
        threshold: the threshold.
        value: what is put in the place of the others.
        inplace: write into the input.
    """

    _function, _options, _shown = "threshold", ("threshold", "value", "inplace"), ("threshold", "value")

    def __init__(self, threshold: float, value: float, inplace: bool = False) -> None:
        super().__init__()
        self.threshold, self.value, self.inplace = threshold, value, inplace


class Softplus(_Activation):
    """log(1 + exp(beta x)) / beta, each element; x itself where beta x is above the threshold.

    Args:
        beta: how sharp the bend is.
        threshold: from where on it is taken to be linear.
    """

    _function, _options, _shown = "softplus", ("beta", "threshold"), ("beta", "threshold")

    def __init__(self, beta: float = 1.0, threshold: float = 20.0) -> None:
        super().__init__()
        self.beta, self.threshold = beta, threshold


class _Shrink(_Activation):
    """A shrinking function.

    Args:
        lambd: half the width of what becomes 0.
    """

    _options = ("lambd",)

    def __init__(self, lambd: float = 0.5) -> None:
        super().__init__()
        self.lambd = lambd

    def extra_repr(self) -> str:
        """Return the number."""
        return str(self.lambd)


class Hardshrink(_Shrink):
    """x where its absolute value is above lambd, else 0, each element."""

    _function = "hardshrink"


class Softshrink(_Shrink):
    """x moved towards 0 by lambd, each element."""

    _function = "softshrink"


class GELU(_Activation):
    """x times the normal distribution function of x, each element (Hendrycks and Gimpel 2016, arXiv:1606.08415).

    Args:
        approximate: ``"tanh"`` for the approximation by tanh.
    """

    _shown = ("approximate",)

    def __init__(self, approximate: str = "none") -> None:
        super().__init__()
        self.approximate = approximate

    def forward(self, input: Tensor) -> Tensor:
        """Return a tensor of the input's shape."""
        return F.gelu(input, approximate=self.approximate)


class PReLU(Module):
    """x where it is positive, else weight x, with a weight that is learned (He et al. 2015, arXiv:1502.01852).

    Args:
        num_parameters: 1, or the number of the input's channels.
        init: what the weight begins with.
        device: only ``"cpu"``.
        dtype: the weight's dtype; the default dtype by default.
    """

    def __init__(self, num_parameters: int = 1, init: float = 0.25, device: Any = None, dtype: Any = None) -> None:
        super().__init__()
        self.num_parameters, self.init = num_parameters, init
        self.weight = new_parameter((num_parameters,), device, dtype)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set the weight to what it began with."""
        self.weight.data.fill_(self.init)

    def forward(self, input: Tensor) -> Tensor:
        """Return a tensor of the input's shape."""
        return F.prelu(input, self.weight)

    def extra_repr(self) -> str:
        """Return the number of parameters."""
        return f"num_parameters={self.num_parameters}"


class GLU(_Activation):
    """The first half of x along a dimension times the sigmoid of the second (Dauphin et al. 2017, arXiv:1612.08083).

    Args:
        dim: the dimension that is halved.
    """

    _function, _options, _shown = "glu", ("dim",), ("dim",)

    def __init__(self, dim: int = -1) -> None:
        super().__init__()
        self.dim = dim


class Softmax(_Activation):
    """exp(x) over its sum along ``dim``.

    Args:
        dim: the dimension.
    """

    _function, _options, _shown = "softmax", ("dim",), ("dim",)

    def __init__(self, dim: int | None = None) -> None:
        super().__init__()
        self.dim = dim


class Softmin(Softmax):
    """The softmax of -x along ``dim``."""

    _function = "softmin"


class LogSoftmax(Softmax):
    """The logarithm of softmax along ``dim``."""

    _function = "log_softmax"


class Softmax2d(Module):
    """The softmax over the channels of [c, h, w] or [n, c, h, w]."""

    def forward(self, input: Tensor) -> Tensor:
        """Return a tensor of the input's shape."""
        if input.dim() not in (3, 4):
            raise ValueError(f"Softmax2d: expected input to be 3D or 4D, got {input.dim()}D instead")
        return F.softmax(input, -3)
