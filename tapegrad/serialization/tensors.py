"""Tensors made of the arrays in a file, shared where the saved ones were, in dtypes that tapegrad has."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tapegrad.native.dtypes import NUMPY_DTYPES
from tapegrad.nn.parameter import Parameter
from tapegrad.runtime.handle import Tensor
from tapegrad.runtime.layout import MAX_NDIM
from tapegrad.serialization.container import Stored
from tapegrad.serialization.errors import CheckpointError
from tapegrad.tensor.construct import copy_of_array, from_numpy, require_grad

# What tapegrad lacks becomes the smallest dtype it has that holds every value.
_WIDER = {"I8": "i4", "I16": "i4", "U16": "i4", "U32": "i8", "F16": "f4"}


def widened(stored: Stored, name: str, file: str) -> NDArray[Any]:
    """Return an array in a dtype of tapegrad: float16 and bfloat16 as float32, narrow integers as int32 or int64."""
    if stored.dtype == "BF16":  # the upper half of a float32
        return (stored.array.astype(np.uint32) << 16).view(np.float32)
    if stored.dtype == "U64":
        raise CheckpointError(f"{file}: the tensor {name!r} is of dtype uint64, which no dtype of tapegrad holds")
    return stored.array.astype(_WIDER[stored.dtype]) if stored.dtype in _WIDER else stored.array


class TensorMaker:
    """Makes each tensor once; others over the same memory where the same name is asked for again.

    Args:
        file: for messages.
        mapped: whether tensors may lie in the memory of the arrays, instead of getting a copy.
    """

    def __init__(self, file: str, mapped: bool) -> None:
        self.file, self.mapped = file, mapped
        self.made: dict[Any, Tensor] = {}

    def make(self, key: Any, array: NDArray[Any], requires_grad: bool, parameter: bool) -> Tensor:
        """Return the tensor of a name, or of a place in a file, with the numbers of ``array``."""
        known = self.made.get(key)
        if known is None:
            known = self.made[key] = self._tensor(array, key)
            result = known.detach() if parameter or requires_grad else known
        else:
            result = known.detach()
        if requires_grad and not result.is_floating_point():
            raise CheckpointError(f"{self.file}: the tensor {key!r} of {result.dtype} cannot require a gradient")
        if parameter:
            return Parameter(result, requires_grad)
        if requires_grad:
            require_grad(result)
        return result

    def _tensor(self, array: NDArray[Any], key: Any) -> Tensor:
        if array.ndim > MAX_NDIM or array.dtype not in NUMPY_DTYPES:
            raise CheckpointError(f"{self.file}: the tensor {key!r} has {array.ndim} dimensions of {array.dtype}")
        if self.mapped and array.flags.aligned and array.flags.c_contiguous and array.size:
            return from_numpy(array)
        return copy_of_array(array)
