"""Convolution and transposed convolution of images [n, channels, depth, height, width], float32 and float64.

A task copies a block of an image, with zeros around it, into its thread's scratch memory and multiplies it there by the
weight, which is read where it is (see conv_ir). No matrix of shifted images is written. What a task computes depends on
sizes only, so equal inputs give equal bits on any number of threads.
"""

from collections.abc import Callable

from tapegrad.kernels.conv_ir import (
    PIECE_BYTES,
    SEGMENT_BYTES,
    TABLE_BYTES,
    fill_kernel,
    pack_kernel,
    spread_kernel,
    strip_kernel,
)
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
    LIMIT_BYTES,
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
    PACKED,
    PACKED_BYTES,
    PER_TASK,
    PHASES1,
    PHASES2,
    PITCH,
    PLANE,
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
    choose_packing,
    cut,
    lay_out,
    shares,
    write_pieces,
    write_table,
    write_vectors,
)
from tapegrad.kernels.gemm_ir import greatest, least
from tapegrad.kernels.gemm_micro import Tile, host_tile
from tapegrad.native.cache import jit
from tapegrad.native.dtypes import NUMPY_DTYPES, POINTERS
from tapegrad.native.parallel import SCRATCH_BYTES
from tapegrad.native.pointers import int64_at, stack_words

_STRIP_BYTES = 384 << 10  # of the weight: they stay in the second-level cache while the block's pixels pass by
# scratch memory: table, places of vectors, starts of segments, segments, pieces, a tile of results that lie apart,
# packed images, padded images
_PLACES_AT = MOST_ENTRIES * TABLE_BYTES
_STARTS_AT = _PLACES_AT + 8 * (MOST_FLAT + 64)
_SEGMENTS_AT = _STARTS_AT + 8 * (MOST_FLAT + 64)
_PIECES_AT = _SEGMENTS_AT + SEGMENT_BYTES * (MOST_FLAT + 64)
_TILE_AT = _PIECES_AT + PIECE_BYTES * (MOST_FLAT + 64)
_TILE_ROWS = 64
_PIXELS = 768  # that are packed at a time where images are small
_WHOLE_AT = _TILE_AT + (48 << 10)
_PACKED_AT = _WHOLE_AT + 1024
_IMAGES_AT = _PACKED_AT + PACKED_BYTES + (256 << 10)
assert _IMAGES_AT + LIMIT_BYTES + (256 << 10) <= SCRATCH_BYTES


