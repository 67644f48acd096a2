"""Winograd's convolution: the results of a tile from fewer multiplications than they have products.

Of y = A ((G g G') * (B d B')) A', see winograd_ir, the middle is one product of matrices for each of the 16 NUMBERS of
a tile: of a weight [M, R] and tiles [R, P]. For two results by two of 3 x 3 taps that makes 16 multiplications, not 36.
Source: A. Lavin and S. Gray, Fast Algorithms for Convolutional Neural Networks, CVPR 2016.

A task makes tiles of some images, or of rows of one, in its thread's scratch memory, multiplies them by rows of the
weight, some at a time, and writes the results. It depends on sizes only.
"""

from collections.abc import Callable
from typing import Any

from tapegrad.kernels.conv_plan import (
    BH,
    BIAS,
    GROUPS,
    IMAGES,
    IN,
    MB,
    NBH,
    NMB,
    NO,
    NQ,
    OS,
    OUT,
    PARTIAL,
    PER_TASK,
    TASK_COST,
    TILES1,
    TILES2,
    UNITS,
    WB,
    WG,
    WM,
    WR,
    WT,
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
)
from tapegrad.kernels.gemm_ir import greatest, least
from tapegrad.kernels.gemm_micro import host_tile, multiply_kernel
from tapegrad.kernels.winograd_ir import (
    PIXELS,
    WEIGHTS,
    Matrix,
    each_kernel,
    results_kernel,
    tiles_kernel,
)
from tapegrad.native.cache import jit
from tapegrad.native.dtypes import NUMPY_DTYPES
from tapegrad.native.parallel import SCRATCH_BYTES, parallel_for
from tapegrad.native.pointers import int64_at, stack_words

NUMBERS = 16  # of a tile
GAP = 4096  # bytes that may be read or written beyond
MOST_TILES = 192  # that are taken together
ROWS = 16  # of the weight, or of gradients, at a time
_CACHED_BYTES = 448 << 10  # of tiles: they stay in the second-level cache
_TILES_BYTES = 3 << 20  # of scratch memory; the rest is for their products with the weight
_PRODUCTS_BYTES = SCRATCH_BYTES - _TILES_BYTES


@jit
def has_tiles(p):
    """Write how many tiles a correlation has; return whether it is one of 3 x 3 taps that lie side by side."""
    p[TILES1], p[TILES2] = (p[NO + 1] + 1) // 2, (p[NO + 2] + 1) // 2
    steps = p[S + 1] * p[S + 2] * p[D + 1] * p[D + 2] * p[OS + 1] * p[OS + 2]
    return p[T] * p[NO] * p[IN] * steps == 1 and p[T + 1] == 3 and p[T + 2] == 3


