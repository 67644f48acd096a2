"""The ops of max pooling: maxima of windows with their places, and what their gradients are made of; means of planes.

The places of a result, int32 indices into the planes of the input, are all that its gradient reads.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tapegrad.kernels.max_pool import (
    AT,
    CEIL,
    DILATION,
    KERNEL,
    PADDING,
    RESULT,
    ROWS,
    SIZE,
    STRIDE,
    X,
    Y,
    make_adaptive_max_pool,
    make_max_pool,
    pooled_size,
)
from tapegrad.kernels.planes import AT as PLACES
from tapegrad.kernels.planes import (
    FRESH,
    GATHER,
    PART,
    PLACE,
    PLANES,
    SCATTER,
    WHOLE,
    WIDE,
    M,
    N,
    bad_place,
    make_plane_mean,
    make_planes,
)
from tapegrad.native.cache import jit
from tapegrad.native.dtypes import INT32, INT64
from tapegrad.native.pointers import int64_at, stack_words
from tapegrad.ops.registry import FLOATS, NUMBERS, OF_ENTRY, Op, declare
from tapegrad.ops.validity import Attributes, Operands, Rule, every, int64, is_few, needed, same_shape
from tapegrad.runtime.layout import (
    BAD_ARGUMENT,
    BAD_INDEX,
    GENERAL,
    attribute,
    data_address,
    input_slot,
    output_slot,
    shape_in,
    slot_of,
    state_of,
)

# Attributes: how many dimensions a plane has; then of each of depth, height and width the window's size, stride,
# padding and dilation, three of each; whether a window may end beyond the padding.


@jit
def _read_attributes(st, frame, words):
    """Note sizes and windows in a context; depth and height of what has none are 1."""
    x = slot_of(st, input_slot(frame, 0))
    for k in range(12):
        words[KERNEL + k] = attribute(frame, 1 + k)
    words[CEIL] = attribute(frame, 13)
    for d in range(3):
        at = x.ndim - 3 + d
        words[SIZE + d] = shape_in(x)[at] if d >= 3 - attribute(frame, 0) else 1


@jit
def _set_result(st, frame, words):
    """Give both results the input's shape with the last dimensions of the windows' numbers."""
    x = slot_of(st, input_slot(frame, 0))
    spatial = attribute(frame, 0)
    for k in range(2):
        y = slot_of(st, output_slot(frame, k))
        y.ndim = x.ndim
        for d in range(x.ndim):
            lead = x.ndim - spatial
            shape_in(y)[d] = shape_in(x)[d] if d < lead else words[RESULT + 3 - x.ndim + d]
    slot_of(st, output_slot(frame, 1)).dtype = INT32


def max_pool_infer(st, frame):
    """See the attributes above; errors are found before, in Python: here nothing is written out of bounds."""
    words = int64_at(stack_words(32))
    _read_attributes(st, frame, words)
    for d in range(3):
        kernel, stride, padding = words[KERNEL + d], words[STRIDE + d], words[PADDING + d]
        if kernel < 1 or stride < 1 or padding < 0 or words[DILATION + d] < 1:
            return BAD_ARGUMENT
        words[RESULT + d] = pooled_size(words[SIZE + d], kernel, stride, padding, words[DILATION + d], words[CEIL])
        if words[RESULT + d] < 1:
            return BAD_ARGUMENT
    _set_result(st, frame, words)
    return 0


def adaptive_max_pool_infer(st, frame):
    """Attributes: how many dimensions a plane has, the result's sizes (depth, height, width)."""
    words = int64_at(stack_words(32))
    for d in range(3):
        words[RESULT + d] = attribute(frame, 1 + d)
        if words[RESULT + d] < 0:
            return BAD_ARGUMENT
    _set_result(st, frame, words)
    return 0


