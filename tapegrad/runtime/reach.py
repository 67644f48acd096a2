"""Looks through the graph: whether a tensor depends on other leaves than some given ones."""

from numba import types

from tapegrad.native.cache import jit
from tapegrad.native.fastcall import as_int64, from_int64
from tapegrad.native.pointers import int64_at
from tapegrad.runtime.layout import (
    DEAD,
    FRAME_INPUT_COUNT,
    FRAME_INPUTS,
    REQUIRES_GRAD,
    entry_row,
    result_place,
    slot_of,
    state_of,
)
from tapegrad.runtime.memory import slot_of_handle

_UNMARKED, _REACHED, _GIVEN = 0, 1, 2


@jit
def _any_reached(st, words, results):
    for k in range(results):
        slot = words[result_place(words, k)]
        if slot >= 0 and slot_of(st, slot).marked == _REACHED:
            return True
    return False


@jit
def _reach_operands(st, words):
    """Mark what an entry has read; return whether that is a leaf that requires a gradient and was not given."""
    for k in range(words[FRAME_INPUT_COUNT]):
        slot = words[FRAME_INPUTS + k]
        if slot < 0 or not slot_of(st, slot).flags & REQUIRES_GRAD:
            continue
        row = slot_of(st, slot)
        if row.producer >= 0:
            row.marked = _REACHED
        elif row.marked != _GIVEN:
            return True
    return False


@jit
def _unmark(st, words):
    for k in range(words[FRAME_INPUT_COUNT]):
        if words[FRAME_INPUTS + k] >= 0:
            slot_of(st, words[FRAME_INPUTS + k]).marked = _UNMARKED


@jit
def _reaches_other_leaf(st, slot):
    """Walk the tape down from a slot's entry, then up again to take the marks off."""
    state = state_of(st)
    top = types.int64(slot_of(st, slot).producer)
    if top < 0:
        return bool(slot_of(st, slot).flags & REQUIRES_GRAD) and slot_of(st, slot).marked != _GIVEN
    slot_of(st, slot).marked = _REACHED
    found = False
    entry = top
    while entry >= 0 and not found:
        row = entry_row(state.entries, entry)
        words = int64_at(state.words + 8 * row.words)
        if not row.flags & DEAD and _any_reached(st, words, row.results):
            found = _reach_operands(st, words)
        entry -= 1
    slot_of(st, slot).marked = _UNMARKED
    for k in range(entry + 1, top + 1):
        row = entry_row(state.entries, k)
        if not row.flags & DEAD:
            _unmark(st, int64_at(state.words + 8 * row.words))
    return found


def depends_on_others(self, args, count):
    """depends_on_others(handle, *leaves) -> 1 if a tensor depends on a leaf that requires a gradient besides these"""
    st = as_int64(self)
    objects = int64_at(args)
    for k in range(1, count):
        slot_of(st, slot_of_handle(st, as_int64(objects[k]))).marked = _GIVEN
    found = _reaches_other_leaf(st, slot_of_handle(st, as_int64(objects[0])))
    for k in range(1, count):
        slot_of(st, slot_of_handle(st, as_int64(objects[k]))).marked = _UNMARKED
    return from_int64(1 if found else 0)
