"""Embeddings, activations, dropout, distances and limits on gradients, beside torch's."""

from __future__ import annotations

from typing import Any

from layer_cases import Build, Case


def _layer(make: Any, *shape: int) -> Build:
    def build(lib: Any, rng: Any) -> tuple[Any, list[Any]]:
        layer = make(lib.nn)
        x = lib.tensor(rng.standard_normal(shape).astype("float32"), requires_grad=True)
        return (lambda: layer(x)), [x, *layer.parameters()]

    return build


def _embedding(rows: int, columns: int, indices: int) -> Build:
    def build(lib: Any, rng: Any) -> tuple[Any, list[Any]]:
        layer = lib.nn.Embedding(rows, columns)
        index = lib.tensor(rng.integers(0, rows, indices))
        return (lambda: layer(index)), list(layer.parameters())

    return build


def _bag(mode: str) -> Build:
    def build(lib: Any, rng: Any) -> tuple[Any, list[Any]]:
        layer = lib.nn.EmbeddingBag(10_000, 64, mode=mode)
        index = lib.tensor(rng.integers(0, 10_000, (256, 20)))
        return (lambda: layer(index)), list(layer.parameters())

    return build


CASES = [
    Case("embedding 65 x 128, 4096 indices", _embedding(65, 128, 4096), 1.2),
    Case("embedding 10000 x 256, 4096 indices", _embedding(10_000, 256, 4096), 1.2),
    Case("embedding bag, sum of 20", _bag("sum"), 1.0),
    Case("embedding bag, mean of 20", _bag("mean"), 1.0),
    Case("GELU, 256 x 1024", _layer(lambda nn: nn.GELU(), 256, 1024), 1.0),
    Case("SiLU, 256 x 1024", _layer(lambda nn: nn.SiLU(), 256, 1024), 1.0),
    Case("LeakyReLU, 16 x 64 x 32 x 32", _layer(lambda nn: nn.LeakyReLU(0.2), 16, 64, 32, 32), 1.0),
    Case("Hardswish, 256 x 1024", _layer(lambda nn: nn.Hardswish(), 256, 1024), 1.0),
    Case("GLU, 256 x 2048", _layer(lambda nn: nn.GLU(), 256, 2048), 1.0),
    Case("PReLU of 64 channels", _layer(lambda nn: nn.PReLU(64), 16, 64, 32, 32), 1.0),
    Case("Dropout, 256 x 1024", _layer(lambda nn: nn.Dropout(0.1), 256, 1024), 1.0),
    Case("Dropout2d, 16 x 64 x 32 x 32", _layer(lambda nn: nn.Dropout2d(0.1), 16, 64, 32, 32), 1.0),
    Case("PixelShuffle, 4 x 64 x 32 x 32", _layer(lambda nn: nn.PixelShuffle(2), 4, 64, 32, 32), 1.0),
    Case("Linear, 64 x 256 to 256", _layer(lambda nn: nn.Linear(256, 256), 64, 256), 1.0),
]
