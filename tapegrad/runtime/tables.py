"""Room in the tape machine's tables: they grow in place, and the tape closes its gaps."""

from tapegrad.native.cache import jit
from tapegrad.native.pages import commit_pages
from tapegrad.native.pointers import int64_at
from tapegrad.runtime.layout import (
    DEAD,
    ENTRY_BYTES,
    HANDLE_BYTES,
    OUT_OF_MEMORY,
    ROW_LIMIT,
    SLOT_BYTES,
    STORAGE_BYTES,
    WORD_LIMIT,
    entry_row,
    result_place,
    slot_of,
    state_of,
)

_ROWS_KEPT_FREE = 512


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
    if capacity > limit or not commit_pages(address, capacity * row_bytes):
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
