"""Where the extremum along one dimension of a contiguous [outer, n, inner] array is: the first, or the first nan."""

from collections.abc import Callable

import numpy as np

from tapegrad.kernels.reduce_folds import bounds
from tapegrad.kernels.reduce_lanes import greater, lesser, row_reducer, step_of
from tapegrad.native.cache import jit
from tapegrad.native.dtypes import INT64, ITEM_BYTES, POINTERS, SCALARS

_BLOCK = 2048
_PIECE = 128
_WIDTH = 1024


def make_argument(dtype: int, largest: bool) -> Callable[..., int]:
    """Return ``find(x_address, values_address, indices_address, outer, n, inner, scratch)``.

    ``values_address`` may be 0; ``scratch`` has 16 * 1024 bytes.
    """
    pointer, size, scalar = POINTERS[dtype], ITEM_BYTES[dtype], SCALARS[dtype]
    identity = scalar(bounds(dtype)[0 if largest else 1])
    build = greater if largest else lesser
    lanes = row_reducer(dtype, dtype, bounds(dtype)[0 if largest else 1], step_of(build), build)
    indices_at = POINTERS[INT64]

    @jit
    def beats(x, best):
        return (x > best if largest else x < best) or (x != x and best == best)

    @jit
    def first_in_row(x_address, n):
        best = identity
        block = 0
        for first in range(0, n, _BLOCK):
            candidate = lanes(pointer(x_address + first * size), min(n - first, _BLOCK), identity)
            if beats(candidate, best):
                best = candidate
                block = first
            if best != best:
                break
        for first in range(block, n, _PIECE):  # the place in the block, in pieces that a few vectors cover
            candidate = lanes(pointer(x_address + first * size), min(n - first, _PIECE), identity)
            if candidate == best or candidate != candidate:
                block = first
                break
        x = pointer(x_address)
        for i in range(block, n):
            if x[i] == best or (best != best and x[i] != x[i]):
                return i
        return block

    @jit
    def stripe(x_address, n, inner, width, best_address, index_address):
        best = pointer(best_address)
        index = indices_at(index_address)
        x = pointer(x_address)
        for i in range(np.uintp(width)):
            best[i] = x[i]
            index[i] = 0
        for r in range(1, n):
            x = pointer(x_address + r * inner * size)
            for i in range(np.uintp(width)):
                wins = ((x[i] > best[i]) if largest else (x[i] < best[i])) | ((x[i] != x[i]) & (best[i] == best[i]))
                best[i] = x[i] if wins else best[i]
                index[i] = r if wins else index[i]
        return 0

    @jit
    def find(x_address, values_address, indices_address, outer, n, inner, scratch):
        values = pointer(values_address)
        indices = indices_at(indices_address)
        if inner == 1:
            for r in range(outer):
                i = first_in_row(x_address + r * n * size, n)
                indices[r] = i
                if values_address != 0:
                    values[r] = pointer(x_address + r * n * size)[i]
            return 0
        best = pointer(scratch)
        index = indices_at(scratch + 8 * _WIDTH)
        for r in range(outer):
            for first in range(0, inner, _WIDTH):
                width = min(inner - first, _WIDTH)
                stripe(x_address + (r * n * inner + first) * size, n, inner, width, scratch, scratch + 8 * _WIDTH)
                place = r * inner + first
                for i in range(width):
                    indices[place + i] = index[i]
                    if values_address != 0:
                        values[place + i] = best[i]
        return 0

    return find
