"""The workloads in JAX: a step is one jitted function, its parameters' and its optimiser's buffers donated."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from contest.libraries import Call
from contest.problems import BLOCKS, CNN_CHANNELS, HEADS, PROBLEMS, SCALAR_TURNS, WIDTH

Weights = list[Any]
Loss = Callable[..., Any]


# ---- optimisers, as torch has them ----


def adam(weights: Weights, grads: Weights, state: Any, lr: float, betas: Any = (0.9, 0.999), decay: float = 0.0) -> Any:
    count, m, v = state
    a, b = betas
    count = count + 1
    m = [a * x + (1 - a) * g for x, g in zip(m, grads, strict=True)]
    v = [b * x + (1 - b) * g * g for x, g in zip(v, grads, strict=True)]
    size, scale = lr / (1 - a**count), 1 / jnp.sqrt(1 - b**count)
    new = [
        w * (1 - lr * decay) - size * x / (jnp.sqrt(y) * scale + 1e-8) for w, x, y in zip(weights, m, v, strict=True)
    ]
    return new, (count, m, v)


def adam_state(weights: Weights) -> Any:
    return jnp.zeros(()), [jnp.zeros_like(w) for w in weights], [jnp.zeros_like(w) for w in weights]


def momentum(weights: Weights, grads: Weights, state: Any, lr: float) -> Any:
    state = [0.9 * s + g for s, g in zip(state, grads, strict=True)]
    return [w - lr * s for w, s in zip(weights, state, strict=True)], state


def momentum_state(weights: Weights) -> Any:
    return [jnp.zeros_like(w) for w in weights]


# ---- parts ----


def cross_entropy(scores: Any, classes: Any, smoothing: float = 0.0) -> Any:
    logs = jax.nn.log_softmax(scores)
    picked = jnp.take_along_axis(logs, classes[:, None], 1).mean()
    return -(1 - smoothing) * picked - smoothing * logs.mean()


def linear(x: Any, weight: Any, bias: Any) -> Any:
    return x @ weight.T + bias


def mlp(weights: Weights, x: Any, activation: Any) -> Any:
    for k in range(0, len(weights), 2):
        x = linear(x, *weights[k : k + 2])
        x = activation(x) if k + 2 < len(weights) else x
    return x


def layer_norm(x: Any, weight: Any, bias: Any) -> Any:
    mean = x.mean(-1, keepdims=True)
    centred = x - mean
    return centred * lax.rsqrt((centred * centred).mean(-1, keepdims=True) + 1e-5) * weight + bias


CONV = ("NCHW", "OIHW", "NCHW")  # measured: channels last take as long, or longer


def conv(x: Any, weight: Any, stride: int, padding: int) -> Any:
    return lax.conv_general_dilated(x, weight, (stride, stride), [(padding, padding)] * 2, dimension_numbers=CONV)


def conv_transposed(x: Any, weight: Any, stride: int, padding: int) -> Any:
    """torch's: the weight is [inputs, outputs, height, width]."""
    weight = jnp.flip(weight, (2, 3)).swapaxes(0, 1)
    edge = weight.shape[-1] - 1 - padding
    return lax.conv_general_dilated(x, weight, (1, 1), [(edge, edge)] * 2, (stride, stride), dimension_numbers=CONV)


def batch_norm(x: Any, weight: Any, bias: Any, running: Any) -> Any:
    """Return the result, and the running mean and variance after this batch."""
    mean = x.mean((0, 2, 3))
    centred = x - _planes(mean)
    variance = (centred**2).mean((0, 2, 3))
    n = x.size // x.shape[1]
    running = (0.9 * running[0] + 0.1 * mean, 0.9 * running[1] + 0.1 * variance * n / (n - 1))
    return centred * _planes(lax.rsqrt(variance + 1e-5) * weight) + _planes(bias), running


def _planes(values: Any) -> Any:
    """Return a number for each channel, to be broadcast over planes."""
    return values[:, None, None]


def fresh_running(sizes: Any) -> Any:
    return [(jnp.zeros(n), jnp.ones(n)) for n in sizes]


# ---- workloads: each returns a function of nothing ----


