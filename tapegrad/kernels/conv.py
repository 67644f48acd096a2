"""Convolution and transposed convolution of images [n, channels, depth, height, width], float32 and float64.

A task copies a block of an image, with zeros around it, into its thread's scratch memory and multiplies it there by the
weight, which is read where it is (see conv_ir). No matrix of shifted images is written. What a task computes depends on
sizes only, so equal inputs give equal bits on any number of threads.
"""

from collections.abc import Callable

from tapegrad.kernels.conv_ir import SEGMENT_BYTES, TABLE_BYTES, fill_kernel, strip_kernel
from tapegrad.kernels.conv_plan import (
    BH,
    BIAS,
    BW,
    CHUNKS,
    FILL_COST,
    GROUPS,
    IMAGE,
    IMAGES,
    IN,
    MB,
    MOST_ENTRIES,
    MOST_FLAT,
    NBH,
    NBW,
    NMB,
    NO,
    NQ,
    OB,
    OS,
    OUT,
    PER_TASK,
    PHASES1,
    PHASES2,
    PITCH,
    RC,
    ROWS,
    TARGET_BYTES,
    TASK_COST,
    TC,
    UNITS,
    USED,
    WB,
    WG,
    WM,
    B,
    D,
    M,
    Q,
    R,
    S,
    T,
    W,
    X,
    Y,
    cut,
    lay_out,
    shares,
    write_segments,
    write_table,
)  # fmt: skip
from tapegrad.kernels.gemm_ir import least
from tapegrad.kernels.gemm_micro import Tile, host_tile
from tapegrad.native.cache import jit
from tapegrad.native.dtypes import NUMPY_DTYPES, POINTERS
from tapegrad.native.pointers import int64_at, stack_words

_STRIP_BYTES = 384 << 10  # of the weight: they stay in the second-level cache while the block's pixels pass by
# scratch memory: table, starts of segments, segments, a tile of results that lie apart, padded images
_STARTS_AT = MOST_ENTRIES * TABLE_BYTES
_SEGMENTS_AT = _STARTS_AT + 8 * (MOST_FLAT + 64)
_TILE_AT = _SEGMENTS_AT + SEGMENT_BYTES * (MOST_FLAT + 64)
_TILE_ROWS = 64
_IMAGES_AT = _TILE_AT + (128 << 10)


