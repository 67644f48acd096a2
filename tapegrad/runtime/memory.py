"""Memory of the tape machine: storages, slots, handles and entries, their references and their release.

Releasing works off a list, never by recursion: a chain of a million ops is freed without a deep stack, and code that
runs meanwhile (an owner's destructor) only adds to the list.
"""

from numba import types

from tapegrad.native.cache import jit
from tapegrad.native.pointers import int64_at
from tapegrad.runtime.blocks import class_bytes, give_block, guard_block, size_class, take_block
from tapegrad.runtime.layout import (
    DEAD,
    FRAME_INPUT_COUNT,
    FRAME_INPUTS,
    LISTED,
    OUT_OF_MEMORY,
    PYTHON,
    SELF_SAVED,
    entry_row,
    handle_row,
    op_row,
    result_place,
    slot_of,
    slot_row,
    state_of,
    storage_row,
)
from tapegrad.runtime.strides import copy_geometry
from tapegrad.runtime.threads import drop_owner

_LARGEST = 1 << 45  # bytes: there are no size classes beyond
RECORDED_BYTES = 1 << 18  # of a result, from which a recording does not keep it when it dies


@jit
def new_storage(st, size):
    """Return a new storage of ``size`` bytes with one reference, or OUT_OF_MEMORY."""
    state = state_of(st)
    if size > _LARGEST:
        state.error_value0 = size
        return OUT_OF_MEMORY
    index = size_class(size)
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
    row.made_in = state.capture_id
    row.computed = 0
    return storage


@jit
def new_result(st, size):
    """Return a new storage for what an op computes; see new_storage."""
    storage = new_storage(st, size)
    if storage >= 0:
        storage_row(state_of(st).storages, storage).computed = 1
    return storage


@jit
def release_storage(st, storage):
    state = state_of(st)
    row = storage_row(state.storages, storage)
    row.refs -= 1
    if row.refs > 0:
        return
    owner = row.owner
    if state.capture_id != 0 and row.made_in == state.capture_id and owner < 0:
        if row.computed != 0 and row.bytes > RECORDED_BYTES and row.size_class >= 0:
            give_block(st, row.address, row.size_class)
            row.size_class = -1
        row.owner = state.storages_aside
        state.storages_aside = storage
        return
    free_storage(st, storage)
    if owner >= 0:
        drop_owner(st, owner)


@jit
def free_storage(st, storage):
    """Give back the memory of a storage that nothing refers to, and its row."""
    state = state_of(st)
    row = storage_row(state.storages, storage)
    if row.size_class >= 0:
        give_block(st, row.address, row.size_class)
    row.owner = state.storages_free
    state.storages_free = storage


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
def share_memory(st, row, source):
    """Make a new slot's row one over the memory of another, of the same dtype and geometry."""
    copy_geometry(row, source)
    row.dtype = source.dtype
    row.offset = source.offset
    row.storage = source.storage
    storage_row(state_of(st).storages, row.storage).refs += 1


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
    if state.capture_id != 0:
        row.next = state.slots_aside
        state.slots_aside = slot
        return
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
    row.flags |= DEAD  # before Python runs, which may use the results' slots again
    state.entries_dead += 1
    if op_row(state.ops, row.op).kind == PYTHON:
        drop_owner(st, words[FRAME_INPUTS + words[FRAME_INPUT_COUNT]])
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
def recycle_slot(st, slot):
    """Put the row of a slot that was put aside, or that a program had, on the list of the free ones."""
    state = state_of(st)
    row = slot_row(state.slots, slot)
    if row.storage >= 0:
        release_storage(st, row.storage)
        row.storage = -1
    row.refs = 0
    row.serial = -1
    row.next = state.slots_free
    state.slots_free = slot


@jit
def _pop_dead_entries(state):
    while state.entries_top > 0:
        row = entry_row(state.entries, state.entries_top - 1)
        if not row.flags & DEAD:
            return
        state.entries_top -= 1
        state.entries_dead -= 1
        state.words_top = row.words
