"""Layers that normalise beside torch."""

from __future__ import annotations

from typing import Any

from layer_cases import Case


def norm(make: Any, *shape: int) -> Any:
    """Return what builds a layer ``make(nn)`` on an input of a shape."""

    def build(library: Any, random: Any) -> tuple[Any, list[Any]]:
        layer = make(library.nn)
        x = library.tensor(random.standard_normal(shape, dtype="float32"), requires_grad=True)
        return lambda: layer(x), [x, *layer.parameters()]

    return build


CASES = [
    Case("layer norm 8192x768", norm(lambda nn: nn.LayerNorm(768), 8192, 768), 1.8),
    Case("layer norm 128x256", norm(lambda nn: nn.LayerNorm(256), 128, 256), 1.2),
    Case("layer norm 32x64x64", norm(lambda nn: nn.LayerNorm(64), 32, 64, 64), 1.2),
    Case("rms norm 8192x768", norm(lambda nn: nn.RMSNorm(768), 8192, 768), 1.2),
    Case("rms norm 128x256", norm(lambda nn: nn.RMSNorm(256), 128, 256), 1.2),
    Case("batch norm 32x64x32x32", norm(lambda nn: nn.BatchNorm2d(64), 32, 64, 32, 32), 1.2),
    Case("batch norm 64x128x8x8", norm(lambda nn: nn.BatchNorm2d(128), 64, 128, 8, 8), 1.2),
    Case("batch norm 16x16x128x128", norm(lambda nn: nn.BatchNorm2d(16), 16, 16, 128, 128), 1.2),
    Case("batch norm 256x512", norm(lambda nn: nn.BatchNorm1d(512), 256, 512), 1.2),
    Case("batch norm 32x64x32x32 in use", norm(lambda nn: nn.BatchNorm2d(64).eval(), 32, 64, 32, 32), 1.2),
    Case("group norm 8 of 32x64x32x32", norm(lambda nn: nn.GroupNorm(8, 64), 32, 64, 32, 32), 1.2),
    Case("instance norm 32x64x32x32", norm(lambda nn: nn.InstanceNorm2d(64, affine=True), 32, 64, 32, 32), 1.2),
]
