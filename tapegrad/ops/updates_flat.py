"""Ops on parameters as one flat vector: L-BFGS gathers gradients, finds a direction and moves along it."""

from collections.abc import Callable

import numpy as np

from tapegrad.native.cache import jit, jit_sums
from tapegrad.native.dtypes import FLOAT64, ITEM_BYTES, POINTERS, SCALARS
from tapegrad.native.pointers import float64_at
from tapegrad.ops.registry import FLOATS, Op, declare
from tapegrad.ops.updates import offset_of
from tapegrad.ops.validity import checks_itself, is_few, needed
from tapegrad.runtime.layout import (
    BAD_ARGUMENT,
    CONTIGUOUS,
    GENERAL,
    READ_ONLY,
    RESULT_DTYPE,
    data_address,
    input_count,
    input_slot,
    output_slot,
    shape_in,
    slot_of,
    state_of,
    storage_of,
)
from tapegrad.runtime.machine import WORKSPACE_BYTES

HISTORY_LIMIT = WORKSPACE_BYTES // 8
_TESTS = "not a function of arrays alone: tests/test_lbfgs.py, against formulas and torch"

# ---- many tensors as one vector ----


def _flatten_infer(st, frame):
    result = slot_of(st, output_slot(frame, 0))
    result.ndim = 1
    shape_in(result)[0] = 0
    for k in range(input_count(frame)):
        shape_in(result)[0] += slot_of(st, input_slot(frame, k)).numel
    return 0


def _flatten_kernel(dtype: int, result_dtype: int) -> Callable[..., int]:
    pointer, item_bytes = POINTERS[dtype], ITEM_BYTES[dtype]

    def kernel(st, frame):
        to = data_address(st, output_slot(frame, 0))
        for k in range(input_count(frame)):
            count = slot_of(st, input_slot(frame, k)).numel
            x = pointer(data_address(st, input_slot(frame, k)))
            y = pointer(to)
            for i in range(np.uintp(count)):
                y[i] = x[i]
            to += count * item_bytes
        return 0

    return kernel


FLATTEN = declare(
    Op(
        name="flatten_all",
        valid=lambda x, a: is_few(sum(needed(x, k).numel for k in range(len(x)))),
        inputs=("*tensors",),
        kind=GENERAL,
        dtypes=FLOATS,
        infer=_flatten_infer,
        kernel=_flatten_kernel,
        contiguous=("*tensors",),
        public=False,
        samples=_TESTS,
        math="all numbers of the tensors, one after the other",
    )
)

# ---- moving the parameters to base + t direction ----

_WALK = ("*params", "*bases", "*directions", "*numbers")


def _walk_infer(st, frame):
    dtype = slot_of(st, input_slot(frame, 0)).dtype
    total = 0
    for k in range(0, input_count(frame), 4):
        total += slot_of(st, input_slot(frame, k)).numel
    for k in range(input_count(frame)):
        row = slot_of(st, input_slot(frame, k))
        role = k % 4
        if role == 3:
            if row.numel != 1 or row.dtype != FLOAT64:
                return BAD_ARGUMENT
            continue
        if row.dtype != dtype:
            state_of(st).error_value0 = row.dtype
            return RESULT_DTYPE
        if role == 0 and storage_of(st, input_slot(frame, k)).read_only:
            return READ_ONLY
        if role > 0 and (row.numel != total or not row.flags & CONTIGUOUS):
            return BAD_ARGUMENT
    return 0


def _walk_kernel(dtype: int, result_dtype: int) -> Callable[..., int]:
    pointer, scalar, item_bytes = POINTERS[dtype], SCALARS[dtype], ITEM_BYTES[dtype]

    def kernel(st, frame):
        start = 0
        for first in range(0, input_count(frame), 4):
            row = slot_of(st, input_slot(frame, first))
            x = pointer(data_address(st, input_slot(frame, first)))
            base = pointer(data_address(st, input_slot(frame, first + 1)) + start * item_bytes)
            direction = pointer(data_address(st, input_slot(frame, first + 2)) + start * item_bytes)
            t = scalar(float64_at(data_address(st, input_slot(frame, first + 3)))[0])
            if row.flags & CONTIGUOUS:
                for i in range(np.uintp(row.numel)):
                    x[i] = base[i] + t * direction[i]
            else:
                for i in range(row.numel):
                    x[offset_of(row, i)] = base[i] + t * direction[i]
            start += row.numel
        return 0

    return kernel


