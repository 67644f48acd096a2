"""Layers that put elements around a tensor: a constant, or what is inside, mirrored, repeated or wrapped around."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from tapegrad.nn import functional as F
from tapegrad.nn.module import Module
from tapegrad.runtime.handle import Tensor


class _Pad(Module):
    _mode: ClassVar[str]
    _dims: ClassVar[int]

    def __init__(self, padding: int | Sequence[int]) -> None:
        super().__init__()
        self.padding = (padding,) * (2 * self._dims) if isinstance(padding, int) else tuple(padding)
        if len(self.padding) != 2 * self._dims:
            raise ValueError(
                f"{type(self).__name__}: expected padding of one number or {2 * self._dims}, got {len(self.padding)}"
            )

    def forward(self, input: Tensor) -> Tensor:
        """Return the input with more (or, for negative numbers, fewer) elements along its last dimensions."""
        return F.pad(input, self.padding, self._mode)

    def extra_repr(self) -> str:
        """Return the padding."""
        return f"{self.padding}"


class _ConstantPad(_Pad):
    def __init__(self, padding: int | Sequence[int], value: float) -> None:
        super().__init__(padding)
        self.value = value

    def forward(self, input: Tensor) -> Tensor:
        """Return the input with more (or, for negative numbers, fewer) elements along its last dimensions."""
        return F.pad(input, self.padding, "constant", self.value)

    def extra_repr(self) -> str:
        """Return the padding and the constant."""
        return f"padding={self.padding}, value={self.value}"


class _ZeroPad(_ConstantPad):
    def __init__(self, padding: int | Sequence[int]) -> None:
        super().__init__(padding, 0.0)

    def extra_repr(self) -> str:
        """Return the padding."""
        return f"{self.padding}"


class ConstantPad1d(_ConstantPad):
    """``value`` around the last dimension."""

    _dims = 1


class ConstantPad2d(_ConstantPad):
    """``value`` around the last two dimensions.

    Args:
        padding: how many, one number, or before and after the last dimension, the one before it, and so on.
    """

    _dims = 2


class ConstantPad3d(_ConstantPad):
    """``value`` around the last three dimensions."""

    _dims = 3


class ZeroPad1d(_ZeroPad):
    """Zeros around the last dimension."""

    _dims = 1


class ZeroPad2d(_ZeroPad):
    """Zeros around the last two dimensions.

    Args:
        padding: how many, one number, or before and after the last dimension, the one before it, and so on.
    """

    _dims = 2


class ZeroPad3d(_ZeroPad):
    """Zeros around the last three dimensions."""

    _dims = 3


class ReflectionPad1d(_Pad):
    """What lies inside the last dimension, mirrored at the border elements."""

    _dims = 1
    _mode = "reflect"


class ReflectionPad2d(_Pad):
    """What lies inside the last two dimensions, mirrored at the border elements.

    Args:
        padding: how many, one number, or before and after the last dimension, the one before it, and so on.
    """

    _dims = 2
    _mode = "reflect"


class ReflectionPad3d(_Pad):
    """What lies inside the last three dimensions, mirrored at the border elements."""

    _dims = 3
    _mode = "reflect"


class ReplicationPad1d(_Pad):
    """The border elements of the last dimension, repeated."""

    _dims = 1
    _mode = "replicate"


class ReplicationPad2d(_Pad):
    """The border elements of the last two dimensions, repeated.

    Args:
        padding: how many, one number, or before and after the last dimension, the one before it, and so on.
    """

    _dims = 2
    _mode = "replicate"


class ReplicationPad3d(_Pad):
    """The border elements of the last three dimensions, repeated."""

    _dims = 3
    _mode = "replicate"


class CircularPad1d(_Pad):
    """What lies at the other end of the last dimension."""

    _dims = 1
    _mode = "circular"


class CircularPad2d(_Pad):
    """What lies at the other end of the last two dimensions.

    Args:
        padding: how many, one number, or before and after the last dimension, the one before it, and so on.
    """

    _dims = 2
    _mode = "circular"


class CircularPad3d(_Pad):
    """What lies at the other end of the last three dimensions."""

    _dims = 3
    _mode = "circular"
