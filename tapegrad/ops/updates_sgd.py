"""The updates of SGD, ASGD, Rprop, Lion and Muon, and the moving average of parameters."""

import math
from typing import Any

import numpy as np
from numba import types

from tapegrad.native.cache import jit
from tapegrad.native.dtypes import POINTERS, SCALARS
from tapegrad.ops.updates import Update, count_step, declare_update, nothing, scalar_of, set_scalar
from tapegrad.runtime.layout import input_slot, shape_in, slot_of

_PLAIN = ("*params", "*grads")

# ---- stochastic gradient descent ----


@jit
def _prepare_sgd(st, frame, first, scalars, options, numbers):
    """Options: learning rate, weight decay, sign of the gradient, momentum, dampening, whether Nesterov's."""
    for k in range(6):
        numbers[k] = options[k]
    numbers[4] = 1.0 - options[4]


def _make_sgd(dtype: int) -> Any:
    pointer, scalar = POINTERS[dtype], SCALARS[dtype]

    @jit
    def update(addresses, n, numbers):
        x = pointer(addresses[0])
        g = pointer(addresses[1])
        rate = scalar(numbers[0])
        decay = scalar(numbers[1])
        sign = scalar(numbers[2])
        for i in range(np.uintp(n)):
            direction = sign * g[i]
            if decay != 0:
                direction += decay * x[i]
            x[i] -= rate * direction

    return update


def _make_sgd_momentum(dtype: int) -> Any:
    pointer, scalar = POINTERS[dtype], SCALARS[dtype]

    @jit
    def update(addresses, n, numbers):
        x = pointer(addresses[0])
        g = pointer(addresses[1])
        b = pointer(addresses[2])
        rate = scalar(numbers[0])
        decay = scalar(numbers[1])
        sign = scalar(numbers[2])
        momentum = scalar(numbers[3])
        share = scalar(numbers[4])
        nesterov = numbers[5] != 0.0
        for i in range(np.uintp(n)):
            direction = sign * g[i]
            if decay != 0:
                direction += decay * x[i]
            average = momentum * b[i] + share * direction
            b[i] = average
            direction = direction + momentum * average if nesterov else average
            x[i] -= rate * direction

    return update


SGD = declare_update(
    Update("sgd_update", _PLAIN, (), 6, _make_sgd, _prepare_sgd, math="x - lr (g + decay x)"),
)
SGD_MOMENTUM = declare_update(
    Update(
        "sgd_momentum_update",
        (*_PLAIN, "*momentum_buffers"),
        (),
        6,
        _make_sgd_momentum,
        _prepare_sgd,
        math="b = momentum b + (1 - dampening) g; x - lr b",
    )
)

# ---- averaged SGD (Polyak and Juditsky 1992) ----


@jit
def _prepare_asgd(st, frame, first, scalars, options, numbers):
    """Options: learning rate, lambda, alpha, t0, weight decay, sign. Scalars: step, eta, mu, the last two for now."""
    eta = scalar_of(st, frame, scalars + 1)
    numbers[0] = eta
    numbers[1] = 1.0 - options[1] * eta
    numbers[2] = options[4]
    numbers[3] = options[5]
    numbers[4] = scalar_of(st, frame, scalars + 2)


@jit
def _finish_asgd(st, frame, scalars, options):
    """eta = lr / (1 + lambda lr t)^alpha, mu = 1 / max(1, t - t0): what the next step goes by."""
    t = scalar_of(st, frame, scalars)
    set_scalar(st, frame, scalars + 1, options[0] / (1.0 + options[1] * options[0] * t) ** options[2])
    set_scalar(st, frame, scalars + 2, 1.0 / max(1.0, t - options[3]))


