"""The workloads in tinygrad: a step is one TinyJit function on its CPU device."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
from tinygrad import Context, Tensor, TinyJit
from tinygrad.nn.optim import Adam

from contest.libraries import Call
from contest.problems import PROBLEMS

Weights = list[Any]


def mlp(weights: Weights, x: Any, activation: Any) -> Any:
    for k in range(0, len(weights), 2):
        x = x.linear(weights[k].T, weights[k + 1])
        x = activation(x) if k + 2 < len(weights) else x
    return x


def _perceptron(key: str, activation: Any) -> Call:
    problem = PROBLEMS[key]()
    weights = [Tensor(w).realize() for w in problem.weights]
    inputs = [Tensor(x.astype(np.int32) if x.dtype == np.int64 else x).realize() for x in problem.inputs]
    update = Adam(weights, lr=1e-3)

    @TinyJit
    def step(x: Any, y: Any) -> Any:
        with Context(TRAINING=1):
            update.zero_grad()
            loss = mlp(weights, x, activation).sparse_categorical_crossentropy(y).backward()
            return loss.realize(*update.schedule_step())

    return lambda: step(*inputs)


def _gradient(key: str, value_of: Callable[[Any], Any]) -> Call:
    x, *rest = PROBLEMS[key]().inputs
    x = Tensor(x).realize()
    rest = [Tensor(r.astype(np.int32)).realize() for r in rest]

    @TinyJit
    def step(x: Any, *rest: Any) -> Any:
        value = value_of(x, *rest)
        (gradient,) = value.gradient(x)
        Tensor.realize(value, gradient)
        return value, gradient

    return lambda: step(x, *rest)


def chain() -> Call:
    def value(x: Any) -> Any:
        y = (x * 1.1 + 0.3).tanh() * x
        return (((y - 0.1).sigmoid() * y + x).relu() * 0.5 + 1.0).sum()

    return _gradient("chain", value)


def entropy() -> Call:
    return _gradient("cross_entropy", lambda x, y: x.sparse_categorical_crossentropy(y))


def layer_norm() -> Call:
    problem = PROBLEMS["layer_norm"]()
    weight, bias = (Tensor(w).realize() for w in problem.weights)
    x, g = (Tensor(array).realize() for array in problem.inputs)

    @TinyJit
    def step(x: Any, g: Any) -> Any:
        y = x.layernorm(eps=1e-5) * weight + bias
        gradients = (y * g).sum().gradient(x, weight, bias)
        Tensor.realize(*gradients)
        return gradients

    return lambda: step(x, g)


_BUILD: dict[str, Callable[[], Call]] = {
    "policy": partial(_perceptron, "policy", Tensor.tanh),
    "digits": partial(_perceptron, "digits", Tensor.relu),
    "chain": chain,
    "layer_norm": layer_norm,
    "cross_entropy": entropy,
}


class Tinygrad:
    """See ``libraries.Library``."""

    reasons: Mapping[str, str] = {key: "not written" for key in PROBLEMS if key not in _BUILD}

    def build(self, key: str) -> Call:
        return _BUILD[key]()

    def settle(self) -> None:
        """Steps are compiled when they are first run."""

    def finish(self, result: Any) -> None:
        self.arrays(result)

    def arrays(self, result: Any) -> list[Any]:
        return [tensor.numpy() for tensor in (result if isinstance(result, tuple | list) else [result])]


def open_library(threads: int, mode: str) -> Tinygrad:
    os.environ["CPU_COUNT"] = str(threads)
    return Tinygrad()
