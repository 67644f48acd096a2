"""Stable sorting of rows by radix, with the places the elements came from.

Each element becomes an unsigned key in whose order it is wanted (floats: sign bit flipped, negative ones inverted, -0
as 0, nan above all; all bits inverted for a descending order). Keys and places are then sorted by 8 bits at a time,
the lowest first; a digit that all keys share is skipped. Rows of up to 32 are sorted by insertion.
"""

from collections.abc import Callable

import numpy as np
from numba.core import types

from tapegrad.native.cache import jit
from tapegrad.native.dtypes import FLOAT32, FLOAT64, INT32, INT64, POINTERS
from tapegrad.native.pointers import bitcast, int64_at, pointer_to

_INSERTION = 32
_words = pointer_to(np.uint64)
_float32_bits = bitcast(types.float32, types.int32)
_float64_bits = bitcast(types.float64, types.int64)
_SIGN = np.uint64(1 << 63)
_HISTOGRAM_WORDS = 256 * 8
SCRATCH_WORDS = 4  # for each element of a row: keys and places, twice
FIXED_WORDS = _HISTOGRAM_WORDS


def make_key(dtype: int) -> Callable[..., int]:
    """Return ``key(x)``: a uint64 that is ordered as the values are."""
    if dtype == FLOAT32:

        @jit
        def key(x):
            i = np.int64(_float32_bits(x)) if x != np.float32(0) else np.int64(0)
            i = np.int64(0x7FFFFFFF) if x != x else i
            return np.uint64(i if i >= 0 else i ^ np.int64(0x7FFFFFFF)) ^ _SIGN

    elif dtype == FLOAT64:

        @jit
        def key(x):
            i = _float64_bits(x) if x != 0.0 else np.int64(0)
            i = np.int64(0x7FFFFFFFFFFFFFFF) if x != x else i
            return np.uint64(i if i >= 0 else i ^ np.int64(0x7FFFFFFFFFFFFFFF)) ^ _SIGN

    elif dtype in (INT32, INT64):

        @jit
        def key(x):
            return np.uint64(np.int64(x)) ^ _SIGN

    else:

        @jit
        def key(x):
            return np.uint64(x)

    return key


@jit
def _insertion(keys, places, n):
    for i in range(1, n):
        k = keys[i]
        p = places[i]
        j = i
        while j > 0 and keys[j - 1] > k:
            keys[j] = keys[j - 1]
            places[j] = places[j - 1]
            j -= 1
        keys[j] = k
        places[j] = p
    return 0


@jit
def _count_digits(keys, counts, n):
    for i in range(_HISTOGRAM_WORDS):
        counts[i] = 0
    for i in range(n):
        k = keys[i]
        for digit in range(8):
            counts[256 * digit + np.int64((k >> np.uint64(8 * digit)) & np.uint64(255))] += 1
    return 0


@jit
def sort_keys(keys_address, places_address, spare_keys_address, spare_places_address, counts_address, n):
    """Sort n keys with their places; return 1 where the result lies in the spare arrays, else 0."""
    keys, places = _words(keys_address), int64_at(places_address)
    if n <= _INSERTION:
        return _insertion(keys, places, n)
    spare_keys, spare_places = _words(spare_keys_address), int64_at(spare_places_address)
    counts = int64_at(counts_address)
    _count_digits(keys, counts, n)
    swapped = 0
    for digit in range(8):
        shift = np.uint64(8 * digit)
        base = 256 * digit
        if counts[base + np.int64((keys[0] >> shift) & np.uint64(255))] == n:
            continue
        start = 0
        for b in range(256):
            count = counts[base + b]
            counts[base + b] = start
            start += count
        for i in range(n):
            k = keys[i]
            b = base + np.int64((k >> shift) & np.uint64(255))
            spare_keys[counts[b]] = k
            spare_places[counts[b]] = places[i]
            counts[b] += 1
        keys, spare_keys = spare_keys, keys
        places, spare_places = spare_places, places
        swapped = 1 - swapped
    return swapped


def make_sort_row(dtype: int) -> Callable[..., int]:
    """Return ``sort_row(x_address, n, stride, descending, scratch)``: the address of the sorted row's places.

    ``scratch`` has FIXED_WORDS + SCRATCH_WORDS * n int64 words.
    """
    pointer = POINTERS[dtype]
    key = make_key(dtype)

    @jit
    def sort_row(x_address, n, stride, descending, scratch):
        keys_address = scratch + 8 * _HISTOGRAM_WORDS
        places_address = keys_address + 8 * n
        spare_keys, spare_places = keys_address + 16 * n, keys_address + 24 * n
        x, keys, places = pointer(x_address), _words(keys_address), int64_at(places_address)
        flip = np.uint64(0xFFFFFFFFFFFFFFFF) if descending else np.uint64(0)
        for i in range(n):
            keys[i] = key(x[i * stride]) ^ flip
            places[i] = i
        swapped = sort_keys(keys_address, places_address, spare_keys, spare_places, scratch, n)
        return spare_places if swapped else places_address

    return sort_row
