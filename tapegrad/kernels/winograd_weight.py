"""The gradient of a weight of 3 x 3 taps by Winograd's tiles: see winograd.

Where y = A ((G g G') * (B d B')) A', the gradient for g is the sum over tiles of G' ((A' gy A) * (B d B')) G: of tiles
of the results' gradient [M, P] and of pixels [P, R], one product of matrices for each of a tile's 16 numbers. A task
adds up some of the blocks of images in memory of its own; these sums are added in a fixed order afterwards, and
transformed. In the words, ``W`` is the address of the results' gradient, ``Y`` that of the weight's.
"""

from collections.abc import Callable

from tapegrad.kernels.conv_plan import (
    BH,
    GROUPS,
    IMAGES,
    IN,
    MB,
    NBH,
    NMB,
    NO,
    NQ,
    PARTIAL,
    PARTS,
    RC,
    TASK_COST,
    TILES1,
    TILES2,
    UNITS,
    WORDS,
    B,
    M,
    Q,
    R,
    W,
    X,
    Y,
)
from tapegrad.kernels.gemm_ir import greatest, least
from tapegrad.kernels.gemm_micro import host_tile, multiply_kernel
from tapegrad.kernels.gemm_pack import pack_kernel
from tapegrad.kernels.winograd import (
    GAP,
    MOST_TILES,
    NUMBERS,
    ROWS,
    direct_cycles,
    has_tiles,
    make_tiles,
    share_images,
    vectors_of_rows,
)
from tapegrad.kernels.winograd_ir import PIXELS, RESULTS, WEIGHTS, each_kernel, transposed
from tapegrad.native.cache import jit
from tapegrad.native.dtypes import NUMPY_DTYPES, POINTERS
from tapegrad.native.parallel import SCRATCH_BYTES, parallel_for
from tapegrad.native.pointers import int64_at, stack_words

_CACHED_BYTES = 384 << 10  # of tiles
_CHANNELS = 64  # of pixels that are taken together, at most
_PARTIAL_BYTES = 32 << 20  # of all partial sums
_LARGE_BYTES = 8 << 20  # of the sums of a task, from which they are read from memory and written each time
_MOST_TASKS = 32
_PANELS_AT, _GRADIENTS_AT = 1 << 20, 3 << 20  # in scratch memory, behind tiles of pixels, as they are and as panels


