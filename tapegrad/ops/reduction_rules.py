"""What reductions share: their attributes and shape rules, and the ops that only their gradient rules emit.

Every op along dimensions has the attributes ``result dtype, mask of dimensions, keepdim, parameter``, so that a rule
passes its entry's attributes on to any other of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tapegrad.kernels.loops import like
from tapegrad.kernels.reduce_loops import Reduction
from tapegrad.kernels.reduce_plan import output_strides
from tapegrad.kernels.reduce_tasks import make_reduction
from tapegrad.kernels.vector_math import exp, sqrt
from tapegrad.native.cache import jit
from tapegrad.native.dtypes import FLOAT64, INT64, POINTERS
from tapegrad.native.pointers import float64_from_bits, int64_at, stack_words
from tapegrad.ops.calls import normal_dims
from tapegrad.ops.elementwise import elementwise
from tapegrad.ops.references import axes_of
from tapegrad.ops.registry import FLOATS, OF_ENTRY, Op, declare
from tapegrad.ops.structural import like_second
from tapegrad.ops.validity import Attributes, Operands, attributes, every, needed, reduced
from tapegrad.runtime.layout import (
    FROM_ATTRIBUTE,
    GENERAL,
    MAX_OUTPUTS,
    TO_BOOL,
    VIEW,
    attribute,
    data_address,
    input_slot,
    output_slot,
    shape_in,
    slot_of,
    state_of,
    strides_in,
)

DTYPE, MASK, KEEPDIM, PARAMETER = range(4)


def mask_of(dim: int | Sequence[int] | None, ndim: int) -> int:
    """Return the bits of the dimensions that an argument ``dim`` names."""
    if dim is None:
        return (1 << ndim) - 1
    if type(dim) is int and -ndim <= dim < ndim:
        return 1 << dim % ndim
    return sum(1 << d for d in normal_dims(dim, ndim) if ndim > 0)


@jit
def reduced_shape(x, y, mask, keepdim):
    k = 0
    for d in range(x.ndim):
        reduced = (mask >> d) & 1
        if keepdim or not reduced:
            shape_in(y)[k] = 1 if reduced else shape_in(x)[d]
            k += 1
    y.ndim = k
    return 0


def reduced_infer(st, frame):
    x = slot_of(st, input_slot(frame, 0))
    for k in range(MAX_OUTPUTS):
        if output_slot(frame, k) >= 0:
            reduced_shape(x, slot_of(st, output_slot(frame, k)), attribute(frame, MASK), attribute(frame, KEEPDIM))
    return 0


def reduction_kernel(parts: Callable[[int, int], Reduction]) -> Callable[[int, int], Callable[..., int]]:
    """Return what makes the kernel of an op that is one reduction."""

    def make(dtype: int, result_dtype: int) -> Callable[..., int]:
        reduce_into = make_reduction(parts(dtype, result_dtype))

        def kernel(st, frame):
            x = slot_of(st, input_slot(frame, 0))
            y = slot_of(st, output_slot(frame, 0))
            address = data_address(st, output_slot(frame, 0))
            strides = stack_words(8)
            output_strides(x, y, attribute(frame, MASK), attribute(frame, KEEPDIM), strides)
            return reduce_into(
                state_of(st).pool, x, data_address(st, input_slot(frame, 0)), address, y.numel, strides, address,
                attribute(frame, PARAMETER), state_of(st).workspace,
            )  # fmt: skip

        return kernel

    return make


@jit
def extents(row, mask, words):
    """Write outer, n, inner around the one dimension in the mask; a 0-d tensor is [1, 1, 1]."""
    triple = int64_at(words)
    triple[0] = 1
    triple[1] = 1
    triple[2] = 1
    place = 0
    for d in range(row.ndim):
        if (mask >> d) & 1:
            triple[1] = shape_in(row)[d]
            place = 2
        else:
            triple[place] *= shape_in(row)[d]
    return 0


def expand_reduced_infer(st, frame):
    y = slot_of(st, output_slot(frame, 0))
    g = slot_of(st, input_slot(frame, 0))
    x = slot_of(st, input_slot(frame, 1))
    y.ndim = x.ndim
    k = 0
    for d in range(x.ndim):
        reduced = (attribute(frame, MASK) >> d) & 1
        shape_in(y)[d] = shape_in(x)[d]
        strides_in(y)[d] = 0 if reduced else strides_in(g)[k]
        k += 1 if attribute(frame, KEEPDIM) or not reduced else 0
    return 0


declare(
    Op(
        name="expand_reduced",
        inputs=("input", "like"),
        kind=VIEW,
        infer=expand_reduced_infer,
        vjp=lambda g, y, x, like: (g.sum(attributes=OF_ENTRY), None),
        shape_only=("like",),
        public=False,
        reference=lambda g, x, attributes: np.broadcast_to(
            g if attributes[KEEPDIM] else np.expand_dims(g, axes_of(attributes[MASK])), x.shape
        ),
        samples=lambda make: [
            ((make(2, 1, 4), make(2, 3, 4)), {"attributes": (FLOAT64, 0b10, 1, 0)}),
            ((make(3), make(2, 3, 4)), {"attributes": (FLOAT64, 0b101, 0, 0)}),
            ((make(), make(3, 4)), {"attributes": (FLOAT64, 0b11, 0, 0)}),
        ],
        math="what a reduction of `like` gave, broadcast back to its shape",
    )
)


@jit
def set_same_shapes(st, frame):
    """Give all results the shape of the first operand."""
    x = slot_of(st, input_slot(frame, 0))
    for k in range(MAX_OUTPUTS):
        if output_slot(frame, k) < 0:
            continue
        y = slot_of(st, output_slot(frame, k))
        y.ndim = x.ndim
        for d in range(x.ndim):
            shape_in(y)[d] = shape_in(x)[d]
    return 0


def same_infer(st, frame):
    return set_same_shapes(st, frame)


def _quotient_kernel(corrected: bool) -> Callable[[int, int], Callable[..., int]]:
    """y = g / (count - correction), whose bits are the parameter of a variance; that of others means something else."""
    return lambda dtype, result_dtype: _make_quotient(POINTERS[dtype], corrected)


def _make_quotient(pointer: Callable[..., Any], corrected: bool) -> Callable[..., int]:
    def kernel(st, frame):
        g = pointer(data_address(st, input_slot(frame, 0)))
        y = pointer(data_address(st, output_slot(frame, 0)))
        x = slot_of(st, input_slot(frame, 1))
        count = 1
        for d in range(x.ndim):
            count *= shape_in(x)[d] if (attribute(frame, MASK) >> d) & 1 else 1
        correction = float64_from_bits(attribute(frame, PARAMETER)) if corrected else 0.0
        freedom = max(np.float64(count) - correction, 0.0)
        for i in range(np.uintp(slot_of(st, output_slot(frame, 0)).numel)):
            y[i] = g[i] / like(freedom, g[i])
        return 0

    return kernel


def _quotient(g: Any, x: Any, *, attributes: tuple[Any, ...]) -> Any:
    count = np.prod([x.shape[d] for d in axes_of(attributes[MASK])])
    return g / max(count - attributes[PARAMETER], 0)


def _declare_quotient(name: str, corrected: bool, rule: Callable[..., Any], math: str) -> None:
    declare(
        Op(
            name=name,
            inputs=("input", "like"),
            kind=GENERAL,
            infer=same_infer,
            valid=attributes(4),
            kernel=_quotient_kernel(corrected),
            dtypes=FLOATS,
            vjp=rule,
            shape_only=("like",),
            unpromoted=("like",),
            contiguous=("input",),
            public=False,
            reference=_quotient,
            samples=lambda make: [
                ((make(2, 4), make(2, 3, 4)), {"attributes": (0, 0b10, 0, 1.0 if corrected else 0)}),
                ((make(1, 3, 1), make(2, 3, 4)), {"attributes": (0, 0b101, 1, 0.5 if corrected else 0)}),
            ],
            math=math,
        )
    )


_declare_quotient(
    "per_count",
    False,
    lambda g, y, x, like: (g.per_count(like, attributes=OF_ENTRY), None),
    "x / count of the reduced elements",
)
_declare_quotient(
    "per_freedom",
    True,
    lambda g, y, x, like: (g.per_freedom(like, attributes=OF_ENTRY), None),
    "x / (count of the reduced elements - correction)",
)


@jit
def _ratio_or_zero(g, y):
    return g / y if y != 0 else like(0, g)


elementwise(
    "ratio_or_zero",
    lambda g, y: _ratio_or_zero(g, y),
    inputs=("input", "other"),
    dtypes=FLOATS,
    vjp=lambda h, q, g, y: (h.ratio_or_zero(y), -((h * q).ratio_or_zero(y))),
    public=False,
    reference=lambda g, y: np.where(y != 0, g / np.where(y != 0, y, 1), 0),
    math="x / w, 0 where w is 0",
)
elementwise(
    "sqrt_flat_at_zero",
    lambda x: sqrt(x),
    dtypes=FLOATS,
    vjp=lambda g, y, x: 0.5 * g.ratio_or_zero(y),
    public=False,
    reference=np.sqrt,
    samples=[(0.5, 3.0)],
    math="the square root of x, with slope 0 at 0",
)
elementwise(
    "zero_where_nan",
    lambda x, w: x if w == w else like(0, x),
    inputs=("input", "other"),
    vjp=lambda g, y, x, w: (g.zero_where_nan(w), None),
    public=False,
    reference=lambda x, w: np.where(np.isnan(w), 0, x),
    math="x, 0 where w is nan",
)
elementwise(
    "is_number", lambda x: x == x, result=TO_BOOL, public=False, reference=lambda x: x == x, math="x is not nan"
)


@jit
def _exp_difference(x, y):
    return exp(x - y) if x != like(-np.inf, x) else like(0, x)


elementwise(
    "exp_difference",
    lambda x, y: _exp_difference(x, y),
    inputs=("input", "other"),
    dtypes=FLOATS,
    vjp=lambda g, y, x, w: (g * y, -(g * y)),
    public=False,
    reference=lambda x, w: np.exp(x - w),
    math="exp(x - w), 0 where x is -inf",
)


def _tie_weights_kernel(dtype: int, result_dtype: int) -> Callable[..., int]:
    """y = 1 / (how many elements equal the extremum) where x does, else 0; x and y are contiguous."""
    pointer = POINTERS[dtype]

    @jit
    def is_tie(x, best):
        return x == best or (x != x and best != best)

    def kernel(st, frame):
        row = slot_of(st, input_slot(frame, 0))
        x = pointer(data_address(st, input_slot(frame, 0)))
        best_row = slot_of(st, input_slot(frame, 1))
        best = pointer(data_address(st, input_slot(frame, 1)))
        y = pointer(data_address(st, output_slot(frame, 0)))
        counts = int64_at(data_address(st, output_slot(frame, 1)))
        strides = stack_words(8)
        index_address = stack_words(8)
        output_strides(row, best_row, attribute(frame, MASK), attribute(frame, KEEPDIM), strides)
        for i in range(best_row.numel):
            counts[i] = 0
        for write in range(2):
            index = int64_at(index_address)
            for d in range(8):
                index[d] = 0
            place = 0
            for i in range(row.numel):
                tie = is_tie(x[i], best[place])
                if write:
                    y[i] = like(1, x[i]) / like(counts[place], x[i]) if tie else like(0, x[i])
                else:
                    counts[place] += 1 if tie else 0
                d = row.ndim - 1
                while d >= 0:
                    index[d] += 1
                    place += int64_at(strides)[d]
                    if index[d] < shape_in(row)[d]:
                        break
                    place -= shape_in(row)[d] * int64_at(strides)[d]
                    index[d] = 0
                    d -= 1
        return 0

    return kernel


def tie_weights_infer(st, frame):
    x = slot_of(st, input_slot(frame, 0))
    best = slot_of(st, input_slot(frame, 1))
    y = slot_of(st, output_slot(frame, 0))
    counts = slot_of(st, output_slot(frame, 1))
    y.ndim = x.ndim
    for d in range(x.ndim):
        shape_in(y)[d] = shape_in(x)[d]
    counts.dtype = INT64
    counts.ndim = best.ndim
    for d in range(best.ndim):
        shape_in(counts)[d] = shape_in(best)[d]
    return 0


def _tie_weights(x: Any, best: Any, *, attributes: tuple[int, ...]) -> Any:
    axes, keepdim = axes_of(attributes[MASK]), attributes[KEEPDIM] != 0
    ties = x == (best if keepdim else np.expand_dims(best, axes))
    counts = np.sum(ties, axes, keepdims=True)
    return ties / np.maximum(counts, 1), counts.reshape(best.shape)


def _tie_samples(make: Any) -> Any:
    x = np.rint(make(2, 4, 5))
    return [
        ((x, x.max(1)), {"attributes": (0, 0b10, 0, 0)}),
        ((x, x.min((0, 2), keepdims=True)), {"attributes": (0, 0b101, 1, 0)}),
    ]


def _is_reduced(x: Operands, a: Attributes) -> bool:
    return needed(x, 1).shape == reduced(needed(x, 0).shape, a[MASK], a[KEEPDIM])


declare(
    Op(
        name="tie_weights",
        valid=every(attributes(4), _is_reduced),
        inputs=("input", "other"),
        kind=GENERAL,
        outputs=2,
        infer=tie_weights_infer,
        kernel=_tie_weights_kernel,
        dtypes=FLOATS,
        contiguous=("input", "other"),
        public=False,
        reference=_tie_weights,
        samples=_tie_samples,
        math="1 / (number of elements equal to the extremum w) where x equals it, else 0",
    )
)


__all__ = [
    "DTYPE",
    "FROM_ATTRIBUTE",
    "KEEPDIM",
    "MASK",
    "PARAMETER",
    "extents",
    "like_second",
    "mask_of",
    "reduced_infer",
    "reduced_shape",
    "reduction_kernel",
    "same_infer",
    "set_same_shapes",
]