def _make_asgd(dtype: int) -> Any:
    pointer, scalar = POINTERS[dtype], SCALARS[dtype]

    @jit
    def update(addresses, n, numbers):
        x = pointer(addresses[0])
        g = pointer(addresses[1])
        average = pointer(addresses[2])
        eta = scalar(numbers[0])
        shrink = scalar(numbers[1])
        decay = scalar(numbers[2])
        sign = scalar(numbers[3])
        mu = scalar(numbers[4])
        for i in range(np.uintp(n)):
            direction = sign * g[i]
            if decay != 0:
                direction += decay * x[i]
            moved = shrink * x[i] - eta * direction
            x[i] = moved
            average[i] = moved if mu == 1 else average[i] + (moved - average[i]) * mu

    return update


ASGD = declare_update(
    Update(
        "asgd_update",
        (*_PLAIN, "*axs"),
        ("*steps", "*etas", "*mus"),
        6,
        _make_asgd,
        _prepare_asgd,
        before=count_step,
        after=_finish_asgd,
        math="x (1 - lambda eta) - eta g; ax + mu (x - ax)",
    )
)

# ---- Rprop (Riedmiller and Braun 1993) ----


@jit
def _prepare_rprop(st, frame, first, scalars, options, numbers):
    """Options: the factors of a step size that shrinks and that grows, its bounds, the sign of the gradient."""
    for k in range(5):
        numbers[k] = options[k]


def _make_rprop(dtype: int) -> Any:
    pointer, scalar = POINTERS[dtype], SCALARS[dtype]

    @jit
    def update(addresses, n, numbers):
        x = pointer(addresses[0])
        g = pointer(addresses[1])
        previous = pointer(addresses[2])
        size = pointer(addresses[3])
        shrink = scalar(numbers[0])
        grow = scalar(numbers[1])
        least = scalar(numbers[2])
        most = scalar(numbers[3])
        sign = scalar(numbers[4])
        zero = scalar(0)
        one = scalar(1)
        for i in range(np.uintp(n)):
            d = sign * g[i]
            agreement = d * previous[i]
            factor = grow if agreement > zero else (shrink if agreement < zero else one)
            s = size[i] * factor
            s = least if s < least else s
            s = most if s > most else s
            size[i] = s
            d = zero if agreement < zero else d  # no step where the sign has turned
            previous[i] = d
            direction = one if d > zero else (-one if d < zero else d)
            x[i] -= direction * s

    return update


RPROP = declare_update(
    Update(
        "rprop_update",
        (*_PLAIN, "*prevs", "*step_sizes"),
        ("*steps",),
        5,
        _make_rprop,
        _prepare_rprop,
        before=count_step,
        math="s = clamp(s (etaplus where g prev > 0, etaminus where < 0), bounds); x - sign(g) s",
    )
)

# ---- Lion (Chen et al. 2023, arXiv:2302.06675) ----


@jit
def _prepare_lion(st, frame, first, scalars, options, numbers):
    """Options: learning rate, beta1, beta2, weight decay, sign of the gradient."""
    numbers[0] = options[0]
    numbers[1] = options[1]
    numbers[2] = 1.0 - options[1]
    numbers[3] = options[2]
    numbers[4] = 1.0 - options[2]
    numbers[5] = 1.0 - options[0] * options[3]
    numbers[6] = options[4]


def _make_lion(dtype: int) -> Any:
    pointer, scalar = POINTERS[dtype], SCALARS[dtype]

    @jit
    def update(addresses, n, numbers):
        x = pointer(addresses[0])
        g = pointer(addresses[1])
        average = pointer(addresses[2])
        rate = scalar(numbers[0])
        beta1 = scalar(numbers[1])
        share1 = scalar(numbers[2])
        beta2 = scalar(numbers[3])
        share2 = scalar(numbers[4])
        shrink = scalar(numbers[5])
        sign = scalar(numbers[6])
        zero = scalar(0)
        one = scalar(1)
        for i in range(np.uintp(n)):
            d = sign * g[i]
            c = beta1 * average[i] + share1 * d
            direction = one if c > zero else (-one if c < zero else c)
            average[i] = beta2 * average[i] + share2 * d
            x[i] = shrink * x[i] - rate * direction

    return update