@jit
def _set_context(st, frame, words):
    x, y = slot_of(st, input_slot(frame, 0)), slot_of(st, output_slot(frame, 0))
    spatial = attribute(frame, 0)
    for d in range(3):
        inside = d >= 3 - spatial
        words[SIZE + d] = shape_in(x)[x.ndim - 3 + d] if inside else 1
        words[RESULT + d] = shape_in(y)[x.ndim - 3 + d] if inside else 1
    words[X] = data_address(st, input_slot(frame, 0))
    words[Y] = data_address(st, output_slot(frame, 0))
    words[AT] = data_address(st, output_slot(frame, 1))
    words[ROWS] = y.numel // max(1, words[RESULT + 2])


def _max_pool_kernel(dtype: int, result_dtype: int) -> Callable[..., int]:
    pool = make_max_pool(dtype)

    def kernel(st, frame):
        context = stack_words(32)
        words = int64_at(context)
        _read_attributes(st, frame, words)
        _set_context(st, frame, words)
        return pool(context, state_of(st).pool)

    return kernel


def _adaptive_kernel(dtype: int, result_dtype: int) -> Callable[..., int]:
    pool = make_adaptive_max_pool(dtype)

    def kernel(st, frame):
        context = stack_words(32)
        _set_context(st, frame, int64_at(context))
        return pool(context, state_of(st).pool)

    return kernel


def _windows(shape: tuple[int, ...], attributes: tuple[int, ...]) -> list[list[list[int]]]:
    """Return, for each dimension of a plane, the elements of each window."""
    spatial, ceil = attributes[0], attributes[13]
    found = []
    for d in range(3 - spatial, 3):
        n = shape[len(shape) - 3 + d]
        kernel, stride, padding, dilation = attributes[1 + d : 13 : 3]
        m = (n + 2 * padding - dilation * (kernel - 1) - 1 + (stride - 1) * ceil) // stride + 1
        m -= bool(ceil and (m - 1) * stride >= n + padding)
        starts = [j * stride - padding for j in range(m)]
        found.append([[i for i in range(s, s + dilation * kernel, dilation) if 0 <= i < n] for s in starts])
    return found


