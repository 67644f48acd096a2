"""The workloads in PyTensor, compiled by its Numba backend; parameters are shared variables updated in the call."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import pytensor
import pytensor.tensor as pt

from contest.libraries import Call
from contest.problems import PROBLEMS

Weights = list[Any]
_MODE = "NUMBA"


def adam(weights: Weights, grads: Weights) -> dict[Any, Any]:
    """Return the updates."""
    count = pytensor.shared(np.float32(0))
    updates: dict[Any, Any] = {count: count + np.float32(1)}
    size = np.float32(1e-3) / (1 - np.float32(0.9) ** updates[count])
    scale = 1 / pt.sqrt(1 - np.float32(0.999) ** updates[count])
    for w, g in zip(weights, grads, strict=True):
        m, v = (pytensor.shared(np.zeros_like(w.get_value())) for _ in range(2))
        updates[m] = np.float32(0.9) * m + np.float32(0.1) * g
        updates[v] = np.float32(0.999) * v + np.float32(0.001) * g * g
        updates[w] = w - size * updates[m] / (pt.sqrt(updates[v]) * scale + np.float32(1e-8))
    return updates


def _symbols(arrays: list[Any]) -> list[Any]:
    return [pt.tensor(dtype=str(array.dtype), shape=array.shape) for array in arrays]


def cross_entropy(scores: Any, classes: Any) -> Any:
    logs = pt.special.log_softmax(scores, axis=1)
    return -logs[pt.arange(classes.shape[0]), classes].mean(dtype=scores.dtype)


def relu(x: Any) -> Any:
    return pt.maximum(x, np.float32(0))


def mlp(weights: Weights, x: Any, activation: Any) -> Any:
    for k in range(0, len(weights), 2):
        x = x @ weights[k].T + weights[k + 1]
        x = activation(x) if k + 2 < len(weights) else x
    return x


def _compiled(symbols: list[Any], results: Any, inputs: list[Any], updates: Any = None) -> Call:
    function = pytensor.function(symbols, results, updates=updates, mode=_MODE, trust_input=True)
    return lambda: function(*inputs)


def _perceptron(key: str, activation: Any) -> Call:
    problem = PROBLEMS[key]()
    weights = [pytensor.shared(w) for w in problem.weights]
    x, y = symbols = _symbols(problem.inputs)
    loss = cross_entropy(mlp(weights, x, activation), y)
    return _compiled(symbols, loss, problem.inputs, adam(weights, pytensor.grad(loss, weights)))


def function() -> Call:
    inputs = PROBLEMS["function"]().inputs
    (x,) = _symbols(inputs)
    value = (100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2).sum()
    return _compiled([x], [value, pytensor.grad(value, x)], inputs)


def hvp() -> Call:
    problem = PROBLEMS["hvp"]()
    weights = [pytensor.shared(w) for w in problem.weights]
    x, y, *vectors = symbols = _symbols(problem.inputs)
    loss = pt.sqr(mlp(weights, x, pt.tanh) - y).mean(dtype="float32")
    along = sum((g * v).sum() for g, v in zip(pytensor.grad(loss, weights), vectors, strict=True))
    product = pytensor.grad(along, weights, disconnected_inputs="ignore")
    return _compiled(symbols, product, problem.inputs)


def chain() -> Call:
    inputs = PROBLEMS["chain"]().inputs
    (x,) = _symbols(inputs)
    y = pt.tanh(x * np.float32(1.1) + np.float32(0.3)) * x
    y = relu(pt.sigmoid(y - np.float32(0.1)) * y + x) * np.float32(0.5)
    loss = (y + np.float32(1)).sum(acc_dtype="float32")
    return _compiled([x], [loss, pytensor.grad(loss, x)], inputs)


def layer_norm() -> Call:
    problem = PROBLEMS["layer_norm"]()
    weight, bias = (pytensor.shared(w) for w in problem.weights)
    x, g = symbols = _symbols(problem.inputs)
    centred = x - x.mean(1, keepdims=True, dtype="float32")
    variance = pt.sqr(centred).mean(1, keepdims=True, dtype="float32")
    y = centred / pt.sqrt(variance + np.float32(1e-5)) * weight + bias
    gradients = pytensor.grad((y * g).sum(acc_dtype="float32"), [x, weight, bias])
    return _compiled(symbols, gradients, problem.inputs)


def entropy() -> Call:
    inputs = PROBLEMS["cross_entropy"]().inputs
    x, y = symbols = _symbols(inputs)
    loss = cross_entropy(x, y)
    return _compiled(symbols, [loss, pytensor.grad(loss, x)], inputs)


_BUILD: dict[str, Callable[[], Call]] = {
    "policy": partial(_perceptron, "policy", pt.tanh),
    "digits": partial(_perceptron, "digits", relu),
    "function": function,
    "hvp": hvp,
    "chain": chain,
    "layer_norm": layer_norm,
    "cross_entropy": entropy,
}
_REASONS = {
    "scalars": "PyTensor takes minutes to compile 5,000 operations",
    "jacobian": "not written (a scan of gradients)",
}


class Pytensor:
    """See ``libraries.Library``."""

    reasons: Mapping[str, str] = {key: _REASONS.get(key, "not written") for key in PROBLEMS if key not in _BUILD}

    def build(self, key: str) -> Call:
        pytensor.config.floatX = "float64" if key == "function" else "float32"
        return _BUILD[key]()

    def settle(self) -> None:
        """Steps are compiled when they are first run."""

    def finish(self, result: Any) -> None:
        """Steps are done when they return."""

    def arrays(self, result: Any) -> list[Any]:
        return list(result) if isinstance(result, tuple | list) else [result]


def open_library(threads: int, mode: str) -> Pytensor:
    return Pytensor()
