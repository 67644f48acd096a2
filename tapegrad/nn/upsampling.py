"""Layers that bring signals, images and volumes to another size."""

from __future__ import annotations

from collections.abc import Sequence

from tapegrad.nn import functional as F
from tapegrad.nn.module import Module
from tapegrad.runtime.handle import Tensor


class Upsample(Module):
    """Signals, images or volumes [batch, channels, *sizes] in another size; see nn.functional.interpolate.

    Args:
        size: the new sizes: one number, or one for each dimension.
        scale_factor: in place of the sizes, what to multiply the old ones by.
        mode: ``"nearest"``, ``"linear"``, ``"bilinear"``, ``"bicubic"`` or ``"trilinear"``.
        align_corners: whether the centres of the corner elements are kept in place.
        recompute_scale_factor: whether the scale is computed anew from the rounded sizes.
    """

    def __init__(
        self,
        size: int | Sequence[int] | None = None,
        scale_factor: float | Sequence[float] | None = None,
        mode: str = "nearest",
        align_corners: bool | None = None,
        recompute_scale_factor: bool | None = None,
    ) -> None:
        super().__init__()
        self.name = type(self).__name__
        self.size = size
        self.scale_factor = _as_floats(scale_factor)
        self.mode, self.align_corners, self.recompute_scale_factor = mode, align_corners, recompute_scale_factor

    def forward(self, input: Tensor) -> Tensor:
        """Return [batch, channels, *new sizes]."""
        result: Tensor = F.interpolate(
            input,
            self.size,
            self.scale_factor,
            self.mode,
            self.align_corners,
            self.recompute_scale_factor,
        )
        return result

    def extra_repr(self) -> str:
        """Return the sizes or the scale, and the mode."""
        goal = f"size={self.size}" if self.scale_factor is None else f"scale_factor={self.scale_factor}"
        return f"{goal}, mode={self.mode!r}"


def _as_floats(scale: float | Sequence[float] | None) -> float | tuple[float, ...] | None:
    if scale is None:
        return None
    return float(scale) if isinstance(scale, int | float) else tuple(float(s) for s in scale)


class UpsamplingNearest2d(Upsample):
    """Images in another size, each element that of the nearest."""

    def __init__(
        self, size: int | Sequence[int] | None = None, scale_factor: float | Sequence[float] | None = None
    ) -> None:
        super().__init__(size, scale_factor)


class UpsamplingBilinear2d(Upsample):
    """Images in another size, interpolated linearly along both dimensions, the corners being kept in place."""

    def __init__(
        self, size: int | Sequence[int] | None = None, scale_factor: float | Sequence[float] | None = None
    ) -> None:
        super().__init__(size, scale_factor, "bilinear", align_corners=True)
