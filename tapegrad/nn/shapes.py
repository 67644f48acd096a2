"""Layers that only move numbers about: Identity, Flatten, Unflatten, PixelShuffle and kin."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tapegrad.nn import functional as F
from tapegrad.nn.module import Module
from tapegrad.ops.calls import functions
from tapegrad.runtime.handle import Tensor

_flatten, _unflatten = functions["flatten"], functions["unflatten"]


class Identity(Module):
    """Returns its input, whatever arguments it is made with.

    Args:
        *args: anything; it is left unread.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__()

    def forward(self, input: Any) -> Any:
        """Return the input, of any shape."""
        return input


class Flatten(Module):
    """Makes the dimensions from ``start_dim`` to ``end_dim`` one.

    Args:
        start_dim: the first of them.
        end_dim: the last of them.
    """

    def __init__(self, start_dim: int = 1, end_dim: int = -1) -> None:
        super().__init__()
        self.start_dim, self.end_dim = start_dim, end_dim

    def forward(self, input: Tensor) -> Tensor:
        """Return the input, of any shape, with fewer dimensions."""
        return _flatten(input, self.start_dim, self.end_dim)

    def extra_repr(self) -> str:
        """Return the dimensions."""
        return f"start_dim={self.start_dim}, end_dim={self.end_dim}"


class Unflatten(Module):
    """Makes a dimension several.

    Args:
        dim: the dimension.
        unflattened_size: their lengths.
    """

    def __init__(self, dim: int, unflattened_size: Sequence[int]) -> None:
        super().__init__()
        if not isinstance(dim, int):
            raise TypeError(f"invalid argument type for dim parameter: {type(dim).__name__}")
        if not isinstance(unflattened_size, tuple | list):
            raise TypeError(
                f"unflattened_size must be a tuple of ints, but found type {type(unflattened_size).__name__}"
            )
        for k, length in enumerate(unflattened_size):
            if not isinstance(length, int):
                raise TypeError(
                    f"unflattened_size must be tuple of ints, but found element of type {type(length).__name__} at "
                    f"pos {k}"
                )
        self.dim, self.unflattened_size = dim, unflattened_size

    def forward(self, input: Tensor) -> Tensor:
        """Return the input, of any shape, with more dimensions."""
        return _unflatten(input, self.dim, tuple(self.unflattened_size))

    def extra_repr(self) -> str:
        """Return the dimensions."""
        return f"dim={self.dim}, unflattened_size={self.unflattened_size}"


class PixelShuffle(Module):
    """Turns [..., c r r, h, w] into [..., c, h r, w r] (Shi et al. 2016, arXiv:1609.05158).

    Args:
        upscale_factor: the r of the shapes.
    """

    def __init__(self, upscale_factor: int) -> None:
        super().__init__()
        self.upscale_factor = upscale_factor

    def forward(self, input: Tensor) -> Tensor:
        """Return the larger picture [..., c, h r, w r]."""
        return F.pixel_shuffle(input, self.upscale_factor)

    def extra_repr(self) -> str:
        """Return the factor."""
        return f"upscale_factor={self.upscale_factor}"


class PixelUnshuffle(Module):
    """Turns [..., c, h r, w r] into [..., c r r, h, w].

    Args:
        downscale_factor: the r of the shapes.
    """

    def __init__(self, downscale_factor: int) -> None:
        super().__init__()
        self.downscale_factor = downscale_factor

    def forward(self, input: Tensor) -> Tensor:
        """Return the smaller picture of more channels [..., c r r, h, w]."""
        return F.pixel_unshuffle(input, self.downscale_factor)

    def extra_repr(self) -> str:
        """Return the factor."""
        return f"downscale_factor={self.downscale_factor}"


class ChannelShuffle(Module):
    """Takes the channels of the groups in turn (Zhang et al. 2018, arXiv:1707.01083).

    Args:
        groups: how many groups there are.
    """

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.groups = groups

    def forward(self, input: Tensor) -> Tensor:
        """Return a tensor of the input's shape."""
        return F.channel_shuffle(input, self.groups)

    def extra_repr(self) -> str:
        """Return the groups."""
        return f"groups={self.groups}"
