"""The norm of many tensors together, and limits on their numbers, each in one pass over all of them.

The tensors are seen as one row, cut into tasks of ``CHUNK`` elements whatever tensors they belong to; a norm's partial
results lie in the machine's workspace and are added in order, so the number of threads does not change a bit.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import types

from tapegrad.native.cache import jit, jit_sums
from tapegrad.native.dtypes import ITEM_BYTES, POINTERS, SCALARS
from tapegrad.native.parallel import parallel_for
from tapegrad.native.pointers import float64_at, float64_from_bits, int64_at, stack_words
from tapegrad.ops.registry import FLOATS, Op, declare
from tapegrad.ops.updates import CHUNK, offset_of
from tapegrad.ops.validity import Attributes, Operands, attributes, needed
from tapegrad.runtime.layout import (
    BAD_ARGUMENT,
    CONTIGUOUS,
    GENERAL,
    READ_ONLY,
    RESULT_DTYPE,
    attribute,
    data_address,
    input_count,
    input_slot,
    output_slot,
    slot_of,
    state_of,
    storage_of,
)
from tapegrad.runtime.machine import WORKSPACE_BYTES

_BLOCK = 1024  # elements that are added in their own dtype, their totals in float64
SQUARES, ABSOLUTES, LARGEST, POWERS = range(4)


def _make_part(dtype: int, kind: int) -> Any:
    """Return ``part(address, n, p)``: the sum, or the largest, of what the norm makes of n elements, as float64."""
    pointer, scalar = POINTERS[dtype], SCALARS[dtype]

    @jit_sums
    def summed(x, n):
        total = scalar(0)
        for i in range(np.uintp(n)):
            total += x[i] * x[i] if kind == SQUARES else abs(x[i])
        return total

    @jit
    def largest(x, n):
        found = scalar(0)
        bad = False
        for i in range(np.uintp(n)):
            value = abs(x[i])
            found = value if value > found else found
            bad |= value != value
        return scalar(math.nan) if bad else found

    @jit
    def part(address, n, p):
        total = 0.0
        if kind == LARGEST:
            return np.float64(largest(pointer(address), n))
        if kind == POWERS:
            x = pointer(address)
            for i in range(n):
                total += math.pow(abs(np.float64(x[i])), p)
            return total
        for first in range(0, n, _BLOCK):
            total += np.float64(summed(pointer(address + first * ITEM_BYTES[dtype]), min(_BLOCK, n - first)))
        return total

    return part


def _make_task(dtype: int, kind: int) -> Any:
    part, item_bytes = _make_part(dtype, kind), ITEM_BYTES[dtype]

    @jit
    def task(context, k, scratch):
        """Leave what elements CHUNK k and on, of all tensors in a row, add up to in word k of the results."""
        words = int64_at(context)
        st, frame = words[0], words[1]
        low, start, total = k * CHUNK, 0, 0.0
        for operand in range(input_count(frame)):
            slot = input_slot(frame, operand)
            count = slot_of(st, slot).numel
            begin, end = max(low - start, 0), min(low + CHUNK - start, count)
            start += count
            if begin < end:
                value = part(data_address(st, slot) + begin * item_bytes, end - begin, float64_from_bits(words[2]))
                if kind == LARGEST:
                    total = value if value > total or value != value else total
                else:
                    total += value
            if start >= low + CHUNK or total != total:
                break
        float64_at(words[3])[k] = total
        return 0

    return task


def norm_infer(st, frame):
    slot_of(st, output_slot(frame, 0)).ndim = 0
    total = 0
    for k in range(input_count(frame)):
        total += slot_of(st, input_slot(frame, k)).numel
    return 0 if (total + CHUNK - 1) // CHUNK * 8 <= WORKSPACE_BYTES else BAD_ARGUMENT


def _norm_kernel(kind: int) -> Callable[[int, int], Callable[..., int]]:
    def make(dtype: int, result_dtype: int) -> Callable[..., int]:
        task, pointer, scalar = _make_task(dtype, kind), POINTERS[dtype], SCALARS[dtype]

        def kernel(st, frame):
            count = 0
            for k in range(input_count(frame)):
                count += slot_of(st, input_slot(frame, k)).numel
            tasks = (count + CHUNK - 1) // CHUNK
            context = stack_words(4)
            words = int64_at(context)
            words[0] = st
            words[1] = frame
            words[2] = attribute(frame, 0)
            words[3] = state_of(st).workspace
            status = parallel_for(state_of(st).pool, task, context, tasks)
            results = float64_at(words[3])
            total = 0.0
            for k in range(tasks):
                value = results[k]
                if kind == LARGEST:
                    total = value if value > total or value != value else total
                else:
                    total += value
                if total != total:
                    break
            if kind == SQUARES:
                total = math.sqrt(total)
            elif kind == POWERS:
                total = math.pow(total, 1.0 / float64_from_bits(words[2]))
            pointer(data_address(st, output_slot(frame, 0)))[0] = scalar(total)
            return status

        return kernel

    return make


def _norm_reference(*tensors: Any, attributes: tuple[float]) -> Any:
    return np.linalg.norm(np.concatenate([np.ravel(tensor) for tensor in tensors]), attributes[0])


def _declare_norm(name: str, kind: int, p: float, math: str) -> Op:
    return declare(
        Op(
            name=name,
            inputs=("*tensors",),
            kind=GENERAL,
            dtypes=FLOATS,
            infer=norm_infer,
            valid=attributes(1),
            kernel=_norm_kernel(kind),
            contiguous=("*tensors",),
            public=False,
            reference=_norm_reference,
            samples=lambda make: [
                ((make(3, 2), make(5), make(0)), {"attributes": (p,)}),
                ((make(300, 300), make(2, 2)), {"attributes": (p,)}),
            ],
            math=math,
        )
    )


TOTAL_NORMS = {
    2.0: _declare_norm("total_norm_2", SQUARES, 2.0, "sqrt of the sum of all squares"),
    1.0: _declare_norm("total_norm_1", ABSOLUTES, 1.0, "the sum of all absolute values"),
    math.inf: _declare_norm("total_norm_inf", LARGEST, math.inf, "the largest absolute value of all"),
}
TOTAL_NORM_P = _declare_norm("total_norm_p", POWERS, 3.0, "(the sum of all |x|^p)^(1/p)")


# ---- limits ----


def limit_infer(st, frame):
    """The tensors must be writable and of one dtype."""
    dtype = slot_of(st, input_slot(frame, 0)).dtype
    for k in range(input_count(frame)):
        if storage_of(st, input_slot(frame, k)).read_only:
            return READ_ONLY
        if slot_of(st, input_slot(frame, k)).dtype != dtype:
            state_of(st).error_value0 = dtype
            return RESULT_DTYPE
    return 0


def _make_limit_task(dtype: int, clamp: bool) -> Any:
    pointer, scalar, item_bytes = POINTERS[dtype], SCALARS[dtype], ITEM_BYTES[dtype]

    @jit
    def limit(address, n, low, high):
        x = pointer(address)
        a, b = scalar(low), scalar(high)
        for i in range(np.uintp(n)):
            if clamp:
                y = a if x[i] < a else x[i]
                x[i] = b if y > b else y
            else:
                x[i] *= a

    @jit
    def task(context, k, scratch):
        words = int64_at(context)
        st, frame = words[0], words[1]
        a, b = float64_from_bits(words[2]), float64_from_bits(words[3])
        low, start = k * CHUNK, 0
        for operand in range(words[4]):
            slot = input_slot(frame, operand)
            row = slot_of(st, slot)
            begin, end = max(low - start, 0), min(low + CHUNK - start, row.numel)
            start += row.numel
            if begin < end and row.flags & CONTIGUOUS:
                limit(data_address(st, slot) + begin * item_bytes, end - begin, a, b)
            elif begin < end:
                for i in range(begin, end):
                    limit(data_address(st, slot) + offset_of(row, i) * item_bytes, 1, a, b)
            if start >= low + CHUNK:
                break
        return 0

    return task


def _limit_kernel(clamp: bool) -> Callable[[int, int], Callable[..., int]]:
    def make(dtype: int, result_dtype: int) -> Callable[..., int]:
        task, pointer, scalar = _make_limit_task(dtype, clamp), POINTERS[dtype], SCALARS[dtype]

        def kernel(st, frame):
            context = stack_words(5)
            words = int64_at(context)
            words[0] = st
            words[1] = frame
            words[2] = attribute(frame, 0)
            words[3] = attribute(frame, 0 if not clamp else 1)
            words[4] = input_count(frame) - (0 if clamp else 1)
            if not clamp:  # the factor is min(limit / (norm + 1e-6), 1), in the tensors' dtype as torch has it
                norm = pointer(data_address(st, input_slot(frame, words[4])))[0]
                factor = scalar(float64_from_bits(words[2])) / (norm + scalar(1e-6))
                if factor >= scalar(1):
                    return 0
                float64_at(context)[2] = types.float64(factor)
            total = 0
            for k in range(words[4]):
                total += slot_of(st, input_slot(frame, k)).numel
            return parallel_for(state_of(st).pool, task, context, (total + CHUNK - 1) // CHUNK)

        return kernel

    return make


def _has_norm(x: Operands, a: Attributes) -> bool:
    return len(a) >= 1 and needed(x, len(x) - 1).numel == 1


def _declare_limit(name: str, clamp: bool, math: str) -> Op:
    return declare(
        Op(
            name=name,
            inputs=("*tensors",),
            kind=GENERAL,
            dtypes=FLOATS,
            outputs=0,
            infer=limit_infer,
            valid=attributes(2) if clamp else _has_norm,
            kernel=_limit_kernel(clamp),
            unpromoted=("*tensors",),
            writes=("*tensors",),
            public=False,
            samples="writes into its operands: tests/test_clip_grad.py",
            math=math,
        )
    )


LIMIT_NORM = _declare_limit("limit_norm", False, "x min(limit / (norm + 1e-6), 1); the last operand is the norm")
LIMIT_VALUES = _declare_limit("limit_values", True, "x kept within low .. high")
