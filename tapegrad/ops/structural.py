"""Ops that the machine itself emits: casts, copies, the sum that undoes broadcasting; see strided_views.py too."""

from collections.abc import Callable
from typing import Any

import numpy as np

from tapegrad.kernels.loops import make_loop
from tapegrad.kernels.reduce_plan import broadcast_strides
from tapegrad.kernels.reduce_sum import sum_parts
from tapegrad.kernels.reduce_tasks import make_reduction
from tapegrad.native.dtypes import BOOL, POINTERS, SCALARS
from tapegrad.native.pointers import stack_words
from tapegrad.ops.elementwise import elementwise
from tapegrad.ops.registry import Op, declare
from tapegrad.ops.validity import Attributes, Operands, broadcast, checks_itself, needed
from tapegrad.runtime.layout import (
    FROM_ATTRIBUTE,
    GENERAL,
    VIEW,
    data_address,
    input_slot,
    output_slot,
    shape_in,
    slot_of,
    state_of,
    strides_in,
)


def _zeros_kernel(dtype: int, result_dtype: int) -> Callable[..., int]:
    pointer, zero = POINTERS[dtype], SCALARS[dtype](0)

    def kernel(st, frame):
        y = pointer(data_address(st, output_slot(frame, 0)))
        for i in range(np.uintp(slot_of(st, output_slot(frame, 0)).numel)):
            y[i] = zero
        return 0

    return kernel


def _converted(dtypes: tuple[int, ...], result_dtype: int) -> Callable[..., Any]:
    return (lambda x: x != 0) if result_dtype == BOOL else (lambda x: x)


def _convert_loop(dtype: int, result_dtype: int) -> Callable[..., int]:
    return make_loop(_converted((dtype,), result_dtype), (dtype,), result_dtype)


declare(
    Op(
        name="cast",
        inputs=("input",),
        result=FROM_ATTRIBUTE,
        kernel=_convert_loop,
        formula=_converted,
        vjp=lambda g, y, x: g,  # the sweep brings a gradient to its operand's dtype
        public=False,
        math="x in another dtype",
    )
)
elementwise(
    "clone",
    lambda x: x,
    vjp=lambda g, y, x: g,
    in_place=False,
    public=False,
    reference=np.copy,
    math="x",
)
elementwise(
    "copy",
    lambda x, w: w,
    inputs=("input", "source"),
    vjp=lambda g, y, x, w: (g.zeros_like(), g),  # torch gives what was overwritten zeros, not None
    public=False,
    math="w",
)


def like_first(st, frame):
    """The result has the shape of the first operand."""
    result = slot_of(st, output_slot(frame, 0))
    model = slot_of(st, input_slot(frame, 0))
    result.ndim = model.ndim
    for d in range(model.ndim):
        shape_in(result)[d] = shape_in(model)[d]
    return 0


def like_second(st, frame):
    """The result has the shape of the second operand."""
    result = slot_of(st, output_slot(frame, 0))
    model = slot_of(st, input_slot(frame, 1))
    result.ndim = model.ndim
    for d in range(model.ndim):
        shape_in(result)[d] = shape_in(model)[d]
    return 0


declare(  # reads no memory: the gradient that a result did not get is zeros even where the result is gone
    Op(
        name="zeros_like",
        valid=checks_itself,
        inputs=("input",),
        kind=GENERAL,
        infer=like_first,
        kernel=_zeros_kernel,
        shape_only=("input",),
        public=False,
        math="0",
    )
)


def _sum_to_shape_kernel(dtype: int, result_dtype: int) -> Callable[..., int]:
    sum_into = make_reduction(sum_parts(dtype, result_dtype))

    def kernel(st, frame):
        source = slot_of(st, input_slot(frame, 0))
        result = slot_of(st, output_slot(frame, 0))
        y = data_address(st, output_slot(frame, 0))
        strides = stack_words(8)
        broadcast_strides(source, result, strides)
        x = data_address(st, input_slot(frame, 0))
        return sum_into(state_of(st).pool, source, x, y, result.numel, strides, y, 0, state_of(st).workspace)

    return kernel


def _was_broadcast(x: Operands, a: Attributes) -> bool:
    source, like = needed(x, 0).shape, needed(x, 1).shape
    return len(like) <= len(source) and broadcast(source, like) == source


declare(
    Op(
        name="sum_to_shape",
        valid=_was_broadcast,
        inputs=("input", "like"),
        kind=GENERAL,
        infer=like_second,
        kernel=_sum_to_shape_kernel,
        vjp=lambda g, y, x, like: (g.expand_like(x), None),
        shape_only=("like",),
        unpromoted=("like",),
        public=False,
        math="the sum of x over the dimensions in which `like` is broadcast to it",
    )
)


def expand_like_infer(st, frame):
    result = slot_of(st, output_slot(frame, 0))
    source = slot_of(st, input_slot(frame, 0))
    model = slot_of(st, input_slot(frame, 1))
    result.ndim = model.ndim
    lead = model.ndim - source.ndim
    for d in range(model.ndim):
        shape_in(result)[d] = shape_in(model)[d]
        kept = d >= lead and shape_in(source)[d - lead] == shape_in(model)[d]
        strides_in(result)[d] = strides_in(source)[d - lead] if kept else 0
    return 0


declare(
    Op(
        name="expand_like",
        inputs=("input", "like"),
        kind=VIEW,
        infer=expand_like_infer,
        vjp=lambda g, y, x, like: (g, None),  # the sweep sums a gradient to its operand's shape
        shape_only=("like",),
        public=False,
        math="x broadcast to the shape of `like`",
    )
)
