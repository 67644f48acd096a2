"""Convolution and transposed convolution by pixels: what neither packs images nor multiplies by zeros around them.

A task computes some vectors of channels of the results of some images, or of rows of one: pixel by pixel, see
conv_pixels_ir, to its thread's scratch memory, where the channels of a result lie side by side; then it turns them
round to where they belong. All results of a transposed convolution are computed together, whatever its stride. What a
task computes depends on sizes only.
"""

from collections.abc import Callable

from tapegrad.kernels.conv_pixels_ir import PAIR_BYTES, pixels_kernel, turn_kernel, widest
from tapegrad.kernels.conv_plan import (
    BD,
    BH,
    BIAS,
    GROUPS,
    IMAGES,
    IN,
    NBD,
    NBH,
    NQ,
    OUT,
    PANELS,
    PARTIAL,
    PLACES,
    RUNS_OF,
    UNITS,
    VECTORS,
    WG,
    WM,
    WR,
    M,
    Q,
    R,
    W,
    X,
    Y,
)
from tapegrad.kernels.conv_runs import (
    COUNT,
    MOST_RUNS,
    PIXEL,
    PIXEL_STEP,
    PLACE,
    PLACE_PIXELS,
    PLACE_STEP,
    RESULT,
    RESULT_STEP,
    RUN_WORDS,
    THREE_RUNS_WORDS,
    cut_run,
    runs_at,
)
from tapegrad.kernels.conv_runs import PLACES as RUN_PLACES
from tapegrad.kernels.gemm_ir import greatest, least
from tapegrad.kernels.gemm_micro import host_tile
from tapegrad.native.cache import jit
from tapegrad.native.dtypes import NUMPY_DTYPES, POINTERS
from tapegrad.native.parallel import SCRATCH_BYTES, parallel_for
from tapegrad.native.pointers import int64_at, stack_words

_MOST_PLACES = 4096
_MOST_RESULTS = 8192  # of one channel in a task
_RESULTS_BYTES = 512 << 10  # of a task: they stay in the second-level cache
_LEAST_RESULTS = 512  # of one channel, for which it is worth while to pack the weight
_CHANNELS = 4  # of the image that are packed at a time
# scratch memory: places, rows, results
_ROWS_AT = _MOST_PLACES * PAIR_BYTES
_OUT_AT = _ROWS_AT + _MOST_RESULTS * PAIR_BYTES
assert _OUT_AT + 2 * _RESULTS_BYTES <= SCRATCH_BYTES


