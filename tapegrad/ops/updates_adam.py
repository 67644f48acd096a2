"""The updates of Adam and its kin: AdamW, NAdam, RAdam and Adamax."""

import math
from typing import Any

import numpy as np

from tapegrad.native.cache import jit
from tapegrad.native.dtypes import POINTERS, SCALARS
from tapegrad.ops.updates import Update, count_step, declare_update, multiply_scalar, scalar_of, set_scalar

_AVERAGES = ("*params", "*grads", "*exp_avgs", "*exp_avg_sqs")
_RATE, _BETA1, _BETA2, _EPS, _DECAY, _SIGN, _DECOUPLED = range(7)  # the options of all of them


@jit
def _prepare_averages(options, numbers):
    """What they share, in numbers 1 to 8: shares of old and new, eps, decay in the gradient and of x, sign."""
    decoupled = options[_DECOUPLED] != 0.0
    numbers[1] = options[_BETA1]
    numbers[2] = 1.0 - options[_BETA1]
    numbers[3] = options[_BETA2]
    numbers[4] = 1.0 - options[_BETA2]
    numbers[5] = options[_EPS]
    numbers[6] = 0.0 if decoupled else options[_DECAY]
    numbers[7] = 1.0 - options[_RATE] * options[_DECAY] if decoupled else 1.0
    numbers[8] = options[_SIGN]


# ---- Adam (Kingma and Ba 2015, arXiv:1412.6980) and AdamW (Loshchilov and Hutter 2019, arXiv:1711.05101) ----


@jit
def _prepare_adam(st, frame, first, scalars, options, numbers):
    t = scalar_of(st, frame, scalars)
    _prepare_averages(options, numbers)
    numbers[0] = options[_RATE] / (1.0 - options[_BETA1] ** t)
    numbers[9] = 1.0 / math.sqrt(1.0 - options[_BETA2] ** t)


def _make_adam(dtype: int, amsgrad: bool) -> Any:
    pointer, scalar = POINTERS[dtype], SCALARS[dtype]

    @jit
    def update(addresses, n, numbers):
        x = pointer(addresses[0])
        g = pointer(addresses[1])
        average = pointer(addresses[2])
        square = pointer(addresses[3])
        largest = pointer(addresses[4])
        rate = scalar(numbers[0])
        beta1 = scalar(numbers[1])
        share1 = scalar(numbers[2])
        beta2 = scalar(numbers[3])
        share2 = scalar(numbers[4])
        eps = scalar(numbers[5])
        decay = scalar(numbers[6])
        shrink = scalar(numbers[7])
        sign = scalar(numbers[8])
        scale = scalar(numbers[9])
        for i in range(np.uintp(n)):
            d = sign * g[i]
            if decay != 0:
                d += decay * x[i]
            a = beta1 * average[i] + share1 * d
            s = beta2 * square[i] + share2 * d * d
            average[i] = a
            square[i] = s
            if amsgrad:
                s = largest[i] if largest[i] > s else s
                largest[i] = s
            x[i] = shrink * x[i] - rate * a / (math.sqrt(s) * scale + eps)

    return update


_ADAM = "m = b1 m + (1 - b1) g; v = b2 v + (1 - b2) g g; "

ADAM = declare_update(
    Update(
        "adam_update",
        _AVERAGES,
        ("*steps",),
        7,
        lambda dtype: _make_adam(dtype, amsgrad=False),
        _prepare_adam,
        before=count_step,
        math=_ADAM + "x - lr m / (1 - b1^t) / (sqrt(v / (1 - b2^t)) + eps)",
    )
)
ADAM_AMSGRAD = declare_update(
    Update(
        "adam_amsgrad_update",
        (*_AVERAGES, "*max_exp_avg_sqs"),
        ("*steps",),
        7,
        lambda dtype: _make_adam(dtype, amsgrad=True),
        _prepare_adam,
        before=count_step,
        math="as adam_update, with the largest v so far",
    )
)

# ---- NAdam (Dozat 2016) ----

_MOMENTUM_DECAY = 7


@jit
def _momentum_at(t, options):
    return options[_BETA1] * (1.0 - 0.5 * 0.96 ** (t * options[_MOMENTUM_DECAY]))


@jit
def _count_nadam(st, frame, scalars, options):
    """Scalars: step, product of the momenta."""
    t = scalar_of(st, frame, scalars) + 1.0
    set_scalar(st, frame, scalars, t)
    multiply_scalar(st, frame, scalars + 1, _momentum_at(t, options))


@jit
def _prepare_nadam(st, frame, first, scalars, options, numbers):
    t = scalar_of(st, frame, scalars)
    product = scalar_of(st, frame, scalars + 1)
    momentum = _momentum_at(t, options)
    next_momentum = _momentum_at(t + 1.0, options)
    _prepare_averages(options, numbers)
    numbers[0] = options[_RATE] * next_momentum / (1.0 - product * next_momentum)
    numbers[9] = 1.0 / math.sqrt(1.0 - options[_BETA2] ** t)
    numbers[10] = options[_RATE] * (1.0 - momentum) / (1.0 - product)


