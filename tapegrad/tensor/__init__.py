"""What a tensor is besides its ops: how it is made, its properties, and its conversions to NumPy and Python."""

from tapegrad.runtime.handle import Tensor
from tapegrad.tensor import convert, printing, properties
from tapegrad.tensor.construct import as_tensor, from_numpy, tensor
from tapegrad.tensor.exchange import from_dlpack
from tapegrad.tensor.printing import set_printoptions

__all__ = [
    "Tensor",
    "as_tensor",
    "convert",
    "from_dlpack",
    "from_numpy",
    "printing",
    "properties",
    "set_printoptions",
    "tensor",
]
