"""The workloads in HIPS autograd: NumPy with gradients, nothing compiled."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import autograd.numpy as np
import numpy as plain
from autograd import elementwise_grad, grad, jacobian, value_and_grad

from contest.libraries import Call
from contest.problems import PROBLEMS, SCALAR_TURNS

Weights = list[Any]


def adam(weights: Weights, grads: Weights, state: dict[str, Any], lr: float = 1e-3) -> None:
    """Update the weights in place."""
    state["count"] += 1
    for w, g, m, v in zip(weights, grads, state["m"], state["v"], strict=True):
        m += 0.1 * (g - m)
        v += 0.001 * (g * g - v)
        size = lr / (1 - 0.9 ** state["count"])
        w -= size * m / (plain.sqrt(v) / (1 - 0.999 ** state["count"]) ** 0.5 + 1e-8)


def momentum(weights: Weights, grads: Weights, state: dict[str, Any], lr: float = 1e-2) -> None:
    for w, g, m in zip(weights, grads, state["m"], strict=True):
        m *= 0.9
        m += g
        w -= lr * m


def cross_entropy(scores: Any, classes: Any) -> Any:
    shifted = scores - np.max(scores, 1, keepdims=True)
    logs = shifted - np.log(np.sum(np.exp(shifted), 1, keepdims=True))
    return -np.mean(logs[np.arange(len(classes)), classes])


def relu(x: Any) -> Any:
    return np.maximum(x, 0)


def mlp(weights: Weights, x: Any, activation: Any) -> Any:
    for k in range(0, len(weights), 2):
        x = np.dot(x, weights[k].T) + weights[k + 1]
        x = activation(x) if k + 2 < len(weights) else x
    return x


def _training(key: str, loss: Callable[..., Any], update: Any = adam) -> Call:
    problem = PROBLEMS[key]()
    weights = problem.weights
    state = {"count": 0, **{name: [plain.zeros_like(w) for w in weights] for name in "mv"}}
    both = value_and_grad(loss)

    def call() -> Any:
        value, grads = both(weights, *problem.inputs)
        update(weights, grads, state)
        return value

    return call


def _perceptron(key: str, activation: Any, update: Any) -> Call:
    return _training(key, lambda w, x, y: cross_entropy(mlp(w, x, activation), y), update)


def _sigmoid(x: Any) -> Any:
    return 0.5 * (np.tanh(0.5 * x) + 1)


def rnn() -> Call:
    def loss(w: Weights, x: Any, y: Any) -> Any:
        h, bias = plain.zeros((x.shape[0], 64), x.dtype), w[2] + w[3]
        for t in range(x.shape[1]):
            h = np.tanh(np.dot(x[:, t], w[0].T) + np.dot(h, w[1].T) + bias)
        return cross_entropy(np.dot(h, w[4].T) + w[5], y)

    return _training("rnn", loss)


def lstm() -> Call:
    def loss(w: Weights, x: Any, y: Any) -> Any:
        h = c = plain.zeros((x.shape[0], 96), x.dtype)
        bias = w[2] + w[3]
        for t in range(x.shape[1]):
            z = np.dot(x[:, t], w[0].T) + np.dot(h, w[1].T) + bias
            i, f, g, o = (z[:, k * 96 : (k + 1) * 96] for k in range(4))
            c = _sigmoid(f) * c + _sigmoid(i) * np.tanh(g)
            h = _sigmoid(o) * np.tanh(c)
        return cross_entropy(np.dot(h, w[4].T) + w[5], y)

    return _training("lstm", loss)


def pinn() -> Call:
    def loss(w: Weights, x: Any, t: Any) -> Any:
        def u(x: Any, t: Any) -> Any:
            inside = mlp(w, np.concatenate([x, 2 * t - 1], 1), np.tanh)
            return -np.sin(np.float32(np.pi) * x) + t * (1 - x * x) * inside

        u_x, u_t = elementwise_grad(u, 0), elementwise_grad(u, 1)
        residual = u_t(x, t) + u(x, t) * u_x(x, t) - 0.03 * elementwise_grad(u_x, 0)(x, t)
        return np.mean(residual**2)

    return _training("pinn", loss)


def _plain(f: Callable[..., Any], key: str) -> Call:
    inputs = PROBLEMS[key]().inputs
    return lambda: f(*inputs)


def function() -> Call:
    return _plain(value_and_grad(lambda x: np.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)), "function")


def scalars() -> Call:
    def f(x: Any) -> Any:
        y = x
        for k in range(SCALAR_TURNS):
            y = np.sin(y * 0.999 + x) * (1.0 + 1e-3 * (k % 1000))
        return y

    return lambda: value_and_grad(f)(0.5)


def derivative() -> Call:
    weights = PROBLEMS["jacobian"]().weights
    return _plain(jacobian(lambda x: mlp(weights, x, np.tanh)), "jacobian")


def hvp() -> Call:
    weights = PROBLEMS["hvp"]().weights
    loss = lambda w, x, y: np.mean((mlp(w, x, np.tanh) - y) ** 2)  # noqa: E731

    def call(x: Any, y: Any, *vectors: Any) -> Any:
        first = grad(lambda w: loss(w, x, y))
        along = lambda w: sum(np.sum(g * v) for g, v in zip(first(w), vectors, strict=True))  # noqa: E731
        return grad(along)(weights)

    return _plain(call, "hvp")


def chain() -> Call:
    def f(x: Any) -> Any:
        y = np.tanh(x * 1.1 + 0.3) * x
        y = relu(_sigmoid(y - 0.1) * y + x) * 0.5
        return np.sum(y + 1.0)

    return _plain(value_and_grad(f), "chain")


def layer_norm() -> Call:
    weight, bias = PROBLEMS["layer_norm"]().weights

    def f(x: Any, weight: Any, bias: Any, g: Any) -> Any:
        centred = x - np.mean(x, 1, keepdims=True)
        scale = 1 / np.sqrt(np.mean(centred * centred, 1, keepdims=True) + 1e-5)
        return np.sum((centred * scale * weight + bias) * g)

    both = grad(f, (0, 1, 2))
    return _plain(lambda x, g: both(x, weight, bias, g), "layer_norm")


def entropy() -> Call:
    return _plain(value_and_grad(cross_entropy), "cross_entropy")


_BUILD: dict[str, Callable[[], Call]] = {
    "policy": partial(_perceptron, "policy", np.tanh, adam),
    "digits": partial(_perceptron, "digits", relu, adam),
    "wide": partial(_perceptron, "wide", relu, momentum),
    "rnn": rnn,
    "lstm": lstm,
    "pinn": pinn,
    "function": function,
    "scalars": scalars,
    "jacobian": derivative,
    "hvp": hvp,
    "chain": chain,
    "layer_norm": layer_norm,
    "cross_entropy": entropy,
}
_CONVOLUTION = "autograd has no convolution but SciPy's of whole arrays"


class Autograd:
    """See ``libraries.Library``."""

    reasons: Mapping[str, str] = {"cnn": _CONVOLUTION, "dcgan": _CONVOLUTION, "transformer": "not written"}

    def build(self, key: str) -> Call:
        return _BUILD[key]()

    def settle(self) -> None:
        """Steps are compiled when they are first run."""

    def finish(self, result: Any) -> None:
        """Steps are done when they return."""

    def arrays(self, result: Any) -> list[Any]:
        parts = result if isinstance(result, tuple | list) else [result]
        return [array for part in parts for array in (part if isinstance(part, tuple | list) else [part])]


def open_library(threads: int, mode: str) -> Autograd:
    return Autograd()
