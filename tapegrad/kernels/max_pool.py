"""Maxima of windows with the places of the maxima, row by row of the result.

Volumes are [planes, depth, height, width]; images and rows have depth, and height, 1. A place is an int32 index into a
plane, the first of equal maxima; nan counts as a maximum, the last one of several.

Eight windows side by side are done together by vector code, which keeps the maxima and their places in registers; the
last eight of a row overlap those before them. (Left to the loop vectoriser, 3 x 3 windows 2 apart took 3.8 ns each, for
it does the ends of rows, and loads with gaps, one by one.) Where windows reach beyond the rows, a plane that is not too
large is copied with its rows padded. What nothing in a window is above gets its place by a search of the window.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic
from numba.np.numpy_support import from_dtype

from tapegrad.kernels.reduce_lanes import Vectors
from tapegrad.kernels.vector_primitives import select
from tapegrad.native.cache import jit
from tapegrad.native.dtypes import FLOAT32, INT32, ITEM_BYTES, NUMPY_DTYPES, POINTERS, SCALARS
from tapegrad.native.parallel import parallel_for
from tapegrad.native.pointers import int64_at

# the words of a context; sizes come as depth, height, width
SIZE, RESULT, KERNEL, STRIDE, PADDING, DILATION = 0, 3, 6, 9, 12, 15
X, Y, AT, ROWS, TASK, LOW, HIGH, CEIL, PITCH = range(18, 27)
WORDS = 32
TASK_WORK = 1 << 18  # elements looked at in one task, about 50 us
_ROW_WORK = 400  # what a row of results costs by itself, in these: 80 ns

_PADDED = 1 << 18  # elements of a plane that is copied with its rows padded: 2 MiB in float64
_I32, _I64 = ir.IntType(32), ir.IntType(64)
_places = POINTERS[INT32]


@jit
def first_tap(origin, step):
    """Return the first tap of a window that starts at ``origin`` which is not before element 0."""
    return (step - 1 - origin) // step if origin < 0 else 0


@jit
def end_tap(origin, step, taps, n):
    """Return the tap after the last one that is before element ``n``."""
    if origin + (taps - 1) * step < n:
        return taps
    return max(0, min(taps, (n - origin + step - 1) // step))


@jit
def pooled_size(n, kernel, stride, padding, dilation, ceil):
    """Return how many windows there are along a dimension: none starts in the padding after it."""
    m = (n + 2 * padding - dilation * (kernel - 1) - 1 + (stride - 1 if ceil else 0)) // stride + 1
    return m - 1 if ceil and (m - 1) * stride >= n + padding else m


@jit
def inside(words):
    """Note which elements of a row have windows wholly inside it."""
    n, stride, padding = words[SIZE + 2], words[STRIDE + 2], words[PADDING + 2]
    low = (padding + stride - 1) // stride
    last = n - 1 + padding - (words[KERNEL + 2] - 1) * words[DILATION + 2]
    high = last // stride + 1 if last >= 0 else 0
    words[LOW] = min(low, words[RESULT + 2])
    words[HIGH] = max(words[LOW], min(high, words[RESULT + 2]))


def make_window_scan(dtype: int) -> Callable[..., int]:
    """Return ``scan(x, y, at, j, words, d0, d1, ds, h0, h1, hs, w0, w1, ws)``: one window's maximum into y[j], at[j].

    A window without elements has the least number as its maximum, and no place (-1).
    """
    pointer = POINTERS[dtype]
    least = SCALARS[dtype](-np.inf if dtype >= FLOAT32 else np.iinfo(NUMPY_DTYPES[dtype]).min)

    @jit
    def scan(x_address, y_address, at_address, j, words, d0, d1, ds, h0, h1, hs, w0, w1, ws):
        x = pointer(x_address)
        best, at = least, -1
        if d0 < d1 and h0 < h1 and w0 < w1:
            at = (d0 * words[SIZE + 1] + h0) * words[SIZE + 2] + w0
            best = x[at]
        for d in range(d0, d1, ds):
            for h in range(h0, h1, hs):
                start = (d * words[SIZE + 1] + h) * words[SIZE + 2]
                for w in range(w0, w1, ws):
                    v = x[start + w]
                    wins = (v > best) | (v != v)
                    best, at = select(wins, v, best), select(wins, start + w, at)
        pointer(y_address)[j] = best
        _places(at_address)[j] = at
        return 0

    return scan


def load_apart(vectors: Vectors, x: Any, start: Any, stride: int | Any) -> Any:
    """Return the vector of x[start + stride k]; nothing beyond its last element is read."""
    builder, lanes = vectors.builder, vectors.lanes
    if stride == 1:
        return vectors.load(x, start)
    if stride == 2:
        high = vectors.load(x, builder.add(start, _I64(lanes - 1)))
        chosen = [2 * k if 2 * k < lanes else 2 * k + 1 for k in range(lanes)]
        mask = ir.Constant(ir.VectorType(_I32, lanes), [_I32(k) for k in chosen])
        return builder.shuffle_vector(vectors.load(x, start), high, mask)
    value = ir.Constant(vectors.loaded, ir.Undefined)
    for k in range(lanes):
        element = builder.load(builder.gep(x, [builder.add(start, builder.mul(_I64(k), stride))]))
        value = builder.insert_element(value, element, _I32(k))
    return value


def _wins(vectors: Vectors, v: Any, best: Any) -> Any:
    builder = vectors.builder
    if vectors.floating:
        return builder.or_(builder.fcmp_ordered(">", v, best), builder.fcmp_unordered("uno", v, v))
    return builder.icmp_signed(">", v, best) if vectors.signed else builder.icmp_unsigned(">", v, best)


def _make_block(dtype: int, lanes: int, fixed: int | None) -> Callable[..., Any]:
    """Return an intrinsic ``block(x, y, at, stride, start, place, nd, ds, dp, nh, hs, hp, nw, ws, wp)``.

    It does ``lanes`` windows side by side, ``stride`` apart (``fixed`` where that is given). The first begins at
    x[start], and the place of that is ``place``; the window has nd x nh x nw elements, ds, hs and ws apart in memory
    and dp, hp and wp in their places. A window in which nothing is above the least number gets the place -1.
    """
    least = -np.inf if dtype >= FLOAT32 else int(np.iinfo(NUMPY_DTYPES[dtype]).min)

    def build(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        x, y, at, stride, start, place, *loops = args
        vectors = Vectors(builder, dtype, dtype)
        vectors.lanes = lanes
        vectors.loaded = vectors.type = ir.VectorType(vectors.element, lanes)
        iota = ir.Constant(ir.VectorType(_I32, lanes), list(range(lanes)))
        step = builder.mul(vectors.splat(_I32(fixed) if fixed else builder.trunc(stride, _I32)), iota)
        best = cgutils.alloca_once_value(builder, vectors.constant(least))
        found = cgutils.alloca_once_value(builder, ir.Constant(iota.type, [-1] * lanes))

        def go_on(start: Any, place: Any, rest: Any) -> None:
            if rest:
                count, apart, places_apart = rest[:3]
                with cgutils.for_range(builder, count, intp=_I64) as loop:
                    k = loop.index
                    next_place = builder.add(place, builder.mul(k, places_apart))
                    go_on(builder.add(start, builder.mul(k, apart)), next_place, rest[3:])
                return
            v, old = load_apart(vectors, x, start, fixed or stride), builder.load(best)
            wins = _wins(vectors, v, old)
            places = builder.add(vectors.splat(builder.trunc(place, _I32)), step)
            builder.store(builder.select(wins, v, old), best)
            builder.store(builder.select(wins, places, builder.load(found)), found)

        go_on(start, place, loops)
        for address, result, align in ((y, best, vectors.size), (at, found, 4)):
            value = builder.load(result)
            builder.store(value, builder.bitcast(address, value.type.as_pointer()), align=align)
        return context.get_dummy_value()

    result = types.CPointer(from_dtype(NUMPY_DTYPES[dtype]))
    signature = types.none(result, result, types.CPointer(types.int32), *[types.int64] * 12)

    @intrinsic
    def block(typing_context, x, y, at, stride, start, place, nd, ds, dp, nh, hs, hp, nw, ws, wp):  # type: ignore[no-untyped-def]
        return signature, build

    return block  # type: ignore[no-any-return]


def make_max_pool(dtype: int) -> Callable[..., int]:
    """Return ``pool(words, threads)``: fill the result and its places; ``words`` is the address of a context."""
    size, pointer = ITEM_BYTES[dtype], POINTERS[dtype]
    least = SCALARS[dtype](-np.inf if dtype >= FLOAT32 else np.iinfo(NUMPY_DTYPES[dtype]).min)
    scan = make_window_scan(dtype)
    eight_by_one, eight_by_two, four_by_any = (_make_block(dtype, *kind) for kind in ((8, 1), (8, 2), (4, None)))

    @jit
    def eight(x, y, at, stride, start, place, nd, ds, dp, nh, hs, hp, nw, ws):
        """Do eight windows 1 or 2 apart; windows of fixed sizes need no loops."""
        if nd == 1 and nh == nw and ws == 1 and stride == 2 and nw == 2:
            eight_by_two(x, y, at, 2, start, place, 1, 0, 0, 2, hs, hp, 2, 1, 1)
        elif nd == 1 and nh == nw and ws == 1 and stride == 2 and nw == 3:
            eight_by_two(x, y, at, 2, start, place, 1, 0, 0, 3, hs, hp, 3, 1, 1)
        elif nd == 1 and nh == nw and ws == 1 and stride == 1 and nw == 3:
            eight_by_one(x, y, at, 1, start, place, 1, 0, 0, 3, hs, hp, 3, 1, 1)
        elif stride == 1:
            eight_by_one(x, y, at, 1, start, place, nd, ds, dp, nh, hs, hp, nw, ws, ws)
        else:
            eight_by_two(x, y, at, 2, start, place, nd, ds, dp, nh, hs, hp, nw, ws, ws)
        return 0

    @jit
    def inner_row(words, x, pitch, y, at, d0, nd, h0, nh, left):
        """Do the elements LOW .. HIGH of a row, at least four, whose windows lie inside it."""
        stride, width, height = words[STRIDE + 2], words[SIZE + 2], words[SIZE + 1]
        start = (d0 * height + h0) * pitch + left
        place = (d0 * height + h0) * width + words[LOW] * stride - words[PADDING + 2]
        ds, hs = words[DILATION] * height, words[DILATION + 1]
        low, n = words[LOW], words[HIGH] - words[LOW]
        lanes = 8 if n >= 8 and stride <= 2 else 4
        for first in range(0, n, lanes):
            j = min(first, n - lanes)
            xj, yj, aj = pointer(x), pointer(y + (low + j) * size), _places(at + (low + j) * 4)
            here, named = start + j * stride, place + j * stride
            if lanes == 8:
                eight(xj, yj, aj, stride, here, named, nd, ds * pitch, ds * width, nh, hs * pitch, hs * width,
                      words[KERNEL + 2], words[DILATION + 2])  # fmt: skip
            else:
                four_by_any(xj, yj, aj, stride, here, named, nd, ds * pitch, ds * width, nh, hs * pitch, hs * width,
                            words[KERNEL + 2], words[DILATION + 2], words[DILATION + 2])  # fmt: skip
        return 0

    @jit
    def pool_row(words, row, plane, d, h, padded):
        """Fill one row of the result; ``padded`` is the address of the plane with its rows padded, or 0."""
        x = words[X] + plane * words[SIZE] * words[SIZE + 1] * words[SIZE + 2] * size
        y, at = words[Y] + row * words[RESULT + 2] * size, words[AT] + row * words[RESULT + 2] * 4
        d0, h0 = d * words[STRIDE] - words[PADDING], h * words[STRIDE + 1] - words[PADDING + 1]
        ds, hs, ws = words[DILATION], words[DILATION + 1], words[DILATION + 2]
        da, db = first_tap(d0, ds), end_tap(d0, ds, words[KERNEL], words[SIZE])
        ha, hb = first_tap(h0, hs), end_tap(h0, hs, words[KERNEL + 1], words[SIZE + 1])
        d1, h1, d0, h0 = d0 + db * ds, h0 + hb * hs, d0 + da * ds, h0 + ha * hs
        low, high = words[LOW], words[HIGH]
        places = _places(at)
        for j in range(words[RESULT + 2]):
            places[j] = -1
        if da < db and ha < hb and high - low >= 4:
            if padded != 0:
                inner_row(words, padded, words[PITCH], y, at, d0, db - da, h0, hb - ha, 0)
            else:
                left = low * words[STRIDE + 2] - words[PADDING + 2]
                inner_row(words, x, words[SIZE + 2], y, at, d0, db - da, h0, hb - ha, left)
        for j in range(words[RESULT + 2]):
            if places[j] < 0:
                w0 = j * words[STRIDE + 2] - words[PADDING + 2]
                scan(x, y, at, j, words, d0, d1, ds, h0, h1, hs,
                     w0 + first_tap(w0, ws) * ws, min(words[SIZE + 2], w0 + words[KERNEL + 2] * ws), ws)  # fmt: skip
        return 0

    @jit
    def pad_rows(words, plane, padded):
        """Copy a plane with room for the windows at both ends of its rows."""
        n, pitch, before = words[SIZE + 2], words[PITCH], words[PADDING + 2]
        rows = words[SIZE] * words[SIZE + 1]
        for r in range(rows):
            x, y = pointer(words[X] + (plane * rows + r) * n * size), pointer(padded + r * pitch * size)
            for i in range(before):
                y[i] = least
            for i in range(before + n, pitch):
                y[i] = least
            y = pointer(padded + (r * pitch + before) * size)
            for i in range(np.uintp(min(n, pitch - before))):
                y[i] = x[i]
        return 0

    @jit
    def task(context, k, scratch):
        words = int64_at(context)
        padded = scratch if words[PITCH] > 0 else 0
        row = k * words[TASK]
        plane, rest = divmod(row, words[RESULT] * words[RESULT + 1])
        d, h = divmod(rest, words[RESULT + 1])
        fresh = True
        while row < min(words[ROWS], (k + 1) * words[TASK]):
            if padded != 0 and fresh:
                pad_rows(words, plane, padded)
            pool_row(words, row, plane, d, h, padded)
            row, h = row + 1, h + 1
            if h == words[RESULT + 1]:
                h, d = 0, d + 1
            fresh = d == words[RESULT]
            if fresh:
                d, plane = 0, plane + 1
        return 0

    @jit
    def plan(words):
        """Note which windows lie inside the rows, and how long the rows are padded to (0: not at all)."""
        inside(words)
        words[PITCH] = 0
        rows = words[RESULT] * words[RESULT + 1]
        pitch = (words[RESULT + 2] - 1) * words[STRIDE + 2] + (words[KERNEL + 2] - 1) * words[DILATION + 2] + 1
        if words[HIGH] - words[LOW] < words[RESULT + 2] and words[SIZE] * words[SIZE + 1] * pitch <= _PADDED:
            words[PITCH], words[LOW], words[HIGH] = pitch, 0, words[RESULT + 2]
        work = _ROW_WORK + words[RESULT + 2] * words[KERNEL] * words[KERNEL + 1] * words[KERNEL + 2]
        words[TASK] = max(1, TASK_WORK // work)
        if words[PITCH] > 0:
            words[TASK] = (words[TASK] + rows - 1) // rows * rows

    @jit
    def pool(context, threads):
        words = int64_at(context)
        plan(words)
        return parallel_for(threads, task, context, (words[ROWS] + words[TASK] - 1) // words[TASK])

    return pool


def make_adaptive_max_pool(dtype: int) -> Callable[..., int]:
    """Return ``pool(words, threads)`` for windows from floor(i n / m) to ceil((i + 1) n / m)."""
    size = ITEM_BYTES[dtype]
    scan = make_window_scan(dtype)

    @jit
    def from_to(words, d, i):
        n, m = words[SIZE + d], words[RESULT + d]
        return i * n // m, ((i + 1) * n + m - 1) // m

    @jit
    def task(context, k, scratch):
        words = int64_at(context)
        width = words[RESULT + 2]
        for row in range(k * words[TASK], min(words[ROWS], (k + 1) * words[TASK])):
            plane = row // (words[RESULT] * words[RESULT + 1])
            x = words[X] + plane * words[SIZE] * words[SIZE + 1] * words[SIZE + 2] * size
            d0, d1 = from_to(words, 0, row // words[RESULT + 1] % words[RESULT])
            h0, h1 = from_to(words, 1, row % words[RESULT + 1])
            for j in range(width):
                w0, w1 = from_to(words, 2, j)
                scan(x, words[Y] + row * width * size, words[AT] + row * width * 4, j, words,
                     d0, d1, 1, h0, h1, 1, w0, w1, 1)  # fmt: skip
        return 0

    @jit
    def pool(context, threads):
        words = int64_at(context)
        rows = max(1, words[RESULT] * words[RESULT + 1])
        words[TASK] = max(1, TASK_WORK * rows // max(1, words[SIZE] * words[SIZE + 1] * words[SIZE + 2]))
        return parallel_for(threads, task, context, (words[ROWS] + words[TASK] - 1) // words[TASK])

    return pool