def make_pixels(dtype: int) -> tuple[Callable[..., int], ...]:
    """Return ``plan(words)``, the bytes of the packed weight, or 0 where another way is better; ``run(pool, words)``,
    which wants that memory at ``PARTIAL``.
    """
    tile = host_tile()
    numpy_dtype, pointer = NUMPY_DTYPES[dtype], POINTERS[dtype]
    size, vector_bytes, most = numpy_dtype.itemsize, tile.vector_bytes, widest(tile)
    lanes = vector_bytes // size
    multiply, turn = pixels_kernel(numpy_dtype, tile), turn_kernel(numpy_dtype, tile)

    @jit
    def place_bytes(p):
        """Return the distance of places in a packed panel: not a power of two, so they lie in different sets."""
        return (p[R] * p[VECTORS] + 1) * vector_bytes

    @jit
    def panel_bytes(p):
        """Return the distance of packed panels, each of which begins with the bias."""
        return p[VECTORS] * vector_bytes + p[PLACES] * place_bytes(p)

    @jit
    def is_better(p):
        """Tell whether vectors of channels are full and the results are enough for a packed weight.

        With one channel of the image, and one vector of results, the other way is 10 % faster.
        """
        vectors = (p[M] + lanes - 1) // lanes
        results = p[IMAGES] * p[OUT] * p[OUT + 1] * p[OUT + 2]
        few = 4 * p[M] < 3 * vectors * lanes or results < _LEAST_RESULTS or p[R] * vectors == 1
        runs = greatest(p[RUNS_OF], greatest(p[RUNS_OF + 1], p[RUNS_OF + 2]))
        return not few and 0 < runs <= MOST_RUNS and p[PLACES] <= _MOST_PLACES

    @jit
    def plan(words):
        p = int64_at(words)
        if not is_better(p):
            return 0
        vectors = (p[M] + lanes - 1) // lanes
        p[PANELS] = (vectors + most - 1) // most
        p[VECTORS] = (vectors + p[PANELS] - 1) // p[PANELS]
        row = p[VECTORS] * vector_bytes
        limit = least(_RESULTS_BYTES // row, _MOST_RESULTS)
        plane = p[OUT + 1] * p[OUT + 2]
        p[Q], p[BD], p[BH] = 1, p[OUT], p[OUT + 1]
        if p[OUT] * plane <= limit:
            p[Q] = greatest(1, least(limit // (p[OUT] * plane), p[IMAGES] * p[GROUPS] * p[PANELS] // 12))
        elif plane <= limit:
            p[BD] = limit // plane
        else:
            p[BD], p[BH] = 1, limit // p[OUT + 2]
        if p[BH] == 0:
            return 0
        p[NQ] = (p[IMAGES] + p[Q] - 1) // p[Q]
        p[NBD], p[NBH] = (p[OUT] + p[BD] - 1) // p[BD], (p[OUT + 1] + p[BH] - 1) // p[BH]
        p[UNITS] = p[NQ] * p[NBD] * p[NBH] * p[GROUPS] * p[PANELS]
        return p[GROUPS] * p[PANELS] * panel_bytes(p)

    @jit
    def prepare(words, index, scratch):
        """Pack some channels of one panel of the weight: to [places, channels, vectors], and its bias before them."""
        p = int64_at(words)
        parts = (p[R] + _CHANNELS - 1) // _CHANNELS
        panel, r0 = index // parts, index % parts * _CHANNELS
        group, m0 = panel // p[PANELS], panel % p[PANELS] * p[VECTORS] * lanes
        to = p[PARTIAL] + panel * panel_bytes(p)
        weight, width = p[W] + group * p[WG] * size, p[VECTORS] * lanes
        count = least(_CHANNELS, p[R] - r0)
        bias = pointer(to)
        for c in range(width):
            m = m0 + c
            there = m < p[M]
            if r0 == 0:
                bias[c] = pointer(p[BIAS])[group * p[M] + m] if there and p[BIAS] != 0 else 0
            for r in range(r0, r0 + count):
                x = pointer(weight + (m * p[WM] + r * p[WR]) * size)
                y = to + (width * (r + 1) + c) * size
                for t in range(p[PLACES]):
                    pointer(y + t * place_bytes(p))[0] = x[t] if there else 0
        return 0

    @jit
    def write_places(p, parts, to):
        """Write where the places are that three runs have: their pixels, their rows of the weight. Return how many."""
        d, h, w = int64_at(parts), int64_at(parts + 8 * RUN_WORDS), int64_at(parts + 16 * RUN_WORDS)
        table, k = int64_at(to), 0
        for i in range(d[RUN_PLACES]):
            for j in range(h[RUN_PLACES]):
                line = (i * d[PLACE_PIXELS] * p[IN + 1] + j * h[PLACE_PIXELS]) * p[IN + 2]
                place = d[PLACE] + i * d[PLACE_STEP] + h[PLACE] + j * h[PLACE_STEP] + w[PLACE]
                for n in range(w[RUN_PLACES]):
                    table[2 * k] = (line + n * w[PLACE_PIXELS]) * size
                    table[2 * k + 1] = (place + n * w[PLACE_STEP]) * place_bytes(p)
                    k += 1
        return k

    @jit
    def write_rows(p, parts, images, depth, height, to):
        """Write where the results of three runs' parts and their first pixels are; return how many there are.

        ``depth`` and ``height`` are where the task's block of results begins.
        """
        d, h, w = int64_at(parts), int64_at(parts + 8 * RUN_WORDS), int64_at(parts + 16 * RUN_WORDS)
        rows, k, row = int64_at(to), 0, p[VECTORS] * vector_bytes
        image_pixels = p[GROUPS] * p[R] * p[IN] * p[IN + 1] * p[IN + 2] * size
        for q in range(images):
            for i in range(d[COUNT]):
                for j in range(h[COUNT]):
                    line = (d[PIXEL] + i * d[PIXEL_STEP]) * p[IN + 1] + h[PIXEL] + j * h[PIXEL_STEP]
                    pixel = q * image_pixels + (line * p[IN + 2] + w[PIXEL]) * size
                    line = (q * p[BD] + d[RESULT] + i * d[RESULT_STEP] - depth) * p[BH] - height
                    line += h[RESULT] + j * h[RESULT_STEP]
                    result = (line * p[OUT + 2] + w[RESULT]) * row
                    for n in range(w[COUNT]):
                        rows[2 * k] = pixel + n * w[PIXEL_STEP] * size
                        rows[2 * k + 1] = result + n * w[RESULT_STEP] * row
                        k += 1
        return k

    @jit
    def write_results(p, scratch, image, images, channel, channels, depth, height):
        """Turn the results round, and write them to their places."""
        volume, row = p[OUT] * p[OUT + 1] * p[OUT + 2] * size, p[VECTORS] * vector_bytes
        pixels = least(p[BD], p[OUT] - depth) * least(p[BH], p[OUT + 1] - height) * p[OUT + 2]
        y = p[Y] + (image * p[GROUPS] * p[M] + channel) * volume
        y += (depth * p[OUT + 1] + height) * p[OUT + 2] * size
        x = scratch + _OUT_AT
        for _ in range(images):
            turn(x, row, y, volume, pixels, channels)
            x += p[BD] * p[BH] * p[OUT + 2] * row
            y += p[GROUPS] * p[M] * volume
        return 0

    @jit
    def task(words, index, scratch):
        p = int64_at(words)
        parts = stack_words(THREE_RUNS_WORDS)
        rest, height = index // p[NBH], index % p[NBH] * p[BH]
        rest, depth = rest // p[NBD], rest % p[NBD] * p[BD]
        rest, panel = rest // p[PANELS], rest % p[PANELS]
        group, image = rest % p[GROUPS], rest // p[GROUPS] * p[Q]
        images, m0 = least(p[Q], p[IMAGES] - image), panel * p[VECTORS] * lanes
        weight = p[PARTIAL] + (group * p[PANELS] + panel) * panel_bytes(p)
        gap = p[IN] * p[IN + 1] * p[IN + 2] * size
        x = p[X] + (image * p[GROUPS] + group) * p[R] * gap
        for i in range(p[RUNS_OF]):
            cut_run(runs_at(p, 0) + i * RUN_WORDS * 8, depth, depth + p[BD], parts)
            for j in range(p[RUNS_OF + 1]):
                cut_run(runs_at(p, 1) + j * RUN_WORDS * 8, height, height + p[BH], parts + 8 * RUN_WORDS)
                for n in range(p[RUNS_OF + 2]):
                    cut_run(runs_at(p, 2) + n * RUN_WORDS * 8, 0, p[OUT + 2], parts + 16 * RUN_WORDS)
                    count = write_rows(p, parts, images, depth, height, scratch + _ROWS_AT)
                    multiply(
                        scratch + _ROWS_AT, x, gap, p[R], scratch, write_places(p, parts, scratch),
                        weight + p[VECTORS] * vector_bytes, weight, scratch + _OUT_AT, count, p[VECTORS],
                    )  # fmt: skip
        write_results(p, scratch, image, images, group * p[M] + m0, least(p[VECTORS] * lanes, p[M] - m0), depth, height)
        return 0

    def run(pool, words):
        p = int64_at(words)
        packed = (p[R] + _CHANNELS - 1) // _CHANNELS * p[GROUPS] * p[PANELS]
        status = parallel_for(pool, prepare, words, packed)
        return parallel_for(pool, task, words, p[UNITS]) if status >= 0 else status

    return plan, run
