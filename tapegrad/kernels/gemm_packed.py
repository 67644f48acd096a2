"""Products with one matrix that stays the same from call to call: B is packed into panels once, by itself.

A recurrent layer multiplies a few rows by the same weights at every step; packing them anew would cost as much as the
product. The panels are those of ``gemm_pack``, over the whole depth.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from ..native.pointers import int64_at
from .gemm_micro import Tile, host_tile, multiply_kernel
from .gemm_pack import pack_kernel


def panel_sizes(dtype: Any, tile: Tile | None = None) -> tuple[int, int]:
    """Return how many columns of B a panel has, and how many rows more than B, which packing may write."""
    tile = tile or host_tile()
    lanes = tile.vector_bytes // np.dtype(dtype).itemsize
    return tile.vectors * lanes, lanes


def make_packed_gemm(dtype: Any, tile: Tile | None = None) -> Callable[[int], int]:
    """Return ``gemm(args) -> 0`` for ``compile_function(gemm, key, "int64(int64)")``.

    ``args`` is the address of int64 words: m, n, k, a, rsa, packed, c, rsc, accumulate, b, rsb, csb, before. Where
    ``m`` is negative, b [k, n] of any strides is packed into ``packed``, as the rows from ``before`` on of a matrix
    that has ``accumulate`` rows in all, and whose earlier rows are there already. Else C [m, n] is set to A [m, k] @ B,
    or is added to where ``accumulate`` is not 0. Strides are in elements; the rows of A and C are contiguous.
    """
    dtype = np.dtype(dtype)
    tile = tile or host_tile()
    size = dtype.itemsize
    gap = tile.vectors * tile.vector_bytes
    multiply, pack = multiply_kernel(dtype, tile), pack_kernel(dtype, tile)
    rows, spare = tile.rows, panel_sizes(dtype, tile)[1]

    def gemm(args):  # type: ignore[no-untyped-def]
        p = int64_at(args)
        m, n, k = p[0], p[1], p[2]
        if m < 0:
            if n > 0 and k > 0:
                pack(p[9], p[10] * size, p[11] * size, p[5] + p[12] * gap, gap * (p[8] + spare), k, n)
        elif m > 0 and n > 0 and (k > 0 or p[8] == 0):
            rsa = p[4] * size
            multiply(p[3], rsa, size, rsa * rows, p[5], gap, gap * (k + spare), p[6], p[7] * size, k, n, p[8], m)
        return 0

    return gemm