def make_fill(dtype: int, tile: Tile) -> Callable[..., int]:
    """Return ``fill_images(p, g, to, image, count, group, z, oh, ow, r0, rc, a0, c0, a1, a2)``.

    It copies the block that begins at the results (z, oh, ow), with zeros around it, laid out as ``g`` says.
    """
    size = NUMPY_DTYPES[dtype].itemsize
    fill = fill_kernel(NUMPY_DTYPES[dtype], tile)

    @jit
    def fill_images(p, g_address, to, image, count, group, z, oh, ow, r0, rc, a0, c0, a1, a2):
        g = int64_at(g_address)
        pitch, used, rows = g[PITCH] * size, g[USED], g[ROWS]
        s1, s2, length = p[S + 1], p[S + 2], p[IN + 2]
        volume = p[IN] * p[IN + 1] * length
        gap = c0 * g[PHASES1] * g[PHASES2] * g[PLANE] * size
        first_image = p[X] + ((image * p[GROUPS] + group) * p[R] + r0) * volume * size
        target = to
        for i in range(c0):
            depth = z * p[S] + (a0 + i) * p[D] + p[B]
            for phase1 in range(g[PHASES1]):
                first = oh * s1 + phase1 + a1 * p[D + 1] + p[B + 1]
                low = least(greatest((-first + s1 - 1) // s1, 0), rows)
                high = least(greatest((p[IN + 1] - first + s1 - 1) // s1, low), rows)
                if depth < 0 or depth >= p[IN]:
                    low, high = rows, rows
                source = first_image + (depth * p[IN + 1] + first + low * s1) * length * size
                for phase2 in range(g[PHASES2]):
                    start = ow * s2 + phase2 + a2 * p[D + 2] + p[B + 2]
                    left = least(greatest((-start + s2 - 1) // s2, 0), used)
                    right = least(greatest((length - start + s2 - 1) // s2, left), used)
                    for q in range(count):
                        fill(
                            target + q * g[IMAGE] * size, pitch, gap,
                            source + q * p[GROUPS] * p[R] * volume * size, s1 * length * size, volume * size, rc, low,
                            high - low, rows - high, start, s2, left, right, used,
                        )  # fmt: skip
                    target += g[PLANE] * size
        return 0

    return fill_images


def make_correlation(dtype: int) -> tuple[Callable[..., int], Callable[..., int]]:
    """Return ``plan(words)``, which gives the number of tasks, and ``task(words, k, scratch)``."""
    tile = host_tile()
    numpy_dtype = NUMPY_DTYPES[dtype]
    pointer, size, tall, across, vector_bytes = (
        POINTERS[dtype], numpy_dtype.itemsize, tile.rows, tile.vectors, tile.vector_bytes,
    )  # fmt: skip
    lanes = vector_bytes // size
    strip, pack, fill_images = strip_kernel(numpy_dtype, tile), pack_kernel(numpy_dtype, tile), make_fill(dtype, tile)
    spread = spread_kernel(numpy_dtype, tile)

    @jit
    def plan(words):
        p = int64_at(words)
        geometry = stack_words(8)
        cut(p, size, geometry)
        choose_packing(p, size, lanes, across * lanes, _PIXELS, geometry)
        image = int64_at(geometry)[IMAGE]
        pixels = p[BH] * (p[BW] if p[PACKED] != 0 else int64_at(geometry)[PITCH])
        work = 2 * p[M] * p[R] * p[T] * p[T + 1] * p[T + 2] * pixels
        if p[CHUNKS] == 1 and p[NBH] * p[NBW] * p[NO] == 1 and p[PACKED] == 0:
            together = least(TARGET_BYTES // (image * size + 1), MOST_FLAT // (pixels + lanes))
            p[Q] = greatest(1, least(p[IMAGES], least(together, 8 * TASK_COST // (work + 1))))
        p[NQ] = (p[IMAGES] + p[Q] - 1) // p[Q]
        p[UNITS] = p[NQ] * p[GROUPS] * p[NO] * p[NBH] * p[NBW]
        p[NMB] = least(
            greatest(1, 16 // p[UNITS]),
            greatest(1, least(p[Q] * work // (2 * TASK_COST), p[M] // (128 if p[PACKED] != 0 else 32))),
        )
        blocks = (p[M] + tall - 1) // tall
        p[MB] = (blocks + p[NMB] - 1) // p[NMB] * tall
        p[NMB] = (p[M] + p[MB] - 1) // p[MB]
        p[UNITS] *= p[NMB]
        cost = p[Q] * (work // p[NMB] + FILL_COST * image * p[CHUNKS])
        p[PER_TASK] = greatest(1, TASK_COST // (cost + 1))
        return (p[UNITS] + p[PER_TASK] - 1) // p[PER_TASK]

    @jit
    def scatter(scratch, y, rows, row_bytes, first, number, lane_bytes, adding):
        """Write a tile's results to where they lie, apart."""
        starts, segments = int64_at(scratch + _STARTS_AT), int64_at(scratch + _SEGMENTS_AT)
        for j in range(number):
            for s in range(starts[first + j], starts[first + j + 1]):
                low, high, place = segments[3 * s], segments[3 * s + 1], segments[3 * s + 2]
                source, to = scratch + _TILE_AT + j * vector_bytes, y + place
                if lane_bytes == 2 * size:
                    spread(source, across * vector_bytes, to, row_bytes, rows, low, high, adding)
                    continue
                for i in range(rows):
                    x = pointer(source + i * across * vector_bytes)
                    for lane in range(low, high):
                        z = pointer(to + i * row_bytes + lane * lane_bytes)
                        z[0] = z[0] + x[lane] if adding != 0 else x[lane]
        return 0

    @jit
    def multiply(p, scratch, x, y, weight, bias, rows, k, vectors, accumulate):
        """Multiply rows of the weight by the pixels of one block of some images."""
        zero = stack_words(1)
        int64_at(zero)[0] = 0
        step = size
        if bias == 0 or accumulate != 0:
            bias, step = zero, 0
        places, starts, segments = scratch + _PLACES_AT, scratch + _STARTS_AT, scratch + _SEGMENTS_AT
        channel = p[OUT] * p[OUT + 1] * p[OUT + 2] * size
        if p[OS + 2] == 1:
            strip(
                weight, p[WM] * size, scratch, x, places, y, channel, bias, step, k, starts, segments, accumulate,
                rows, vectors,
            )  # fmt: skip
            return 0
        for j in range(0, vectors, across):
            number = least(across, vectors - j)
            strip(
                weight, p[WM] * size, scratch, x, places + 8 * j, scratch + _TILE_AT, across * vector_bytes, bias, step,
                k, scratch + _WHOLE_AT, scratch + _WHOLE_AT + 64, 0, rows, number,
            )  # fmt: skip
            scatter(scratch, y, rows, channel, j, number, p[OS + 2] * size, accumulate)
        return 0

    @jit
    def write_whole(scratch):
        """Write the segments of whole vectors side by side."""
        starts, segments = int64_at(scratch + _WHOLE_AT), int64_at(scratch + _WHOLE_AT + 64)
        for j in range(across):
            starts[j] = j
            segments[3 * j], segments[3 * j + 1], segments[3 * j + 2] = 0, lanes, j * vector_bytes
        starts[across] = across
        return 0

    @jit
    def lay_vectors(p, scratch, geometry, height, width, images):
        """Write where vectors of pixels lie and where their results go; return how many there are."""
        g, places = int64_at(geometry), int64_at(scratch + _PLACES_AT)
        each = ((height - 1) * g[PITCH] + width + lanes - 1) // lanes
        pitch, per_image = g[PITCH], each * lanes
        if p[PACKED] != 0:
            pitch, per_image = width, height * width
        image_down = p[GROUPS] * p[M] * p[OUT] * p[OUT + 1] * p[OUT + 2] * size
        vectors = write_vectors(
            per_image, images, pitch, height, width, lanes, image_down, p[OS + 1] * p[OUT + 2] * size, p[OS + 2] * size,
            scratch + _STARTS_AT, scratch + _SEGMENTS_AT,
        )  # fmt: skip
        for v in range(vectors):
            places[v] = v // each * g[IMAGE] * size + v % each * vector_bytes
        return vectors

    @jit
    def pack_images(scratch, geometry, height, width, images, k, vectors):
        """Pack the padded images; the table and the places then are those of packed ones."""
        panel_bytes = (k + 1) * across * vector_bytes
        count = write_pieces(
            geometry, images, height, width, lanes, across * lanes, panel_bytes, size, scratch + _PIECES_AT
        )  # fmt: skip
        step = across * vector_bytes
        pack(scratch + _IMAGES_AT, scratch, scratch + _PACKED_AT, step, scratch + _PIECES_AT, k, count)
        table, places = int64_at(scratch), int64_at(scratch + _PLACES_AT)
        for i in range(k):
            table[2 * i] = i * step
        for v in range(vectors):
            places[v] = v // across * panel_bytes + v % across * vector_bytes
        return 0

    @jit
    def add_part(p, scratch, geometry, k, vectors, m0, image, group, z, oh, ow, chunk):
        """Multiply what lies in scratch memory by a block of rows of the weight."""
        x = scratch + (_PACKED_AT if p[PACKED] != 0 else _IMAGES_AT)
        end = least(m0 + p[MB], p[M])
        most = greatest(tall, _STRIP_BYTES // (k * size) // tall * tall)
        most = least(most, _TILE_ROWS) if p[OS + 2] > 1 else most
        for i0 in range(m0, end, most):
            channel = group * p[M] + i0
            weight = p[W] + (group * p[WG] + i0 * p[WM] + p[WB]) * size
            bias = p[BIAS] + channel * size if p[BIAS] != 0 else 0
            y = ((image * p[GROUPS] * p[M] + channel) * p[OUT] + z * p[OS] + p[OB]) * p[OUT + 1]
            y = p[Y] + ((y + oh * p[OS + 1] + p[OB + 1]) * p[OUT + 2] + ow * p[OS + 2] + p[OB + 2]) * size
            multiply(p, scratch, x, y, weight, bias, least(most, end - i0), k, vectors, chunk)
        return 0

    @jit
    def task(words, index, scratch):
        p = int64_at(words)
        geometry = stack_words(8)
        write_whole(scratch)
        seen, vectors, k = 0, 0, 0
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
                            shape = (images * p[NO + 1] + height) * p[NO + 2] + width
                            if p[CHUNKS] > 1 or p[PACKED] != 0 or seen != shape:
                                lay_out(p, p[BH], p[BW], rc, c0, c1, c2, shares(p), geometry)
                                k = write_table(p, geometry, scratch, r0, rc, a0, c0, a1, c1, a2, c2, size, size)
                                vectors = lay_vectors(p, scratch, geometry, height, width, images)
                            seen = shape
                            fill_images(
                                p, geometry, scratch + _IMAGES_AT, image, images, group, z, oh, ow, r0, rc, a0,
                                c0, a1, a2,
                            )  # fmt: skip
                            if p[PACKED] != 0:
                                pack_images(scratch, geometry, height, width, images, k, vectors)
                            add_part(p, scratch, geometry, k, vectors, m0, image, group, z, oh, ow, chunk)
                            chunk = 1
        return 0

    return plan, task