LION = declare_update(
    Update(
        "lion_update",
        (*_PLAIN, "*exp_avgs"),
        (),
        5,
        _make_lion,
        _prepare_lion,
        math="x (1 - lr decay) - lr sign(b1 m + (1 - b1) g); m = b2 m + (1 - b2) g",
    )
)

# ---- Muon (Jordan et al. 2024): momentum, then, on directions that were made orthogonal, the step ----


@jit
def _prepare_muon_momentum(st, frame, first, scalars, options, numbers):
    """Options: momentum, whether Nesterov's."""
    numbers[0] = options[0]
    numbers[1] = 1.0 - options[0]
    numbers[2] = options[1]


def _make_muon_momentum(dtype: int) -> Any:
    pointer, scalar = POINTERS[dtype], SCALARS[dtype]

    @jit
    def update(addresses, n, numbers):
        b = pointer(addresses[0])
        g = pointer(addresses[1])
        direction = pointer(addresses[2])
        momentum = scalar(numbers[0])
        share = scalar(numbers[1])
        nesterov = numbers[2] != 0.0
        for i in range(np.uintp(n)):
            average = momentum * b[i] + share * g[i]
            b[i] = average
            direction[i] = share * g[i] + momentum * average if nesterov else average

    return update


@jit
def _prepare_muon(st, frame, first, scalars, options, numbers):
    """Options: learning rate, weight decay, how the rate depends on a matrix's [n, m] shape."""
    shape = shape_in(slot_of(st, input_slot(frame, first)))
    n = types.float64(shape[0])
    m = types.float64(shape[1])
    ratio = math.sqrt(max(1.0, n / m)) if options[2] == 0.0 else 0.2 * math.sqrt(max(n, m))
    numbers[0] = 1.0 - options[0] * options[1]
    numbers[1] = options[0] * ratio


def _make_muon(dtype: int) -> Any:
    pointer, scalar = POINTERS[dtype], SCALARS[dtype]

    @jit
    def update(addresses, n, numbers):
        x = pointer(addresses[0])
        direction = pointer(addresses[1])
        shrink = scalar(numbers[0])
        rate = scalar(numbers[1])
        for i in range(np.uintp(n)):
            x[i] = shrink * x[i] - rate * direction[i]

    return update


MUON_MOMENTUM = declare_update(
    Update(
        "muon_momentum_update",
        ("*momentum_buffers", "*grads", "*directions"),
        (),
        2,
        _make_muon_momentum,
        _prepare_muon_momentum,
        math="b = momentum b + (1 - momentum) g; (1 - momentum) g + momentum b",
    )
)
MUON = declare_update(
    Update(
        "muon_update",
        ("*params", "*directions"),
        (),
        3,
        _make_muon,
        _prepare_muon,
        math="x (1 - lr decay) - lr sqrt(max(1, n / m)) direction",
    )
)

# ---- the moving average of parameters ----


@jit
def _prepare_average(st, frame, first, scalars, options, numbers):
    """Options: the share of the new value."""
    numbers[0] = options[0]


def _make_average(dtype: int) -> Any:
    pointer, scalar = POINTERS[dtype], SCALARS[dtype]

    @jit
    def update(addresses, n, numbers):
        average = pointer(addresses[0])
        x = pointer(addresses[1])
        weight = scalar(numbers[0])
        rest = scalar(1.0 - numbers[0])
        for i in range(np.uintp(n)):
            difference = x[i] - average[i]
            # from the nearer end, so that weights 0 and 1 give the ends to the bit
            average[i] = average[i] + weight * difference if weight < 0.5 else x[i] - difference * rest

    return update


AVERAGE = declare_update(
    Update(
        "average_update",
        ("*averages", "*params"),
        (),
        1,
        _make_average,
        _prepare_average,
        before=nothing,
        math="average + weight (x - average)",
    )
)