def make_winograd_weight(dtype: int) -> tuple[Callable[..., int], ...]:
    """Return ``plan(words)``, the bytes of the partial sums, or 0 where another way is faster; ``run(pool, words)``,
    which wants that memory at ``PARTIAL``.
    """
    tile = host_tile()
    numpy_dtype, pointer = NUMPY_DTYPES[dtype], POINTERS[dtype]
    size, tall, panel = numpy_dtype.itemsize, tile.rows, tile.vectors * tile.vector_bytes
    lanes = tile.vector_bytes // size
    multiply, pack = multiply_kernel(numpy_dtype, tile), pack_kernel(numpy_dtype, tile)
    row_bytes, transform_images = make_tiles(dtype, PIXELS, "pixels")
    _, transform_gradients = make_tiles(dtype, transposed(RESULTS), "gradients")
    transform_sums = each_kernel("sums", numpy_dtype, transposed(WEIGHTS))

    @jit
    def panels_bytes(p, tiles):
        """Return the distance of panels, and of all panels of one number: rows are read by whole vectors."""
        step = ((tiles + lanes - 1) // lanes * lanes + 1) * panel
        return step, (p[RC] * size + panel - 1) // panel * step

    @jit
    def is_faster(p, tiles):
        """Compare cycles with those of the direct way: of products, transforms and packing, of sums in memory."""
        products, vectors = p[M] * p[R], (p[R] + lanes - 1) // lanes
        chunks = (p[R] + p[RC] - 1) // p[RC]
        transforms = 3 * NUMBERS * vectors_of_rows(p, lanes) * (p[M] * chunks + p[R])
        each = 8 if NUMBERS * products * size <= _LARGE_BYTES else 24
        sums = each * p[UNITS] * products + 100 * p[GROUPS] * products
        return p[UNITS] * tiles * NUMBERS * (p[M] + 2) * vectors + transforms + sums < direct_cycles(p, lanes)

    @jit
    def plan(words):
        p = int64_at(words)
        if not has_tiles(p):
            return 0
        chunks = (p[R] + _CHANNELS - 1) // _CHANNELS
        p[RC] = least(p[R], ((p[R] + chunks - 1) // chunks + lanes - 1) // lanes * lanes)
        tiles = share_images(p, greatest(lanes, least(MOST_TILES, _CACHED_BYTES // (NUMBERS * p[RC] * size))))
        row, panels = row_bytes(tiles), panels_bytes(p, tiles)[1]
        if NUMBERS * p[RC] * row + GAP > _PANELS_AT or NUMBERS * panels + GAP > _GRADIENTS_AT - _PANELS_AT:
            return 0
        if NUMBERS * ROWS * row + GAP > SCRATCH_BYTES - _GRADIENTS_AT or not is_faster(p, tiles):
            return 0
        bytes_ = NUMBERS * p[M] * p[R] * size
        tasks = least(_MOST_TASKS, greatest(1, p[UNITS] * tiles * bytes_ // (size * TASK_COST)))
        units = p[UNITS] // p[GROUPS]
        p[PARTS] = greatest(1, least(least(units, tasks // p[GROUPS]), _PARTIAL_BYTES // (p[GROUPS] * bytes_ + 1)))
        blocks = (p[M] + ROWS - 1) // ROWS
        p[NMB] = greatest(1, least(least(tasks, 8) // (p[PARTS] * p[GROUPS]), p[M] // 64))
        p[MB] = (blocks + p[NMB] - 1) // p[NMB] * ROWS
        p[NMB] = (p[M] + p[MB] - 1) // p[MB]
        return p[PARTS] * p[GROUPS] * bytes_

    @jit
    def task(words, index, scratch):
        p = int64_at(words)
        other = stack_words(WORDS)
        g = int64_at(other)
        for k in range(WORDS):
            g[k] = p[k]
        g[X], g[R] = p[W], p[M]
        for d in range(3):
            g[IN + d], g[B + d] = p[NO + d], 0
        rest, start = index // p[NMB], index % p[NMB] * p[MB]
        group, part = rest // p[PARTS], rest % p[PARTS]
        depth = p[R] * size
        units, out = p[NQ] * p[NBH], p[PARTIAL] + (part * p[GROUPS] + group) * NUMBERS * p[M] * depth
        gradients = scratch + _GRADIENTS_AT
        begin = part * units // p[PARTS]
        for unit in range(begin, (part + 1) * units // p[PARTS]):
            image, first = unit // p[NBH] * p[Q], unit % p[NBH] * p[BH]
            height, images = least(p[BH], p[TILES1] - first), least(p[Q], p[IMAGES] - image)
            tiles = images * height * p[TILES2]
            row, (step, panels) = row_bytes(tiles), panels_bytes(p, tiles)
            for r0 in range(0, p[R], p[RC]):
                channels = least(p[RC], p[R] - r0)
                transform_images(p, scratch, row, first, height, image, images, group, r0, channels)
                for k in range(NUMBERS):
                    tiles_of_k = scratch + k * channels * row
                    pack(tiles_of_k, size, row, scratch + _PANELS_AT + k * panels, step, tiles, channels)
                for m0 in range(start, least(start + p[MB], p[M]), ROWS):
                    rows = least(ROWS, p[M] - m0)
                    transform_gradients(g, gradients, row, first, height, image, images, group, m0, rows)
                    for k in range(NUMBERS):
                        multiply(
                            gradients + k * rows * row, row, size, tall * row, scratch + _PANELS_AT + k * panels, panel,
                            step, out + (k * p[M] + m0) * depth + r0 * size, depth, tiles, channels, unit - begin, rows,
                        )  # fmt: skip
        return 0

    @jit
    def combine(words, index, scratch):
        """Add the partial sums of one row of the weight, and transform them to taps."""
        p = int64_at(words)
        group, m = index // p[M], index % p[M]
        plane = p[M] * p[R] * size
        first = p[PARTIAL] + group * NUMBERS * plane + m * p[R] * size
        for k in range(NUMBERS):
            total = pointer(first + k * plane)
            for part in range(1, p[PARTS]):
                other = pointer(first + (part * p[GROUPS] * NUMBERS + k) * plane)
                for r in range(p[R]):
                    total[r] += other[r]
        taps = p[Y] + index * p[R] * 9 * size
        transform_sums(first, size, 4 * plane, plane, taps, 9 * size, size, p[R])
        return 0

    def run(pool, words):
        p = int64_at(words)
        status = parallel_for(pool, task, words, p[PARTS] * p[GROUPS] * p[NMB])
        return parallel_for(pool, combine, words, p[GROUPS] * p[M]) if status >= 0 else status

    return plan, run
