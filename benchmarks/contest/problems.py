"""Weights and data of the workloads, from NumPy, so that every library starts from the same numbers."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

Arrays = list[np.ndarray]


@dataclass(frozen=True)
class Problem:
    """What a workload starts from.

    Args:
        weights: the parameters in torch's order and layout.
        inputs: the arguments of a step.
    """

    weights: Arrays
    inputs: Arrays


class Draw:
    """Random numbers of one stream."""

    def __init__(self, dtype: type = np.float32) -> None:
        self.rng, self.dtype = np.random.default_rng(0), dtype

    def normal(self, *shape: int) -> np.ndarray:
        return self.rng.normal(size=shape).astype(self.dtype)

    def classes(self, shape: tuple[int, ...], count: int) -> Arrays:
        """Return normal inputs and a class for each row."""
        return [self.normal(*shape), self.rng.integers(0, count, shape[0])]

    def uniform(self, fan_in: int, *shape: int) -> np.ndarray:
        return self.rng.uniform(-(fan_in**-0.5), fan_in**-0.5, shape).astype(self.dtype)

    def layer(self, fan_in: int, *shape: int, bias: bool = True) -> Arrays:
        """Return a weight and a bias, as torch initialises linear layers and convolutions."""
        return [self.uniform(fan_in, *shape), *([self.uniform(fan_in, shape[0])] if bias else [])]

    def linear(self, inputs: int, outputs: int) -> Arrays:
        return self.layer(inputs, outputs, inputs)

    def mlp(self, *sizes: int) -> Arrays:
        return [array for a, b in itertools.pairwise(sizes) for array in self.linear(a, b)]

    def norm(self, size: int) -> Arrays:
        """Return the weight and bias of a normalisation."""
        return [np.ones(size, self.dtype), np.zeros(size, self.dtype)]

    def recurrent(self, gates: int, inputs: int, hidden: int) -> Arrays:
        """Return the two weights and two biases of a recurrent layer."""
        rows = gates * hidden
        return [self.uniform(hidden, *shape) for shape in ((rows, inputs), (rows, hidden), (rows,), (rows,))]


def policy() -> Problem:
    draw = Draw()
    return Problem(draw.mlp(16, 64, 64, 6), draw.classes((64, 16), 6))


def digits() -> Problem:
    draw = Draw()
    return Problem(draw.mlp(784, 300, 100, 10), draw.classes((128, 784), 10))


def wide() -> Problem:
    draw = Draw()
    return Problem(draw.mlp(2048, 2048, 2048), draw.classes((128, 2048), 99))


def rnn() -> Problem:
    draw = Draw()
    return Problem([*draw.recurrent(1, 16, 64), *draw.linear(64, 5)], draw.classes((8, 100, 16), 5))


def lstm() -> Problem:
    draw = Draw()
    return Problem([*draw.recurrent(4, 32, 96), *draw.linear(96, 5)], draw.classes((64, 40, 32), 5))


CNN_CHANNELS = ((1, 24), (24, 24), (24, 48), (48, 48))


def cnn() -> Problem:
    draw = Draw()
    weights = []
    for channels, width in CNN_CHANNELS:
        weights += [*draw.layer(9 * channels, width, channels, 3, 3, bias=False), *draw.norm(width)]
    return Problem([*weights, *draw.linear(48 * 49, 10)], draw.classes((64, 1, 28, 28), 10))


def dcgan() -> Problem:
    """The generator's weights come first."""
    draw = Draw()
    weights = []
    for inputs, outputs, size in ((64, 128, 7), (128, 64, 4), (64, 32, 4)):
        weights += [0.02 * draw.normal(inputs, outputs, size, size), *draw.norm(outputs)]
    weights += [0.02 * draw.normal(1, 32, 3, 3), np.zeros(1, np.float32)]
    weights += [0.02 * draw.normal(32, 1, 4, 4), np.zeros(32, np.float32)]
    for inputs, outputs, size in ((32, 64, 4), (64, 128, 3)):
        weights += [0.02 * draw.normal(outputs, inputs, size, size), *draw.norm(outputs)]
    weights += [0.02 * draw.normal(1, 128, 4, 4), np.zeros(1, np.float32)]
    return Problem(weights, [np.tanh(draw.normal(50, 1, 28, 28)), draw.normal(50, 64, 1, 1)])


CHARACTERS, WIDTH, HEADS, BLOCKS, LENGTH = 96, 128, 4, 3, 128  # of the transformer


def transformer() -> Problem:
    draw = Draw()
    weights = [0.02 * draw.normal(CHARACTERS, WIDTH), 0.02 * draw.normal(LENGTH, WIDTH)]
    for _ in range(BLOCKS):
        weights += [*draw.norm(WIDTH), *draw.norm(WIDTH), *draw.linear(WIDTH, 3 * WIDTH), *draw.linear(WIDTH, WIDTH)]
        weights += [*draw.linear(WIDTH, 4 * WIDTH), *draw.linear(4 * WIDTH, WIDTH)]
    weights += [*draw.norm(WIDTH), *draw.linear(WIDTH, CHARACTERS)]
    codes = draw.rng.integers(0, CHARACTERS, (16, LENGTH + 1))
    return Problem(weights, [codes[:, :-1].copy(), codes[:, 1:].copy()])


def pinn() -> Problem:
    draw = Draw()
    places, times = (draw.rng.uniform(low, 1, (512, 1)).astype(np.float32) for low in (-1, 0))
    return Problem(draw.mlp(2, 32, 32, 32, 1), [places, times])


def function() -> Problem:
    return Problem([], [np.tile([1.5, 0.5], 25) + 0.1 * Draw(np.float64).normal(50)])


def scalars() -> Problem:
    return Problem([], [np.array(0.5)])


def jacobian() -> Problem:
    draw = Draw()
    return Problem(draw.mlp(24, 64, 24), [draw.normal(24)])


def hvp() -> Problem:
    """The vectors that the Hessian is multiplied with come last."""
    draw = Draw()
    weights = draw.mlp(16, 32, 32, 1)
    return Problem(weights, [draw.normal(32, 16), draw.normal(32, 1), *(draw.normal(*w.shape) for w in weights)])


def chain() -> Problem:
    return Problem([], [Draw().normal(2_000_000)])


def layer_norm() -> Problem:
    draw = Draw()
    return Problem(draw.norm(768), [draw.normal(8192, 768), draw.normal(8192, 768)])


def cross_entropy() -> Problem:
    return Problem([], Draw().classes((8192, 768), 768))


PROBLEMS: dict[str, Callable[[], Problem]] = {
    make.__name__: make
    for make in (
        policy, digits, wide, rnn, lstm, cnn, dcgan, transformer,
        pinn, function, scalars, jacobian, hvp, chain, layer_norm, cross_entropy,
    )
}  # fmt: skip
SCALAR_TURNS = 1250  # of four operations each
