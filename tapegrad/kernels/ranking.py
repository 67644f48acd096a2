"""Selecting from rows without sorting them whole: the element of a rank, and the first few in order.

A row's elements become the keys of sort.py. The key of a rank is found by quickselect with a partition that has no
branch on the data (about 1 ns an element and pass); among equal elements the one that comes first is the lesser.
"""

from collections.abc import Callable

import numpy as np

from tapegrad.kernels.sort import make_key, sort_keys
from tapegrad.native.cache import jit
from tapegrad.native.dtypes import POINTERS
from tapegrad.native.pointers import int64_at, pointer_to

_words = pointer_to(np.uint64)


@jit
def _partition(keys, low, high, pivot, below):
    """Move the keys of low .. high - 1 that are below the pivot (or not above it) to the front; return their end."""
    end = low
    for i in range(low, high):
        k = keys[i]
        keys[i] = keys[end]
        keys[end] = k
        end += 1 if (k < pivot if below else k <= pivot) else 0
    return end


@jit
def _middle(a, b, c):
    return max(min(a, b), min(max(a, b), c))


@jit
def select_key(address, n, rank):
    """Return the key of a rank, counted from 0; the keys are reordered."""
    keys = _words(address)
    low = 0
    high = 0 + n
    seed = 88172645463325252
    while high - low > 1:
        seed = (seed * 6364136223846793005 + 1442695040888963407) & 0x7FFFFFFFFFFFFFFF
        span = high - low
        one, two, three = (seed >> 20) % span, (seed >> 30) % span, (seed >> 40) % span
        pivot = _middle(keys[low + one], keys[low + two], keys[low + three])
        end = _partition(keys, low, high, pivot, True)
        if rank < end:
            high = end
            continue
        low = _partition(keys, end, high, pivot, False)
        if rank < low:
            return pivot
    return keys[low]


def make_find_rank(dtype: int) -> Callable[..., int]:
    """Return ``find(x_address, n, stride, rank, scratch)``: the place of the element of a rank.

    ``scratch`` has 2 n words.
    """
    pointer, key = POINTERS[dtype], make_key(dtype)

    @jit
    def find(x_address, n, stride, rank, scratch):
        x = pointer(x_address)
        keys, work = _words(scratch), _words(scratch + 8 * n)
        for i in range(n):
            keys[i] = key(x[i * stride])
            work[i] = keys[i]
        wanted = select_key(scratch + 8 * n, n, rank)
        less = 0
        for i in range(n):
            less += 1 if keys[i] < wanted else 0
        equal = rank - less
        for i in range(n):
            if keys[i] == wanted:
                if equal == 0:
                    return i
                equal -= 1
        return np.int64(0)

    return find


def make_find_first(dtype: int) -> Callable[..., int]:
    """Return ``find(x_address, n, stride, count, descending, scratch)``: the address of the first places in order.

    ``scratch`` has FIXED_WORDS + SCRATCH_WORDS * n words, as for sort.
    """
    pointer, key = POINTERS[dtype], make_key(dtype)

    @jit
    def find(x_address, n, stride, count, descending, scratch, fixed):
        x = pointer(x_address)
        keys_address = scratch + 8 * fixed
        places_address = keys_address + 8 * n
        spare_keys, spare_places = keys_address + 16 * n, keys_address + 24 * n
        keys, places, work = _words(keys_address), int64_at(places_address), _words(spare_keys)
        flip = np.uint64(0xFFFFFFFFFFFFFFFF) if descending else np.uint64(0)
        for i in range(n):
            keys[i] = key(x[i * stride]) ^ flip
            work[i] = keys[i]
        wanted = select_key(spare_keys, n, count - 1)
        less = 0
        for i in range(n):
            less += 1 if keys[i] < wanted else 0
        equal = count - less
        end = 0
        for i in range(n):
            k = keys[i]
            if k < wanted or (k == wanted and equal > 0):
                equal -= 1 if k == wanted else 0
                keys[end] = k
                places[end] = i
                end += 1
        swapped = sort_keys(keys_address, places_address, spare_keys, spare_places, scratch, count)
        return spare_places if swapped else places_address

    return find
