"""Entry points for entries of kind PYTHON (custom Functions), and for looking at entries and slots of the graph."""

from numba import types

from tapegrad.native.cache import jit
from tapegrad.native.fastcall import as_int64, from_int64, new_tuple, set_tuple_item
from tapegrad.native.pointers import int64_at, stack_words
from tapegrad.runtime.entry_points import tuple_of
from tapegrad.runtime.layout import (
    CALL_SITE,
    CONTIGUOUS,
    FRAME_ATTRIBUTE_COUNT,
    FRAME_INPUT_COUNT,
    FRAME_INPUTS,
    IS_VIEW,
    MAX_OUTPUTS,
    RECORD_SITES,
    REQUIRES_GRAD,
    SELF_SAVED,
    UNVERSIONED,
    entry_row,
    handle_row,
    result_place,
    slot_of,
    state_of,
    storage_row,
)
from tapegrad.runtime.memory import (
    new_handle,
    new_slot,
    release,
    release_row,
    retain,
    retain_row,
    share_memory,
    slot_of_handle,
)
from tapegrad.runtime.reach import depends_on_others
from tapegrad.runtime.tables import reserve
from tapegrad.runtime.threads import ask_python


@jit
def _alias(st, source, keeps_family):
    """Return a new slot of the same memory and geometry; as a member of the same family of views, or of none."""
    slot = new_slot(st)
    row = slot_of(st, slot)
    old = slot_of(st, source)
    share_memory(st, row, old)
    row.flags = old.flags & (CONTIGUOUS | UNVERSIONED | IS_VIEW)
    row.base = old.base
    if row.base >= 0:
        retain_row(st, row.base)
    if keeps_family:
        row.family = old.family
    return slot


@jit
def _keep_operand(st, words, k, handle, saved):
    slot = slot_of_handle(st, handle)
    words[FRAME_INPUTS + k] = slot
    slot_of(st, slot).refs += 1
    if (saved >> min(k, 15)) & 1:
        slot_of(st, slot).data_refs += 1


@jit
def _add_result(st, words, k, entry, handle, dirty, saved):
    """Bind the handle to a new slot over its memory, which is result ``k`` of the entry."""
    old = slot_of_handle(st, handle)
    slot = _alias(st, old, dirty)
    row = slot_of(st, slot)
    row.producer = entry
    row.flags |= REQUIRES_GRAD
    words[result_place(words, k)] = slot
    if (saved >> (16 + min(k, 14))) & 1:
        row.flags |= SELF_SAVED
        retain(st, slot)
    handle_row(state_of(st).handles, handle).slot = slot
    release(st, old)


@jit
def _new_entry(state, op, saved, inputs, results):
    """Append an entry without operands and results; return its index."""
    extra = max(results - MAX_OUTPUTS, 0)
    entry = state.entries_top
    row = entry_row(state.entries, entry)
    row.op = op
    row.flags = 0
    row.words = state.words_top
    row.word_count = FRAME_INPUTS + inputs + 1 + extra
    row.results = results
    row.saved = saved
    row.site = state.site
    row.sequence = state.sequence_next
    words = int64_at(state.words + 8 * row.words)
    for k in range(MAX_OUTPUTS):
        words[k] = -1
    words[FRAME_INPUT_COUNT] = inputs
    words[FRAME_ATTRIBUTE_COUNT] = 1 + extra
    state.sequence_next += 1
    state.entries_top += 1
    state.words_top += row.word_count
    return entry


def append_python(self, args, count):
    """append_python(op, owner, saved, inputs, results, *operand handles, *(handle, dirty) of results) -> 0 or a status

    Appends an entry whose gradient rule is Python's; its results' handles name new slots from then on. ``saved`` has a
    bit for each operand (the last for all from 15 on) and, from bit 16, each result (the last for all from 14 on).
    """
    st = as_int64(self)
    objects = int64_at(args)
    state = state_of(st)
    if state.anomaly & RECORD_SITES:
        ask_python(st, CALL_SITE, 0, 0)
    status = reserve(st, 2 * count + 16)
    if status < 0:
        return from_int64(status)
    saved = as_int64(objects[2])
    inputs = as_int64(objects[3])
    results = as_int64(objects[4])
    entry = _new_entry(state, as_int64(objects[0]), saved, inputs, results)
    words = int64_at(state.words + 8 * entry_row(state.entries, entry).words)
    words[FRAME_INPUTS + inputs] = as_int64(objects[1])
    for k in range(inputs):
        _keep_operand(st, words, k, as_int64(objects[5 + k]), saved)
    for k in range(results):
        pair = 5 + inputs + 2 * k
        _add_result(st, words, k, entry, as_int64(objects[pair]), as_int64(objects[pair + 1]), saved)
    return from_int64(0)


