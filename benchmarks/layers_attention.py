"""Attention, transformer layers, softmax and cross entropy beside torch."""

from __future__ import annotations

from typing import Any

from layer_cases import Case


def attention(batch: int, heads: int, length: int, width: int, causal: bool) -> Case:
    """Return the case of scaled_dot_product_attention on these sizes."""

    def build(library: Any, random: Any) -> tuple[Any, list[Any]]:
        shape = (batch, heads, length, width)
        leaves = [library.tensor(random.standard_normal(shape, dtype="float32"), requires_grad=True) for _ in range(3)]
        function = library.nn.functional.scaled_dot_product_attention
        return lambda: function(*leaves, is_causal=causal), leaves

    flops = 4 * batch * heads * length * length * width / (2 if causal else 1)
    name = f"attention {batch}x{heads}x{length}x{width}{' causal' if causal else ''}"
    return Case(name, build, 1.2, flops)


def layer(make: Any, *shape: int) -> Any:
    """Return what builds a layer ``make(nn)`` on an input of a shape, as query, key and value where it takes three."""

    def build(library: Any, random: Any) -> tuple[Any, list[Any]]:
        module = make(library.nn)
        x = library.tensor(random.standard_normal(shape, dtype="float32"), requires_grad=True)
        leaves = [x, *module.parameters()]
        if isinstance(module, library.nn.MultiheadAttention):
            return lambda: module(x, x, x, need_weights=False)[0], leaves
        return lambda: module(x), leaves

    return build


def softmax(library: Any, random: Any) -> tuple[Any, list[Any]]:
    x = library.tensor(random.standard_normal((8192, 768), dtype="float32"), requires_grad=True)
    return lambda: library.softmax(x, 1), [x]


def cross_entropy(library: Any, random: Any) -> tuple[Any, list[Any]]:
    x = library.tensor(random.standard_normal((8192, 768), dtype="float32"), requires_grad=True)
    target = library.tensor(random.integers(0, 768, 8192))
    return lambda: library.nn.functional.cross_entropy(x, target), [x]


CASES = [
    attention(8, 8, 64, 32, False),
    attention(32, 4, 64, 32, True),
    attention(8, 8, 128, 64, False),
    attention(8, 8, 128, 64, True),
    attention(8, 8, 512, 64, False),
    attention(8, 8, 512, 64, True),
    attention(1, 4, 2048, 64, True),
    Case("softmax 8192x768", softmax, 1.8),
    Case("cross entropy 8192x768", cross_entropy, 1.8),
    Case("multihead attention 16x128x256, 8 heads", layer(
        lambda nn: nn.MultiheadAttention(256, 8, batch_first=True), 16, 128, 256), 1.2),
    Case("encoder layer 16x128x256, 8 heads", layer(
        lambda nn: nn.TransformerEncoderLayer(256, 8, 1024, dropout=0.0, batch_first=True), 16, 128, 256), 1.2),
]  # fmt: skip
