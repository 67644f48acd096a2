"""The numbers of a group (learning rate, betas, ...) in memory, where updates read them."""

from __future__ import annotations

from tapegrad.runtime.dtype import float64
from tapegrad.runtime.handle import Tensor
from tapegrad.tensor.construct import tensor
from tapegrad.tensor.convert import array_of


class Numbers:
    """A float64 tensor and the Python numbers that it holds; its memory stays the same when they change.

    Args:
        values: the numbers; tensors of one element, which may change in place, are read anew at every step.
    """

    __slots__ = ("array", "from_tensor", "handle", "tensor", "values")

    def __init__(self, values: tuple[float, ...]) -> None:
        self.tensor = tensor([float(value) for value in values], dtype=float64)
        self.array = array_of(self.tensor)
        self.handle = self.tensor._handle
        self.set(values)

    def set(self, values: tuple[float, ...]) -> None:
        """Write other numbers."""
        self.values = values
        self.from_tensor = any(isinstance(value, Tensor) for value in values)
        self.array[:] = [float(value) for value in values]
