"""The optimisers' updates: ops that write, each one pass over a group's parameters, their gradients and their state."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import types

from tapegrad.native.cache import jit
from tapegrad.native.dtypes import FLOAT32, ITEM_BYTES, POINTERS, SCALARS
from tapegrad.native.pointers import float64_at, float64_from_bits, int64_at, stack_words
from tapegrad.ops.registry import FLOATS, Op, declare
from tapegrad.runtime.layout import (
    BAD_ARGUMENT,
    CONTIGUOUS,
    GENERAL,
    READ_ONLY,
    RESULT_DTYPE,
    SHAPE_MISMATCH,
    attribute,
    data_address,
    input_count,
    input_slot,
    shape_in,
    slot_of,
    state_of,
    storage_of,
    strides_in,
)

_GRADIENT = 1  # the role of the gradient, the only operand that is not written
_step_at = POINTERS[FLOAT32]


@jit
def _number(frame, k):
    return float64_from_bits(attribute(frame, k))


@jit
def _offset(row, i):
    """Return where in memory the element ``i`` in row-major order lies, in elements from the first."""
    offset = 0
    for k in range(row.ndim):
        d = row.ndim - 1 - k
        offset += (i % shape_in(row)[d]) * strides_in(row)[d]
        i //= shape_in(row)[d]
    return offset


def _make_infer(roles: int, has_step: bool) -> Callable[..., int]:
    """Return the check that every parameter comes with a gradient and state of its shape, all of one dtype."""
    arrays = roles - has_step

    def infer(st, frame):
        state = state_of(st)
        dtype = slot_of(st, input_slot(frame, 0)).dtype
        for k in range(input_count(frame)):
            role = k % roles
            slot = input_slot(frame, k)
            model = input_slot(frame, k - role)
            row = slot_of(st, slot)
            if role != _GRADIENT and storage_of(st, slot).read_only:
                return READ_ONLY
            if role == arrays:
                if row.numel != 1 or row.dtype != FLOAT32:
                    return BAD_ARGUMENT
                continue
            state.error_slot0 = model
            state.error_slot1 = slot
            state.error_value0 = row.dtype
            if row.dtype != dtype:
                return RESULT_DTYPE
            if row.ndim != slot_of(st, model).ndim:
                return SHAPE_MISMATCH
            for d in range(row.ndim):
                if shape_in(row)[d] != shape_in(slot_of(st, model))[d]:
                    state.error_value0 = d
                    return SHAPE_MISMATCH
        return 0

    infer.__qualname__ = f"infer_{roles}_{has_step}"  # the cache knows it by this name
    return infer


def _make_kernel(dtype: int, roles: int, arrays: int, prepare: Any, update: Any) -> Callable[..., int]:
    """Return the kernel that goes through the parameters.

    Args:
        dtype: the dtype's code.
        roles: operands a parameter.
        arrays: how many of them are of the parameter's shape.
        prepare: ``prepare(st, frame, first, numbers)`` computes the numbers that are the same for all elements.
        update: ``update(addresses, n, numbers)`` updates ``n`` elements from each of the arrays' addresses on.
    """
    item_bytes = ITEM_BYTES[dtype]

    def kernel(st, frame):
        addresses = int64_at(stack_words(8))
        numbers = float64_at(stack_words(16))
        for first in range(0, input_count(frame), roles):
            prepare(st, frame, first, numbers)
            count = slot_of(st, input_slot(frame, first)).numel
            flags = types.int64(CONTIGUOUS)
            for role in range(arrays):
                flags &= slot_of(st, input_slot(frame, first + role)).flags
            run = count if flags & CONTIGUOUS else 1
            for start in range(0, count, max(run, 1)):
                for role in range(arrays):
                    slot = input_slot(frame, first + role)
                    offset = _offset(slot_of(st, slot), start) if start > 0 else 0
                    addresses[role] = data_address(st, slot) + offset * item_bytes
                update(addresses, run, numbers)
        return 0

    return kernel


def _declare_update(
    name: str,
    state: tuple[str, ...],
    prepare: Any,
    make_update: Callable[[int], Any],
    has_step: bool,
    math: str,
) -> Op:
    arrays = ("*params", "*grads", *state)
    roles = (*arrays, "*steps") if has_step else arrays
    return declare(
        Op(
            name=name,
            inputs=roles,
            kind=GENERAL,
            dtypes=FLOATS,
            outputs=0,
            infer=_make_infer(len(roles), has_step),
            kernel=lambda dtype, _: _make_kernel(dtype, len(roles), len(arrays), prepare, make_update(dtype)),
            unpromoted=roles,
            contiguous=("*grads",),
            writes=tuple(role for role in roles if role != "*grads"),
            public=False,
            samples="writes into its operands: tests/test_optim.py, against torch",
            math=math,
        )
    )


# ---- stochastic gradient descent ----


@jit
def _prepare_sgd(st, frame, first, numbers):
    """Attributes: learning rate, weight decay, sign of the gradient, momentum, 1 - dampening, whether Nesterov's."""
    for k in range(6):
        numbers[k] = _number(frame, k)


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