def _stepper(step: Any, state: Any, inputs: Any) -> Call:
    """Run ``step(state, *inputs) -> (state, results)``, the state donated."""
    compiled = jax.jit(step, donate_argnums=0)
    box = [state]

    def call() -> Any:
        box[0], results = compiled(box[0], *inputs)
        return results

    return call


def _training(key: str, loss: Loss, update: Any, start: Any) -> Call:
    problem = PROBLEMS[key]()
    weights, inputs = [jnp.array(w) for w in problem.weights], [jnp.array(x) for x in problem.inputs]

    def step(state: Any, x: Any, y: Any) -> Any:
        weights, moments = state
        value, grads = jax.value_and_grad(loss)(weights, x, y)
        return update(weights, grads, moments), value

    return _stepper(step, (weights, start(weights)), inputs)


def policy() -> Call:
    loss = lambda w, x, y: cross_entropy(mlp(w, x, jnp.tanh), y)  # noqa: E731
    return _training("policy", loss, partial(adam, lr=1e-3), adam_state)


def digits() -> Call:
    loss = lambda w, x, y: cross_entropy(mlp(w, x, jax.nn.relu), y)  # noqa: E731
    return _training("digits", loss, partial(adam, lr=1e-3), adam_state)


def wide() -> Call:
    loss = lambda w, x, y: cross_entropy(mlp(w, x, jax.nn.relu), y)  # noqa: E731
    return _training("wide", loss, partial(momentum, lr=1e-2), momentum_state)


def rnn() -> Call:
    def loss(w: Weights, x: Any, y: Any) -> Any:
        inputs = x.swapaxes(0, 1) @ w[0].T + (w[2] + w[3])  # all steps at once
        turn = lambda h, z: (jnp.tanh(z + h @ w[1].T), None)  # noqa: E731
        hidden, _ = lax.scan(turn, jnp.zeros((x.shape[0], 64)), inputs)
        return cross_entropy(linear(hidden, *w[4:]), y)

    return _training("rnn", loss, partial(adam, lr=1e-3), adam_state)


def lstm() -> Call:
    def loss(w: Weights, x: Any, y: Any) -> Any:
        inputs = x.swapaxes(0, 1) @ w[0].T + (w[2] + w[3])

        def turn(state: Any, z: Any) -> Any:
            h, c = state
            i, f, g, o = jnp.split(z + h @ w[1].T, 4, 1)
            c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
            return (jax.nn.sigmoid(o) * jnp.tanh(c), c), None

        zeros = jnp.zeros((x.shape[0], 96))
        (hidden, _), _ = lax.scan(turn, (zeros, zeros), inputs)
        return cross_entropy(linear(hidden, *w[4:]), y)

    return _training("lstm", loss, partial(adam, lr=1e-3), adam_state)


def cnn() -> Call:
    problem = PROBLEMS["cnn"]()
    weights, inputs = [jnp.array(w) for w in problem.weights], [jnp.array(x) for x in problem.inputs]

    def loss(w: Weights, running: Any, x: Any, y: Any) -> Any:
        new = []
        for k in range(len(CNN_CHANNELS)):
            x, statistics = batch_norm(conv(x, w[3 * k], 1, 1), w[3 * k + 1], w[3 * k + 2], running[k])
            x = jax.nn.relu(x)
            new.append(statistics)
            if k % 2:
                x = lax.reduce_window(x, -jnp.inf, lax.max, (1, 1, 2, 2), (1, 1, 2, 2), "VALID")
        scores = linear(x.reshape(x.shape[0], -1), *w[-2:])
        return cross_entropy(scores, y, 0.05), new

    def step(state: Any, x: Any, y: Any) -> Any:
        weights, moments, running = state
        (value, running), grads = jax.value_and_grad(loss, has_aux=True)(weights, running, x, y)
        return (*adam(weights, grads, moments, 1e-3, decay=0.02), running), value

    start = (weights, adam_state(weights), fresh_running([width for _, width in CNN_CHANNELS]))
    return _stepper(step, start, inputs)


def _generate(w: Weights, running: Any, noise: Any) -> Any:
    x, new = noise, []
    for k, (stride, padding) in enumerate(((1, 0), (2, 1), (2, 1))):
        x, statistics = batch_norm(conv_transposed(x, w[3 * k], stride, padding), *w[3 * k + 1 : 3 * k + 3], running[k])
        new.append(statistics)
        x = jax.nn.relu(x)
    return jnp.tanh(conv(x, w[9], 1, 1) + _planes(w[10])), new


