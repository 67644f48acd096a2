"""Random numbers as ops: each reads seed and offset from a generator's state, an int64 tensor, and moves the offset on.

So what a random op draws depends on the state alone, a replayed program goes on drawing new numbers, and nothing
depends on the number of threads. The first operand gives shape and dtype; in-place forms write into it.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from tapegrad.kernels import philox, sampling
from tapegrad.kernels.philox_words import GROUP, fill_words
from tapegrad.native.cache import jit
from tapegrad.native.dtypes import DTYPE_NAMES, INT64, ITEM_BYTES, POINTERS, SCALARS
from tapegrad.native.pointers import float64_from_bits, int64_at, pointer_to, stack_words
from tapegrad.ops.registry import ALL_DTYPES, FLOATS, OF_ENTRY, Op, declare
from tapegrad.ops.validity import Attributes, Operands, attributes, every, generator, is_few, needed
from tapegrad.runtime.blocks import give_block, size_class, take_block
from tapegrad.runtime.layout import (
    BAD_ARGUMENT,
    CONTIGUOUS,
    GENERAL,
    OUT_OF_MEMORY,
    TO_INT64,
    attribute,
    data_address,
    input_slot,
    output_slot,
    shape_in,
    slot_of,
    state_of,
)

_uint32_at = pointer_to(np.uint32)


@jit
def _advance(st, frame, k, blocks):
    """Move the offset of the generator's state, operand k, on."""
    int64_at(data_address(st, input_slot(frame, k)))[1] += blocks


@jit
def _blocks(n, wide):
    return (n * (2 if wide else 1) + 63) // 64 * 16


@jit
def _shape_of_first(st, frame):
    y, x = slot_of(st, output_slot(frame, 0)), slot_of(st, input_slot(frame, 0))
    y.ndim = x.ndim
    for d in range(x.ndim):
        shape_in(y)[d] = shape_in(x)[d]
    return 0


def like_first(st, frame):
    return _shape_of_first(st, frame)


def _lengths(x: Operands, a: Attributes) -> bool:
    shape = needed(x, 0).shape
    if len(shape) not in (1, 2) or len(a) < 2 or a[0] < 1 or shape[-1] < 1:
        return False
    return is_few(*shape[:-1], a[0]) and (a[1] != 0 or a[0] <= shape[-1])


DRAWS = "draws random numbers: tests/test_random.py, and their kernels tests/test_philox.py"


# ---- fills: attributes are the parameters ----


def _fill_kernel(make: Callable[[Any], Callable[[int], int]], wide: bool) -> Callable[[int, int], Callable[..., int]]:
    """Return the maker of a fill; ``wide``: an element of 8 bytes takes 64 bits."""

    def maker(dtype: int, result_dtype: int) -> Callable[..., int]:
        fill = jit(make(DTYPE_NAMES[dtype]))
        takes_two = wide and ITEM_BYTES[dtype] == 8

        def kernel(st, frame):
            y = slot_of(st, output_slot(frame, 0))
            if not y.flags & CONTIGUOUS:
                return BAD_ARGUMENT
            state = int64_at(data_address(st, input_slot(frame, 1)))
            words = stack_words(8)
            a = int64_at(words)
            a[0], a[1], a[2], a[3] = y.numel, data_address(st, output_slot(frame, 0)), state[0], state[1]
            a[4], a[5] = attribute(frame, 0), attribute(frame, 1)
            fill(words)
            _advance(st, frame, 1, _blocks(y.numel, takes_two))
            return 0

        return kernel

    return maker


def _randint_kernel(dtype: int, result_dtype: int) -> Callable[..., int]:
    """Attributes: low, and the number of integers, where 0 is 2**64."""
    fill = jit(philox.make_randint(DTYPE_NAMES[dtype]))

    def kernel(st, frame):
        y = slot_of(st, output_slot(frame, 0))
        if not y.flags & CONTIGUOUS:
            return BAD_ARGUMENT
        state = int64_at(data_address(st, input_slot(frame, 1)))
        words = stack_words(8)
        a = int64_at(words)
        a[0], a[1], a[2], a[3] = y.numel, data_address(st, output_slot(frame, 0)), state[0], state[1]
        a[4], a[5] = attribute(frame, 0), attribute(frame, 1)
        fill(words)
        span = np.uint64(attribute(frame, 1))
        _advance(st, frame, 1, _blocks(y.numel, span == 0 or span > np.uint64(2**32)))
        return 0

    return kernel


def _fill(name: str, kernel: Any, dtypes: int, math: str) -> Op:
    return declare(
        Op(
            name=name,
            inputs=("input", "state"),
            kind=GENERAL,
            dtypes=dtypes,
            infer=like_first,
            valid=every(attributes(1), generator(1)),
            kernel=kernel,
            vjp=lambda g, y, x, state: (g.zeros_like(), None),  # what was there before does not count any more
            shape_only=("input",),
            unpromoted=("state",),
            writes=("state",),
            public=False,
            samples=DRAWS,
            math=math,
        )
    )


