"""Convolution, transposed convolution and the gradient of their weight: three ops, each other's derivatives.

All have the same attributes: groups; then, for depth, height and width (of length 1 where they are missing): stride,
padding before, dilation, the image's length, the filter's, the result's. An image is [n, channels, ...], a weight
[channels of the result, channels of the image / groups, ...]; "image" and "result" are those of the convolution whose
transposed form or whose weight's gradient an op computes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tapegrad.kernels.conv import make_correlation
from tapegrad.kernels.conv_pixels import make_pixels
from tapegrad.kernels.conv_plan import (
    BIAS,
    GROUPS,
    IMAGES,
    IN,
    NGB,
    NMB,
    NO,
    OB,
    OS,
    OUT,
    PARTIAL,
    PARTS,
    PLACES,
    RUNS,
    RUNS_OF,
    WB,
    WG,
    WM,
    WORDS,
    WR,
    WT,
    B,
    D,
    M,
    R,
    S,
    T,
    W,
    X,
    Y,
)  # fmt: skip
from tapegrad.kernels.conv_runs import ALL_RUNS_WORDS, add_runs
from tapegrad.kernels.conv_weight import make_weight_gradient
from tapegrad.kernels.gemm_ir import least
from tapegrad.kernels.reduce_lanes import add, row_reducer, step_of
from tapegrad.kernels.winograd import make_winograd
from tapegrad.kernels.winograd_weight import make_winograd_weight
from tapegrad.native.cache import jit
from tapegrad.native.dtypes import DTYPE_NAMES, ITEM_BYTES, POINTERS, SCALARS
from tapegrad.native.parallel import parallel_for
from tapegrad.native.pointers import call2, int64_at, stack_words
from tapegrad.ops.addresses import CONVOLUTION, PIXELS, WINOGRAD, WINOGRAD_WEIGHT, address_of, need
from tapegrad.ops.registry import FLOATS, OF_ENTRY, Op, declare
from tapegrad.ops.validity import Attributes, Operands, Rule, Shape, at_least, every, is_few, needed, with_numel
from tapegrad.runtime.blocks import give_block, size_class, take_block
from tapegrad.runtime.layout import (
    GENERAL,
    OUT_OF_MEMORY,
    attribute,
    data_address,
    input_count,
    input_slot,
    output_slot,
    shape_in,
    slot_of,
    state_of,
)

_BLOCK = 1024  # elements that are summed before float64 takes their sum
_TASK_BYTES = 256 << 10
STRIDE, PADDING, DILATION, IMAGE, FILTER, RESULT = range(1, 19, 3)


def convolution_infer(st, frame):
    x, w, y = (slot_of(st, input_slot(frame, 0)), slot_of(st, input_slot(frame, 1)), slot_of(st, output_slot(frame, 0)))
    y.ndim = x.ndim
    shape_in(y)[0] = shape_in(x)[0]
    shape_in(y)[1] = shape_in(w)[0]
    for d in range(2, x.ndim):
        shape_in(y)[d] = attribute(frame, RESULT + 3 - x.ndim + d)
    return 0


def transposed_infer(st, frame):
    g, w, y = (slot_of(st, input_slot(frame, 0)), slot_of(st, input_slot(frame, 1)), slot_of(st, output_slot(frame, 0)))
    y.ndim = g.ndim
    shape_in(y)[0] = shape_in(g)[0]
    shape_in(y)[1] = shape_in(w)[1] * attribute(frame, 0)
    for d in range(2, g.ndim):
        shape_in(y)[d] = attribute(frame, IMAGE + 3 - g.ndim + d)
    return 0


def weight_infer(st, frame):
    x, g, y = (slot_of(st, input_slot(frame, 0)), slot_of(st, input_slot(frame, 1)), slot_of(st, output_slot(frame, 0)))
    y.ndim = x.ndim
    shape_in(y)[0] = shape_in(g)[1]
    shape_in(y)[1] = shape_in(x)[1] // attribute(frame, 0)
    for d in range(2, x.ndim):
        shape_in(y)[d] = attribute(frame, FILTER + 3 - x.ndim + d)
    return 0


# ---- kernels ----


def _make_pixels(dtype: int) -> Callable[..., int]:
    """Return ``correlate(st, words)``, which writes the runs' results; or returns 1 where another way is better."""
    plan, run = make_pixels(dtype)
    need(PIXELS + dtype, run, f"pixels.{DTYPE_NAMES[dtype]}", "int64(int64, int64)")

    @jit
    def correlate(st, words):
        return _run_with_memory(st, PIXELS + dtype, words, plan(words))

    return correlate