def _discriminate(w: Weights, running: Any, x: Any) -> Any:
    leaky = partial(jax.nn.leaky_relu, negative_slope=0.2)
    x, new = leaky(conv(x, w[0], 2, 1) + _planes(w[1])), []
    for k in range(2):
        x, statistics = batch_norm(conv(x, w[2 + 3 * k], 2, 1), w[3 + 3 * k], w[4 + 3 * k], running[k])
        new.append(statistics)
        x = leaky(x)
    return jax.nn.sigmoid((conv(x, w[8], 1, 0) + w[9]).ravel()), new


def _bce(p: Any, label: float) -> Any:
    clamp = lambda q: jnp.maximum(jnp.log(q), -100)  # noqa: E731 (as torch does)
    return -(label * clamp(p) + (1 - label) * clamp(1 - p)).mean()


def dcgan() -> Call:
    problem = PROBLEMS["dcgan"]()
    weights, inputs = [jnp.array(w) for w in problem.weights], [jnp.array(x) for x in problem.inputs]
    update = partial(adam, lr=5e-4, betas=(0.5, 0.999))

    def loss_d(w: Weights, running: Any, real: Any, fake: Any) -> Any:
        p, running = _discriminate(w, running, real)
        q, running = _discriminate(w, running, fake)
        return _bce(p, 0.9) + _bce(q, 0.0), running

    def loss_g(w: Weights, running: Any, noise: Any, d: Weights, running_d: Any) -> Any:
        fake, running = _generate(w, running, noise)
        p, running_d = _discriminate(d, running_d, fake)
        return _bce(p, 1.0), (running, running_d)

    def step(state: Any, real: Any, noise: Any) -> Any:
        g, moments_g, running_g, d, moments_d, running_d = state
        fake, _ = _generate(g, running_g, noise)
        (value_d, running_d), grads = jax.value_and_grad(loss_d, has_aux=True)(d, running_d, real, fake)
        d, moments_d = update(d, grads, moments_d)
        of_g = jax.value_and_grad(loss_g, has_aux=True)
        (value_g, (running_g, running_d)), grads = of_g(g, running_g, noise, d, running_d)
        g, moments_g = update(g, grads, moments_g)
        return (g, moments_g, running_g, d, moments_d, running_d), (value_d, value_g)

    g, d = weights[:11], weights[11:]
    start = (g, adam_state(g), fresh_running((128, 64, 32)), d, adam_state(d), fresh_running((64, 128)))
    return _stepper(step, start, inputs)


