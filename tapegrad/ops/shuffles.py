"""Rearrangements of channels: pixel_shuffle, pixel_unshuffle, channel_shuffle."""

from __future__ import annotations

from tapegrad.ops.calls import expect_tensor, function, functions, shape_of
from tapegrad.runtime.handle import Tensor


def _rearranged(x: Tensor, split: tuple[int, ...], order: tuple[int, ...], shape: tuple[int, ...]) -> Tensor:
    return functions["reshape"](functions["permute"](functions["reshape"](x, split), order), shape)


@function(method=False)
def pixel_shuffle(input: Tensor, upscale_factor: int) -> Tensor:
    """Return [..., c, h r, w r] of [..., c r r, h, w]: channels become pixels (Shi et al. 2016, arXiv:1609.05158).

    Args:
        upscale_factor: r.

    Raises:
        RuntimeError: fewer than 3 dimensions, or channels that are no multiple of the factor's square.
    """
    shape, r = shape_of(expect_tensor(input, "pixel_shuffle")), upscale_factor
    if len(shape) < 3:
        raise RuntimeError(
            f"pixel_shuffle expects input to have at least 3 dimensions, but got input with {len(shape)}"
        )
    if r <= 0:
        raise RuntimeError(f"pixel_shuffle expects a positive upscale_factor, but got {r}")
    *batch, channels, h, w = shape
    if channels % (r * r):
        raise RuntimeError(
            "pixel_shuffle expects its input's 'channel' dimension to be divisible by the square of upscale_factor, "
            f"but input.size(-3)={channels} is not divisible by {r * r}"
        )
    c, b = channels // (r * r), len(batch)
    order = (*range(b), b, b + 3, b + 1, b + 4, b + 2)
    return _rearranged(input, (*batch, c, r, r, h, w), order, (*batch, c, h * r, w * r))


@function(method=False)
def pixel_unshuffle(input: Tensor, downscale_factor: int) -> Tensor:
    """Return [..., c r r, h, w] of [..., c, h r, w r]: the reverse of ``pixel_shuffle``.

    Args:
        downscale_factor: r.

    Raises:
        RuntimeError: fewer than 3 dimensions, or a height or width that is no multiple of the factor.
    """
    shape, r = shape_of(expect_tensor(input, "pixel_unshuffle")), downscale_factor
    if len(shape) < 3:
        raise RuntimeError(
            f"pixel_unshuffle expects input to have at least 3 dimensions, but got input with {len(shape)}"
        )
    if r <= 0:
        raise RuntimeError(f"pixel_unshuffle expects a positive downscale_factor, but got {r}")
    *batch, c, height, width = shape
    for name, length, place in (("height", height, -2), ("width", width, -1)):
        if length % r:
            raise RuntimeError(
                f"pixel_unshuffle expects {name} to be divisible by downscale_factor, but input.size({place})={length} "
                f"is not divisible by {r}"
            )
    h, w, b = height // r, width // r, len(batch)
    order = (*range(b), b, b + 2, b + 4, b + 1, b + 3)
    return _rearranged(input, (*batch, c, h, r, w, r), order, (*batch, c * r * r, h, w))


@function(method=False)
def channel_shuffle(input: Tensor, groups: int) -> Tensor:
    """Return [n, c, ...] with the channels of the groups taken in turn (Zhang et al. 2018, arXiv:1707.01083).

    Raises:
        RuntimeError: fewer than 3 dimensions, or channels that are no multiple of ``groups``.
    """
    shape = shape_of(expect_tensor(input, "channel_shuffle"))
    if len(shape) < 3:
        raise RuntimeError(f"channel_shuffle expects input with > 2 dims, but got input with sizes {list(shape)}")
    if groups <= 0:
        raise RuntimeError(f"Number of groups to divide channels in must be positive. Value of groups:{groups}")
    n, c, *rest = shape
    if c % groups:
        raise RuntimeError(f"Number of channels must be divisible by groups. Got {c} channels and {groups} groups.")
    order = (0, 2, 1, *range(3, 3 + len(rest)))
    return _rearranged(input, (n, groups, c // groups, *rest), order, shape)
