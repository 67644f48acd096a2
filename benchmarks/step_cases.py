"""Whole training steps, written once for tapegrad and torch: forward, backward and optimiser on fixed data."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

Step = Callable[[], Any]


@dataclass(frozen=True)
class StepCase:
    """A step.

    Args:
        name: what it is and on which sizes.
        build: gets a library (``tapegrad`` or ``torch``); returns the step, a function of the arguments, and these. The
            weights come from NumPy, so that the losses can be compared.
        wanted: the ratio, the best peer's time over ours, that is aimed at.
        tolerance: by how much, relatively, the losses after some steps may differ.
    """

    name: str
    build: Callable[[Any], tuple[Callable[..., Any], list[Any]]]
    wanted: float
    tolerance: float = 1e-3


def _set_weights(model: Any, library: Any, seed: int = 0) -> None:
    """Give the parameters numbers of NumPy's, of the size that their layers' own initialisation has."""
    rng = np.random.default_rng(seed)
    with library.no_grad():
        for parameter in model.parameters():
            shape = tuple(parameter.shape)
            fan_in = int(np.prod(shape[1:])) if len(shape) > 1 else shape[0]
            bound = fan_in**-0.5
            parameter.copy_(library.from_numpy(rng.uniform(-bound, bound, shape).astype(np.float32)))


def _data(library: Any, *arrays: Any) -> list[Any]:
    return [library.from_numpy(array) for array in arrays]


def _classifier(model: Any, optimizer: Any, loss_of: Any) -> Callable[..., Any]:
    def step(x: Any, y: Any) -> Any:
        optimizer.zero_grad()
        loss = loss_of(model(x), y)
        loss.backward()
        optimizer.step()
        return loss

    return step


def _random_classes(library: Any, shape: tuple[int, ...], classes: int) -> list[Any]:
    rng = np.random.default_rng(1)
    return _data(library, rng.normal(size=shape).astype(np.float32), rng.integers(0, classes, shape[0]))


def _mlp(library: Any, sizes: tuple[int, ...], activation: str) -> Any:
    nn = library.nn
    layers = []
    for a, b in itertools.pairwise(sizes):
        layers += [nn.Linear(a, b), getattr(nn, activation)()]
    model = nn.Sequential(*layers[:-1])
    _set_weights(model, library)
    return model


def policy(library: Any) -> tuple[Callable[..., Any], list[Any]]:
    model = _mlp(library, (16, 64, 64, 6), "Tanh")
    optimizer = library.optim.Adam(model.parameters(), lr=1e-3)
    return _classifier(model, optimizer, library.nn.functional.cross_entropy), _random_classes(library, (64, 16), 6)


def digits(library: Any) -> tuple[Callable[..., Any], list[Any]]:
    model = _mlp(library, (784, 300, 100, 10), "ReLU")
    optimizer = library.optim.Adam(model.parameters(), lr=1e-3)
    return _classifier(model, optimizer, library.nn.functional.cross_entropy), _random_classes(library, (128, 784), 10)


def wide(library: Any) -> tuple[Callable[..., Any], list[Any]]:
    model = _mlp(library, (2048, 2048, 2048), "ReLU")
    optimizer = library.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
    return _classifier(model, optimizer, library.nn.functional.cross_entropy), _random_classes(library, (128, 2048), 99)


def _recurrent(library: Any, kind: str, features: int, hidden: int, steps: int, batch: int) -> Any:
    nn = library.nn
    layer, head = getattr(nn, kind)(features, hidden, batch_first=True), nn.Linear(hidden, 5)
    model = nn.ModuleList([layer, head])
    _set_weights(model, library)
    optimizer = library.optim.Adam(model.parameters(), lr=1e-3)

    def step(x: Any, y: Any) -> Any:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(head(layer(x)[0][:, -1]), y)
        loss.backward()
        optimizer.step()
        return loss

    return step, _random_classes(library, (batch, steps, features), 5)


def cnn(library: Any) -> tuple[Callable[..., Any], list[Any]]:
    nn = library.nn
    model = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(32 * 49, 10),
    )  # fmt: skip
    _set_weights(model, library)
    optimizer = library.optim.Adam(model.parameters(), lr=1e-3)
    return _classifier(model, optimizer, nn.functional.cross_entropy), _random_classes(library, (64, 1, 28, 28), 10)


def transformer(library: Any) -> tuple[Callable[..., Any], list[Any]]:
    """A small character model: 2 layers of width 64, 4 heads, 64 characters, batch 16."""
    nn, F = library.nn, library.nn.functional

    class Block(nn.Module):  # type: ignore[name-defined,misc]
        def __init__(self) -> None:
            super().__init__()
            self.norm1, self.norm2 = nn.LayerNorm(64), nn.LayerNorm(64)
            self.qkv, self.out = nn.Linear(64, 192), nn.Linear(64, 64)
            self.up, self.down = nn.Linear(64, 256), nn.Linear(256, 64)

        def forward(self, x: Any) -> Any:
            b, t, _ = x.shape
            q, k, v = (z.reshape(b, t, 4, 16).transpose(1, 2) for z in self.qkv(self.norm1(x)).chunk(3, -1))
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + self.out(y.transpose(1, 2).reshape(b, t, 64))
            return x + self.down(F.gelu(self.up(self.norm2(x))))

    table, places, head = nn.Embedding(64, 64), nn.Embedding(64, 64), nn.Linear(64, 64)
    blocks = nn.Sequential(Block(), Block())
    model = nn.ModuleList([table, places, head, blocks])
    _set_weights(model, library)
    optimizer = library.optim.AdamW(model.parameters(), lr=1e-3)
    index = library.arange(64)

    def step(x: Any, y: Any) -> Any:
        optimizer.zero_grad()
        hidden = blocks(table(x) + places(index))
        loss = F.cross_entropy(head(hidden).reshape(-1, 64), y.reshape(-1))
        loss.backward()
        optimizer.step()
        return loss

    rng = np.random.default_rng(1)
    return step, _data(library, rng.integers(0, 64, (16, 64)), rng.integers(0, 64, (16, 64)))


def physics(library: Any) -> tuple[Callable[..., Any], list[Any]]:
    """u'' = -pi^2 sin(pi x) by a network of width 32, 128 points: second derivatives inside the loss."""
    model = _mlp(library, (1, 32, 32, 1), "Tanh")
    optimizer = library.optim.Adam(model.parameters(), lr=1e-3)
    grad = library.autograd.grad

    def step(points: Any, right: Any) -> Any:
        optimizer.zero_grad()
        x = points.detach().requires_grad_()
        u = model(x)
        (first,) = grad(u.sum(), x, create_graph=True)
        (second,) = grad(first.sum(), x, create_graph=True)
        loss = ((second + right) ** 2).mean()
        loss.backward()
        optimizer.step()
        return loss

    x = np.linspace(0, 1, 128, dtype=np.float32)[:, None]
    return step, _data(library, x, (np.pi**2 * np.sin(np.pi * x)).astype(np.float32))


def chain(library: Any) -> tuple[Callable[..., Any], list[Any]]:
    """Ten elementwise operations on two million elements, value and gradient."""

    def step(x: Any) -> Any:
        x = x.detach().requires_grad_()
        y = (x * 1.1 + 0.3).tanh() * x
        y = ((y - 0.1).sigmoid() * y + x).relu() * 0.5
        loss = (y + 1.0).sum()
        (gradient,) = library.autograd.grad(loss, x)
        return loss, gradient

    return step, _data(library, np.random.default_rng(0).normal(size=2_000_000).astype(np.float32))


def layer_norm(library: Any) -> tuple[Callable[..., Any], list[Any]]:
    weight, bias = (library.ones(768, requires_grad=True) for _ in range(2))

    def step(x: Any, g: Any) -> Any:
        x = x.detach().requires_grad_()
        y = library.nn.functional.layer_norm(x, (768,), weight, bias)
        return library.autograd.grad(y, (x, weight, bias), g)[1:]

    rng = np.random.default_rng(0)
    return step, _data(library, *(rng.normal(size=(8192, 768)).astype(np.float32) for _ in range(2)))


def cross_entropy(library: Any) -> tuple[Callable[..., Any], list[Any]]:
    def step(x: Any, y: Any) -> Any:
        x = x.detach().requires_grad_()
        loss = library.nn.functional.cross_entropy(x, y)
        return loss, library.autograd.grad(loss, x)[0].sum()

    rng = np.random.default_rng(0)
    return step, _data(library, rng.normal(size=(8192, 768)).astype(np.float32), rng.integers(0, 768, 8192))


def scalars(library: Any) -> tuple[Callable[..., Any], list[Any]]:
    """An expression of 5,000 operations on scalars, value and gradient."""

    def step(x: Any) -> Any:
        x = x.detach().requires_grad_()
        y = x
        for k in range(1250):
            y = (y * 0.999 + x).sin() * (1.0 + 1e-3 * k)
        (gradient,) = library.autograd.grad(y, x)
        return y, gradient

    return step, _data(library, np.array(0.5))


CASES = [
    StepCase("policy MLP 16-64-64-6, batch 64, Adam", policy, 3),
    StepCase("digits MLP 784-300-100-10, batch 128, Adam", digits, 1.5),
    StepCase("wide MLP 2048-2048-2048, batch 128, momentum", wide, 1.25),
    StepCase("tanh RNN 64, 100 steps, batch 8, Adam", lambda lib: _recurrent(lib, "RNN", 16, 64, 100, 8), 3),
    StepCase("LSTM 96, 40 steps, batch 64, Adam", lambda lib: _recurrent(lib, "LSTM", 32, 96, 40, 64), 1.6),
    StepCase("digits CNN 16-32, batch 64, Adam", cnn, 1.6),
    StepCase("character transformer 64 x 2, batch 16, AdamW", transformer, 1.7),
    StepCase("physics-informed MLP, second derivatives, Adam", physics, 3),
    StepCase("chain of ten on 2 million, value and gradient", chain, 3),
    StepCase("layer norm 8192 x 768, forward and backward", layer_norm, 1.8),
    StepCase("cross entropy 8192 x 768, forward and backward", cross_entropy, 1.8),
    StepCase("5,000 scalar operations, value and gradient", scalars, 10),
]
