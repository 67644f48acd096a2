"""Ops that the machine itself emits: casts, copies, the sum that undoes broadcasting, views by strides."""

from collections.abc import Callable
from typing import Any

import numpy as np

from tapegrad.kernels.loops import like, make_loop
from tapegrad.kernels.reduce_loops import make_reduction
from tapegrad.kernels.reduce_plan import broadcast_strides
from tapegrad.kernels.reduce_sum import sum_parts
from tapegrad.native.dtypes import BOOL, POINTERS
from tapegrad.native.pointers import stack_words
from tapegrad.ops.elementwise import elementwise
from tapegrad.ops.references import adding_back, strided_elements
from tapegrad.ops.registry import OF_ENTRY, Op, declare
from tapegrad.runtime.layout import (
    FROM_ATTRIBUTE,
    GENERAL,
    IS_VIEW,
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


def _convert_loop(dtype: int, result_dtype: int) -> Callable[..., int]:
    if result_dtype == BOOL:
        return make_loop(lambda x: x != 0, (dtype,), result_dtype)
    return make_loop(lambda x: x, (dtype,), result_dtype)


declare(
    Op(
        name="cast",
        inputs=("input",),
        result=FROM_ATTRIBUTE,
        kernel=_convert_loop,
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
elementwise(
    "zeros_like",
    lambda x: like(0, x),
    public=False,
    math="0",
)


def like_second(st, frame):
    """The result has the shape of the second operand."""
    result = slot_of(st, output_slot(frame, 0))
    model = slot_of(st, input_slot(frame, 1))
    result.ndim = model.ndim
    for d in range(model.ndim):
        shape_in(result)[d] = shape_in(model)[d]
    return 0


def _sum_to_shape_kernel(dtype: int, result_dtype: int) -> Callable[..., int]:
    sum_into = make_reduction(sum_parts(dtype, result_dtype))

    def kernel(st, frame):
        source = slot_of(st, input_slot(frame, 0))
        result = slot_of(st, output_slot(frame, 0))
        y = data_address(st, output_slot(frame, 0))
        strides = stack_words(8)
        broadcast_strides(source, result, strides)
        x = data_address(st, input_slot(frame, 0))
        return sum_into(source, x, y, result.numel, strides, y, 0, state_of(st).workspace)

    return kernel


declare(
    Op(
        name="sum_to_shape",
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


def as_strided_infer(st, frame):
    """Attributes: ndim, offset, shape, strides."""
    result = slot_of(st, output_slot(frame, 0))
    result.ndim = attribute(frame, 0)
    result.offset = attribute(frame, 1)
    for d in range(result.ndim):
        shape_in(result)[d] = attribute(frame, 2 + d)
        strides_in(result)[d] = attribute(frame, 2 + result.ndim + d)
    return 0


declare(
    Op(
        name="as_strided",
        inputs=("input",),
        kind=VIEW,
        infer=as_strided_infer,
        vjp=lambda g, y, x: g.as_strided_scatter(x, attributes=OF_ENTRY),
        public=False,
        math="a view by offset, shape and strides",
    )
)


def _as_strided_scatter_kernel(dtype: int, result_dtype: int) -> Callable[..., int]:
    pointer = POINTERS[dtype]

    def kernel(st, frame):
        source = slot_of(st, input_slot(frame, 0))
        result = slot_of(st, output_slot(frame, 0))
        model = slot_of(st, input_slot(frame, 1))
        x = pointer(data_address(st, input_slot(frame, 0)))
        y = pointer(data_address(st, output_slot(frame, 0)))
        for i in range(np.uintp(result.numel)):
            y[i] = 0
        ndim = attribute(frame, 0)
        for i in range(source.numel):
            rest = i
            offset = attribute(frame, 1) - model.offset
            for k in range(ndim):
                d = ndim - 1 - k
                length = attribute(frame, 2 + d)
                offset += (rest % length) * attribute(frame, 2 + ndim + d)
                rest //= length
            y[offset] += x[i]
        return 0

    return kernel


declare(
    Op(
        name="as_strided_scatter",
        inputs=("input", "like"),
        kind=GENERAL,
        infer=like_second,
        kernel=_as_strided_scatter_kernel,
        vjp=lambda g, y, x, like: (g.as_strided_gather(like, attributes=OF_ENTRY), None),
        shape_only=("like",),
        unpromoted=("like",),
        contiguous=("input",),
        public=False,
        reference=adding_back(strided_elements),
        samples=lambda make: [
            ((make(3), make(2, 4)), {"attributes": (1, 1, 3, 2)}),
            ((make(2, 2), make(3, 4)), {"attributes": (2, 1, 2, 2, 4, 1)}),
            ((make(2, 3), make(4)), {"attributes": (2, 0, 2, 3, 1, 1)}),
        ],
        math="zeros like `like`, with x added where as_strided has its elements",
    )
)


def as_strided_gather_infer(st, frame):
    """Like as_strided, on a contiguous tensor that stands for `like`, whose offset the attributes count from."""
    result = slot_of(st, output_slot(frame, 0))
    result.offset += attribute(frame, 1) - slot_of(st, input_slot(frame, 1)).offset
    result.ndim = attribute(frame, 0)
    for d in range(result.ndim):
        shape_in(result)[d] = attribute(frame, 2 + d)
        strides_in(result)[d] = attribute(frame, 2 + result.ndim + d)
    return 0


declare(
    Op(
        name="as_strided_gather",
        inputs=("input", "like"),
        kind=VIEW,
        infer=as_strided_gather_infer,
        vjp=lambda g, y, x, like: (g.as_strided_scatter(like, attributes=OF_ENTRY), None),
        shape_only=("like",),
        contiguous=("input",),
        public=False,
        reference=lambda x, like, attributes: strided_elements(x, attributes).copy(),
        samples=lambda make: [
            ((make(2, 4), make(2, 4)), {"attributes": (1, 1, 3, 2)}),
            ((make(3, 4), make(3, 4)), {"attributes": (2, 1, 2, 2, 4, 1)}),
        ],
        math="the elements of x where as_strided has those of `like`",
    )
)


def overlay_infer(st, frame):
    """The result is the base's memory as it is after the write, no view of anything, the head of the same family."""
    result = slot_of(st, output_slot(frame, 0))
    source = slot_of(st, input_slot(frame, 0))
    result.ndim = source.ndim
    for d in range(source.ndim):
        shape_in(result)[d] = shape_in(source)[d]
        strides_in(result)[d] = strides_in(source)[d]
    result.flags &= ~IS_VIEW
    slot_of(st, result.base).refs -= 1
    result.base = -1
    return 0


declare(
    Op(
        name="overlay",
        inputs=("input", "written"),
        kind=VIEW,
        infer=overlay_infer,
        vjp=lambda g, y, x, w: (
            g.overlay_erase(y, attributes=OF_ENTRY),
            g.as_strided_gather(y, attributes=OF_ENTRY),
        ),
        public=False,
        math="x after the write of w through a view of x",
    )
)


def _erased(x: Any, like: Any, *, attributes: tuple[int, ...]) -> Any:
    y = np.array(x, order="C")
    strided_elements(y, attributes)[...] = 0
    return y


def _overlay_erase_kernel(dtype: int, result_dtype: int) -> Callable[..., int]:
    pointer = POINTERS[dtype]

    def kernel(st, frame):
        result = slot_of(st, output_slot(frame, 0))
        model = slot_of(st, input_slot(frame, 1))
        x = pointer(data_address(st, input_slot(frame, 0)))
        y = pointer(data_address(st, output_slot(frame, 0)))
        for i in range(np.uintp(result.numel)):
            y[i] = x[i]
        ndim = attribute(frame, 0)
        count = 1
        for d in range(ndim):
            count *= attribute(frame, 2 + d)
        for i in range(count):
            rest = i
            offset = attribute(frame, 1) - model.offset
            for k in range(ndim):
                d = ndim - 1 - k
                length = attribute(frame, 2 + d)
                offset += (rest % length) * attribute(frame, 2 + ndim + d)
                rest //= length
            y[offset] = 0
        return 0

    return kernel


declare(
    Op(
        name="overlay_erase",
        inputs=("input", "like"),
        kind=GENERAL,
        infer=like_second,
        kernel=_overlay_erase_kernel,
        vjp=lambda g, y, x, like: (g.overlay_erase(like, attributes=OF_ENTRY), None),
        shape_only=("like",),
        unpromoted=("like",),
        contiguous=("input",),
        public=False,
        reference=_erased,
        samples=lambda make: [
            ((make(2, 4), make(2, 4)), {"attributes": (1, 1, 3, 2)}),
            ((make(3, 4), make(3, 4)), {"attributes": (2, 1, 2, 2, 4, 1)}),
        ],
        math="x with zeros where as_strided has its elements",
    )
)
