"""Matrix multiplication C = A @ B or C += A @ B, float32 and float64, any strides of A and B, on one thread.

One register tile of C is computed at a time (``gemm_micro``). It reads A one element at a time, so any layout of A will
do, and B by whole vectors of a row. Small operands are read where they are; B is packed into panels as wide as the tile
where its rows are not contiguous or the whole is large. Every element of C is a sum in an order that depends on sizes
and layouts only, so equal inputs give equal bits.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from ..native.cache import jit
from ..native.pointers import int64_at
from .gemm_ir import least
from .gemm_micro import Tile, host_tile, multiply_kernel
from .gemm_pack import pack_kernel, panels_kernel
from .gemm_vector import columns_kernel, rows_kernel

WORKSPACE_BYTES = 4 << 20
LARGE, SMALL = 2, 4  # flags beside ``accumulate``

# Packed B stays in the second-level cache. A transposed A, whose rows' elements are all on different pages, is better
# read fewer times, with more of B in the third-level cache (1024^3: 104 -> 110 GFLOP/s float32).
_PANELS_BYTES, _WIDE_PANELS_BYTES = 768 << 10, 3 << 20
_TALL = 256  # rows of a transposed A from which that pays
_DEPTH_BYTES = 2048  # the length of a packed panel's columns: a panel of B stays in the second-level cache
_STRIP_ROWS = 64  # of A: they stay in the second-level cache while every panel of B passes by
_IN_PLACE_BYTES = 256 << 10  # a B beyond this is packed: its rows fall on few cache sets and many pages
_ALIAS_BYTES = 4096  # memory this far apart, or a multiple, falls on one set of the first-level cache
_SPAN = 4096  # elements of a vector result that stay in the first-level cache while the matrix streams by


def make_is_large(dtype: Any, tile: Tile | None = None) -> Callable[[int, int, int], bool]:
    """Return the helper that says whether B is packed for its size, which cuts the sums over k into pieces."""
    size, rows = np.dtype(dtype).itemsize, (tile or host_tile()).rows

    @jit
    def is_large(m, n, k):  # type: ignore[no-untyped-def]
        return k * n * size > _IN_PLACE_BYTES and m > 2 * rows

    return is_large


def make_gemm(dtype: Any, tile: Tile | None = None) -> Callable[[int], int]:
    """Return ``gemm(args) -> 0`` for ``compile_function(gemm, key, "int64(int64)")``.

    Args:
        dtype: float32 or float64.
        tile: the register tile, by default the host's.

    ``args`` is the address of int64 words: m, n, k, a, rsa, csa, b, rsb, csb, c, rsc, accumulate, batch, bsa, bsb, bsc,
    workspace. a [m, k], b [k, n], c [m, n] and workspace are addresses; strides are in elements, of any sign or zero,
    but C's columns are contiguous, and C overlaps neither A nor B. Where ``accumulate`` is odd, C is added to; LARGE or
    SMALL in it says how the product that this is a block of is summed over k. The workspace has ``WORKSPACE_BYTES``
    bytes and begins at a multiple of 64.

    It is one function: Numba translates one that another calls again with its caller (split in four: 3.8 s, now 0.9 s).
    """
    dtype = np.dtype(dtype)
    tile = tile or host_tile()
    size, lanes = dtype.itemsize, tile.vector_bytes // dtype.itemsize
    rows, cols, masks = tile.rows, tile.vectors * lanes, tile.masks
    multiply, pack = multiply_kernel(dtype, tile), pack_kernel(dtype, tile)
    dot_rows, add_columns = rows_kernel(dtype, tile), columns_kernel(dtype, tile)
    pack_a = panels_kernel(dtype, replace(tile, vector_bytes=rows * size, vectors=1))
    depth, gap = _DEPTH_BYTES // size, cols * size  # the gap keeps panels apart that would fall on the same cache sets
    narrow, wide = (limit // (gap * (depth + 1)) * cols for limit in (_PANELS_BYTES, _WIDE_PANELS_BYTES))
    is_large = make_is_large(dtype, tile)
    most, scratch_a = _WIDE_PANELS_BYTES // size, _WIDE_PANELS_BYTES + (64 << 10)

    def gemm(args):  # type: ignore[no-untyped-def]
        p = int64_at(args)
        m, n, k, a, b, c = p[0], p[1], p[2], p[3], p[6], p[9]
        rsa, csa, rsb, csb, rsc = p[4] * size, p[5] * size, p[7] * size, p[8] * size, p[10] * size
        accumulate, summed_as, batch, workspace = p[11] & 1, p[11] >> 1, p[12], p[16]
        bsa, bsb, bsc = p[13] * size, p[14] * size, p[15] * size
        if m <= 0 or n <= 0 or (k <= 0 and accumulate != 0):
            return 0
        if batch > 1 and bsb == 0 and bsa == m * rsa and bsc == m * rsc:
            m, batch = m * batch, 1
        # A vector is multiplied as the transposed product where that makes the matrix's contiguous side the one that is
        # read by vectors: as x @ B with contiguous rows of B, or as A @ x with contiguous rows of A.
        if (n == 1 and m > 1 and rsa == size and rsc == size) or (m == 1 and n > 1 and csb != size):
            m, n, a, b, bsa, bsb = n, m, b, a, bsb, bsa
            rsa, csa, rsb, csb, rsc = csb, rsb, csa, rsa, size
        by_rows = n == 1 and csa == size and k >= lanes
        by_columns = m == 1 and csb == size and n > 4 * cols
        large = is_large(m, n, k) if summed_as == 0 else summed_as == LARGE >> 1
        packed = (n > 1 and csb != size) or (not masks and n % lanes != 0) or large
        packs_a = packed and rsa == size and csa % _ALIAS_BYTES == 0 and m >= rows and n > cols
        kc, nc = k + 1, n
        if by_rows:
            packed, kc = rsb != size, most
        elif by_columns:
            packed, nc = False, _SPAN
        elif packed:
            kc, nc = depth, wide if rsa == size and m > _TALL else narrow
        for _ in range(batch):
            for j0 in range(0, n, nc):
                width = least(nc, n - j0)
                for p0 in range(0, k if k > 0 else 1, kc):
                    length, add = least(kc, k - p0), accumulate | p0
                    left, right, target = a + p0 * csa, b + j0 * csb + p0 * rsb, c + j0 * size
                    stride, step = rsb, gap
                    if by_rows and packed:
                        pack(right, 0, rsb, workspace, gap, 1, length)
                        right = workspace
                    elif packed:
                        stride, step = gap, gap * (length + 1)
                        pack(right, rsb, csb, workspace, step, length, width)
                        right = workspace
                    if by_rows:
                        dot_rows(left, rsa, right, target, rsc, length, add, m)
                    elif by_columns:
                        add_columns(left, csa, right, rsb, target, length, width, add)
                    else:
                        for i0 in range(0, m, _STRIP_ROWS):
                            height, first, out = least(_STRIP_ROWS, m - i0), left + i0 * rsa, target + i0 * rsc
                            rs, cs, jump = rsa, csa, rsa * rows
                            if packs_a:
                                rs, cs, jump = size, rows * size, rows * size * length + 64
                                pack_a(first, csa, workspace + scratch_a, jump, length, height)
                                first = workspace + scratch_a
                            multiply(first, rs, cs, jump, right, stride, step, out, rsc, length, width, add, height)
            a, b, c = a + bsa, b + bsb, c + bsc
        return 0

    return gemm
