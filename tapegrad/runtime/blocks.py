"""Blocks of memory: where a storage's bytes come from, and where they go back to.

Blocks come in size classes (multiples of 64 bytes to 1 KiB, then four to a doubling) and go back to a free list of
their class, so a training loop soon allocates nothing.

In the bounds-checking mode each block has pages of its own, at whose end it lies, and a page behind them that nobody
may touch; when it is given back nobody may touch its pages either, whose addresses are never used again. What a block
has beyond its used bytes is filled with a pattern, and all of it is nan before it is written.
"""

import ctypes
import sys

from numba import types

from tapegrad.native.cache import jit
from tapegrad.native.pages import PAGE, close_pages, commit_pages, map_pages, unmap_pages, whole_pages
from tapegrad.native.pointers import int64_at, pointer_to, symbol
from tapegrad.runtime.layout import SIZE_CLASSES, free_blocks, state_of

_BLOCK_ALIGNMENT = 64
_HUGE_PAGE = 1 << 21
_CHUNK = 1 << 20  # small blocks are cut from chunks of this size
_SMALL = 1 << 16
_LARGE = 1 << 20  # blocks of at least this size are pages of their own: the system has them back when they are freed
_CACHE_LIMIT = 1 << 28  # freed large blocks are kept up to this, or up to as much as is in use
_GUARD = 0xA5

_i64 = types.int64
_uint8_at = pointer_to("u1")
_memset = symbol("memset", _i64, _i64, types.int32, _i64)
_aligned_alloc = symbol("aligned_alloc", _i64, _i64, _i64)
_free = symbol("free", _i64, _i64)

if sys.platform == "linux":
    _madvise = symbol("madvise", types.int32, _i64, _i64, types.int32)

    @jit
    def _ask_for_huge_pages(address, size):
        """Without huge pages the bandwidth of large buffers was measured up to 2 times lower."""
        _madvise(address, size, types.int32(14))
else:

    @jit
    def _ask_for_huge_pages(address, size):
        pass


if hasattr(ctypes.CDLL(None), "malloc_trim"):  # of glibc
    _malloc_trim = symbol("malloc_trim", types.int32, _i64)

    @jit
    def give_back_heap():
        """Have malloc give the pages back to the system on which nothing is left."""
        _malloc_trim(0)
else:

    @jit
    def give_back_heap():
        pass


@jit
def size_class(size):
    """Return the class of a block of ``size`` bytes: 16 classes by 64 bytes, then four to a doubling."""
    if size <= 1024:
        return max((size + 63) >> 6, 1) - 1
    doubling = 0
    while (2048 << doubling) < size:
        doubling += 1
    quarter = 256 << doubling
    return 16 + 4 * doubling + (size - (1024 << doubling) + quarter - 1) // quarter - 1


@jit
def class_bytes(index):
    """Return how many bytes a block of the class has."""
    if index < 16:
        return 64 * (index + 1)
    doubling = (index - 16) // 4
    return (1024 << doubling) + ((index - 16) % 4 + 1) * (256 << doubling)


@jit
def _fresh_block(state, size):
    """Return a new block: cut from the chunk if it is small, else from the system; 0 when there is no memory."""
    if size >= _LARGE:
        block = map_pages(size, PAGE if size < 2 * _HUGE_PAGE else _HUGE_PAGE)
        if block != 0 and size >= 2 * _HUGE_PAGE:
            _ask_for_huge_pages(block, size)
        return block
    if size > _SMALL:
        return _aligned_alloc(_BLOCK_ALIGNMENT, size)
    if state.arena + size > state.arena_end:
        chunk = _aligned_alloc(_BLOCK_ALIGNMENT, _CHUNK)
        if chunk == 0:
            return 0
        state.arena = chunk
        state.arena_end = chunk + _CHUNK
    block = state.arena
    state.arena += size
    return block


@jit
def _discard(block, size):
    if size >= _LARGE:
        unmap_pages(block, size)
    else:
        _free(block)


@jit
def trim(st):
    """Give every cached block that is not small back to the system; return how many bytes that were."""
    state = state_of(st)
    freed = 0
    for index in range(size_class(_SMALL) + 1, SIZE_CLASSES):
        block = free_blocks(state)[index]
        while block != 0:
            following = int64_at(block)[0]
            _discard(block, class_bytes(index))
            freed += class_bytes(index)
            block = following
        free_blocks(state)[index] = 0
    state.bytes_cached -= freed
    return freed


@jit
def _take_guarded(state, size):
    pages, start = whole_pages(size), state.guarded
    if not commit_pages(start, pages):
        return 0
    state.guarded += pages + PAGE
    _memset(start, types.int32(0xFF), pages)
    state.bytes_live += size
    state.bytes_peak = max(state.bytes_peak, state.bytes_live)
    return start + pages - size


@jit
def take_block(st, index):
    """Return a block of the class, or 0 when the machine has no memory left."""
    state = state_of(st)
    size = class_bytes(index)
    if state.check_bounds:
        return _take_guarded(state, size)
    block = free_blocks(state)[index]
    if block != 0:
        free_blocks(state)[index] = int64_at(block)[0]
        state.bytes_cached -= size
    else:
        if size >= _LARGE and state.capture_id != 0 and state.bytes_cached > 0:
            trim(st)  # a recording is made once: its peak of memory counts for more than its time
        block = _fresh_block(state, size)
        if block == 0 and trim(st) > 0:
            block = _fresh_block(state, size)
        if block == 0:
            return 0
    state.bytes_live += size
    state.bytes_peak = max(state.bytes_peak, state.bytes_live)
    return block


@jit
def give_block(st, block, index):
    """Put a block back on the free list of its class; a large one beyond the cache's limit goes to the system."""
    state = state_of(st)
    size = class_bytes(index)
    state.bytes_live -= size
    if state.check_bounds:
        close_pages(block // PAGE * PAGE, whole_pages(size))
        return
    if size > _SMALL and state.bytes_cached + size > max(_CACHE_LIMIT, state.bytes_live):
        _discard(block, size)
        return
    int64_at(block)[0] = free_blocks(state)[index]
    free_blocks(state)[index] = block
    state.bytes_cached += size


@jit
def guard_block(block, used, size):
    """Fill what a block has beyond its used bytes with a pattern (bounds-checking mode)."""
    data = _uint8_at(block)
    for k in range(used, size):
        data[k] = _GUARD


@jit
def guard_intact(block, used, size):
    """Return whether nothing was written beyond the used bytes of a block."""
    data = _uint8_at(block)
    for k in range(used, size):
        if data[k] != _GUARD:
            return False
    return True
