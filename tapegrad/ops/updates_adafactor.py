"""The update of Adafactor (Shazeer and Stern 2018, arXiv:1804.04235): mean squares of rows and columns only."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import types

from tapegrad.native.cache import jit, jit_sums
from tapegrad.native.dtypes import FLOAT32, FLOAT64, ITEM_BYTES, NUMPY_DTYPES, POINTERS, SCALARS
from tapegrad.native.parallel import parallel_for
from tapegrad.native.pointers import float64_at, int64_at, stack_words
from tapegrad.ops.registry import FLOATS, Op, declare
from tapegrad.ops.updates import count_step, offset_of, scalar_of
from tapegrad.ops.validity import checks_itself
from tapegrad.runtime.layout import (
    BAD_ARGUMENT,
    CONTIGUOUS,
    GENERAL,
    READ_ONLY,
    RESULT_DTYPE,
    SHAPE_MISMATCH,
    data_address,
    input_count,
    input_slot,
    shape_in,
    slot_of,
    state_of,
    storage_of,
)

_BLOCK = 4096  # columns whose sums are taken at once, in a thread's scratch memory
_RATE, _POWER, _EPS1, _EPS2, _CLIP, _DECAY, _SIGN = range(7)  # the group's numbers
_FACTORED = ("*params", "*grads", "*row_vars", "*col_vars", "*steps", "*numbers")
_PLAIN = ("*params", "*grads", "*variances", "*steps", "*numbers")


@jit
def _length(row, back):
    return shape_in(row)[row.ndim - back] if row.ndim >= back else 1


def _make_infer(factored: bool) -> Callable[..., int]:
    roles = 6 if factored else 5

    def infer(st, frame):
        state = state_of(st)
        for k in range(input_count(frame)):
            role = k % roles
            model = slot_of(st, input_slot(frame, k - role))
            row = slot_of(st, input_slot(frame, k))
            if role != 1 and role != roles - 1 and storage_of(st, input_slot(frame, k)).read_only:
                return READ_ONLY
            state.error_slot0 = input_slot(frame, k - role)
            state.error_slot1 = input_slot(frame, k)
            state.error_value0 = row.dtype
            if role >= roles - 2:
                wanted = 7 if role == roles - 1 else 1
                if row.numel != wanted or row.dtype < (FLOAT64 if wanted == 7 else FLOAT32):
                    return BAD_ARGUMENT
                continue
            if row.dtype != slot_of(st, input_slot(frame, 0)).dtype:
                return RESULT_DTYPE
            if row.ndim != model.ndim or (factored and row.ndim < 2):
                return SHAPE_MISMATCH
            if role >= 2 and not row.flags & CONTIGUOUS:
                return BAD_ARGUMENT
            for d in range(row.ndim):
                summed = factored and ((role == 2 and d == row.ndim - 1) or (role == 3 and d == row.ndim - 2))
                if shape_in(row)[d] != (1 if summed else shape_in(model)[d]):
                    state.error_value0 = d
                    return SHAPE_MISMATCH
        return 0

    infer.__qualname__ = f"infer_{'factored' if factored else 'plain'}"
    return infer


def _make_averages(dtype: int, factored: bool) -> Any:
    """Return what takes a gradient into the mean squares, of ``n`` rows and ``m`` columns, ``count`` times."""
    pointer, scalar, item_bytes = POINTERS[dtype], SCALARS[dtype], ITEM_BYTES[dtype]

    @jit
    def of_all(g, variances, n, share):
        keep = scalar(1.0 - share)
        part = scalar(share)
        for i in range(np.uintp(n)):
            variances[i] = keep * variances[i] + part * g[i] * g[i]

    @jit_sums
    def square_sum(g, start, m):
        total = 0.0
        for j in range(np.uintp(m)):
            total += types.float64(g[start + j]) * g[start + j]
        return total

    @jit
    def of_columns(g, columns, start, n, m, share, sums):
        for block in range(0, m, _BLOCK):
            width = min(_BLOCK, m - block)
            for j in range(np.uintp(width)):
                sums[j] = 0.0
            for i in range(n):
                first = np.uintp(start + i * m + block)
                for j in range(np.uintp(width)):
                    sums[j] += types.float64(g[first + j]) * g[first + j]
            for j in range(width):
                columns[block + j] = scalar((1.0 - share) * columns[block + j] + share * sums[j] / n)

    @jit
    def averages(addresses, count, n, m, share, scratch):
        g = pointer(addresses[1])
        if factored:
            rows = pointer(addresses[2])
            columns_address = addresses[3]
            for k in range(count):
                for i in range(n):
                    mean = square_sum(g, np.uintp((k * n + i) * m), m) / m
                    rows[k * n + i] = scalar((1.0 - share) * rows[k * n + i] + share * mean)
                columns = pointer(columns_address)
                of_columns(g, columns, k * n * m, n, m, share, float64_at(scratch))
                columns_address += m * item_bytes
        else:
            of_all(g, pointer(addresses[2]), count * n * m, share)

    return averages


def _make_task(dtype: int, factored: bool) -> Any:
    """Return the task that updates parameter ``k``."""
    pointer, scalar, item_bytes, roles = POINTERS[dtype], SCALARS[dtype], ITEM_BYTES[dtype], 6 if factored else 5
    epsilon = float(np.finfo(NUMPY_DTYPES[dtype]).eps)
    averages = _make_averages(dtype, factored)

    # The direction is g / sqrt(v), v being a column's mean square times the row's factor, or the element's own.

    @jit_sums
    def square_of_directions(g, v, factor, least, m):
        total = 0.0
        for j in range(np.uintp(m)):
            square = factor * v[j]
            square = least if square < least else square
            direction = g[j] / math.sqrt(square)
            total += types.float64(direction * direction)
        return total

    @jit
    def move(x, g, v, factor, least, m, shrink, rate):
        for j in range(np.uintp(m)):
            square = factor * v[j]
            square = least if square < least else square
            x[j] = shrink * x[j] - rate * g[j] / math.sqrt(square)

    @jit
    def move_one(x, g, v, factor, least, shrink, rate):
        square = factor * v
        square = least if square < least else square
        return shrink * x - rate * g / scalar(math.sqrt(square))

    @jit
    def factor_and_variances(addresses, row_mean, i, n, m, least):
        """Return by what the mean squares in row ``i`` are to be multiplied, and their address."""
        if not factored:
            return scalar(1), addresses[2]
        rows = pointer(addresses[2])
        matrix = i // n
        if i % n == 0:
            total = 0.0
            for k in range(matrix * n, matrix * n + n):
                total += rows[k]
            row_mean[0] = total / n
        mean = scalar(row_mean[0])
        mean = least if mean < least else mean
        return rows[i] / mean, addresses[3] + matrix * m * item_bytes

    @jit_sums
    def square_of_run(x, n):
        total = 0.0
        for i in range(np.uintp(n)):
            total += types.float64(x[i]) * x[i]
        return total

    @jit
    def square_of(row, address):
        x = pointer(address)
        if row.flags & CONTIGUOUS:
            return square_of_run(x, row.numel)
        total = 0.0
        for i in range(row.numel):
            total += types.float64(x[offset_of(row, i)]) * x[offset_of(row, i)]
        return total

    @jit
    def task(context, k, scratch):
        words = int64_at(context)
        st = words[0]
        frame = words[1]
        first = k * roles
        row = slot_of(st, input_slot(frame, first))
        addresses = int64_at(stack_words(4))
        row_mean = float64_at(stack_words(1))
        for role in range(roles - 2):
            addresses[role] = data_address(st, input_slot(frame, first + role))
        options = float64_at(data_address(st, input_slot(frame, first + roles - 1)))
        t = scalar_of(st, frame, first + roles - 2)
        eps1 = options[_EPS1] if options[_EPS1] >= 0.0 else epsilon
        numel = max(row.numel, 1)
        rms = math.sqrt(square_of(row, addresses[0]) / numel)
        rate = max(options[_EPS2], rms) * min(options[_RATE], 1.0 / math.sqrt(t))
        n = _length(row, 2) if factored else 1
        m = _length(row, 1) if factored else row.numel
        count = row.numel // max(n * m, 1)
        averages(addresses, count, n, m, t ** options[_POWER], scratch)
        least = scalar(eps1 * eps1)
        total = 0.0
        for i in range(count * n):
            factor, variances = factor_and_variances(addresses, row_mean, i, n, m, scalar(eps1))
            g = pointer(addresses[1] + i * m * item_bytes)
            total += square_of_directions(g, pointer(variances), factor, least, m)
        rate *= options[_SIGN] / max(1.0, math.sqrt(total) / (math.sqrt(types.float64(numel)) * options[_CLIP]))
        step = scalar(rate)
        shrink = scalar(1.0 - options[_RATE] * options[_DECAY])
        for i in range(count * n):
            factor, variances = factor_and_variances(addresses, row_mean, i, n, m, scalar(eps1))
            g = pointer(addresses[1] + i * m * item_bytes)
            v = pointer(variances)
            if row.flags & CONTIGUOUS:
                x = pointer(addresses[0] + i * m * item_bytes)
                move(x, g, v, factor, least, m, shrink, step)
            else:
                x = pointer(addresses[0])
                for j in range(m):
                    place = offset_of(row, i * m + j)
                    x[place] = move_one(x[place], g[j], v[j], factor, least, shrink, step)
        return 0

    return task


def _make_kernel(dtype: int, factored: bool) -> Callable[..., int]:
    roles, task = 6 if factored else 5, _make_task(dtype, factored)

    def kernel(st, frame):
        params = input_count(frame) // roles
        for k in range(params):
            options = float64_at(data_address(st, input_slot(frame, (k + 1) * roles - 1)))
            count_step(st, frame, (k + 1) * roles - 2, options)
        context = stack_words(2)
        int64_at(context)[0] = st
        int64_at(context)[1] = frame
        return parallel_for(state_of(st).pool, task, context, params)

    return kernel


def _declare(name: str, roles: tuple[str, ...], factored: bool, math: str) -> Op:
    return declare(
        Op(
            name=name,
            valid=checks_itself,
            inputs=roles,
            kind=GENERAL,
            dtypes=FLOATS,
            outputs=0,
            infer=_make_infer(factored),
            kernel=lambda dtype, _: _make_kernel(dtype, factored),
            unpromoted=roles,
            contiguous=("*grads",),
            writes=tuple(role for role in roles if role not in ("*grads", "*numbers")),
            public=False,
            samples="writes into its operands: tests/test_optim.py, against formulas and torch",
            math=math,
        )
    )


_STEP = "u = g / sqrt(v); x - max(eps2, rms(x)) min(lr, 1 / sqrt(t)) u / max(1, rms(u) / d)"
ADAFACTOR = _declare("adafactor_update", _FACTORED, True, "v = row col / mean(row), their means of g g; " + _STEP)
ADAFACTOR_PLAIN = _declare("adafactor_plain_update", _PLAIN, False, "v, the mean of g g; " + _STEP)
