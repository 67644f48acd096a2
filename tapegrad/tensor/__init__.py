"""What a tensor is besides its ops: how it is made, its properties, and its conversions to NumPy and Python."""

from tapegrad.runtime.handle import Tensor
from tapegrad.tensor import convert, properties
from tapegrad.tensor.construct import as_tensor, from_numpy, tensor

__all__ = ["Tensor", "as_tensor", "convert", "from_numpy", "properties", "tensor"]
