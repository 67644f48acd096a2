"""How a convolution is cut: the words that describe one, blocks that fit the cache, tables of offsets.

Words hold a correlation y[n, m, o] = bias[m] + sum over r, t of x[n, r, o s + t d + b] w[m, r, t] with up to three
spatial dimensions (missing ones have length 1). A convolution is one; a transposed convolution, too, with the filter
turned round, and, where it has a stride, one for each place modulo the stride.
"""

from tapegrad.kernels.gemm_ir import greatest, least
from tapegrad.native.cache import jit
from tapegrad.native.pointers import int64_at

# Sizes are those of one group. Words of three are for depth, height and width.
(
    X, W, BIAS, Y, GEMM,  # addresses
    IMAGES, GROUPS, M, R,  # channels of y, of x
    WG, WM, WR, WB,  # strides of the weight: group, channels of y and x; where the first place of the filter is
    BH, BW, NBH, NBW,  # a block of results, and how many blocks there are
    RC, CHUNKS,  # channels of x that are taken together, into how many parts the sum over channels and places falls
    MB, NMB, Q, NQ,  # channels of y, images that are taken together
    UNITS, PER_TASK,
) = range(25)  # fmt: skip
IN, OUT, NO, T, S, D, B, OS, OB, WT, TC = range(25, 58, 3)
PARTS, GB, NGB, PARTIAL = range(58, 62)  # gradients of weights: partial sums, groups that are taken together
PACKED = 62  # whether images are packed
TILES1, TILES2 = 63, 64  # of two results by two: how many there are down and across
RUNS, PLACES, VECTORS, PANELS, BD, NBD = 65, *range(69, 74)  # by pixels: see conv_pixels
RUNS_OF = 66  # three of them
WORDS = 74

# words of a layout of padded images in scratch memory
PHASES1, PHASES2, ROWS, USED, PITCH, PLANE, IMAGE = range(7)

TARGET_BYTES = 512 << 10  # of padded images: they stay in the second-level cache
LIMIT_BYTES = 2 << 20  # of padded images
PACKED_BYTES = 640 << 10  # of packed images
_LEAST_SUM = 128  # products that are summed before results are read and written again
MOST_ENTRIES = 16384  # of the table
MOST_FLAT = 8192  # places of a block, those between its rows too
TASK_COST = 4 << 20  # multiplications and additions that are worth a task: 40 us
FILL_COST = 10  # what an element copied costs, in these


@jit
def lay_out(p, bh, bw, rc, c0, c1, c2, shared, to):
    """Lay padded images out: by channel, place in depth, row and column modulo the stride, then rows.

    Rows share the zeros between them where one block is as wide as the image.
    """
    g = int64_at(to)
    reach1, reach2 = (c1 - 1) * p[D + 1], (c2 - 1) * p[D + 2]
    s1, s2, b2 = p[S + 1], p[S + 2], p[B + 2]
    g[PHASES1], g[PHASES2] = least(s1, reach1 + 1), least(s2, reach2 + 1)
    g[ROWS] = bh + reach1 // s1
    used = bw + reach2 // s2
    g[USED] = used
    overlap = 0
    if shared != 0:
        left = (-(b2 + g[PHASES2] - 1) + s2 - 1) // s2
        right = used - (p[IN + 2] - b2 + s2 - 1) // s2
        overlap = least(least(left, right), used - bw)
    g[PITCH] = used - (overlap if overlap > 0 else 0)
    g[PLANE] = g[ROWS] * g[PITCH] + used - g[PITCH]
    g[IMAGE] = rc * c0 * g[PHASES1] * g[PHASES2] * g[PLANE]
    return 0


@jit
def cut(p, size, geometry):
    """Choose blocks of results, of channels and of places in the filter so that a block's padded image fits."""
    bh, bw, rc, c0, c1, c2 = p[NO + 1], p[NO + 2], p[R], p[T], p[T + 1], p[T + 2]
    g = int64_at(geometry)
    while True:
        lay_out(p, bh, bw, rc, c0, c1, c2, 0, geometry)
        bytes_ = g[IMAGE] * size
        flat = (bh - 1) * g[PITCH] + bw
        large = flat > MOST_FLAT or bytes_ > TARGET_BYTES
        if rc * c0 * c1 * c2 > MOST_ENTRIES or (bytes_ > LIMIT_BYTES and bh == 1 and bw <= 256):
            if rc > 1:
                rc = (rc + 1) // 2
            elif c0 > 1:
                c0 = 1
            elif c1 > 1:
                c1 = 1
            else:
                c2 = (c2 + 1) // 2
        elif large and bh > 1:
            bh = (bh + 1) // 2
        elif large and bw > 256:
            bw = (bw + 1) // 2
        else:
            break
    p[NBH], p[NBW] = (p[NO + 1] + bh - 1) // bh, (p[NO + 2] + bw - 1) // bw
    p[BH], p[BW] = (p[NO + 1] + p[NBH] - 1) // p[NBH], (p[NO + 2] + p[NBW] - 1) // p[NBW]
    p[RC], p[TC], p[TC + 1], p[TC + 2] = rc, c0, c1, c2
    p[CHUNKS] = 1
    for d in range(3):
        p[CHUNKS] *= (p[T + d] + p[TC + d] - 1) // p[TC + d]
    p[CHUNKS] *= (p[R] + rc - 1) // rc
    lay_out(p, p[BH], p[BW], rc, c0, c1, c2, shares(p), geometry)
    return 0


