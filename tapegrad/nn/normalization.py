"""Layers that normalise: LayerNorm."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tapegrad.nn import functional as F
from tapegrad.nn import init
from tapegrad.nn.linear import new_parameter
from tapegrad.nn.module import Module
from tapegrad.runtime.handle import Tensor


class LayerNorm(Module):
    """(x - mean) / sqrt(var + eps) weight + bias over the last dimensions (Ba et al. 2016, arXiv:1607.06450).

    Args:
        normalized_shape: the lengths of those dimensions.
        eps: added to the variance.
        elementwise_affine: whether there are weight and bias.
        bias: whether there is a bias.
        device: only ``"cpu"``.
        dtype: the parameters' dtype; the default dtype by default.
    """

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        shape = (normalized_shape,) if isinstance(normalized_shape, int) else tuple(normalized_shape)
        self.normalized_shape, self.eps, self.elementwise_affine = shape, eps, elementwise_affine
        self.weight = new_parameter(shape, device, dtype) if elementwise_affine else None
        self.bias = new_parameter(shape, device, dtype) if elementwise_affine and bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set the weight to ones and the bias to zeros."""
        if self.weight is not None:
            init.ones_(self.weight)
        if self.bias is not None:
            init.zeros_(self.bias)

    def forward(self, input: Tensor) -> Tensor:
        """Return a tensor of the input's shape."""
        return F.layer_norm(input, self.normalized_shape, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        """Return the shape and options."""
        options = f"elementwise_affine={self.elementwise_affine}, bias={self.bias is not None}"
        return f"{self.normalized_shape}, eps={self.eps}, {options}"
