"""Unbiased random integers below a bound by Lemire's multiplication (2019, doi:10.1145/3230636).

The high half of ``word * span`` is the integer; where the low half is below ``2**bits mod span``, which happens to that
many products too many, it is drawn again from counters of the word's own: the word's block with 4 * attempt + j in the
high half of the counter, j being the word's place in the block.
"""

import numpy as np

from tapegrad.kernels.philox_words import GROUP, GROUP_BLOCKS, philox_block
from tapegrad.native.cache import jit

LOW, BITS32 = np.uint64(0xFFFFFFFF), np.uint64(32)
_ZERO, _TWO32 = np.uint64(0), np.uint64(2**32)


@jit
def multiply(a, b):  # type: ignore[no-untyped-def]
    """Return the high and the low 64 bits of the product of two uint64."""
    a0, a1, b0, b1 = a & LOW, a >> BITS32, b & LOW, b >> BITS32
    middle = a1 * b0 + ((a0 * b0) >> BITS32)
    cross = (middle & LOW) + a0 * b1
    return a1 * b1 + (middle >> BITS32) + (cross >> BITS32), a * b


@jit
def excess32(span):  # type: ignore[no-untyped-def]
    """Return 2**32 mod span for a span of 1 .. 2**32."""
    return _TWO32 % span


@jit
def redraw(block, index, seed, span):  # type: ignore[no-untyped-def]
    """Return a fresh integer below ``span`` (0 is 2**64) for word ``index`` of the groups that start at ``block``."""
    own = block + np.uint64(index // GROUP * GROUP_BLOCKS + index % 16)
    stream = np.uint64(index % GROUP // 16)
    if span == _ZERO:
        return _ZERO  # unreachable: 2**64 words are none too many
    excess = (_ZERO - span) % span
    while True:
        stream += np.uint64(4)
        w0, w1, _, _ = philox_block(own, stream, seed)
        high, low = multiply(w0 | (w1 << BITS32), span)
        if low >= excess:
            return high


@jit
def bounded64(word, block, index, seed, span):  # type: ignore[no-untyped-def]
    """Return the 64-bit ``word``, which is word ``index`` of the groups from ``block``, below ``span`` (0 is 2**64)."""
    if span == _ZERO:
        return word
    high, low = multiply(word, span)
    if low < span and low < (_ZERO - span) % span:
        return redraw(block, index, seed, span)
    return high