def _make_nadam(dtype: int) -> Any:
    pointer, scalar = POINTERS[dtype], SCALARS[dtype]

    @jit
    def update(addresses, n, numbers):
        x = pointer(addresses[0])
        g = pointer(addresses[1])
        average = pointer(addresses[2])
        square = pointer(addresses[3])
        rate = scalar(numbers[0])
        beta1 = scalar(numbers[1])
        share1 = scalar(numbers[2])
        beta2 = scalar(numbers[3])
        share2 = scalar(numbers[4])
        eps = scalar(numbers[5])
        decay = scalar(numbers[6])
        shrink = scalar(numbers[7])
        sign = scalar(numbers[8])
        scale = scalar(numbers[9])
        gradient_rate = scalar(numbers[10])
        for i in range(np.uintp(n)):
            d = sign * g[i]
            if decay != 0:
                d += decay * x[i]
            a = beta1 * average[i] + share1 * d
            s = beta2 * square[i] + share2 * d * d
            average[i] = a
            square[i] = s
            x[i] = shrink * x[i] - (gradient_rate * d + rate * a) / (math.sqrt(s) * scale + eps)

    return update


NADAM = declare_update(
    Update(
        "nadam_update",
        _AVERAGES,
        ("*steps", "*mu_products"),
        8,
        _make_nadam,
        _prepare_nadam,
        before=_count_nadam,
        math=_ADAM
        + "mu_t = b1 (1 - 0.96^(t decay) / 2); "
        + "x - lr ((1 - mu_t) g / (1 - prod mu) + mu_{t+1} m / (1 - prod mu mu_{t+1})) / (sqrt(v / (1 - b2^t)) + eps)",
    )
)

# ---- RAdam (Liu et al. 2020, arXiv:1908.03265) ----


@jit
def _prepare_radam(st, frame, first, scalars, options, numbers):
    """The rate carries the rectification where the variance of 1 / sqrt(v) is finite, which is where rho > 5."""
    t = scalar_of(st, frame, scalars)
    correction = 1.0 - options[_BETA2] ** t
    limit = 2.0 / (1.0 - options[_BETA2]) - 1.0
    rho = limit - 2.0 * t * options[_BETA2] ** t / correction
    _prepare_averages(options, numbers)
    numbers[0] = options[_RATE] / (1.0 - options[_BETA1] ** t)
    numbers[9] = 0.0
    if rho > 5.0:
        rectification = math.sqrt((rho - 4.0) * (rho - 2.0) * limit / ((limit - 4.0) * (limit - 2.0) * rho))
        numbers[0] *= rectification * math.sqrt(correction)
        numbers[9] = 1.0


def _make_radam(dtype: int) -> Any:
    pointer, scalar = POINTERS[dtype], SCALARS[dtype]

    @jit
    def update(addresses, n, numbers):
        x = pointer(addresses[0])
        g = pointer(addresses[1])
        average = pointer(addresses[2])
        square = pointer(addresses[3])
        rate = scalar(numbers[0])
        beta1 = scalar(numbers[1])
        share1 = scalar(numbers[2])
        beta2 = scalar(numbers[3])
        share2 = scalar(numbers[4])
        eps = scalar(numbers[5])
        decay = scalar(numbers[6])
        shrink = scalar(numbers[7])
        sign = scalar(numbers[8])
        adaptive = numbers[9] != 0.0
        for i in range(np.uintp(n)):
            d = sign * g[i]
            if decay != 0:
                d += decay * x[i]
            a = beta1 * average[i] + share1 * d
            s = beta2 * square[i] + share2 * d * d
            average[i] = a
            square[i] = s
            if adaptive:
                a /= math.sqrt(s) + eps
            x[i] = shrink * x[i] - rate * a

    return update


RADAM = declare_update(
    Update(
        "radam_update",
        _AVERAGES,
        ("*steps",),
        7,
        _make_radam,
        _prepare_radam,
        before=count_step,
        math=_ADAM + "x - lr m / (1 - b1^t) (r_t sqrt(1 - b2^t) / (sqrt(v) + eps) where rho_t > 5)",
    )
)

# ---- Adamax (Kingma and Ba 2015) ----


@jit
def _prepare_adamax(st, frame, first, scalars, options, numbers):
    _prepare_averages(options, numbers)
    numbers[0] = options[_RATE] / (1.0 - options[_BETA1] ** scalar_of(st, frame, scalars))


def _make_adamax(dtype: int) -> Any:
    pointer, scalar = POINTERS[dtype], SCALARS[dtype]

    @jit
    def update(addresses, n, numbers):
        x = pointer(addresses[0])
        g = pointer(addresses[1])
        average = pointer(addresses[2])
        largest = pointer(addresses[3])
        rate = scalar(numbers[0])
        beta1 = scalar(numbers[1])
        share1 = scalar(numbers[2])
        beta2 = scalar(numbers[3])
        eps = scalar(numbers[5])
        decay = scalar(numbers[6])
        sign = scalar(numbers[8])
        for i in range(np.uintp(n)):
            d = sign * g[i]
            if decay != 0:
                d += decay * x[i]
            a = beta1 * average[i] + share1 * d
            old = beta2 * largest[i]
            new = abs(d) + eps
            u = new if new > old or new != new else old  # nan stays nan
            average[i] = a
            largest[i] = u
            x[i] -= rate * a / u

    return update


ADAMAX = declare_update(
    Update(
        "adamax_update",
        ("*params", "*grads", "*exp_avgs", "*exp_infs"),
        ("*steps",),
        7,
        _make_adamax,
        _prepare_adamax,
        before=count_step,
        math="m = b1 m + (1 - b1) g; u = max(b2 u, |g| + eps); x - lr m / (1 - b1^t) / u",
    )
)
