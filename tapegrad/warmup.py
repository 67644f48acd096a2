"""Compiles ahead what training commonly needs, so that the first step in a new process only loads it from the disk."""

import os
import time
from collections.abc import Callable, Iterator
from typing import Any

import tapegrad as tg
import tapegrad.nn.functional as F
from tapegrad.native.cache import cache_counts
from tapegrad.native.dtypes import FLOAT32
from tapegrad.ops.registry import compile_op, registry
from tapegrad.runtime.core import ENTRY_NAMES
from tapegrad.runtime.machine import machine

_UNARY = ("exp", "log", "sqrt", "tanh", "sigmoid", "relu", "sin", "cos", "square", "abs", "neg", "reciprocal")
_REDUCTIONS = ("sum", "mean", "amax", "var", "logsumexp")
_BINARY: tuple[Callable[[Any, Any], Any], ...] = (
    lambda x, y: x + y,
    lambda x, y: x - y,
    lambda x, y: x * y,
    lambda x, y: x / y,
    lambda x, y: x**2 + 2 * y - 1,
    lambda x, y: tg.maximum(x, y),
    lambda x, y: tg.where(x > y, x, y),
)
_JOINING: tuple[Callable[[Any, Any], Any], ...] = (
    lambda x, y: x @ y.t(),
    lambda x, y: tg.cat([x, y]),
    lambda x, y: tg.stack([x, y]),
)
_VIEWS: tuple[Callable[[Any], Any], ...] = (
    lambda x: x.t(),
    lambda x: x.reshape(-1),
    lambda x: x[1:],
    lambda x: x[:, 0],
    lambda x: x[tg.tensor([0, 2])],
    lambda x: x.unsqueeze(0).expand(2, 4, 6),
    lambda x: F.softmax(x, dim=1),
    lambda x: F.log_softmax(x, dim=1),
)


# The kernels of the second half of a training step of a classifier, in the order in which a first step waits longest.
_TRAINING_OPS = ("sum_to_shape", "ce_gradient", "adam_update", "mm_tn", "threshold_backward", "mm")


def compile_training_kernels() -> None:
    """Compile what a first training step ends with, while another process is at its beginning; see runtime/core.py."""
    parent = os.getppid()
    for name in _TRAINING_OPS:
        if os.getppid() != parent:
            return
        compile_op(registry[name], FLOAT32, FLOAT32)


def warm_up() -> str:
    """Run small examples of common ops, losses and optimisers, forwards and backwards; return what that compiled."""
    before, started = cache_counts(), time.perf_counter()
    for name in ENTRY_NAMES:
        getattr(machine, name)  # compiled when it is first asked for
    for dtype in (tg.float32, tg.float64):
        for result in _examples(dtype):
            result.sum().backward()
        for optimizer in (tg.optim.SGD, tg.optim.Adam, tg.optim.AdamW):
            _train(optimizer, dtype)
    counts = {name: count - before[name] for name, count in cache_counts().items()}
    seconds = time.perf_counter() - started
    return f"{counts['compiled']} functions compiled, {counts['loaded']} loaded from the cache, in {seconds:.1f} s"


def _examples(dtype: Any) -> Iterator[Any]:
    # Positive and away from ties, so that every function is defined and differentiable here.
    x = (tg.arange(24, dtype=dtype) / 10 + 0.5).reshape(4, 6).requires_grad_()
    y = (tg.arange(24, dtype=dtype) / 7 + 0.3).reshape(4, 6).requires_grad_()
    for name in _UNARY:
        yield getattr(tg, name)(x)
    for name in _REDUCTIONS:
        yield getattr(x, name)(dim=1)
    for operate in _BINARY:
        yield operate(x, y)
        yield operate(x, y[:1])
    for join in _JOINING:
        yield join(x, y)
    for view in _VIEWS:
        yield view(x)


def _train(optimizer_class: Any, dtype: Any) -> None:
    layers = (tg.nn.Linear(6, 8), tg.nn.ReLU(), tg.nn.LayerNorm(8), tg.nn.Dropout(0.5), tg.nn.Linear(8, 3))
    model = tg.nn.Sequential(*layers).to(dtype)
    optimizer = optimizer_class(model.parameters(), lr=1e-3)
    inputs = tg.arange(24, dtype=dtype).reshape(4, 6) / 24
    for loss_of in (_classification, _regression):
        optimizer.zero_grad()
        loss_of(model(inputs)).backward()
        optimizer.step()
    with tg.no_grad():
        model(inputs).argmax(dim=1)


def _classification(scores: Any) -> Any:
    return F.cross_entropy(scores, tg.tensor([0, 1, 2, 0]))


def _regression(scores: Any) -> Any:
    return F.mse_loss(scores, tg.zeros_like(scores))