UNIFORM = _fill("uniform", _fill_kernel(philox.make_uniform, True), FLOATS, "uniform in [a, b)")
NORMAL = _fill("normal", _fill_kernel(philox.make_normal, True), FLOATS, "normal of mean a and deviation b")
EXPONENTIAL = _fill("exponential", _fill_kernel(philox.make_exponential, True), FLOATS, "exponential of rate a")
BERNOULLI = _fill(
    "bernoulli_fill", _fill_kernel(philox.make_bernoulli, False), ALL_DTYPES, "1 with probability a, else 0"
)
RANDINT = _fill("randint", _randint_kernel, ALL_DTYPES, "integers in [a, a + b)")


# ---- Bernoulli by a tensor of probabilities, permutation, multinomial ----


def _bernoulli_kernel(dtype: int, result_dtype: int) -> Callable[..., int]:
    fill = jit(philox.make_bernoulli_each(DTYPE_NAMES[dtype], DTYPE_NAMES[dtype]))
    pointer = POINTERS[dtype]

    def kernel(st, frame):
        y = slot_of(st, output_slot(frame, 0))
        p = pointer(data_address(st, input_slot(frame, 0)))
        outside = 0
        for i in range(np.uintp(y.numel)):
            outside += 0 if p[i] >= 0 and p[i] <= 1 else 1
        if outside > 0:
            return BAD_ARGUMENT
        state = int64_at(data_address(st, input_slot(frame, 1)))
        words = stack_words(8)
        a = int64_at(words)
        a[0], a[1], a[2], a[3] = y.numel, data_address(st, output_slot(frame, 0)), state[0], state[1]
        a[4] = data_address(st, input_slot(frame, 0))
        fill(words)
        _advance(st, frame, 1, _blocks(y.numel, False))
        return 0

    return kernel


BERNOULLI_EACH = declare(
    Op(
        name="bernoulli",
        valid=generator(1),
        inputs=("input", "state"),
        kind=GENERAL,
        dtypes=FLOATS,
        infer=like_first,
        kernel=_bernoulli_kernel,
        vjp=lambda g, y, x, state: (g.zeros_like(), None),
        unpromoted=("state",),
        contiguous=("input",),
        writes=("state",),
        public=False,
        samples=DRAWS,
        math="1 with probability x, else 0",
    )
)


def randperm_infer(st, frame):
    """Attribute: n. The only operand is the generator's state."""
    y = slot_of(st, output_slot(frame, 0))
    y.ndim = 1
    shape_in(y)[0] = attribute(frame, 0)
    return 0


def _randperm_kernel(dtype: int, result_dtype: int) -> Callable[..., int]:
    permute = jit(sampling.permutation)

    def kernel(st, frame):
        state = int64_at(data_address(st, input_slot(frame, 0)))
        words = stack_words(8)
        a = int64_at(words)
        a[0], a[1], a[2], a[3] = attribute(frame, 0), data_address(st, output_slot(frame, 0)), state[0], state[1]
        permute(words)
        _advance(st, frame, 0, _blocks(a[0], False))
        return 0

    return kernel


RANDPERM = declare(
    Op(
        name="randperm",
        valid=every(generator(0), lambda x, a: len(a) >= 1 and is_few(a[0])),
        inputs=("state",),
        kind=GENERAL,
        dtypes=1 << INT64,
        infer=randperm_infer,
        kernel=_randperm_kernel,
        writes=("state",),
        public=False,
        samples=DRAWS,
        math="a permutation of 0 .. n-1",
    )
)


def multinomial_infer(st, frame):
    """Attributes: samples, replacement."""
    y, x = slot_of(st, output_slot(frame, 0)), slot_of(st, input_slot(frame, 0))
    y.ndim = x.ndim
    shape_in(y)[0] = shape_in(x)[0]
    shape_in(y)[x.ndim - 1] = attribute(frame, 0)
    return 0


def _multinomial_kernel(dtype: int, result_dtype: int) -> Callable[..., int]:
    draw = jit(sampling.make_multinomial(DTYPE_NAMES[dtype]))

    def kernel(st, frame):
        x = slot_of(st, input_slot(frame, 0))
        columns, samples, replacement = shape_in(x)[x.ndim - 1], attribute(frame, 0), attribute(frame, 1)
        rows = shape_in(x)[0] if x.ndim == 2 else 1
        generator = int64_at(data_address(st, input_slot(frame, 1)))
        index = size_class(8 * (columns if replacement != 0 else 2 * samples))
        block = take_block(st, index)
        if block == 0:
            return OUT_OF_MEMORY
        words = stack_words(9)
        a = int64_at(words)
        a[0], a[1], a[2], a[3] = rows, data_address(st, output_slot(frame, 0)), generator[0], generator[1]
        a[4], a[5], a[6] = data_address(st, input_slot(frame, 0)), columns, samples
        a[7], a[8] = replacement, block
        status = draw(words)
        give_block(st, block, index)
        if status != 0:
            state_of(st).error_value0 = status
            return BAD_ARGUMENT
        _advance(st, frame, 1, _blocks(rows * (samples if replacement != 0 else columns), True))
        return 0

    return kernel