WALK = declare(
    Op(
        name="walk_update",
        valid=checks_itself,
        inputs=_WALK,
        kind=GENERAL,
        dtypes=FLOATS,
        outputs=0,
        infer=_walk_infer,
        kernel=_walk_kernel,
        unpromoted=_WALK,
        writes=("*params",),
        public=False,
        samples=_TESTS,
        math="base + t direction",
    )
)

# ---- the direction of L-BFGS (Nocedal and Wright 2006, algorithm 7.4) ----

_DIRECTION = ("*steps", "*changes", "*rhos", "*gradients", "*directions", "*scales")


def _direction_infer(st, frame):
    model = slot_of(st, input_slot(frame, 0))
    if input_count(frame) // 6 > HISTORY_LIMIT:
        return BAD_ARGUMENT
    for k in range(input_count(frame)):
        row = slot_of(st, input_slot(frame, k))
        wanted = 1 if k % 6 == 2 or k % 6 == 5 else model.numel
        if row.dtype != model.dtype:
            state_of(st).error_value0 = row.dtype
            return RESULT_DTYPE
        if row.numel != wanted or not row.flags & CONTIGUOUS:
            return BAD_ARGUMENT
    return 0


def _direction_kernel(dtype: int, result_dtype: int) -> Callable[..., int]:
    """Each pass over the vectors subtracts one product and takes the next."""
    pointer, scalar = POINTERS[dtype], SCALARS[dtype]
    zero = scalar(0)

    @jit_sums
    def dot(x, y, n):
        total = zero
        for i in range(np.uintp(n)):
            total += x[i] * y[i]
        return total

    @jit_sums
    def add_and_dot(x, factor, direction, y, n):
        total = zero
        for i in range(np.uintp(n)):
            moved = direction[i] + factor * x[i]
            direction[i] = moved
            total += moved * y[i]
        return total

    @jit
    def vector(st, frame, k):
        return pointer(data_address(st, input_slot(frame, k)))

    def kernel(st, frame):
        rows = input_count(frame) // 6
        n = slot_of(st, input_slot(frame, 0)).numel
        g = vector(st, frame, 3)
        q = vector(st, frame, 4)
        scale = vector(st, frame, 5)[0]
        alphas = float64_at(state_of(st).workspace)
        for i in range(np.uintp(n)):
            q[i] = -g[i]
        last = 6 * (rows - 1)
        product = dot(vector(st, frame, last), q, n)
        for k in range(rows - 1, -1, -1):
            alpha = product * vector(st, frame, 6 * k + 2)[0]
            alphas[k] = alpha
            following = vector(st, frame, 6 * max(k - 1, 0))
            product = add_and_dot(vector(st, frame, 6 * k + 1), -alpha, q, following, n)
        for i in range(np.uintp(n)):
            q[i] *= scale
        product = dot(vector(st, frame, 1), q, n)
        for k in range(rows):
            beta = product * vector(st, frame, 6 * k + 2)[0]
            following = vector(st, frame, 6 * min(k + 1, rows - 1) + 1)
            product = add_and_dot(vector(st, frame, 6 * k), scalar(alphas[k]) - beta, q, following, n)
        return 0

    return kernel


DIRECTION = declare(
    Op(
        name="lbfgs_direction",
        valid=checks_itself,
        inputs=_DIRECTION,
        kind=GENERAL,
        dtypes=FLOATS,
        outputs=0,
        infer=_direction_infer,
        kernel=_direction_kernel,
        unpromoted=_DIRECTION,
        writes=("*directions",),
        public=False,
        samples=_TESTS,
        math="-H g, with H from the last steps s and changes of the gradient y, rho = 1 / (s y)",
    )
)
