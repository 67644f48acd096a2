"""The updates that divide by a running size of the gradient: Adagrad, Adadelta and RMSprop."""

import math
from typing import Any

import numpy as np

from tapegrad.native.cache import jit
from tapegrad.native.dtypes import POINTERS, SCALARS
from tapegrad.ops.registry import Op
from tapegrad.ops.updates import Update, count_step, declare_update, scalar_of

# ---- Adagrad (Duchi, Hazan and Singer 2011) ----


@jit
def _prepare_adagrad(st, frame, first, scalars, options, numbers):
    """Options: learning rate, its decay, eps, weight decay, sign of the gradient."""
    numbers[0] = options[0] / (1.0 + (scalar_of(st, frame, scalars) - 1.0) * options[1])
    for k in range(2, 5):
        numbers[k] = options[k]


def _make_adagrad(dtype: int) -> Any:
    pointer, scalar = POINTERS[dtype], SCALARS[dtype]

    @jit
    def update(addresses, n, numbers):
        x = pointer(addresses[0])
        g = pointer(addresses[1])
        total = pointer(addresses[2])
        rate = scalar(numbers[0])
        eps = scalar(numbers[2])
        decay = scalar(numbers[3])
        sign = scalar(numbers[4])
        for i in range(np.uintp(n)):
            d = sign * g[i]
            if decay != 0:
                d += decay * x[i]
            s = total[i] + d * d
            total[i] = s
            x[i] -= rate * d / (math.sqrt(s) + eps)

    return update


ADAGRAD = declare_update(
    Update(
        "adagrad_update",
        ("*params", "*grads", "*sums"),
        ("*steps",),
        5,
        _make_adagrad,
        _prepare_adagrad,
        before=count_step,
        math="s = s + g g; x - lr / (1 + (t - 1) lr_decay) g / (sqrt(s) + eps)",
    )
)

# ---- Adadelta (Zeiler 2012, arXiv:1212.5701) ----


@jit
def _prepare_adadelta(st, frame, first, scalars, options, numbers):
    """Options: learning rate, rho, eps, weight decay, sign of the gradient."""
    for k in range(5):
        numbers[k] = options[k]
    numbers[5] = 1.0 - options[1]


def _make_adadelta(dtype: int) -> Any:
    pointer, scalar = POINTERS[dtype], SCALARS[dtype]

    @jit
    def update(addresses, n, numbers):
        x = pointer(addresses[0])
        g = pointer(addresses[1])
        square = pointer(addresses[2])
        moved = pointer(addresses[3])
        rate = scalar(numbers[0])
        rho = scalar(numbers[1])
        eps = scalar(numbers[2])
        decay = scalar(numbers[3])
        sign = scalar(numbers[4])
        share = scalar(numbers[5])
        for i in range(np.uintp(n)):
            d = sign * g[i]
            if decay != 0:
                d += decay * x[i]
            s = rho * square[i] + share * d * d
            square[i] = s
            delta = math.sqrt(moved[i] + eps) / math.sqrt(s + eps) * d
            moved[i] = rho * moved[i] + share * delta * delta
            x[i] -= rate * delta

    return update


ADADELTA = declare_update(
    Update(
        "adadelta_update",
        ("*params", "*grads", "*square_avgs", "*acc_deltas"),
        ("*steps",),
        5,
        _make_adadelta,
        _prepare_adadelta,
        before=count_step,
        math="v = rho v + (1 - rho) g g; d = sqrt(u + eps) / sqrt(v + eps) g; u = rho u + (1 - rho) d d; x - lr d",
    )
)

# ---- RMSprop (Tieleman and Hinton 2012), also centered (Graves 2013, arXiv:1308.0850) and with momentum ----


@jit
def _prepare_rmsprop(st, frame, first, scalars, options, numbers):
    """Options: learning rate, alpha, eps, weight decay, momentum, sign of the gradient."""
    for k in range(6):
        numbers[k] = options[k]
    numbers[6] = 1.0 - options[1]


def _make_rmsprop(dtype: int, momentum: bool, centered: bool) -> Any:
    pointer, scalar = POINTERS[dtype], SCALARS[dtype]
    buffer_role, mean_role = 3, 3 + momentum

    @jit
    def update(addresses, n, numbers):
        x = pointer(addresses[0])
        g = pointer(addresses[1])
        square = pointer(addresses[2])
        buffer = pointer(addresses[buffer_role])
        mean = pointer(addresses[mean_role])
        rate = scalar(numbers[0])
        alpha = scalar(numbers[1])
        eps = scalar(numbers[2])
        decay = scalar(numbers[3])
        factor = scalar(numbers[4])
        sign = scalar(numbers[5])
        share = scalar(numbers[6])
        for i in range(np.uintp(n)):
            d = sign * g[i]
            if decay != 0:
                d += decay * x[i]
            s = alpha * square[i] + share * d * d
            square[i] = s
            if centered:
                m = mean[i] + share * (d - mean[i])
                mean[i] = m
                s -= m * m
            step = d / (math.sqrt(s) + eps)
            if momentum:
                step += factor * buffer[i]
                buffer[i] = step
            x[i] -= rate * step

    return update


def _declare_rmsprop(momentum: bool, centered: bool) -> Op:
    state = ("*momentum_buffers",) * momentum + ("*grad_avgs",) * centered
    return declare_update(
        Update(
            "rmsprop_" + "centered_" * centered + "momentum_" * momentum + "update",
            ("*params", "*grads", "*square_avgs", *state),
            ("*steps",),
            6,
            lambda dtype: _make_rmsprop(dtype, momentum, centered),
            _prepare_rmsprop,
            before=count_step,
            math="v = alpha v + (1 - alpha) g g; "
            + "m = alpha m + (1 - alpha) g; " * centered
            + ("b = momentum b + " if momentum else "x - lr ")
            + ("g / (sqrt(v - m m) + eps)" if centered else "g / (sqrt(v) + eps)")
            + "; x - lr b" * momentum,
        )
    )


RMSPROP = {
    (momentum, centered): _declare_rmsprop(momentum, centered)
    for momentum in (False, True)
    for centered in (False, True)
}
