"""Pooling and resizing, of sizes that image classifiers and segmenters have."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from layer_cases import Build, Case


def of_images(shape: tuple[int, ...], compute: Callable[[Any, Any], Any]) -> Build:
    """Return a builder of ``compute(nn.functional, images)``."""

    def build(library: Any, random: Any) -> tuple[Any, list[Any]]:
        x = library.tensor(random.standard_normal(shape, "float32"), requires_grad=True)
        functional = library.nn.functional
        return lambda: compute(functional, x), [x]

    return build


EARLY, LATE, LAST, SMALL = (32, 64, 56, 56), (32, 128, 28, 28), (32, 512, 7, 7), (64, 16, 12, 12)
CASES: list[Case] = [
    Case(
        "bilinear, 1.5 times, 32x128x28x28",
        of_images(LATE, lambda F, x: F.interpolate(x, scale_factor=1.5, mode="bilinear")),
        1.2,
    ),
    Case("max pool 2x2, 32x64x56x56", of_images(EARLY, lambda F, x: F.max_pool2d(x, 2)), 1.2),
    Case("max pool 2x2, 64x16x12x12", of_images(SMALL, lambda F, x: F.max_pool2d(x, 2)), 1.2),
    Case("max pool 3x3/2, 32x64x56x56", of_images(EARLY, lambda F, x: F.max_pool2d(x, 3, 2, 1)), 1.2),
    Case("max pool 3x3/1, 32x128x28x28", of_images(LATE, lambda F, x: F.max_pool2d(x, 3, 1, 1)), 1.2),
    Case("avg pool 2x2, 32x64x56x56", of_images(EARLY, lambda F, x: F.avg_pool2d(x, 2)), 1.2),
    Case("avg pool 3x3/2, 32x128x28x28", of_images(LATE, lambda F, x: F.avg_pool2d(x, 3, 2, 1)), 1.2),
    Case("avg pool 3x3/1, 32x128x28x28", of_images(LATE, lambda F, x: F.avg_pool2d(x, 3, 1, 1)), 1.2),
    Case("adaptive avg pool to 1x1, 32x512x7x7", of_images(LAST, lambda F, x: F.adaptive_avg_pool2d(x, 1)), 1.2),
    Case("adaptive avg pool to 4x4, 32x128x28x28", of_images(LATE, lambda F, x: F.adaptive_avg_pool2d(x, 4)), 1.2),
    Case("nearest, twice, 32x128x28x28", of_images(LATE, lambda F, x: F.interpolate(x, scale_factor=2)), 1.2),
    Case(
        "bilinear, twice, 32x128x28x28",
        of_images(LATE, lambda F, x: F.interpolate(x, scale_factor=2, mode="bilinear")),
        1.2,
    ),
]