@jit
def _run_with_memory(st, way, words, size):
    """Run a way to convolve with ``size`` bytes of memory; return 1 where these are 0 or there is no memory.

    It is no storage: a captured program runs this with a state of its own, which must not take rows of tables.
    """
    if size == 0:
        return 1
    p, index = int64_at(words), size_class(size)
    p[PARTIAL] = take_block(st, index)
    if p[PARTIAL] == 0:
        return 1
    status = call2(address_of(st, way), state_of(st).pool, words)
    give_block(st, p[PARTIAL], index)
    return status


def _make_correlate(dtype: int) -> Callable[..., int]:
    """Return ``correlate(st, words)``, which writes what the words describe, and returns 0 or a status."""
    plan_winograd, winograd = make_winograd(dtype)
    plan, task = make_correlation(dtype)
    by_pixels = _make_pixels(dtype)

    def run(pool, words):
        return parallel_for(pool, task, words, plan(words))

    name = DTYPE_NAMES[dtype]
    need(CONVOLUTION + dtype, run, f"convolution.{name}", "int64(int64, int64)")
    need(WINOGRAD + dtype, winograd, f"winograd.{name}", "int64(int64, int64)")

    @jit
    def correlate(st, words):
        status = _run_with_memory(st, WINOGRAD + dtype, words, plan_winograd(words))
        if status == 1:
            status = by_pixels(st, words)
        if status == 1:
            status = call2(address_of(st, CONVOLUTION + dtype), state_of(st).pool, words)
        return status

    return correlate


def _fill_channels(dtype: int) -> Callable[..., Any]:
    """Return the helper that sets every pixel of an image's channels to the bias, or to zero."""
    pointer, size, scalar = POINTERS[dtype], ITEM_BYTES[dtype], SCALARS[dtype]

    @jit
    def fill_channels(to, bias, images, channels, pixels):
        for i in range(images * channels):
            value = pointer(bias)[i % channels] if bias != 0 else scalar(0)
            y = pointer(to + i * pixels * size)
            for j in range(np.uintp(pixels)):
                y[j] = value
        return 0

    return fill_channels


@jit
def _volume(p, at):
    return p[at] * p[at + 1] * p[at + 2]


@jit
def _bias_address(st, frame):
    return data_address(st, input_slot(frame, 2)) if input_count(frame) > 2 and input_slot(frame, 2) >= 0 else 0


@jit
def _describe(st, frame, words, channels_of_result, channels_of_image, images):
    """Write the words of the convolution itself."""
    p = int64_at(words)
    groups = attribute(frame, 0)
    p[GROUPS], p[IMAGES] = groups, images
    p[M], p[R] = channels_of_result // groups, channels_of_image // groups
    step = 1
    for e in range(3):
        d = 2 - e
        p[S + d], p[D + d], p[B + d] = attribute(frame, STRIDE + d), attribute(frame, DILATION + d), 0
        p[B + d] = -attribute(frame, PADDING + d)
        p[IN + d], p[T + d] = attribute(frame, IMAGE + d), attribute(frame, FILTER + d)
        p[NO + d] = attribute(frame, RESULT + d)
        p[OUT + d], p[OS + d], p[OB + d] = p[NO + d], 1, 0
        p[WT + d] = step
        step *= p[T + d]
    p[WB], p[WR], p[WM], p[WG] = 0, step, p[R] * step, p[M] * p[R] * step
    p[PLACES], p[RUNS] = step, 0
    for d in range(3):
        p[RUNS_OF + d] = 0
    return 0


