"""How weights begin: fills of tensors in place, outside of any graph, from the default generator."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np

from tapegrad.autograd.modes import no_grad
from tapegrad.ops.calls import functions, shape_of
from tapegrad.ops.linalg import qr as _qr
from tapegrad.ops.parameters import complete
from tapegrad.runtime.dtype import float64
from tapegrad.runtime.handle import Tensor

_GAINS = {"tanh": 5 / 3, "relu": math.sqrt(2), "selu": 3 / 4}
_LINEAR = ("linear", "sigmoid", *(f"conv{kind}{n}d" for kind in ("", "_transpose") for n in (1, 2, 3)))


def calculate_gain(nonlinearity: str, param: float | None = None) -> float:
    """Return the factor that keeps the variance through a nonlinearity.

    Args:
        nonlinearity: ``linear``, ``conv1d`` and its kin, ``sigmoid``, ``tanh``, ``relu``, ``leaky_relu``, ``selu``.
        param: the negative slope of ``leaky_relu``, 0.01 by default.
    """
    if nonlinearity in _LINEAR:
        return 1.0
    if nonlinearity == "leaky_relu":
        slope = 0.01 if param is None else param
        if isinstance(slope, bool) or not isinstance(slope, int | float):
            raise ValueError(f"negative_slope {param} not a valid number")
        return math.sqrt(2 / (1 + slope**2))
    if nonlinearity not in _GAINS:
        raise ValueError(f"Unsupported nonlinearity {nonlinearity}")
    return _GAINS[nonlinearity]


def fans(tensor: Tensor) -> tuple[int, int]:
    """Return how many numbers go into an output of a weight, and how many outputs an input goes into.

    Args:
        tensor: the weight, [outputs, inputs, ...].
    """
    shape = shape_of(tensor)
    if len(shape) < 2:
        raise ValueError("Fan in and fan out can not be computed for tensor with fewer than 2 dimensions")
    field = math.prod(shape[2:])
    return shape[1] * field, shape[0] * field


_calculate_fan_in_and_fan_out = fans


def _fan(tensor: Tensor, mode: str) -> int:
    mode = mode.lower()
    if mode not in ("fan_in", "fan_out"):
        raise ValueError(f"Mode {mode} not supported, please use one of ['fan_in', 'fan_out']")
    return fans(tensor)[mode == "fan_out"]


def _fill(name: str, tensor: Tensor, *args: Any, **named: Any) -> Tensor:
    with no_grad():
        getattr(tensor, name)(*args, **named)
    return tensor


def uniform_(tensor: Tensor, a: float = 0.0, b: float = 1.0, generator: Any = None) -> Tensor:
    """Fill with draws from the uniform distribution on [a, b)."""
    return _fill("uniform_", tensor, a, b, generator=generator)


def normal_(tensor: Tensor, mean: float = 0.0, std: float = 1.0, generator: Any = None) -> Tensor:
    """Fill with draws from the normal distribution."""
    return _fill("normal_", tensor, mean, std, generator=generator)


def constant_(tensor: Tensor, val: float) -> Tensor:
    """Fill with a number."""
    return _fill("fill_", tensor, val)


def ones_(tensor: Tensor) -> Tensor:
    """Fill with ones."""
    return constant_(tensor, 1.0)


def zeros_(tensor: Tensor) -> Tensor:
    """Fill with zeros."""
    return constant_(tensor, 0.0)


def eye_(tensor: Tensor) -> Tensor:
    """Fill a matrix with ones on its diagonal and zeros elsewhere."""
    if len(shape_of(tensor)) != 2:
        raise ValueError("Only tensors with 2 dimensions are supported")
    rows, columns = shape_of(tensor)
    return _fill("copy_", tensor, functions["eye"](rows, columns))


def dirac_(tensor: Tensor, groups: int = 1) -> Tensor:
    """Fill a convolution's weight so that channels pass through unchanged, as many as there are.

    Args:
        tensor: [out_channels, in_channels, ...], of 3 to 5 dimensions.
        groups: the convolution's groups.

    Raises:
        ValueError: other dimensions, or channels that are no multiple of ``groups``.
    """
    shape = shape_of(tensor)
    if len(shape) not in (3, 4, 5):
        raise ValueError("Only tensors with 3, 4, or 5 dimensions are supported")
    if shape[0] % groups:
        raise ValueError("dim 0 must be divisible by groups")
    each = shape[0] // groups
    numbers = np.zeros(shape)
    for k in range(min(each, shape[1])):
        middle: Any = (slice(k, None, each), k, *(length // 2 for length in shape[2:]))
        numbers[middle] = 1
    return _fill("copy_", tensor, functions["_from_array"](numbers))


def xavier_uniform_(tensor: Tensor, gain: float = 1.0, generator: Any = None) -> Tensor:
    """Fill uniformly with variance 2 gain^2 / (fan_in + fan_out) (Glorot and Bengio 2010)."""
    bound = gain * math.sqrt(6.0 / sum(fans(tensor)))
    return uniform_(tensor, -bound, bound, generator)


def xavier_normal_(tensor: Tensor, gain: float = 1.0, generator: Any = None) -> Tensor:
    """Fill normally with variance 2 gain^2 / (fan_in + fan_out) (Glorot and Bengio 2010)."""
    return normal_(tensor, 0.0, gain * math.sqrt(2.0 / sum(fans(tensor))), generator)


def kaiming_uniform_(
    tensor: Tensor, a: float = 0, mode: str = "fan_in", nonlinearity: str = "leaky_relu", generator: Any = None
) -> Tensor:
    """Fill uniformly with variance gain^2 / fan (He et al. 2015, arXiv:1502.01852).

    Args:
        tensor: the weight.
        a: the negative slope of the ``leaky_relu`` that follows.
        mode: whether ``fan_in`` or ``fan_out`` is kept.
        nonlinearity: what follows.
        generator: the generator of random numbers; the default one by default.
    """
    bound = calculate_gain(nonlinearity, a) * math.sqrt(3.0 / max(_fan(tensor, mode), 1))
    return uniform_(tensor, -bound, bound, generator)


def kaiming_normal_(
    tensor: Tensor, a: float = 0, mode: str = "fan_in", nonlinearity: str = "leaky_relu", generator: Any = None
) -> Tensor:
    """Fill normally with variance gain^2 / fan (He et al. 2015, arXiv:1502.01852).

    Args:
        tensor: the weight.
        a: the negative slope of the leaky_relu that follows.
        mode: whether ``fan_in`` or ``fan_out`` is kept.
        nonlinearity: what follows.
        generator: the generator of random numbers; the default one by default.
    """
    std = calculate_gain(nonlinearity, a) / math.sqrt(max(_fan(tensor, mode), 1))
    return normal_(tensor, 0.0, std, generator)


def trunc_normal_(
    tensor: Tensor, mean: float = 0.0, std: float = 1.0, a: float = -2.0, b: float = 2.0, generator: Any = None
) -> Tensor:
    """Fill with draws from the normal distribution that lie in [a, b]: what it gives of uniform draws' quantiles.

    Args:
        tensor: what is filled.
        mean: the mean of the distribution before it is cut.
        std: its standard deviation.
        a: the least value.
        b: the largest value.
        generator: the generator of random numbers; the default one by default.
    """
    if mean < a - 2 * std or mean > b + 2 * std:
        warnings.warn(
            "mean is more than 2 std from [a, b] in nn.init.trunc_normal_. The distribution of values may be "
            "incorrect.",
            stacklevel=2,
        )
    low, high = (math.erf((bound - mean) / (std * math.sqrt(2))) for bound in (a, b))
    with no_grad():
        drawn = functions["rand"](shape_of(tensor), dtype=float64, generator=generator) * (high - low) + low
        values = functions["erfinv"](drawn) * (std * math.sqrt(2)) + mean
        functions["copy_"](tensor, functions["clamp"](values, a, b))
    return tensor


def orthogonal_(tensor: Tensor, gain: float = 1, generator: Any = None) -> Tensor:
    """Fill with a matrix whose rows, or columns where there are fewer, are orthonormal (Saxe et al. 2013).

    Drawn from the uniform distribution of such matrices: Mezzadri 2007, arXiv:math-ph/0609050.

    Args:
        tensor: of at least 2 dimensions; those from the second on are taken as one.
        gain: a factor.
        generator: the generator of random numbers; the default one by default.
    """
    shape = shape_of(tensor)
    if len(shape) < 2:
        raise ValueError("Only tensors with 2 or more dimensions are supported")
    if 0 in shape:
        return tensor
    rows, columns = shape[0], math.prod(shape[1:])
    with no_grad():
        drawn = functions["randn"]((max(rows, columns), min(rows, columns)), dtype=tensor.dtype, generator=generator)
        q, r = _qr(drawn)
        q = q * functions["sign"](functions["diagonal"](r))
        q = functions["t"](q) if rows < columns else q
        functions["copy_"](tensor, functions["reshape"](q * gain, shape))
    return tensor


def sparse_(tensor: Tensor, sparsity: float, std: float = 0.01, generator: Any = None) -> Tensor:
    """Fill a matrix normally, with a share of each column put to zero (Martens 2010).

    Args:
        tensor: [rows, columns].
        sparsity: the share of zeros.
        std: the standard deviation of the others.
        generator: the generator of random numbers; the default one by default.
    """
    shape = shape_of(tensor)
    if len(shape) != 2:
        raise ValueError("Only tensors with 2 dimensions are supported")
    zeros = math.ceil(sparsity * shape[0])
    with no_grad():
        order = functions["argsort"](functions["rand"](shape, generator=generator), 0)
        drawn = functions["randn"](shape, dtype=tensor.dtype, generator=generator) * std
        functions["copy_"](tensor, functions["scatter"](drawn, 0, order[:zeros], 0.0))
    return tensor


for _name in (
    "uniform_",
    "normal_",
    "constant_",
    "ones_",
    "zeros_",
    "eye_",
    "dirac_",
    "sparse_",
    "orthogonal_",
    "fans",
):
    complete(globals()[_name])
for _name in ("trunc_normal_", "xavier_uniform_", "xavier_normal_", "kaiming_uniform_", "kaiming_normal_"):
    complete(globals()[_name])