def _adaptive_windows(shape: tuple[int, ...], attributes: tuple[int, ...]) -> list[list[range]]:
    sizes = attributes[4 - attributes[0] :]
    return [
        [range(i * n // m, -(-(i + 1) * n // m)) for i in range(m)]
        for n, m in zip(shape[len(shape) - len(sizes) :], sizes, strict=True)
    ]


def _maxima(x: Any, windows: list[Any]) -> tuple[Any, Any]:
    """Return the maxima of the windows, which are products of one range a dimension, and their places."""
    spatial = len(windows)
    lead, sizes = x.shape[: x.ndim - spatial], x.shape[x.ndim - spatial :]
    planes = x.reshape(-1, int(np.prod(sizes)))
    places = np.arange(planes.shape[1]).reshape(sizes)
    counts = [len(part) for part in windows]
    y, at = np.empty((len(planes), *counts), x.dtype), np.zeros((len(planes), *counts), np.int32)
    for j in np.ndindex(*counts):
        inside = places[np.ix_(*[part[k] for part, k in zip(windows, j, strict=True)])].ravel()
        best = inside[planes[:, inside].argmax(1)] if len(inside) else np.full(len(planes), -1)
        at[(slice(None), *j)] = best
        y[(slice(None), *j)] = planes[np.arange(len(planes)), best] if len(inside) else -np.inf
    return y.reshape(*lead, *counts), at.reshape(*lead, *counts)


def window_attributes(
    kernel: tuple[int, ...], stride: tuple[int, ...], padding: tuple[int, ...], dilation: tuple[int, ...], ceil: bool
) -> tuple[int, ...]:
    """Return a max pooling's attributes from one number for each dimension of a plane."""
    fill = 3 - len(kernel)
    parts = [(1,) * fill + kernel, (1,) * fill + stride, (0,) * fill + padding, (1,) * fill + dilation]
    return (len(kernel), *(number for part in parts for number in part), int(ceil))


def _max_pool_samples(make: Any) -> Any:
    windows = [
        ((2, 6, 7), ((2, 2), (2, 2), (0, 0), (1, 1), False)),
        ((1, 7, 21), ((3, 3), (2, 2), (1, 1), (1, 1), True)),
        ((2, 1, 5, 8), ((3, 3), (1, 1), (1, 0), (1, 1), False)),
        ((2, 9, 18), ((2, 3), (1, 3), (1, 0), (3, 2), False)),
        ((2, 11), ((3,), (2,), (1,), (2,), True)),
        ((2, 4, 5, 4), ((2, 3, 2), (2, 1, 1), (1, 1, 0), (1, 1, 1), False)),
        ((0, 3, 5, 5), ((2, 2), (2, 2), (0, 0), (1, 1), False)),
    ]
    floats = {"dtypes": ("float32", "float64")}  # a kernel takes a second to compile; uint8 is in tests/test_pooling.py
    return [((make(*shape),), {"attributes": window_attributes(*window)}, floats) for shape, window in windows]


def _planes(at: int, more: int = 0) -> Rule:
    """The first attribute is how many of an operand's last dimensions a plane has; there are so many more of them."""

    def rule(x: Operands, a: Attributes) -> bool:
        return len(a) > more and 1 <= a[0] <= min(3, len(needed(x, at).shape))

    return rule


def _has_windows(x: Operands, a: Attributes) -> bool:
    """Windows are padded by half of them at most, and missing dimensions have windows of one element."""
    plane, rows = needed(x, 0).shape[-a[0] :], [a[1 + d : 13 : 3] for d in range(3)]
    if min(plane) < 1 or not all(0 <= n < 1 << 31 for n in a[:14]) or a[13] > 1:
        return False
    if any(tuple(row) != (1, 1, 0, 1) for row in rows[: 3 - a[0]]):
        return False
    return all(2 * padding <= kernel for kernel, _, padding, _ in rows)


def _shares_out(x: Operands, a: Attributes) -> bool:
    shape, sizes, missing = needed(x, 0).shape, a[1:4], 3 - a[0]
    lead = shape[: len(shape) - a[0]]
    return min(shape[-a[0] :]) > 0 and all(n == 1 for n in sizes[:missing]) and is_few(*lead, *sizes[missing:])


MAX_POOL = declare(
    Op(
        name="max_pool",
        valid=every(_planes(0, 13), _has_windows),
        inputs=("input",),
        kind=GENERAL,
        outputs=2,
        dtypes=NUMBERS,
        infer=max_pool_infer,
        kernel=_max_pool_kernel,
        vjp=lambda g, y, x: g[0].plane_scatter(y[1], x, attributes=OF_ENTRY),
        contiguous=("input",),
        public=False,
        reference=lambda x, attributes: _maxima(x, _windows(x.shape, attributes)),
        samples=_max_pool_samples,
        math="the maximum of each window, and its place",
    )
)
ADAPTIVE_MAX_POOL = declare(
    Op(
        name="adaptive_max_pool",
        valid=every(_planes(0, 3), _shares_out),
        inputs=("input",),
        kind=GENERAL,
        outputs=2,
        dtypes=FLOATS,
        infer=adaptive_max_pool_infer,
        kernel=_adaptive_kernel,
        vjp=lambda g, y, x: g[0].plane_scatter(y[1], x, attributes=OF_ENTRY),
        contiguous=("input",),
        public=False,
        reference=lambda x, attributes: _maxima(x, _adaptive_windows(x.shape, attributes)),
        samples=lambda make: [
            ((make(2, 5, 7),), {"attributes": (2, 1, 3, 2)}),
            ((make(2, 3),), {"attributes": (1, 1, 1, 5)}),
            ((make(1, 4, 5, 3),), {"attributes": (3, 2, 2, 3)}),
        ],
        math="the maximum of each of m windows that share out n elements, and its place",
    )
)


# ---- reads and sums at places ----


def _leads_agree(whole: int, part: int) -> Rule:
    def rule(x: Operands, a: Attributes) -> bool:
        shape, other = needed(x, whole).shape, needed(x, part).shape
        lead = len(shape) - a[0]
        return len(shape) == len(other) and shape[:lead] == other[:lead]

    return rule


def _has_places(x: Operands, a: Attributes) -> bool:
    return needed(x, 1).dtype in (INT32, INT64)


def _makes_planes(x: Operands, a: Attributes) -> bool:
    shape = needed(x, 0).shape
    return len(a) > a[0] and is_few(*shape[: len(shape) - a[0]], *a[1 : 1 + a[0]])


def _has_means(x: Operands, a: Attributes) -> bool:
    shape = needed(x, 1).shape
    return needed(x, 0).shape == (*shape[: len(shape) - a[0]], *[1] * a[0])


@jit
def _like(st, frame, model):
    y = slot_of(st, output_slot(frame, 0))
    y.ndim = model.ndim
    for d in range(model.ndim):
        shape_in(y)[d] = shape_in(model)[d]


def plane_gather_infer(st, frame):
    """The result is like the places. Attributes: how many dimensions a plane has, and what the caller adds."""
    _like(st, frame, slot_of(st, input_slot(frame, 1)))
    return 0


def plane_scatter_infer(st, frame):
    """The result is like the third operand."""
    _like(st, frame, slot_of(st, input_slot(frame, 2)))
    return 0


def max_unpool_infer(st, frame):
    """Attributes: how many dimensions a plane has, the result's sizes."""
    x, y = slot_of(st, input_slot(frame, 0)), slot_of(st, output_slot(frame, 0))
    y.ndim = x.ndim
    lead = x.ndim - attribute(frame, 0)
    for d in range(x.ndim):
        shape_in(y)[d] = shape_in(x)[d] if d < lead else attribute(frame, 1 + d - lead)
    return 0


@jit
def _plane_context(st, frame, words, whole_slot, part_slot):
    whole, part = slot_of(st, whole_slot), slot_of(st, part_slot)
    words[PLANES] = 1
    for d in range(whole.ndim - attribute(frame, 0)):
        words[PLANES] *= shape_in(whole)[d]
    words[N], words[M] = whole.numel // max(1, words[PLANES]), part.numel // max(1, words[PLANES])
    words[WHOLE], words[PART] = data_address(st, whole_slot), data_address(st, part_slot)
    words[PLACES] = data_address(st, input_slot(frame, 1))
    words[WIDE] = slot_of(st, input_slot(frame, 1)).dtype == INT64
    words[FRESH] = 0


def _gather_kernel(dtype: int, result_dtype: int) -> Callable[..., int]:
    run = make_planes(dtype, GATHER)

    def kernel(st, frame):
        context = stack_words(16)
        _plane_context(st, frame, int64_at(context), input_slot(frame, 0), output_slot(frame, 0))
        return run(context, state_of(st).pool)

    return kernel


def _scatter_kernel(dtype: int, result_dtype: int) -> Callable[..., int]:
    run = make_planes(dtype, SCATTER)

    def kernel(st, frame):
        context = stack_words(16)
        _plane_context(st, frame, int64_at(context), output_slot(frame, 0), input_slot(frame, 0))
        int64_at(context)[FRESH] = output_slot(frame, 0) != input_slot(frame, 2)
        return run(context, state_of(st).pool)

    return kernel


def _unpool_kernel(dtype: int, result_dtype: int) -> Callable[..., int]:
    run = make_planes(dtype, PLACE)

    def kernel(st, frame):
        context = stack_words(16)
        words = int64_at(context)
        _plane_context(st, frame, words, output_slot(frame, 0), input_slot(frame, 0))
        words[FRESH] = 1
        bad = bad_place(words[PLACES], words[PLANES] * words[M], words[N])
        if bad >= 0:
            state_of(st).error_value0 = int64_at(words[PLACES])[bad]
            state_of(st).error_value1 = words[N]
            return BAD_INDEX
        return run(context, state_of(st).pool)

    return kernel


def _flat(x: Any, spatial: int) -> Any:
    return x.reshape(*x.shape[: x.ndim - spatial], int(np.prod(x.shape[x.ndim - spatial :])))


def _gathered(x: Any, at: Any, attributes: tuple[int, ...]) -> Any:
    places = _flat(at, attributes[0])
    found = np.take_along_axis(_flat(x, attributes[0]), np.maximum(places, 0), -1)
    return np.where(places < 0, 0, found).reshape(at.shape)


def _scattered(g: Any, at: Any, like: Any, attributes: tuple[int, ...]) -> Any:
    y = np.zeros_like(_flat(like, attributes[0]))
    planes, places, values = (a.reshape(-1, a.shape[-1]) for a in (y, *(_flat(b, attributes[0]) for b in (at, g))))
    for plane, place, value in zip(planes, places, values, strict=True):
        np.add.at(plane, place[place >= 0], value[place >= 0])
    return y.reshape(like.shape)


def _unpooled(x: Any, at: Any, attributes: tuple[int, ...]) -> Any:
    spatial, *sizes = attributes
    return _scattered(x, at, np.zeros((*x.shape[: x.ndim - spatial], *sizes), x.dtype), attributes)


def _places(make: Any, *shape: int, n: int, least: int = 0) -> Any:
    return make.integers(*shape, low=least, high=n).astype(np.int32)


declare(
    Op(
        name="plane_gather",
        valid=every(_planes(0), _has_places, _leads_agree(0, 1)),
        inputs=("input", "places"),
        kind=GENERAL,
        infer=plane_gather_infer,
        kernel=_gather_kernel,
        vjp=lambda g, y, x, at: (g.plane_scatter(at, x, attributes=OF_ENTRY), None),
        dtypes=FLOATS,
        unpromoted=("places",),
        contiguous=("input", "places"),
        public=False,
        reference=_gathered,
        samples=lambda make: [
            ((make(2, 3, 4), _places(make, 2, 5, 2, n=12, least=-1)), {"attributes": (2,)}),
            ((make(3, 4), make.integers(3, 5, high=4)), {"attributes": (1,)}),
        ],
        math="y_pi = x_{p at_pi}",
    )
)
declare(
    Op(
        name="plane_scatter",
        valid=every(_planes(2), _has_places, same_shape(0, 1), _leads_agree(2, 0)),
        inputs=("input", "places", "like"),
        kind=GENERAL,
        infer=plane_scatter_infer,
        kernel=_scatter_kernel,
        vjp=lambda g, y, x, at, like: (g.plane_gather(at, attributes=OF_ENTRY), None, None),
        dtypes=FLOATS,
        shape_only=("like",),
        unpromoted=("places", "like"),
        contiguous=("input", "places"),
        accumulates=True,
        public=False,
        reference=_scattered,
        samples=lambda make: [
            ((make(2, 5, 2), _places(make, 2, 5, 2, n=12, least=-1), make(2, 3, 4)), {"attributes": (2,)}),
            ((make(3, 5), make.integers(3, 5, high=4), make(3, 4)), {"attributes": (1,)}),
        ],
        math="zeros like `like`, with x added at the places of each plane",
    )
)
MAX_UNPOOL = declare(
    Op(
        name="max_unpool",
        valid=every(_planes(0), int64(1), same_shape(0, 1), _makes_planes),
        inputs=("input", "places"),
        kind=GENERAL,
        infer=max_unpool_infer,
        kernel=_unpool_kernel,
        vjp=lambda g, y, x, at: (g.plane_gather(at, attributes=OF_ENTRY), None),
        dtypes=FLOATS,
        unpromoted=("places",),
        contiguous=("input", "places"),
        public=False,
        reference=_unpooled,
        samples=lambda make: [
            ((make(2, 2, 2), np.array([[[3, 0], [11, 7]], [[5, 6], [1, 10]]])), {"attributes": (2, 3, 4)}),
            ((make(1, 3), np.array([[4, 0, 2]])), {"attributes": (1, 6)}),
        ],
        math="zeros, with x at the places of each plane",
    )
)


# ---- means of planes ----


def plane_mean_infer(st, frame):
    """Attributes: how many dimensions a plane has; they become 1."""
    x, y = slot_of(st, input_slot(frame, 0)), slot_of(st, output_slot(frame, 0))
    y.ndim = x.ndim
    for d in range(x.ndim):
        shape_in(y)[d] = shape_in(x)[d] if d < x.ndim - attribute(frame, 0) else 1
    return 0


def plane_share_infer(st, frame):
    """The result is like the second operand."""
    _like(st, frame, slot_of(st, input_slot(frame, 1)))
    return 0


@jit
def _mean_context(st, frame, words, whole_slot, part_slot):
    words[PLANES] = slot_of(st, part_slot).numel
    words[N] = slot_of(st, whole_slot).numel // max(1, words[PLANES])
    words[WHOLE], words[PART] = data_address(st, whole_slot), data_address(st, part_slot)


def _mean_kernel(dtype: int, result_dtype: int) -> Callable[..., int]:
    run = make_plane_mean(dtype, transposed=False)

    def kernel(st, frame):
        context = stack_words(16)
        _mean_context(st, frame, int64_at(context), input_slot(frame, 0), output_slot(frame, 0))
        return run(context, state_of(st).pool)

    return kernel


def _share_kernel(dtype: int, result_dtype: int) -> Callable[..., int]:
    run = make_plane_mean(dtype, transposed=True)

    def kernel(st, frame):
        context = stack_words(16)
        _mean_context(st, frame, int64_at(context), output_slot(frame, 0), input_slot(frame, 0))
        return run(context, state_of(st).pool)

    return kernel


def _plane_axes(attributes: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(range(-attributes[0], 0))


PLANE_MEAN = declare(
    Op(
        name="plane_mean",
        valid=_planes(0),
        inputs=("input",),
        kind=GENERAL,
        infer=plane_mean_infer,
        kernel=_mean_kernel,
        vjp=lambda g, y, x: g.plane_share(x, attributes=OF_ENTRY),
        dtypes=FLOATS,
        contiguous=("input",),
        public=False,
        reference=lambda x, attributes: x.mean(_plane_axes(attributes), keepdims=True),
        samples=lambda make: [
            ((make(2, 3, 4, 5),), {"attributes": (2,)}),
            ((make(3, 70),), {"attributes": (1,)}),
            ((make(0, 3, 4),), {"attributes": (2,)}),
        ],
        math="the mean of each plane",
    )
)
declare(
    Op(
        name="plane_share",
        valid=every(_planes(1), _has_means),
        inputs=("input", "like"),
        kind=GENERAL,
        infer=plane_share_infer,
        kernel=_share_kernel,
        vjp=lambda g, y, x, like: (g.plane_mean(attributes=OF_ENTRY), None),
        dtypes=FLOATS,
        shape_only=("like",),
        unpromoted=("like",),
        contiguous=("input",),
        public=False,
        reference=lambda x, like, attributes: (
            np.broadcast_to(x, like.shape) / np.prod(like.shape[like.ndim - attributes[0] :])
        ),
        samples=lambda make: [
            ((make(2, 3, 1, 1), make(2, 3, 4, 5)), {"attributes": (2,)}),
            ((make(3, 1), make(3, 70)), {"attributes": (1,)}),
        ],
        math="x / n in all n elements of its plane",
    )
)