def frame_of_entry(self, args, count):
    """frame_of_entry(entry) -> (owner, the number of results, *slots of results, *slots of operands)

    ``owner`` is the first attribute, or -1 where there is none.
    """
    st = as_int64(self)
    state = state_of(st)
    row = entry_row(state.entries, as_int64(int64_at(args)[0]))
    words = int64_at(state.words + 8 * row.words)
    inputs = words[FRAME_INPUT_COUNT]
    results = types.int64(row.results)
    answer = new_tuple(2 + results + inputs)
    owner = words[FRAME_INPUTS + inputs] if words[FRAME_ATTRIBUTE_COUNT] > 0 else -1
    set_tuple_item(answer, 0, from_int64(owner))
    set_tuple_item(answer, 1, from_int64(results))
    for k in range(results):
        set_tuple_item(answer, 2 + k, from_int64(words[result_place(words, k)]))
    for k in range(inputs):
        set_tuple_item(answer, 2 + results + k, from_int64(words[FRAME_INPUTS + k]))
    return answer


def entry_fields(self, args, count):
    """entry_fields(entry) -> (op, flags, saved, site, sequence)"""
    st = as_int64(self)
    row = entry_row(state_of(st).entries, as_int64(int64_at(args)[0]))
    values = int64_at(stack_words(5))
    values[0] = row.op
    values[1] = row.flags
    values[2] = row.saved
    values[3] = row.site
    values[4] = row.sequence
    return tuple_of(values, 5)


def slot_fields(self, args, count):
    """slot_fields(slot) -> (producer, flags, serial, storage)"""
    st = as_int64(self)
    row = slot_of(st, as_int64(int64_at(args)[0]))
    values = int64_at(stack_words(4))
    values[0] = row.producer
    values[1] = row.flags
    values[2] = row.serial
    values[3] = row.storage
    return tuple_of(values, 4)


def cotangent_of(self, args, count):
    """cotangent_of(slot) -> new handle of the cotangent that waits at a slot, or -1; for the running sweep's rules"""
    st = as_int64(self)
    slot = as_int64(int64_at(args)[0])
    if slot < 0 or slot_of(st, slot).cotangent < 0:
        return from_int64(-1)
    status = reserve(st, 1)
    if status < 0:
        return from_int64(status)
    cotangent = types.int64(slot_of(st, slot).cotangent)
    retain(st, cotangent)
    return from_int64(new_handle(st, cotangent))


def base_of(self, args, count):
    """base_of(handle) -> new handle of what a view is a view of, or -1; its memory, if let go, is the view's"""
    st = as_int64(self)
    view = slot_of(st, slot_of_handle(st, as_int64(int64_at(args)[0])))
    base = types.int64(view.base)
    if base < 0 or not view.flags & IS_VIEW:
        return from_int64(-1)
    status = reserve(st, 1)
    if status < 0:
        return from_int64(status)
    row = slot_of(st, base)
    if row.storage < 0:
        row.storage = view.storage
        storage_row(state_of(st).storages, row.storage).refs += 1
    retain(st, base)
    return from_int64(new_handle(st, base))


def hold_row(self, args, count):
    """hold_row(slot): keep a slot's row, and with it the graph behind it, but not its memory"""
    retain_row(as_int64(self), as_int64(int64_at(args)[0]))
    return from_int64(0)


def drop_row(self, args, count):
    """drop_row(slot): undo hold_row"""
    release_row(as_int64(self), as_int64(int64_at(args)[0]))
    return from_int64(0)


PYTHON_ENTRY_POINTS = {
    "depends_on_others": depends_on_others,
    "append_python": append_python,
    "frame_of_entry": frame_of_entry,
    "entry_fields": entry_fields,
    "slot_fields": slot_fields,
    "cotangent_of": cotangent_of,
    "base_of": base_of,
    "hold_row": hold_row,
    "drop_row": drop_row,
}