MULTINOMIAL = declare(
    Op(
        name="multinomial",
        valid=every(generator(1), _lengths),
        inputs=("input", "state"),
        kind=GENERAL,
        result=TO_INT64,
        dtypes=FLOATS,
        infer=multinomial_infer,
        kernel=_multinomial_kernel,
        unpromoted=("state",),
        contiguous=("input",),
        writes=("state",),
        public=False,
        samples=DRAWS,
        math="columns drawn by the weights x",
    )
)


# ---- dropout: the second result is where the generator stood, from which the gradient makes the same mask ----


def _masked(dtype: int) -> Callable[..., Any]:
    """Return the helper that multiplies by 1 / (1 - p) with probability 1 - p, else by 0."""
    pointer, scalar = POINTERS[dtype], SCALARS[dtype]
    chunk = 4 * GROUP  # a loop over so many words hides what starting it costs

    @jit
    def masked(source, target, n, state, probability_bits):
        x, y = pointer(source), pointer(target)
        keep = 1.0 - float64_from_bits(probability_bits)
        limit = np.uint64(keep * 2.0**32 + 0.5)
        scale, zero = scalar(1.0 / keep if keep > 0 else 0.0), scalar(0)
        seed, block = np.uint64(int64_at(state)[0]), np.uint64(int64_at(state)[1])
        buffer = stack_words(128)
        words = _uint32_at(buffer)
        for start in range(0, n, chunk):
            count = min(chunk, n - start)
            fill_words(buffer, block, seed, count)
            for i in range(count):
                y[start + i] = x[start + i] * (scale if np.uint64(words[i]) < limit else zero)
            block += np.uint64(64)
        return 0

    return masked


def dropout_infer(st, frame):
    _shape_of_first(st, frame)
    mark = slot_of(st, output_slot(frame, 1))
    mark.dtype = INT64
    mark.ndim = 1
    shape_in(mark)[0] = 2
    return 0


def _dropout_kernel(dtype: int, result_dtype: int) -> Callable[..., int]:
    masked = _masked(dtype)

    def kernel(st, frame):
        n = slot_of(st, input_slot(frame, 0)).numel
        state, mark = data_address(st, input_slot(frame, 1)), data_address(st, output_slot(frame, 1))
        int64_at(mark)[0] = int64_at(state)[0]
        int64_at(mark)[1] = int64_at(state)[1]
        masked(
            data_address(st, input_slot(frame, 0)),
            data_address(st, output_slot(frame, 0)),
            n,
            mark,
            attribute(frame, 0),
        )
        _advance(st, frame, 1, _blocks(n, False))
        return 0

    return kernel


def _dropout_mask_kernel(dtype: int, result_dtype: int) -> Callable[..., int]:
    masked = _masked(dtype)

    def kernel(st, frame):
        masked(
            data_address(st, input_slot(frame, 0)),
            data_address(st, output_slot(frame, 0)),
            slot_of(st, input_slot(frame, 0)).numel,
            data_address(st, input_slot(frame, 1)),
            attribute(frame, 0),
        )
        return 0

    return kernel


DROPOUT = declare(
    Op(
        name="dropout",
        valid=every(attributes(1), generator(1)),
        inputs=("input", "state"),
        kind=GENERAL,
        dtypes=FLOATS,
        outputs=2,
        infer=dropout_infer,
        kernel=_dropout_kernel,
        vjp=lambda g, y, x, state: (g[0].dropout_mask(y[1], attributes=OF_ENTRY), None),
        unpromoted=("state",),
        contiguous=("input",),
        writes=("state",),
        public=False,
        samples=DRAWS,
        math="x mask / (1 - p)",
    )
)
declare(
    Op(
        name="dropout_mask",
        valid=every(attributes(1), generator(1)),
        inputs=("input", "mark"),
        kind=GENERAL,
        dtypes=FLOATS,
        infer=like_first,
        kernel=_dropout_mask_kernel,
        vjp=lambda g, y, x, mark: (g.dropout_mask(mark, attributes=OF_ENTRY), None),
        unpromoted=("mark",),
        contiguous=("input",),
        public=False,
        samples="the mask is that of a dropout that was drawn: tests/test_random.py",
        math="x mask / (1 - p), by the mask of an earlier dropout",
    )
)