def make_fill(dtype: int, tile: Tile) -> Callable[..., int]:
    """Return ``fill_images(p, g, to, image, count, group, z, oh, ow, height, r0, rc, a0, c0, a1, a2)``.

    It copies the block that begins at the results (z, oh, ow), with zeros around it, laid out as ``g`` says.
    """
    size = NUMPY_DTYPES[dtype].itemsize
    fill = fill_kernel(NUMPY_DTYPES[dtype], tile)

    @jit
    def fill_images(p, g_address, to, image, count, group, z, oh, ow, height, r0, rc, a0, c0, a1, a2):
        g = int64_at(g_address)
        pitch, used, rows = g[PITCH] * size, g[USED], g[ROWS]
        s1, s2, length = p[S + 1], p[S + 2], p[IN + 2]
        channels = p[GROUPS] * p[R]
        target = to
        for q in range(count):
            for r in range(rc):
                plane = ((image + q) * channels + group * p[R] + r0 + r) * p[IN]
                for i in range(c0):
                    depth = z * p[S] + (a0 + i) * p[D] + p[B]
                    for phase1 in range(g[PHASES1]):
                        first = oh * s1 + phase1 + a1 * p[D + 1] + p[B + 1]
                        low = least(max((-first + s1 - 1) // s1, 0), rows)
                        high = least(max((p[IN + 1] - first + s1 - 1) // s1, low), rows)
                        if depth < 0 or depth >= p[IN]:
                            low, high = rows, rows
                        source = p[X] + ((plane + depth) * p[IN + 1] + first + low * s1) * length * size
                        for phase2 in range(g[PHASES2]):
                            start = ow * s2 + phase2 + a2 * p[D + 2] + p[B + 2]
                            left = least(max((-start + s2 - 1) // s2, 0), used)
                            right = least(max((length - start + s2 - 1) // s2, left), used)
                            middle, bottom = target + low * pitch, target + high * pitch
                            fill(target, pitch, source, 0, low, 0, 1, 0, 0, used)
                            fill(middle, pitch, source, s1 * length * size, high - low, start, s2, left, right, used)
                            fill(bottom, pitch, source, 0, rows - high, 0, 1, 0, 0, used)
                            target += rows * pitch
        return 0

    return fill_images


def make_correlation(dtype: int) -> tuple[Callable[..., int], Callable[..., int]]:
    """Return ``plan(words)``, which gives the number of tasks, and ``task(words, k, scratch)``."""
    tile = host_tile()
    numpy_dtype = NUMPY_DTYPES[dtype]
    pointer, size, lanes, height_of_tile = (
        POINTERS[dtype],
        numpy_dtype.itemsize,
        tile.vector_bytes // numpy_dtype.itemsize,
        tile.rows,
    )
    strip, fill_images = strip_kernel(numpy_dtype, tile), make_fill(dtype, tile)
    vectors_of_tile, vector_bytes = tile.vectors, tile.vector_bytes

    @jit
    def plan(words):
        p = int64_at(words)
        geometry = stack_words(8)
        cut(p, size, geometry)
        image = int64_at(geometry)[IMAGE]
        pixels = p[BH] * int64_at(geometry)[PITCH]
        work = 2 * p[M] * p[R] * p[T] * p[T + 1] * p[T + 2] * pixels
        p[Q] = 1
        if p[CHUNKS] == 1 and p[NBH] * p[NBW] * p[NO] == 1:
            p[Q] = max(1, least(p[IMAGES], least(TARGET_BYTES // (image * size + 1), 8 * TASK_COST // (work + 1))))
        p[NQ] = (p[IMAGES] + p[Q] - 1) // p[Q]
        p[UNITS] = p[NQ] * p[GROUPS] * p[NO] * p[NBH] * p[NBW]
        p[NMB] = least(max(1, 16 // p[UNITS]), max(1, least(p[Q] * work // (2 * TASK_COST), p[M] // 16)))
        blocks = (p[M] + height_of_tile - 1) // height_of_tile
        p[MB] = (blocks + p[NMB] - 1) // p[NMB] * height_of_tile
        p[NMB] = (p[M] + p[MB] - 1) // p[MB]
        p[UNITS] *= p[NMB]
        cost = p[Q] * (work // p[NMB] + FILL_COST * image)
        p[PER_TASK] = max(1, TASK_COST // (cost + 1))
        return (p[UNITS] + p[PER_TASK] - 1) // p[PER_TASK]

    @jit
    def scatter(source, target, rows, row_bytes, first, last, segments_address, lane_bytes, adding):
        segments = int64_at(segments_address)
        for i in range(rows):
            for s in range(first, last):
                x = pointer(source + i * vectors_of_tile * vector_bytes)
                y = target + i * row_bytes + segments[3 * s + 2]
                for lane in range(segments[3 * s], segments[3 * s + 1]):
                    z = pointer(y + lane * lane_bytes)
                    z[0] = z[0] + x[lane] if adding != 0 else x[lane]
        return 0

    @jit
    def multiply(p, scratch, x, y, weight, bias, rows, k, vectors, accumulate):
        """Multiply rows of the weight by the pixels of one block of one image."""
        zero = stack_words(1)
        int64_at(zero)[0] = 0
        step = size
        if bias == 0 or accumulate != 0:
            bias, step = zero, 0
        starts, segments = scratch + _STARTS_AT, scratch + _SEGMENTS_AT
        channel = p[OUT] * p[OUT + 1] * p[OUT + 2] * size
        for j in range(0, vectors, vectors_of_tile):
            number = least(vectors_of_tile, vectors - j)
            b = x + j * vector_bytes
            if p[OS + 2] == 1:
                strip(
                    weight, p[WM] * size, scratch, b, y, channel, bias, step, k, starts + 8 * j, segments, accumulate,
                    rows, number,
                )  # fmt: skip
            else:
                tile_at, whole = scratch + _TILE_AT, scratch + _TILE_AT + (96 << 10)
                strip(
                    weight, p[WM] * size, scratch, b, tile_at, vectors_of_tile * vector_bytes, bias, step, k, whole,
                    whole + 64, 0, rows, number,
                )  # fmt: skip
                for v in range(number):
                    scatter(
                        tile_at + v * vector_bytes, y, rows, channel, int64_at(starts)[j + v],
                        int64_at(starts)[j + v + 1], segments, p[OS + 2] * size, accumulate,
                    )  # fmt: skip
        return 0

    @jit
    def write_whole(scratch):
        """Write the segments of whole vectors side by side."""
        starts = int64_at(scratch + _TILE_AT + (96 << 10))
        segments = int64_at(scratch + _TILE_AT + (96 << 10) + 64)
        for j in range(vectors_of_tile):
            starts[j] = j
            segments[3 * j], segments[3 * j + 1], segments[3 * j + 2] = 0, lanes, j * vector_bytes
        starts[vectors_of_tile] = vectors_of_tile
        return 0

    @jit
    def task(words, index, scratch):
        p = int64_at(words)
        geometry = stack_words(8)
        g = int64_at(geometry)
        write_whole(scratch)
        seen_height, seen_width, seen_table, vectors, k = 0, 0, 0, 0, 0
        images_at = scratch + _IMAGES_AT
        for unit in range(index * p[PER_TASK], least((index + 1) * p[PER_TASK], p[UNITS])):
            rest, ow = unit // p[NBW], unit % p[NBW] * p[BW]
            rest, oh = rest // p[NBH], rest % p[NBH] * p[BH]
            rest, z = rest // p[NO], rest % p[NO]
            rest, group = rest // p[GROUPS], rest % p[GROUPS]
            rest, image = rest // p[NQ], rest % p[NQ] * p[Q]
            m0 = rest * p[MB]
            height, width = least(p[BH], p[NO + 1] - oh), least(p[BW], p[NO + 2] - ow)
            images = least(p[Q], p[IMAGES] - image)
            chunk = 0
            for r0 in range(0, p[R], p[RC]):
                rc = least(p[RC], p[R] - r0)
                for a0 in range(0, p[T], p[TC]):
                    c0 = least(p[TC], p[T] - a0)
                    for a1 in range(0, p[T + 1], p[TC + 1]):
                        c1 = least(p[TC + 1], p[T + 1] - a1)
                        for a2 in range(0, p[T + 2], p[TC + 2]):
                            c2 = least(p[TC + 2], p[T + 2] - a2)
                            if p[CHUNKS] > 1 or seen_table == 0:
                                lay_out(p, p[BH], p[BW], rc, c0, c1, c2, shares(p), geometry)
                                k = write_table(p, geometry, scratch, r0, rc, a0, c0, a1, c1, a2, c2, size, size)
                            if p[CHUNKS] > 1 or seen_table == 0 or seen_height != height or seen_width != width:
                                vectors = write_segments(
                                    g[PITCH], height, width, lanes, p[OS + 1] * p[OUT + 2] * size, p[OS + 2] * size,
                                    scratch + _STARTS_AT, scratch + _SEGMENTS_AT,
                                )  # fmt: skip
                            seen_table, seen_height, seen_width = 1, height, width
                            fill_images(
                                p, geometry, images_at, image, images, group, z, oh, ow, height, r0, rc, a0, c0, a1, a2
                            )
                            most = max(height_of_tile, _STRIP_BYTES // (k * size) // height_of_tile * height_of_tile)
                            most = least(most, _TILE_ROWS if p[OS + 2] > 1 else most)
                            for i0 in range(m0, least(m0 + p[MB], p[M]), most):
                                rows = least(most, least(m0 + p[MB], p[M]) - i0)
                                channel = group * p[M] + i0
                                weight = p[W] + (group * p[WG] + i0 * p[WM] + p[WB]) * size
                                bias = p[BIAS] + channel * size if p[BIAS] != 0 else 0
                                for q in range(images):
                                    y = (image + q) * p[GROUPS] * p[M] + channel
                                    y = (y * p[OUT] + z * p[OS] + p[OB]) * p[OUT + 1] + oh * p[OS + 1] + p[OB + 1]
                                    y = p[Y] + (y * p[OUT + 2] + ow * p[OS + 2] + p[OB + 2]) * size
                                    x = images_at + q * g[IMAGE] * size
                                    multiply(p, scratch, x, y, weight, bias, rows, k, vectors, chunk)
                            chunk = 1
        return 0

    return plan, task
