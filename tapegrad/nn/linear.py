"""Layers that multiply by a matrix or move numbers about: Linear, Flatten, Identity."""

from __future__ import annotations

import math
from typing import Any

from tapegrad.nn import init
from tapegrad.nn.module import Module
from tapegrad.nn.parameter import Parameter
from tapegrad.ops.calls import functions
from tapegrad.runtime.dtype import dtype_of, get_default_dtype
from tapegrad.runtime.handle import Tensor
from tapegrad.tensor.construct import check_device, empty

_linear, _flatten = functions["linear"], functions["flatten"]


def new_parameter(shape: tuple[int, ...], device: Any, dtype: Any) -> Parameter:
    """Return a parameter whose numbers are not set."""
    check_device(device)
    return Parameter(empty(shape, get_default_dtype() if dtype is None else dtype_of(dtype)))


class Identity(Module):
    """Returns its input, whatever arguments it is made with."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__()

    def forward(self, input: Any) -> Any:
        """Return the input."""
        return input


class Linear(Module):
    """``y = x weight^T + bias``, begun as torch does: uniform within ``1 / sqrt(in_features)``.

    Args:
        in_features: the length of the input's last dimension.
        out_features: the length of the result's last dimension.
        bias: whether there is a bias.
        device: only ``"cpu"``.
        dtype: the parameters' dtype; the default dtype by default.

    Example:
        >>> import tapegrad as tg
        >>> tg.nn.Linear(3, 2)(tg.ones(4, 3)).shape
        tapegrad.Size([4, 2])
    """

    bias: Parameter | None

    def __init__(
        self, in_features: int, out_features: int, bias: bool = True, device: Any = None, dtype: Any = None
    ) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.weight = new_parameter((out_features, in_features), device, dtype)
        self.register_parameter("bias", new_parameter((out_features,), device, dtype) if bias else None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the parameters anew."""
        init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        if self.bias is not None:
            bound = 1 / math.sqrt(self.in_features) if self.in_features > 0 else 0
            init.uniform_(self.bias, -bound, bound)

    def forward(self, input: Tensor) -> Tensor:
        """Return (..., out_features) for (..., in_features)."""
        return _linear(input, self.weight, self.bias)

    def extra_repr(self) -> str:
        """Return the sizes."""
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"


class Flatten(Module):
    """Makes the dimensions from ``start_dim`` to ``end_dim`` one."""

    def __init__(self, start_dim: int = 1, end_dim: int = -1) -> None:
        super().__init__()
        self.start_dim, self.end_dim = start_dim, end_dim

    def forward(self, input: Tensor) -> Tensor:
        """Return the input with fewer dimensions."""
        return _flatten(input, self.start_dim, self.end_dim)

    def extra_repr(self) -> str:
        """Return the dimensions."""
        return f"start_dim={self.start_dim}, end_dim={self.end_dim}"