def transformer() -> Call:
    def attend(x: Any, w: Weights) -> Any:
        n, length, _ = x.shape
        q, k, v = linear(x, *w[:2]).reshape(n, length, 3, HEADS, WIDTH // HEADS).transpose(2, 0, 1, 3, 4)
        y = jax.nn.dot_product_attention(q, k, v, is_causal=True)
        return linear(y.reshape(n, length, WIDTH), *w[2:4])

    def loss(w: Weights, x: Any, y: Any) -> Any:
        h = w[0][x] + w[1]
        for k in range(2, 2 + 12 * BLOCKS, 12):
            h = h + attend(layer_norm(h, *w[k : k + 2]), w[k + 4 : k + 8])
            inner = jax.nn.gelu(linear(layer_norm(h, *w[k + 2 : k + 4]), *w[k + 8 : k + 10]), approximate=False)
            h = h + linear(inner, *w[k + 10 : k + 12])
        scores = linear(layer_norm(h, *w[-4:-2]), *w[-2:])
        return cross_entropy(scores.reshape(-1, scores.shape[-1]), y.ravel())

    def update(weights: Weights, grads: Weights, moments: Any) -> Any:
        norm = jnp.sqrt(sum((g * g).sum() for g in grads))
        factor = jnp.minimum(1.0, 1.0 / (norm + 1e-6))
        return adam(weights, [g * factor for g in grads], moments, 1e-3, decay=0.05)

    return _training("transformer", loss, update, adam_state)


def pinn() -> Call:
    def solution(w: Weights, x: Any, t: Any) -> Any:
        inside = mlp(w, jnp.stack([x, 2 * t - 1]), jnp.tanh)[0]
        return -jnp.sin(jnp.pi * x) + t * (1 - x * x) * inside

    def residual(w: Weights, x: Any, t: Any) -> Any:
        u = partial(solution, w)
        value, u_x = jax.jvp(lambda x: u(x, t), (x,), (1.0,))
        u_t = jax.jvp(lambda t: u(x, t), (t,), (1.0,))[1]
        u_xx = jax.jvp(lambda x: jax.jvp(lambda x: u(x, t), (x,), (1.0,))[1], (x,), (1.0,))[1]
        return u_t + value * u_x - 0.03 * u_xx

    def loss(w: Weights, x: Any, t: Any) -> Any:
        return (jax.vmap(residual, (None, 0, 0))(w, x[:, 0], t[:, 0]) ** 2).mean()

    return _training("pinn", loss, partial(adam, lr=1e-3), adam_state)


def function() -> Call:
    jax.config.update("jax_enable_x64", True)
    (point,) = PROBLEMS["function"]().inputs
    f = lambda x: (100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2).sum()  # noqa: E731
    compiled = jax.jit(jax.value_and_grad(f))

    def call() -> Any:
        value, gradient = compiled(point)
        return float(value), np.asarray(gradient)

    return call


def scalars() -> Call:
    jax.config.update("jax_enable_x64", True)

    def f(x: Any) -> Any:
        y = x
        for k in range(SCALAR_TURNS):
            y = jnp.sin(y * 0.999 + x) * (1.0 + 1e-3 * (k % 1000))
        return y

    return _plain(jax.value_and_grad(f), "scalars")


def _plain(f: Any, key: str, *extra: Any) -> Call:
    compiled, inputs = jax.jit(f), [jnp.array(x) for x in PROBLEMS[key]().inputs]
    return lambda: compiled(*extra, *inputs)


def jacobian() -> Call:
    weights = [jnp.array(w) for w in PROBLEMS["jacobian"]().weights]
    return _plain(jax.jacrev(lambda x: mlp(weights, x, jnp.tanh)), "jacobian")


def hvp() -> Call:
    weights = [jnp.array(w) for w in PROBLEMS["hvp"]().weights]

    def product(weights: Weights, x: Any, y: Any, *vectors: Any) -> Any:
        first = jax.grad(lambda w: ((mlp(w, x, jnp.tanh) - y) ** 2).mean())
        return jax.jvp(first, (weights,), (list(vectors),))[1]

    return _plain(product, "hvp", weights)


def chain() -> Call:
    def f(x: Any) -> Any:
        y = jnp.tanh(x * 1.1 + 0.3) * x
        y = jax.nn.relu(jax.nn.sigmoid(y - 0.1) * y + x) * 0.5
        return (y + 1.0).sum()

    return _plain(jax.value_and_grad(f), "chain")


def norm() -> Call:
    weights = [jnp.array(w) for w in PROBLEMS["layer_norm"]().weights]

    def f(weights: Weights, x: Any, g: Any) -> Any:
        return jax.vjp(lambda x, *w: layer_norm(x, *w), x, *weights)[1](g)

    return _plain(f, "layer_norm", weights)


def entropy() -> Call:
    return _plain(jax.value_and_grad(cross_entropy), "cross_entropy")


_WORKLOADS = [policy, digits, wide, rnn, lstm, cnn, dcgan, transformer]
_WORKLOADS += [pinn, function, scalars, jacobian, hvp, chain]
_BUILD = {make.__name__: make for make in _WORKLOADS} | {"layer_norm": norm, "cross_entropy": entropy}


class Jax:
    """See ``libraries.Library``."""

    def __init__(self, threads: int) -> None:
        self.reasons: dict[str, str] = {}
        if threads == 1 and hasattr(os, "sched_setaffinity"):  # no other way keeps XLA to one thread
            os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)

    def build(self, key: str) -> Call:
        jax.config.update("jax_enable_x64", False)
        return _BUILD[key]()

    def settle(self) -> None:
        """Steps are compiled when they are first run."""

    def finish(self, result: Any) -> None:
        jax.block_until_ready(result)

    def arrays(self, result: Any) -> list[Any]:
        return [np.asarray(leaf) for leaf in jax.tree.leaves(result)]


def open_library(threads: int, mode: str) -> Jax:
    return Jax(threads)