def _convolution_kernel(dtype: int, result_dtype: int) -> Callable[..., int]:
    correlate = _make_correlate(dtype)
    fill_channels = _fill_channels(dtype)

    def kernel(st, frame):
        x, y = slot_of(st, input_slot(frame, 0)), slot_of(st, output_slot(frame, 0))
        if y.numel == 0:
            return 0
        words = stack_words(WORDS)
        p = int64_at(words)
        _describe(st, frame, words, shape_in(y)[1], shape_in(x)[1], shape_in(x)[0])
        p[X], p[W], p[Y] = (
            data_address(st, input_slot(frame, 0)),
            data_address(st, input_slot(frame, 1)),
            data_address(st, output_slot(frame, 0)),
        )
        p[BIAS] = _bias_address(st, frame)
        if slot_of(st, input_slot(frame, 1)).numel == 0:
            return fill_channels(p[Y], p[BIAS], p[IMAGES], shape_in(y)[1], _volume(p, NO))
        p[RUNS] = stack_words(ALL_RUNS_WORDS)
        for d in range(3):
            add_runs(p, d, 0, p[WT + d])
        return correlate(st, words)

    return kernel


@jit
def _first_place(residue, stride, dilation, length):
    """Return the first place in the filter that reaches results of this residue modulo the stride, or -1."""
    for k in range(least(stride, length)):
        if k * dilation % stride == residue:
            return k
    return -1


@jit
def _period(stride, dilation):
    """Return the distance of places in the filter that reach results of the same residue."""
    k = 1
    while k * dilation % stride != 0:
        k += 1
    return k


@jit
def _describe_phase(frame, words, d, first, weight_step):
    """Write what the results first, first + stride, ... of a transposed convolution are; return how many places count.

    Result i has, from place k of the filter, pixel (i + padding - k * dilation) / stride of the given image. The filter
    is read backwards, so that pixels ascend.
    """
    p = int64_at(words)
    stride, dilation = attribute(frame, STRIDE + d), attribute(frame, DILATION + d)
    length, shifted = attribute(frame, FILTER + d), first + attribute(frame, PADDING + d)
    place, period = _first_place(shifted % stride, stride, dilation, length), _period(stride, dilation)
    count = (length - place + period - 1) // period if place >= 0 else 0
    step = period * dilation // stride
    p[IN + d], p[OUT + d] = attribute(frame, RESULT + d), attribute(frame, IMAGE + d)
    p[NO + d] = (p[OUT + d] - first + stride - 1) // stride
    p[T + d], p[S + d], p[D + d] = count, 1, step
    p[B + d] = (shifted - place * dilation) // stride - (count - 1) * step
    p[OS + d], p[OB + d] = stride, first
    p[WT + d] = -period * weight_step
    p[WB] += (place + (count - 1) * period) * weight_step
    return count


@jit
def _describe_phases(frame, words, plane, row):
    """Write the runs of all results of a transposed convolution."""
    p = int64_at(words)
    for d in range(3):
        weight_step = plane if d == 0 else row if d == 1 else 1
        for first in range(least(attribute(frame, STRIDE + d), attribute(frame, IMAGE + d))):
            p[WB] = 0
            _describe_phase(frame, words, d, first, weight_step)
            add_runs(p, d, p[WB], p[WT + d])
    p[WB] = 0
    return 0