@jit
def vectors_of_rows(p, lanes):
    """Return how many vectors of tiles a channel of all images has, each row of tiles by itself."""
    return p[IMAGES] * p[GROUPS] * p[TILES1] * ((p[TILES2] + lanes - 1) // lanes)


@jit
def direct_cycles(p, lanes):
    """Return how many cycles the direct way takes: its multiplications, and a fifth more."""
    products = p[IMAGES] * p[GROUPS] * p[NO + 1] * p[NO + 2] * p[M] * p[R] * 9
    return products // lanes * 6 // 5


@jit
def share_images(p, most):
    """Choose how many images, or rows of tiles of one, are taken together: about ``most`` tiles."""
    whole = p[TILES1] * p[TILES2]
    p[Q], p[BH] = 1, p[TILES1]
    if whole <= most:
        p[Q] = greatest(1, least(most // whole, p[IMAGES] * p[GROUPS] // 8))
    else:
        p[BH] = greatest(1, most // p[TILES2])
    p[NQ], p[NBH] = (p[IMAGES] + p[Q] - 1) // p[Q], (p[TILES1] + p[BH] - 1) // p[BH]
    p[BH] = (p[TILES1] + p[NBH] - 1) // p[NBH]
    p[UNITS] = p[NQ] * p[NBH] * p[GROUPS]
    return p[Q] * p[BH] * p[TILES2]


def make_tiles(dtype: int, matrix: Matrix, name: str) -> tuple[Callable[..., Any], ...]:
    """Return ``row_bytes(tiles)``, ``transform(p, to, row, first, height, image, images, group, channel, channels)``.

    The latter makes tiles [numbers, channels, tiles] of images at ``to``, by ``matrix``, ``row`` bytes apart.
    """
    tile = host_tile()
    numpy_dtype = NUMPY_DTYPES[dtype]
    size, vector_bytes = numpy_dtype.itemsize, tile.vector_bytes
    lanes, make = vector_bytes // size, tiles_kernel(name, numpy_dtype, tile, matrix)

    @jit
    def row_bytes(tiles):
        """Return the distance of rows of tiles: an odd number of vectors, so that they lie in different sets."""
        return ((tiles + lanes - 1) // lanes + 1 | 1) * vector_bytes

    @jit
    def transform(p, to, row, first, height, image, images, group, channel, channels):
        pitch = p[IN + 2] * size
        gap = p[IN + 1] * pitch
        for q in range(images):
            source = p[X] + (((image + q) * p[GROUPS] + group) * p[R] + channel) * gap
            make(
                source, gap, pitch, 2 * first + p[B + 1], p[B + 2], p[IN + 1], p[IN + 2], to, row, channels * row,
                channels, height, p[TILES2],
            )  # fmt: skip
            to += height * p[TILES2] * size
        return 0

    return row_bytes, transform


def make_winograd(dtype: int) -> tuple[Callable[..., int], ...]:
    """Return ``plan(words)``, the bytes of the transformed weight, or 0 where another way is faster; ``run(pool,
    words)``, which wants that memory at ``PARTIAL``.
    """
    tile = host_tile()
    numpy_dtype = NUMPY_DTYPES[dtype]
    size, tall, vector_bytes = numpy_dtype.itemsize, tile.rows, tile.vector_bytes
    lanes, panel = vector_bytes // size, tile.vectors * vector_bytes
    multiply = multiply_kernel(numpy_dtype, tile)
    row_bytes, transform = make_tiles(dtype, PIXELS, "pixels")
    write, transform_taps = results_kernel(numpy_dtype, tile), each_kernel("taps", numpy_dtype, WEIGHTS)

    @jit
    def is_faster(p, tiles):
        """Compare cycles with those of the direct way: of products by whole vectors, of transforms, of the weight.

        A transform takes some three for each number; a weight that the caches do not hold, four for each element, from
        one block of tiles to the next.
        """
        products, vectors = p[M] * p[R], (tiles + lanes - 1) // lanes
        large = 4 * p[UNITS] * products if NUMBERS * products * size > _CACHED_BYTES else 0
        transforms = 3 * NUMBERS * (vectors_of_rows(p, lanes) * (p[M] + p[R]) + p[GROUPS] * products)
        return p[UNITS] * vectors * products * NUMBERS + large + transforms < direct_cycles(p, lanes)

    @jit
    def plan(words):
        p = int64_at(words)
        if not has_tiles(p):
            return 0
        tiles = share_images(p, greatest(lanes, least(MOST_TILES, _CACHED_BYTES // (NUMBERS * p[R] * size))))
        row = row_bytes(tiles)
        if NUMBERS * p[R] * row + GAP > _TILES_BYTES or NUMBERS * ROWS * row + GAP > _PRODUCTS_BYTES:
            return 0
        if not is_faster(p, tiles):
            return 0
        blocks = (p[M] + ROWS - 1) // ROWS
        p[NMB] = least(greatest(1, 8 // p[UNITS]), greatest(1, p[M] // 64))
        p[MB] = (blocks + p[NMB] - 1) // p[NMB] * ROWS
        p[NMB] = (p[M] + p[MB] - 1) // p[MB]
        p[UNITS] *= p[NMB]
        p[PER_TASK] = greatest(1, TASK_COST // (2 * NUMBERS * p[R] * least(p[M], p[MB]) * tiles + 1))
        return p[GROUPS] * blocks * ROWS * NUMBERS * p[R] * size

    @jit
    def prepare(words, index, scratch):
        """Transform a block of rows of the weight: to [NUMBERS, tiles of rows, R, rows of a tile]."""
        p = int64_at(words)
        blocks, step = (p[M] + ROWS - 1) // ROWS, ROWS * p[R] * size
        group, first = index // blocks, index % blocks * ROWS
        gap, rows, columns = p[WR] * size, p[WT + 1] * size, p[WT + 2] * size
        for m in range(first, least(first + ROWS, p[M])):
            source = p[W] + (group * p[WG] + m * p[WM] + p[WB]) * size
            place = (m - first) // tall * p[R] * tall + m % tall
            target = p[PARTIAL] + index * NUMBERS * step + place * size
            transform_taps(source, gap, rows, columns, target, tall * size, step, p[R])
        return 0

    @jit
    def write_results(p, scratch, row, images, height, image, channel, rows, first):
        """Transform the products of some rows of the weight, and write the results."""
        zero = stack_words(1)
        int64_at(zero)[0] = 0
        bias, step = (p[BIAS] + channel * size, size) if p[BIAS] != 0 else (zero, 0)
        above = 2 * first
        pixels, stride, left, columns = p[OUT + 1] * p[OUT + 2] * size, p[OUT + 2] * size, p[NO + 1] - above, p[TILES2]
        for q in range(images):
            x = scratch + _TILES_BYTES + q * height * columns * size
            y = p[Y] + ((image + q) * p[GROUPS] * p[M] + channel) * pixels + above * stride
            write(x, ROWS * row, row, y, pixels, stride, bias, step, rows, height, columns, left, p[NO + 2])
        return 0

    @jit
    def task(words, index, scratch):
        p = int64_at(words)
        depth, blocks = p[R] * size, (p[M] + ROWS - 1) // ROWS
        for unit in range(index * p[PER_TASK], least((index + 1) * p[PER_TASK], p[UNITS])):
            rest, first = unit // p[NBH], unit % p[NBH] * p[BH]
            rest, group = rest // p[GROUPS], rest % p[GROUPS]
            rest, image = rest // p[NQ], rest % p[NQ] * p[Q]
            height, images = least(p[BH], p[TILES1] - first), least(p[Q], p[IMAGES] - image)
            tiles = images * height * p[TILES2]
            row = row_bytes(tiles)
            transform(p, scratch, row, first, height, image, images, group, 0, p[R])
            for m0 in range(rest * p[MB], least((rest + 1) * p[MB], p[M]), ROWS):
                rows = least(ROWS, p[M] - m0)
                weight = p[PARTIAL] + (group * blocks + m0 // ROWS) * NUMBERS * ROWS * depth
                for k in range(NUMBERS):
                    multiply(
                        weight + k * ROWS * depth, size, tall * size, tall * depth, scratch + k * p[R] * row, row,
                        panel, scratch + _TILES_BYTES + k * ROWS * row, row, p[R], tiles, 0, rows,
                    )  # fmt: skip
                write_results(p, scratch, row, images, height, image, group * p[M] + m0, rows, first)
        return 0

    def run(pool, words):
        p = int64_at(words)
        status = parallel_for(pool, prepare, words, p[GROUPS] * ((p[M] + ROWS - 1) // ROWS))
        if status < 0:
            return status
        return parallel_for(pool, task, words, (p[UNITS] + p[PER_TASK] - 1) // p[PER_TASK])

    return plan, run
