"""Memory of the tape machine: blocks, storages, slots, handles and entries, their references and their release.

Blocks come in size classes (multiples of 64 bytes to 1 KiB, then four to a doubling) and go back to a free list of
their class, so a training loop soon allocates nothing. Releasing works off a list, never by recursion: a chain of a
million ops is freed without a deep stack, and code that runs meanwhile (an owner's destructor) only adds to the list.
"""

import sys

from numba import types

from tapegrad.native.cache import jit
from tapegrad.native.pointers import int64_at, pointer_to, symbol
from tapegrad.runtime.layout import (
    CONTIGUOUS,
    DEAD,
    ENTRY_BYTES,
    FRAME_INPUT_COUNT,
    FRAME_INPUTS,
    HANDLE_BYTES,
    LISTED,
    OUT_OF_MEMORY,
    PYTHON,
    ROW_LIMIT,
    SELF_SAVED,
    SIZE_CLASSES,
    SLOT_BYTES,
    STORAGE_BYTES,
    WORD_LIMIT,
    entry_row,
    free_blocks,
    handle_row,
    op_row,
    result_place,
    shape_in,
    slot_of,
    slot_row,
    state_of,
    storage_row,
    strides_in,
)
from tapegrad.runtime.threads import drop_owner

_BLOCK_ALIGNMENT = 64
_HUGE_PAGE = 1 << 21
_CHUNK = 1 << 20  # small blocks are cut from chunks of this size
_SMALL = 1 << 16
_LARGEST = 1 << 45  # bytes: there are no size classes beyond
_CACHE_LIMIT = 1 << 28  # freed large blocks are kept up to this, or up to as much as is in use
_GUARD = 0xA5
_ROWS_KEPT_FREE = 512
MAX_ELEMENTS = 1 << 58  # so that no size in bytes overflows