SGD = _declare_update(
    "sgd_update",
    (),
    _prepare_sgd,
    _make_sgd,
    has_step=False,
    math="x - lr (g + decay x)",
)
SGD_MOMENTUM = _declare_update(
    "sgd_momentum_update",
    ("*momentum_buffers",),
    _prepare_sgd,
    _make_sgd_momentum,
    has_step=False,
    math="b = momentum b + (1 - dampening) g; x - lr b",
)


# ---- Adam (Kingma and Ba 2015, arXiv:1412.6980) and AdamW (Loshchilov and Hutter 2019, arXiv:1711.05101) ----


def _make_prepare_adam(roles: int) -> Any:
    @jit
    def prepare(st, frame, first, numbers):
        """Attributes: learning rate, beta1, beta2, eps, weight decay, sign of the gradient, whether decoupled."""
        step = _step_at(data_address(st, input_slot(frame, first + roles - 1)))
        step[0] += types.float32(1)
        t = types.float64(step[0])
        rate = _number(frame, 0)
        decay = _number(frame, 4)
        decoupled = _number(frame, 6) != 0.0
        numbers[0] = rate / (1.0 - _number(frame, 1) ** t)
        numbers[1] = _number(frame, 1)
        numbers[2] = 1.0 - _number(frame, 1)
        numbers[3] = _number(frame, 2)
        numbers[4] = 1.0 - _number(frame, 2)
        numbers[5] = 1.0 / math.sqrt(1.0 - _number(frame, 2) ** t)
        numbers[6] = _number(frame, 3)
        numbers[7] = 0.0 if decoupled else decay
        numbers[8] = 1.0 - rate * decay if decoupled else 1.0
        numbers[9] = _number(frame, 5)

    return prepare


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
        scale = scalar(numbers[5])
        eps = scalar(numbers[6])
        decay = scalar(numbers[7])
        shrink = scalar(numbers[8])
        sign = scalar(numbers[9])
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


ADAM = _declare_update(
    "adam_update",
    ("*exp_avgs", "*exp_avg_sqs"),
    _make_prepare_adam(5),
    lambda dtype: _make_adam(dtype, amsgrad=False),
    has_step=True,
    math="m = b1 m + (1 - b1) g; v = b2 v + (1 - b2) g g; x - lr m / (1 - b1^t) / (sqrt(v / (1 - b2^t)) + eps)",
)
ADAM_AMSGRAD = _declare_update(
    "adam_amsgrad_update",
    ("*exp_avgs", "*exp_avg_sqs", "*max_exp_avg_sqs"),
    _make_prepare_adam(6),
    lambda dtype: _make_adam(dtype, amsgrad=True),
    has_step=True,
    math="as adam_update, with the largest v so far",
)
