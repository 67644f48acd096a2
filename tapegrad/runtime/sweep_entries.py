"""Entry points around a sweep: set the state up for one, and put it back as it was for the one around it."""

from tapegrad.native.fastcall import as_int64, from_int64
from tapegrad.native.pointers import int64_at, stack_words
from tapegrad.runtime.entry_points import tuple_of
from tapegrad.runtime.layout import state_of
from tapegrad.runtime.sweep import abandon
from tapegrad.runtime.threads import enter_thread, modes_of, set_modes


def begin_sweep(self, args, count):
    """begin_sweep(create_graph) -> what end_sweep needs; the first word is how many sweeps this one is inside of

    While ``sweeping`` is not 0 the entries stay in their places.
    """
    st = as_int64(self)
    enter_thread(st)
    state = state_of(st)
    values = int64_at(stack_words(9))
    values[0] = state.sweeping
    values[1] = state.sweep_id
    values[2] = state.pending
    values[3] = state.leaf_head
    values[4] = state.selective
    values[5] = state.visiting_op
    values[6] = state.visiting_site
    values[7] = state.site
    values[8] = modes_of(state)
    state.sweeping += 1
    state.sweeps += 1
    state.sweep_id = state.sweeps
    state.pending = 0
    state.leaf_head = -1
    state.selective = 0
    set_modes(state, 1 if as_int64(int64_at(args)[0]) != 0 else 0)
    return tuple_of(values, 9)


def end_sweep(self, args, count):
    """end_sweep(*what begin_sweep returned)"""
    st = as_int64(self)
    enter_thread(st)
    state = state_of(st)
    objects = int64_at(args)
    state.sweeping = as_int64(objects[0])
    state.sweep_id = as_int64(objects[1])
    state.pending = as_int64(objects[2])
    state.leaf_head = as_int64(objects[3])
    state.selective = as_int64(objects[4])
    state.visiting_op = as_int64(objects[5])
    state.visiting_site = as_int64(objects[6])
    state.site = as_int64(objects[7])
    set_modes(state, as_int64(objects[8]))
    return from_int64(0)


def abandon_sweep(self, args, count):
    """abandon(top): drop the cotangents that still wait, if any do"""
    st = as_int64(self)
    state = state_of(st)
    if state.pending != 0 or state.leaf_head >= 0:
        abandon(st, as_int64(int64_at(args)[0]))
    return from_int64(0)


SWEEP_ENTRY_POINTS = {"begin_sweep": begin_sweep, "end_sweep": end_sweep, "abandon": abandon_sweep}