def _transposed_kernel(dtype: int, result_dtype: int) -> Callable[..., int]:
    correlate, by_pixels = _make_correlate(dtype), _make_pixels(dtype)
    fill_channels = _fill_channels(dtype)

    def kernel(st, frame):
        y, w = slot_of(st, output_slot(frame, 0)), slot_of(st, input_slot(frame, 1))
        if y.numel == 0:
            return 0
        words = stack_words(WORDS)
        p = int64_at(words)
        _describe(st, frame, words, shape_in(w)[0], shape_in(y)[1], shape_in(y)[0])
        p[X], p[W], p[Y] = (
            data_address(st, input_slot(frame, 0)),
            data_address(st, input_slot(frame, 1)),
            data_address(st, output_slot(frame, 0)),
        )
        p[BIAS] = _bias_address(st, frame)
        p[M], p[R] = p[R], p[M]
        p[WM], p[WR] = p[WR], p[WM]
        plane, row = p[WT], p[WT + 1]
        missing = w.numel == 0
        for d in range(3):
            stride = attribute(frame, STRIDE + d)
            for first in range(least(stride, attribute(frame, IMAGE + d))):
                residue = (first + attribute(frame, PADDING + d)) % stride
                missing |= (
                    _first_place(residue, stride, attribute(frame, DILATION + d), attribute(frame, FILTER + d)) < 0
                )
        if missing:
            fill_channels(p[Y], p[BIAS], shape_in(y)[0], shape_in(y)[1], _volume(p, IN))
        if w.numel == 0:
            return 0
        p[RUNS] = stack_words(ALL_RUNS_WORDS)
        _describe_phases(frame, words, plane, row)
        if attribute(frame, STRIDE) * attribute(frame, STRIDE + 1) * attribute(frame, STRIDE + 2) > 1:
            status = by_pixels(st, words)
            if status != 1:
                return status
        for i in range(least(attribute(frame, STRIDE), attribute(frame, IMAGE))):
            for j in range(least(attribute(frame, STRIDE + 1), attribute(frame, IMAGE + 1))):
                for k in range(least(attribute(frame, STRIDE + 2), attribute(frame, IMAGE + 2))):
                    p[WB] = 0
                    places = _describe_phase(frame, words, 0, i, plane)
                    places *= _describe_phase(frame, words, 1, j, row)
                    places *= _describe_phase(frame, words, 2, k, 1)
                    if places > 0:
                        status = correlate(st, words)
                        if status < 0:
                            return status
        return 0

    return kernel


def _weight_kernel(dtype: int, result_dtype: int) -> Callable[..., int]:
    plan, task, combine, blocks_of = make_weight_gradient(dtype)
    plan_winograd, winograd = make_winograd_weight(dtype)
    need(WINOGRAD_WEIGHT + dtype, winograd, f"winograd_weight.{DTYPE_NAMES[dtype]}", "int64(int64, int64)")
    pointer, scalar = POINTERS[dtype], SCALARS[dtype]

    @jit
    def run(pool, words):
        p = int64_at(words)
        status = parallel_for(pool, task, words, p[PARTS] * p[NGB] * p[NMB])
        return parallel_for(pool, combine, words, p[GROUPS] * blocks_of(p)) if status >= 0 else status

    def kernel(st, frame):
        x, g = slot_of(st, input_slot(frame, 0)), slot_of(st, input_slot(frame, 1))
        y = slot_of(st, output_slot(frame, 0))
        if g.numel == 0 or x.numel == 0:
            out = pointer(data_address(st, output_slot(frame, 0)))
            for i in range(np.uintp(y.numel)):
                out[i] = scalar(0)
            return 0
        words = stack_words(WORDS)
        p = int64_at(words)
        _describe(st, frame, words, shape_in(g)[1], shape_in(x)[1], shape_in(x)[0])
        size = plan_winograd(words)
        by_tiles = size > 0
        if not by_tiles:
            size = plan(words)
        # no storage: a captured program runs this with a state of its own, which must not take rows of tables
        index = size_class(size)
        p[PARTIAL] = take_block(st, index)
        if p[PARTIAL] == 0:
            return OUT_OF_MEMORY
        p[X], p[W] = data_address(st, input_slot(frame, 0)), data_address(st, input_slot(frame, 1))
        p[Y] = data_address(st, output_slot(frame, 0))
        pool = state_of(st).pool
        status = call2(address_of(st, WINOGRAD_WEIGHT + dtype), pool, words) if by_tiles else run(pool, words)
        give_block(st, p[PARTIAL], index)
        return status

    return kernel


