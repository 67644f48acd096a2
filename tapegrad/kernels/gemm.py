"""Matrix multiplication C = A @ B or C += A @ B, float32 and float64, any strides of A and B, on one thread.

One register tile of C is computed at a time (``gemm_micro``). It reads A one element at a time, so any layout of A will
do, and B by whole vectors of a row. Small operands are read where they are; B is packed into panels as wide as the tile
where its rows are not contiguous, and both operands are packed block by block once they are large.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from ..native.pointers import int64_at, pointer_to
from .gemm_micro import Tile, axpy_kernel, copy_kernel, dot_kernel, host_tile, tile_kernel, transpose_kernel

WORKSPACE_BYTES = 1 << 20
ARGUMENTS = 17

_BLOCK_BYTES = 512 << 10  # a packed block of B: half of the second-level cache
_DEPTH_BYTES = 2048  # of k: the rows of A that a tile reads stay in the first-level cache
_SPAN = 4096  # elements of y that stay in the first-level cache while the matrix streams by
_IN_PLACE_BYTES = 256 << 10  # a B beyond this is packed: its rows fall on few cache sets and many pages


def make_gemm(dtype: Any, tile: Tile | None = None) -> Callable[[int], int]:
    """Return ``gemm(args) -> 0`` for ``compile_function(gemm, key, "int64(int64)")``.

    Args:
        dtype: float32 or float64.
        tile: the register tile, by default the host's.

    ``args`` is the address of int64 words: m, n, k, a, rsa, csa, b, rsb, csb, c, rsc, accumulate, batch, bsa, bsb, bsc,
    workspace. a [m, k], b [k, n], c [m, n] and workspace are addresses; strides are in elements and of any sign or zero,
    but C's columns are contiguous and its rows do not overlap. Where ``accumulate`` is not 0, the product is added to C.
    The workspace has ``WORKSPACE_BYTES`` bytes and begins at a multiple of 64.

    It is one function, not several: each Numba function that another one calls is optimised and translated again with
    its caller, tile routines included (four functions compile in 3.8 s, one in 0.9 s).
    """
    dtype = np.dtype(dtype)
    tile = tile or host_tile()
    size, lanes = dtype.itemsize, tile.vector_bytes // dtype.itemsize
    rows, cols, masks = tile.rows, tile.vectors * lanes, tile.masks
    multiply, dot, axpy = tile_kernel(dtype, tile), dot_kernel(dtype, tile), axpy_kernel(dtype, tile)
    copy, transpose = copy_kernel(dtype, tile), transpose_kernel(dtype, tile)
    at = pointer_to(dtype)
    depth = _DEPTH_BYTES // size
    breadth = _BLOCK_BYTES // (depth * size) // cols * cols
    most = WORKSPACE_BYTES // size

    def gemm(args):  # type: ignore[no-untyped-def]
        p = int64_at(args)
        m, n, k, a, b, c = p[0], p[1], p[2], p[3], p[6], p[9]
        rsa, csa, rsb, csb, rsc = p[4] * size, p[5] * size, p[7] * size, p[8] * size, p[10] * size
        accumulate, batch, workspace = p[11], p[12], p[16]
        bsa, bsb, bsc = p[13] * size, p[14] * size, p[15] * size
        if m <= 0 or n <= 0 or (k <= 0 and accumulate != 0):
            return 0
        if batch > 1 and bsb == 0 and bsa == m * rsa and bsc == m * rsc:
            m *= batch
            batch = 1
        if m == 1 and n > 1:  # a row times a matrix is the transposed matrix times a column
            m, n, rsc = n, m, size
            a, b, bsa, bsb = b, a, bsb, bsa
            rsa, csa, rsb = csb, rsb, csa
        by_rows = n == 1 and csa == size and k >= lanes
        by_columns = n == 1 and rsa == size and rsc == size and m >= lanes
        if n == 1:
            packed = not (masks or by_rows or by_columns)
        else:
            packed = csb != size or (not masks and n % lanes != 0) or (k * n * size > _IN_PLACE_BYTES and m > 2 * rows)
        kc, nc = (depth, breadth) if packed else (k + 1, n)
        if by_rows:
            kc = most
        for _ in range(batch):
            for j0 in range(0, n, nc):
                width = min(nc, n - j0)
                for p0 in range(0, k + 1, kc):
                    length = min(kc, k - p0)
                    if length <= 0 and p0 > 0:
                        break
                    block, step, stride = b + j0 * csb + p0 * rsb, cols * size, rsb
                    add = accumulate | p0
                    if packed or (by_rows and rsb != size):
                        target, panel, step, stride = workspace, block, cols * size * length, cols * size
                        for j1 in range(0, width, cols):
                            some = min(cols, width - j1)
                            if csb == size and n > 1:
                                copy(panel, rsb, target, stride, length, some)
                            elif rsb == size:
                                for j in range(0, some, lanes):
                                    transpose(panel + j * csb, csb, target + j * size, stride, min(lanes, some - j), length)
                            else:
                                source, to, rs, cs = at(panel), at(target), rsb // size, csb // size
                                spread = 1 if by_rows else cols
                                for i in range(length):
                                    for j in range(some):
                                        to[i * spread + j] = source[i * rs + j * cs]
                            panel += cols * csb
                            target += step
                        block = workspace
                    if by_rows:
                        i = 0
                        while i < m:
                            taken = 4 if i + 4 <= m else 1
                            dot(a + i * rsa + p0 * size, rsa, block, c + i * rsc, rsc, length, add, taken)
                            i += taken
                    elif by_columns:
                        for i0 in range(0, m, _SPAN):
                            height = min(_SPAN, m - i0)
                            target = c + i0 * size
                            if accumulate == 0:
                                to = at(target)
                                for i in range(height):
                                    to[i] = 0
                            i = 0
                            while i < k:
                                taken = 4 if i + 4 <= k else 1
                                axpy(b + i * rsb, rsb, a + i0 * size + i * csa, csa, target, height, taken)
                                i += taken
                    else:
                        i = 0
                        height = rows
                        while i < m:
                            if height > m - i:
                                height = 8
                                while height > m - i:
                                    height >>= 1
                            left, target = a + i * rsa + p0 * csa, c + i * rsc + j0 * size
                            panel = block
                            for j in range(0, width, cols):
                                multiply(left, rsa, csa, panel, stride, target + j * size, rsc, length, min(cols, width - j), add, height)
                                panel += step
                            i += height
            a += bsa
            b += bsb
            c += bsc
        return 0

    return gemm
