"""A matrix multiplication cut into blocks of C for the threads of a pool.

How C is cut changes no bit of it: every element is summed over k in an order that the whole product's sizes decide
(``kernels/gemm.py``). So, other than elsewhere, the cut may go by the number of threads, and one thread cuts nothing.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from tapegrad.kernels.gemm import LARGE, SMALL, WORKSPACE_BYTES, make_is_large
from tapegrad.kernels.gemm_ir import least
from tapegrad.kernels.gemm_micro import host_tile
from tapegrad.native.cache import jit
from tapegrad.native.parallel import SCRATCH_BYTES, THREADS, parallel_for
from tapegrad.native.pointers import call1, int64_at, stack_words

assert SCRATCH_BYTES >= WORKSPACE_BYTES

_WORDS = 17  # of a GEMM; see kernels/gemm.py
_BLOCK_WORK = 1 << 20  # multiply-adds of a block: 20 us, where handing it out takes 0.2 us
_BLOCKS_A_THREAD = 3  # so that one which is held up leaves the rest to others
_ROWS, _COLUMNS, _ELEMENTS = 48, 96, 960  # the least of a block: of C as a matrix, of C as a vector
_VECTOR_WORK = 1 << 18  # elements of the matrix that a vector is multiplied by


@jit
def _one_block(context, k, scratch):
    """Multiply block ``k``: copy the words of the whole and change what the block has of its own."""
    whole = int64_at(context)
    gemm, item, down, across, batches = whole[_WORDS], whole[18], whole[19], whole[20], whole[21]
    words = stack_words(17)
    p = int64_at(words)
    for i in range(_WORDS):
        p[i] = whole[i]
    i0, j0 = 0, 0
    if batches > 0:
        p[12] = least(batches, whole[12] - k * batches)
        for matrix in range(3):
            p[3 + 3 * matrix] += k * batches * whole[13 + matrix] * item
    else:
        i0, j0 = _begin(k // across, down, whole[0], whole[22]), _begin(k % across, across, whole[1], whole[23])
        p[0] = _begin(k // across + 1, down, whole[0], whole[22]) - i0
        p[1] = _begin(k % across + 1, across, whole[1], whole[23]) - j0
    p[3] += i0 * whole[4] * item
    p[6] += j0 * whole[8] * item
    p[9] += (i0 * whole[10] + j0) * item
    p[16] = scratch
    return call1(gemm, words)


@jit
def _begin(index, pieces, length, unit):
    """Return where a piece begins: pieces are whole units long, the first ones one more, the last ends with the length.

    Seven blocks of a product, the last the longest, kept two threads busy for 0.87 of the time; six like these 0.97.
    """
    units = (length + unit - 1) // unit
    return least((index * (units // pieces) + least(index, units % pieces)) * unit, length)


@jit
def _pieces(length, least_length, wanted, threads):
    """Return into how many pieces a length is cut, each at least ``least_length``: as many for each thread."""
    pieces = max(least(wanted, length // least_length), 1)
    return pieces // threads * threads if pieces > threads else pieces


def make_gemm_blocks(dtype: Any) -> Callable[..., Any]:
    """Return the helper ``multiply(pool, gemm, words, item)``: a GEMM with the help of a pool's threads.

    Args (of the helper):
        pool: the address of the pool.
        gemm: the address of the compiled GEMM.
        words: the address of its arguments.
        item: bytes of an element.
    """
    tile = host_tile()
    is_large, panel, tall = (
        make_is_large(dtype),
        tile.vectors * tile.vector_bytes // np.dtype(dtype).itemsize,
        tile.rows,
    )

    @jit
    def multiply(pool, gemm, words, item):
        p = int64_at(words)
        m, n, k, batch = p[0], p[1], p[2], p[12]
        threads = int64_at(pool)[THREADS]
        work = m * n * k * batch
        vector = m == 1 or n == 1
        if threads == 1 or work < (_VECTOR_WORK if vector else 2 * _BLOCK_WORK):
            return call1(gemm, words)
        context = stack_words(24)
        whole = int64_at(context)
        for i in range(_WORDS):
            whole[i] = p[i]
        if batch > 1 and p[14] == 0 and p[13] == m * p[4] and p[15] == m * p[10]:
            m, batch = m * batch, 1
            whole[0], whole[12] = m, 1
            vector = n == 1
        large = is_large(m, n, k)
        if not vector:
            whole[11] |= LARGE if large else SMALL
        wanted = least(threads * _BLOCKS_A_THREAD, work // (_VECTOR_WORK // 2 if vector else _BLOCK_WORK))
        down, across, batches = 1, 1, 0
        if batch > 1:
            batches = (batch + wanted - 1) // wanted
            down = (batch + batches - 1) // batches
        elif vector:
            down, across = _pieces(m, _ELEMENTS, wanted, threads), _pieces(n, _ELEMENTS, wanted, threads)
        elif large or p[8] != 1:  # B is packed, for each block of rows again
            across = _pieces(n, _COLUMNS, wanted, threads)
            down = _pieces(m, 4 * _ROWS, (wanted + across - 1) // across, threads)
        else:
            down = _pieces(m, _ROWS, wanted, threads)
            across = _pieces(n, _COLUMNS, (wanted + down - 1) // down, threads)
        whole[_WORDS], whole[18], whole[19], whole[20], whole[21] = gemm, item, down, across, batches
        whole[22], whole[23] = tall, panel
        return parallel_for(pool, _one_block, context, down * across)

    return multiply
