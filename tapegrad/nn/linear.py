"""Layers that multiply by matrices: Linear, Bilinear."""

from __future__ import annotations

import math
from typing import Any

from tapegrad.nn import init
from tapegrad.nn.factories import new_parameter as new_parameter
from tapegrad.nn.module import Module
from tapegrad.nn.parameter import Parameter
from tapegrad.ops.calls import functions
from tapegrad.runtime.handle import Tensor

_linear = functions["linear"]


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


class Bilinear(Module):
    """``y_k = x1^T weight_k x2 + bias_k``, begun uniform within ``1 / sqrt(in1_features)``.

    Args:
        in1_features: the length of the first input's last dimension.
        in2_features: the length of the second input's last dimension.
        out_features: the length of the result's last dimension.
        bias: whether there is a bias.
        device: only ``"cpu"``.
        dtype: the parameters' dtype; the default dtype by default.
    """

    bias: Parameter | None

    def __init__(
        self,
        in1_features: int,
        in2_features: int,
        out_features: int,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        if in1_features <= 0:
            raise ValueError(f"in1_features must be > 0, but got {in1_features}")
        self.in1_features, self.in2_features, self.out_features = in1_features, in2_features, out_features
        self.weight = new_parameter((out_features, in1_features, in2_features), device, dtype)
        self.register_parameter("bias", new_parameter((out_features,), device, dtype) if bias else None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the parameters anew."""
        bound = 1 / math.sqrt(self.in1_features)
        init.uniform_(self.weight, -bound, bound)
        if self.bias is not None:
            init.uniform_(self.bias, -bound, bound)

    def forward(self, input1: Tensor, input2: Tensor) -> Tensor:
        """Return (..., out_features) for (..., in1_features) and (..., in2_features)."""
        return functions["bilinear"](input1, input2, self.weight, self.bias)

    def extra_repr(self) -> str:
        """Return the sizes."""
        sizes = f"in1_features={self.in1_features}, in2_features={self.in2_features}, out_features={self.out_features}"
        return f"{sizes}, bias={self.bias is not None}"