_i64 = types.int64
uint8_at = pointer_to("u1")
_mprotect = symbol("mprotect", types.int32, _i64, _i64, types.int32)
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
    if size > _SMALL:
        if size < 2 * _HUGE_PAGE:
            return _aligned_alloc(_BLOCK_ALIGNMENT, size)
        block = _aligned_alloc(_HUGE_PAGE, (size + _HUGE_PAGE - 1) // _HUGE_PAGE * _HUGE_PAGE)
        if block != 0:
            _ask_for_huge_pages(block, size)
        return block
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
def trim(st):
    """Give every cached large block back to the system; return how many bytes that were."""
    state = state_of(st)
    freed = 0
    for index in range(size_class(_SMALL) + 1, SIZE_CLASSES):
        block = free_blocks(state)[index]
        while block != 0:
            following = int64_at(block)[0]
            _free(block)
            freed += class_bytes(index)
            block = following
        free_blocks(state)[index] = 0
    state.bytes_cached -= freed
    return freed


@jit
def take_block(st, index):
    """Return a block of the class, or 0 when the machine has no memory left."""
    state = state_of(st)
    block = free_blocks(state)[index]
    size = class_bytes(index)
    if block != 0:
        free_blocks(state)[index] = int64_at(block)[0]
        state.bytes_cached -= size
    else:
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
    if size > _SMALL and state.bytes_cached + size > max(_CACHE_LIMIT, state.bytes_live):
        _free(block)
        return
    int64_at(block)[0] = free_blocks(state)[index]
    free_blocks(state)[index] = block
    state.bytes_cached += size


@jit
def guard_block(block, used, size):
    """Fill what a block has beyond its used bytes with a pattern (bounds-checking mode)."""
    data = uint8_at(block)
    for k in range(used, size):
        data[k] = _GUARD


@jit
def guard_intact(block, used, size):
    """Return whether nothing was written beyond the used bytes of a block."""
    data = uint8_at(block)
    for k in range(used, size):
        if data[k] != _GUARD:
            return False
    return True


@jit
def new_storage(st, size):
    """Return a new storage of ``size`` bytes with one reference, or OUT_OF_MEMORY."""
    state = state_of(st)
    if size > _LARGEST:
        state.error_value0 = size
        return OUT_OF_MEMORY
    index = size_class(size + 64 * state.check_bounds)
    block = take_block(st, index)
    if block == 0:
        state.error_value0 = size
        return OUT_OF_MEMORY
    if state.check_bounds:
        guard_block(block, size, class_bytes(index))
    return foreign_storage(st, block, size, index, -1, 0)


@jit
def foreign_storage(st, address, size, index, owner, read_only):
    """Return a storage over memory that is there already; ``owner`` names the Python object that keeps it alive."""
    state = state_of(st)
    storage = state.storages_free
    if storage >= 0:
        state.storages_free = storage_row(state.storages, storage).owner
    else:
        storage = state.storages_top
        state.storages_top += 1
    row = storage_row(state.storages, storage)
    row.address = address
    row.bytes = size
    row.size_class = index
    row.refs = 1
    row.version = 0
    row.owner = owner
    row.read_only = read_only
    return storage


@jit
def release_storage(st, storage):
    state = state_of(st)
    row = storage_row(state.storages, storage)
    row.refs -= 1
    if row.refs > 0:
        return
    owner = row.owner
    if row.size_class >= 0:
        give_block(st, row.address, row.size_class)
    row.owner = state.storages_free
    state.storages_free = storage
    if owner >= 0:
        drop_owner(st, owner)


@jit
def new_slot(st):
    """Return a slot with one reference (row and memory) and no storage yet; its shape is not set."""
    state = state_of(st)
    slot = state.slots_free
    if slot >= 0:
        state.slots_free = slot_row(state.slots, slot).next
    else:
        slot = state.slots_top
        state.slots_top += 1
    row = slot_row(state.slots, slot)
    row.storage = -1
    row.offset = 0
    row.refs = 1
    row.data_refs = 1
    row.producer = -1
    row.flags = 0
    row.cotangent = -1
    row.marked = 0
    row.needed = -1
    row.base = -1
    row.grad = -1
    row.family = -1
    row.serial = state.serial_next
    state.serial_next += 1
    return slot


@jit
def new_handle(st, slot):
    """Return a handle that takes over the caller's reference to the slot."""
    state = state_of(st)
    handle = state.handles_free
    if handle >= 0:
        state.handles_free = handle_row(state.handles, handle).slot
    else:
        handle = state.handles_top
        state.handles_top += 1
    row = handle_row(state.handles, handle)
    row.slot = slot
    row.refs = 1
    return handle


@jit
def slot_of_handle(st, handle):
    return types.int64(handle_row(state_of(st).handles, handle).slot)


@jit
def retain(st, slot):
    row = slot_of(st, slot)
    row.refs += 1
    row.data_refs += 1


@jit
def retain_row(st, slot):
    slot_of(st, slot).refs += 1


@jit
def _drop_data(st, row):
    row.data_refs -= 1
    if row.data_refs == 0 and row.storage >= 0:
        storage = row.storage
        row.storage = -1
        release_storage(st, storage)


@jit
def _drop_row(st, slot, row):
    """Take one reference; put the slot on the list of the dead when only its own entry still refers to it."""
    row.refs -= 1
    if row.refs == (1 if row.flags & SELF_SAVED else 0) and not row.flags & LISTED:
        state = state_of(st)
        row.flags |= LISTED
        row.next = state.release_head
        state.release_head = slot


@jit
def release_later(st, slot):
    """Take a reference to row and memory without working off the list of the dead (see drain)."""
    row = slot_of(st, slot)
    _drop_data(st, row)
    _drop_row(st, slot, row)


@jit
def release(st, slot):
    release_later(st, slot)
    drain(st)


@jit
def release_row(st, slot):
    _drop_row(st, slot, slot_of(st, slot))
    drain(st)


@jit
def release_handle(st, handle):
    state = state_of(st)
    row = handle_row(state.handles, handle)
    row.refs -= 1
    if row.refs == 0:
        slot = row.slot
        row.slot = state.handles_free
        state.handles_free = handle
        release_later(st, slot)


@jit
def drain(st):
    """Work off the list of dead slots: free them, and the entries that nothing can reach any more."""
    state = state_of(st)
    if state.draining:
        return
    state.draining = 1
    while state.release_head >= 0:
        slot = state.release_head
        row = slot_of(st, slot)
        state.release_head = row.next
        row.flags &= ~LISTED
        entry = row.producer
        if entry < 0:
            _free_slot(st, slot)
        elif _unreachable(st, entry):
            _free_entry(st, entry)
        elif not row.flags & SELF_SAVED:
            words = int64_at(state.words + 8 * entry_row(state.entries, entry).words)
            for k in range(entry_row(state.entries, entry).results):
                if words[result_place(words, k)] == slot:
                    words[result_place(words, k)] = -1
            _free_slot(st, slot)
    state.draining = 0


@jit
def _unreachable(st, entry):
    """Return whether no result of the entry is referred to from outside the entry."""
    state = state_of(st)
    words = int64_at(state.words + 8 * entry_row(state.entries, entry).words)
    for k in range(entry_row(state.entries, entry).results):
        result = words[result_place(words, k)]
        if result >= 0:
            row = slot_of(st, result)
            if row.refs > (1 if row.flags & SELF_SAVED else 0):
                return False
    return True


@jit
def _free_slot(st, slot):
    state = state_of(st)
    row = slot_row(state.slots, slot)
    if row.base >= 0:
        _drop_row(st, row.base, slot_of(st, row.base))
    if row.grad >= 0:
        release_handle(st, row.grad)
    if row.cotangent >= 0:
        release_later(st, row.cotangent)
    row.refs = 0
    row.serial = -1
    row.next = state.slots_free
    state.slots_free = slot


@jit
def free_saved(st, entry):
    """Let go of the values that an entry keeps for its gradient rule."""
    state = state_of(st)
    row = entry_row(state.entries, entry)
    words = int64_at(state.words + 8 * row.words)
    saved = row.saved
    row.saved = 0
    for k in range(words[FRAME_INPUT_COUNT]):
        if saved & (1 << min(k, 15)) and words[FRAME_INPUTS + k] >= 0:
            _drop_data(st, slot_of(st, words[FRAME_INPUTS + k]))
    for k in range(row.results):
        slot = words[result_place(words, k)]
        if slot >= 0 and (saved >> (16 + min(k, 14))) & 1:
            result = slot_of(st, slot)
            _drop_data(st, result)
            result.flags &= ~SELF_SAVED
            _drop_row(st, slot, result)


@jit
def _free_entry(st, entry):
    """Free an entry whose results nothing refers to: its results' slots, its saved values, its operands' rows."""
    state = state_of(st)
    row = entry_row(state.entries, entry)
    words = int64_at(state.words + 8 * row.words)
    for k in range(row.results):
        slot = words[result_place(words, k)]
        if slot >= 0:
            result = slot_of(st, slot)
            if (row.saved >> (16 + min(k, 14))) & 1:
                _drop_data(st, result)
            if result.flags & LISTED:
                _unlist(st, slot)
            _free_slot(st, slot)
    row.saved &= 0xFFFF
    free_saved(st, entry)
    for k in range(words[FRAME_INPUT_COUNT]):
        operand = words[FRAME_INPUTS + k]
        if operand >= 0:
            _drop_row(st, operand, slot_of(st, operand))
    if op_row(state.ops, row.op).kind == PYTHON:
        drop_owner(st, words[FRAME_INPUTS + words[FRAME_INPUT_COUNT]])
    row.flags |= DEAD
    state.entries_dead += 1
    _pop_dead_entries(state)


@jit
def _unlist(st, slot):
    """Take a slot off the list of the dead, where another result of its entry has put it."""
    state = state_of(st)
    previous = -1
    current = state.release_head
    while current >= 0:
        following = slot_of(st, current).next
        if current == slot:
            if previous < 0:
                state.release_head = following
            else:
                slot_of(st, previous).next = following
            return
        previous = current
        current = following


@jit
def _pop_dead_entries(state):
    while state.entries_top > 0:
        row = entry_row(state.entries, state.entries_top - 1)
        if not row.flags & DEAD:
            return
        state.entries_top -= 1
        state.entries_dead -= 1
        state.words_top = row.words


@jit
def compact(st):
    """Close the gaps that dead entries leave on the tape; slots learn the new places of their producers."""
    state = state_of(st)
    top = 0
    words_top = 0
    words = int64_at(state.words)
    for entry in range(state.entries_top):
        row = entry_row(state.entries, entry)
        if row.flags & DEAD:
            continue
        target = entry_row(state.entries, top)
        start = row.words
        for k in range(row.word_count):
            words[words_top + k] = words[start + k]
        _copy_entry(target, row)
        target.words = words_top
        moved = int64_at(state.words + 8 * words_top)
        for k in range(row.results):
            if moved[result_place(moved, k)] >= 0:
                slot_of(st, moved[result_place(moved, k)]).producer = top
        words_top += target.word_count
        top += 1
    state.entries_top = top
    state.entries_dead = 0
    state.words_top = words_top


@jit
def _copy_entry(target, source):
    target.op = source.op
    target.flags = source.flags
    target.word_count = source.word_count
    target.saved = source.saved
    target.results = source.results
    target.site = source.site
    target.sequence = source.sequence


@jit
def _grow_table(address, capacity, wanted, row_bytes, limit):
    """Commit more of a table's reserved address range; return its new capacity, or OUT_OF_MEMORY."""
    while capacity < wanted:
        capacity *= 2
    if capacity > limit or _mprotect(address, capacity * row_bytes, types.int32(3)) != 0:
        return OUT_OF_MEMORY
    return capacity


@jit
def reserve(st, wanted):
    """Make room for ``wanted`` more rows, and words in proportion, in every table; return 0 or OUT_OF_MEMORY.

    Tables have fixed places in a reserved range of addresses, so a record may be held on to while they grow.
    """
    state = state_of(st)
    wanted += _ROWS_KEPT_FREE
    if state.entries_top + wanted > state.entries_capacity and 2 * state.entries_dead > state.entries_top:
        if not state.sweeping and not state.draining:
            compact(st)
    grown = 0
    if state.handles_top + wanted > state.handles_capacity:
        grown = _grow_table(state.handles, state.handles_capacity, state.handles_top + wanted, HANDLE_BYTES, ROW_LIMIT)
        if grown > 0:
            state.handles_capacity = grown
    if grown >= 0 and state.slots_top + wanted > state.slots_capacity:
        grown = _grow_table(state.slots, state.slots_capacity, state.slots_top + wanted, SLOT_BYTES, ROW_LIMIT)
        if grown > 0:
            state.slots_capacity = grown
    if grown >= 0 and state.storages_top + wanted > state.storages_capacity:
        top = state.storages_top
        grown = _grow_table(state.storages, state.storages_capacity, top + wanted, STORAGE_BYTES, ROW_LIMIT)
        if grown > 0:
            state.storages_capacity = grown
    if grown >= 0 and state.entries_top + wanted > state.entries_capacity:
        grown = _grow_table(state.entries, state.entries_capacity, state.entries_top + wanted, ENTRY_BYTES, ROW_LIMIT)
        if grown > 0:
            state.entries_capacity = grown
    if grown >= 0 and state.words_top + 32 * wanted > state.words_capacity:
        grown = _grow_table(state.words, state.words_capacity, state.words_top + 32 * wanted, 8, WORD_LIMIT)
        if grown > 0:
            state.words_capacity = grown
    return min(grown, 0)


@jit
def set_contiguous(row):
    """Give a slot of known shape its row-major strides and its number of elements; return False on overflow."""
    stride = 1
    product = 1.0  # tells overflow without a division, which would take longer than all the rest
    empty = False
    for k in range(row.ndim):
        d = row.ndim - 1 - k
        strides_in(row)[d] = stride
        length = shape_in(row)[d]
        if length == 0:
            empty = True
            length = 1
        stride *= length
        product *= length
    row.numel = 0 if empty else stride
    row.flags |= CONTIGUOUS
    return product < MAX_ELEMENTS


@jit
def mark_layout(row):
    """Set the number of elements and the contiguity flag of a slot whose shape and strides are known."""
    row.numel = 1
    for d in range(row.ndim):
        row.numel *= shape_in(row)[d]
    expected = 1
    row.flags |= CONTIGUOUS
    for k in range(row.ndim):
        d = row.ndim - 1 - k
        if shape_in(row)[d] != 1 and strides_in(row)[d] != expected and row.numel > 0:
            row.flags &= ~CONTIGUOUS
        expected *= shape_in(row)[d]