# ---- the bias' gradient: sums over all but the channels, and their transpose ----


def channel_sum_infer(st, frame):
    y = slot_of(st, output_slot(frame, 0))
    y.ndim = 1
    shape_in(y)[0] = shape_in(slot_of(st, input_slot(frame, 0)))[1]
    return 0


def channel_fill_infer(st, frame):
    x, y = slot_of(st, input_slot(frame, 1)), slot_of(st, output_slot(frame, 0))
    y.ndim = x.ndim
    for d in range(x.ndim):
        shape_in(y)[d] = shape_in(x)[d]
    return 0


def _channel_sum_kernel(dtype: int, result_dtype: int) -> Callable[..., int]:
    pointer, size, scalar = POINTERS[dtype], ITEM_BYTES[dtype], SCALARS[dtype]
    total = row_reducer(dtype, dtype, 0, step_of(add), add)

    @jit
    def task(words, index, scratch):
        p = int64_at(words)
        images, channels, pixels, each = p[2], p[3], p[4], p[5]
        for c in range(index * each, least((index + 1) * each, channels)):
            result = 0.0
            for n in range(images):
                row = p[0] + (n * channels + c) * pixels * size
                for first in range(0, pixels, _BLOCK):
                    result += np.float64(total(pointer(row + first * size), least(_BLOCK, pixels - first), scalar(0)))
            pointer(p[1])[c] = scalar(result)
        return 0

    def kernel(st, frame):
        x = slot_of(st, input_slot(frame, 0))
        words = stack_words(6)
        p = int64_at(words)
        p[0], p[1] = data_address(st, input_slot(frame, 0)), data_address(st, output_slot(frame, 0))
        p[2], p[3] = shape_in(x)[0], shape_in(x)[1]
        if p[3] == 0:
            return 0
        p[4] = x.numel // p[2] // p[3] if p[2] > 0 else 0
        p[5] = _TASK_BYTES // (p[2] * p[4] * size + 1) + 1
        return parallel_for(state_of(st).pool, task, words, (p[3] + p[5] - 1) // p[5])

    return kernel


def _channel_fill_kernel(dtype: int, result_dtype: int) -> Callable[..., int]:
    fill_channels = _fill_channels(dtype)

    def kernel(st, frame):
        y = slot_of(st, output_slot(frame, 0))
        if y.numel == 0:
            return 0
        images, channels = shape_in(y)[0], shape_in(y)[1]
        return fill_channels(
            data_address(st, output_slot(frame, 0)), data_address(st, input_slot(frame, 0)), images, channels,
            y.numel // (images * channels),
        )  # fmt: skip

    return kernel


# ---- what the kernels trust their callers with ----


def _fits(image: int | None, filter: int | None, result: int | None) -> Rule:
    """Operands have the shapes that the attributes say (at most one of the three is the op's result); the bias too."""

    def rule(x: Operands, a: Attributes) -> bool:
        ndim = len(needed(x, 0).shape) - 2
        if not 1 <= ndim <= 3 or len(a) < 19 or not _is_geometry(a, ndim):
            return False
        groups, pixels, taps, places = a[0], *[tuple(a[k + 3 - ndim : k + 3]) for k in (IMAGE, FILTER, RESULT)]
        shapes = [None if k is None else needed(x, k).shape for k in (image, filter, result)]
        n = next(shape[0] for shape in (shapes[0], shapes[2]) if shape is not None)
        channels, results = _channels(shapes, groups)
        wanted = [(n, channels, *pixels), (results, channels // groups, *taps), (n, results, *places)]
        if channels % groups or results % groups or not all(is_few(*shape) for shape in wanted):
            return False
        bias = x[2] if len(x) > 2 else None
        if bias is not None and bias.shape != ((channels,) if image is None else (results,)):
            return False
        return all(shape in (None, right) for shape, right in zip(shapes, wanted, strict=True))

    return rule


def _channels(shapes: Sequence[Shape | None], groups: int) -> tuple[int, int]:
    """Return how many channels the image and the result have."""
    image, filter, result = [None if shape is None else (*shape, 0, 0)[:2] for shape in shapes]
    channels = image[1] if image is not None else filter[1] * groups if filter is not None else 0
    return channels, filter[0] if filter is not None else result[1] if result is not None else 0


def _is_geometry(a: Attributes, ndim: int) -> bool:
    """Return whether windows of the filter begin in the padded image, and end at most one further than in it."""
    if not 1 <= a[0] < 1 << 31 or not all(0 <= n < 1 << 31 for n in a[:19]):
        return False
    for d in range(3):
        stride, padding, dilation, image, filter, result = a[1 + d : 19 : 3]
        if min(stride, dilation, image, filter, result) < 1:
            return False
        if d < 3 - ndim and (stride, padding, dilation, image, filter, result) != (1, 0, 1, 1, 1, 1):
            return False
        if (result - 1) * stride + dilation * (filter - 1) + 1 > image + 2 * padding + 1:
            return False
    return True


# ---- references ----


def _places(attributes: tuple[Any, ...], ndim: int) -> tuple[list[Any], int]:
    """Return, for each spatial dimension, ones where place t, result o and pixel i meet; and the groups."""
    rows = np.array(attributes[1:19]).reshape(6, 3)[:, 3 - ndim :].T
    found = []
    for stride, padding, dilation, image, places, result in rows:
        t, o, i = np.ogrid[:places, :result, :image]
        found.append((i == o * stride + t * dilation - padding).astype(float))
    return found, attributes[0]


def _einsum(target: str, x: Any, w: Any, y: Any, attributes: tuple[Any, ...]) -> Any:
    """Return x ("image"), w ("filter") or y ("result") from the other two."""
    ndim = next(a for a in (x, w, y) if a is not None).ndim - 2
    places, groups = _places(attributes, ndim)
    pixels, taps, results = "abc"[:ndim], "ijk"[:ndim], "uvw"[:ndim]
    names = {"image": "ngr" + pixels, "filter": "gmr" + taps, "result": "ngm" + results}
    operands: list[Any] = []
    for name, array in (("image", x), ("filter", w), ("result", y)):
        if array is not None:
            at = 0 if name == "filter" else 1  # of the channels that fall into groups
            split = (groups, array.shape[at] // groups)
            operands += [names[name], array.reshape(*array.shape[:at], *split, *array.shape[at + 1 :])]
    terms = [*operands[::2], *[taps[d] + results[d] + pixels[d] for d in range(ndim)]]
    found = np.einsum(f"{','.join(terms)}->{names[target]}", *operands[1::2], *places, optimize=True)
    at = 0 if target == "filter" else 1
    return found.reshape(*found.shape[:at], found.shape[at] * found.shape[at + 1], *found.shape[at + 2 :])


def _with_bias(y: Any, bias: Any) -> Any:
    return y if bias is None else y + bias.reshape(-1, *[1] * (y.ndim - 2))


def geometry(
    ndim: int, groups: int, stride: Any, padding: Any, dilation: Any, image: Any, places: Any, result: Any
) -> tuple[int, ...]:
    """Return the attributes of the three ops; missing dimensions come first."""
    lead = 3 - ndim
    ones, zeros = (1,) * lead, (0,) * lead
    return (groups, *ones, *stride, *zeros, *padding, *ones, *dilation, *ones, *image, *ones, *places, *ones, *result)


def _samples(*operands: str) -> Callable[..., Any]:
    """Return samples in one to three dimensions, with groups, strides, dilation and uneven padding."""
    cases = (
        # channels of a group, groups, images; then stride, padding, dilation, image, filter, result
        (2, 3, 1, 2, (1,), (1,), (1,), (5,), (3,), (5,)),
        (1, 2, 2, 1, (2, 1), (1, 0), (1, 2), (5, 4), (3, 2), (3, 2)),
        (1, 1, 1, 2, (2,), (0,), (3,), (6,), (2,), (2,)),
        (2, 1, 1, 1, (1, 1, 1), (0, 1, 0), (1, 1, 1), (2, 2, 3), (2, 2, 1), (1, 3, 3)),
    )

    def samples(make: Any) -> Any:
        for m, r, groups, images, *rest in cases:
            shapes = {
                "image": (images, groups * r, *rest[3]),
                "filter": (groups * m, r, *rest[4]),
                "result": (images, groups * m, *rest[5]),
                "bias": (groups * (r if operands[0] == "result" else m),),
            }
            words = geometry(len(rest[0]), groups, *rest)
            yield tuple(make(*shapes[name]) for name in operands), {"attributes": words}

    return samples


def _declare(
    name: str, inputs: tuple[str, ...], infer: Any, kernel: Any, vjp: Any, math: str, valid: Rule, **more: Any
) -> Op:
    return declare(
        Op(
            name=name,
            inputs=inputs,
            optional=("bias",),
            fewest=2 if "bias" in inputs else None,
            kind=GENERAL,
            infer=infer,
            valid=valid,
            kernel=kernel,
            vjp=vjp,
            dtypes=FLOATS,
            contiguous=tuple(i for i in inputs if i not in more.get("shape_only", ())),
            public=False,
            math=math,
            **more,
        )
    )


CONVOLUTION_OP = _declare(
    "convolution_nd",
    ("input", "weight", "bias"),
    convolution_infer,
    _convolution_kernel,
    lambda g, y, x, w, b: (
        g.convolution_transposed(w, attributes=OF_ENTRY),
        x.convolution_weight(g, attributes=OF_ENTRY),
        g.channel_sum(),
    ),
    "x * w + b",
    _fits(0, 1, None),
    reference=lambda x, w, b=None, *, attributes: _with_bias(_einsum("result", x, w, None, attributes), b),
    samples=_samples("image", "filter", "bias"),
)
TRANSPOSED_OP = _declare(
    "convolution_transposed",
    ("input", "weight", "bias"),
    transposed_infer,
    _transposed_kernel,
    lambda h, y, g, w, b: (
        h.convolution_nd(w, attributes=OF_ENTRY),
        h.convolution_weight(g, attributes=OF_ENTRY),
        h.channel_sum(),
    ),
    "x * w, transposed, + b",
    _fits(None, 1, 0),
    reference=lambda g, w, b=None, *, attributes: _with_bias(_einsum("image", None, w, g, attributes), b),
    samples=_samples("result", "filter", "bias"),
)
_declare(
    "convolution_weight",
    ("input", "gradient"),
    weight_infer,
    _weight_kernel,
    lambda h, y, x, g: (g.convolution_transposed(h, attributes=OF_ENTRY), x.convolution_nd(h, attributes=OF_ENTRY)),
    "the gradient of w in x * w",
    _fits(0, None, 1),
    reference=lambda x, g, *, attributes: _einsum("filter", x, None, g, attributes),
    samples=_samples("image", "result"),
)
_declare(
    "channel_sum",
    ("input",),
    channel_sum_infer,
    _channel_sum_kernel,
    lambda g, y, x: g.channel_fill(x),
    "sum of each channel",
    at_least(2),
    reference=lambda x: x.sum((0, *range(2, x.ndim))),
    samples=lambda make: [((make(2, 3, 4),),), ((make(1, 2, 3, 2),),), ((make(0, 2, 3),),)],
)
_declare(
    "channel_fill",
    ("gradient", "input"),
    channel_fill_infer,
    _channel_fill_kernel,
    lambda h, y, g, x: (h.channel_sum(), None),
    "a number for each channel",
    every(at_least(2, 1), with_numel(lambda x, a: needed(x, 1).shape[1], 0)),
    reference=lambda g, x: np.broadcast_to(g.reshape(-1, *[1] * (x.ndim - 2)), x.shape),
    samples=lambda make: [((make(3), make(2, 3, 4)), {}, {"fixed": (1,)})],
    shape_only=("input",),
)