@jit
def shares(p):
    """Return whether the rows of padded images share the zeros between them."""
    return 1 if p[NBW] == 1 and p[TC + 2] == p[T + 2] else 0


@jit
def write_table(p, g_address, table, r0, rc, a0, c0, a1, c1, a2, c2, size_b, size_a):
    """Write, for each channel and place of a part of the sum, the offsets in the padded image and in the weight."""
    g, t = int64_at(g_address), int64_at(table)
    k = 0
    for r in range(rc):
        for i in range(c0):
            for j in range(c1):
                row = j * p[D + 1]
                phase = (r * c0 + i) * g[PHASES1] + row % p[S + 1]
                for n in range(c2):
                    column = n * p[D + 2]
                    plane = phase * g[PHASES2] + column % p[S + 2]
                    t[2 * k] = (plane * g[PLANE] + row // p[S + 1] * g[PITCH] + column // p[S + 2]) * size_b
                    t[2 * k + 1] = (
                        (r0 + r) * p[WR] + (a0 + i) * p[WT] + (a1 + j) * p[WT + 1] + (a2 + n) * p[WT + 2]
                    ) * size_a
                    k += 1
    return k


@jit
def write_vectors(per_image, images, pitch, height, width, lanes, image_down, down, across, starts_at, segments_at):
    """Write which lanes of each vector are results, and where they go; return how many vectors there are.

    Images are ``per_image`` lanes apart, their rows ``pitch``; results are apart by so many bytes.
    """
    starts, segments = int64_at(starts_at), int64_at(segments_at)
    if pitch == width and down == width * across:
        height, width = 1, height * width
    count, seen = 0, 0
    for q in range(images):
        for row in range(height):
            first = q * per_image + row * pitch
            place = first
            while place < first + width:
                vector = place // lanes
                last = least(first + width, (vector + 1) * lanes)
                while seen <= vector:
                    starts[seen] = count
                    seen += 1
                low = place - vector * lanes
                segments[3 * count] = low
                segments[3 * count + 1] = last - vector * lanes
                segments[3 * count + 2] = q * image_down + row * down + (place - first - low) * across
                count += 1
                place = last
    starts[seen] = count
    return seen


@jit
def write_pieces(g_address, images, height, width, lanes, panel, panel_bytes, size, pieces_at):
    """Write how padded images are packed: rows without what lies between, cut where panels end; return how many.

    A panel has ``panel`` lanes of each row of the table; panels are ``panel_bytes`` apart.
    """
    g, pieces = int64_at(g_address), int64_at(pieces_at)
    count, place = 0, 0
    for q in range(images):
        for row in range(height):
            done = 0
            while done < width:
                pieces[2 * count] = (q * g[IMAGE] + row * g[PITCH] + done) * size
                pieces[2 * count + 1] = place // panel * panel_bytes + place % panel * size
                count += 1
                step = least(least(width - done, lanes), panel - place % panel)
                done += step
                place += step
    return count


@jit
def choose_packing(p, size, lanes, panel, pixels_wanted, geometry):
    """Decide whether images are packed, and if so how many images and channels at a time.

    A vector of padded images costs M multiplications for each row of the table, results among them or not; packing
    costs about eight for each piece (128 channels, 28x28: 37.5 -> 36.1 ms without packing). Packed pixels are rounded
    up to a multiple of ``panel``.
    """
    pitch = int64_at(geometry)[PITCH]
    places, pixels = p[T] * p[T + 1] * p[T + 2], p[BH] * p[BW]
    vectors = ((p[BH] - 1) * pitch + p[BW] + lanes - 1) // lanes
    p[PACKED], p[Q] = 0, 1
    pieces = p[BH] * ((p[BW] + lanes - 1) // lanes)
    if p[CHUNKS] > 1 or (vectors * lanes - pixels) * p[M] < 8 * lanes * pieces:
        return 0
    together = 1
    if p[NBH] * p[NBW] * p[NO] == 1:
        together = greatest(1, least(p[IMAGES], pixels_wanted // pixels))
        if 2 * p[IMAGES] * p[M] * p[R] * places * pixels > 32 * TASK_COST:
            together = greatest(1, least(together, p[IMAGES] * p[GROUPS] * greatest(1, p[M] // 64) // 16))
    padded = (pixels * together + panel - 1) // panel * panel
    channels = greatest(1, least(p[R], PACKED_BYTES // (places * padded * size)))
    if channels * places < _LEAST_SUM and channels < p[R]:
        return 0
    p[CHUNKS] = (p[R] + channels - 1) // channels
    p[RC] = (p[R] + p[CHUNKS] - 1) // p[CHUNKS]
    p[PACKED], p[Q] = 1, together
    lay_out(p, p[BH], p[BW], p[RC], p[T], p[T + 1], p[T + 2], shares(p), geometry)
    return 0
