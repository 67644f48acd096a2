"""After an in-place write that was recorded: what the other tensors over the same memory name from then on.

A write through a view ``v`` of ``b`` makes a new value of the whole of ``b``: ``overlay(b, v)``, and every other view
of ``b`` is from then on a view of that. A write into ``b`` itself only does the latter. Slots never change, so that
entries on the tape go on meaning what they meant; the handles are bound to new slots.
"""

from numba import types

from tapegrad.native.cache import jit
from tapegrad.native.fastcall import as_int64, from_int64
from tapegrad.native.pointers import call4, int64_at, stack_words
from tapegrad.runtime.layout import (
    AS_STRIDED,
    FRAME_ATTRIBUTE_COUNT,
    FRAME_INPUT_COUNT,
    FRAME_INPUTS,
    IS_VIEW,
    OVERLAY,
    handle_row,
    shape_in,
    slot_of,
    state_of,
    storage_row,
    strides_in,
)
from tapegrad.runtime.memory import release, slot_of_handle
from tapegrad.runtime.tables import reserve


@jit
def _write_geometry(frame, at, row):
    """Write the attributes of as_strided and overlay behind the operands: ndim, offset, shape, strides."""
    words = int64_at(frame)
    words[FRAME_ATTRIBUTE_COUNT] = 2 + 2 * row.ndim
    words[at] = row.ndim
    words[at + 1] = row.offset
    for d in range(row.ndim):
        words[at + 2 + d] = shape_in(row)[d]
        words[at + 2 + row.ndim + d] = strides_in(row)[d]


@jit
def _view_again(st, root, view):
    """Return a slot of the same geometry as ``view``, made from ``root``; or a status."""
    frame = stack_words(32)
    words = int64_at(frame)
    words[FRAME_INPUT_COUNT] = 1
    words[FRAME_INPUTS] = root
    _write_geometry(frame, FRAME_INPUTS + 1, slot_of(st, view))
    return call4(state_of(st).emit_function, st, AS_STRIDED, frame, -1)


@jit
def _overlay(st, root, written):
    """Return the slot of the whole memory after the write, or a status.

    Where nothing but the graph refers to the root any more its memory was let go; it lives on in the view's.
    """
    state = state_of(st)
    root_row = slot_of(st, root)
    if root_row.storage < 0:
        storage = types.int64(slot_of(st, written).storage)
        root_row.storage = storage
        storage_row(state.storages, storage).refs += 1
        root_row.data_refs += 1
        root_row.refs += 1
        slot = _overlay_alive(st, root, written)
        release(st, root)
        return slot
    return _overlay_alive(st, root, written)


@jit
def _overlay_alive(st, root, written):
    frame = stack_words(32)
    words = int64_at(frame)
    words[FRAME_INPUT_COUNT] = 2
    words[FRAME_INPUTS] = root
    words[FRAME_INPUTS + 1] = written
    _write_geometry(frame, FRAME_INPUTS + 2, slot_of(st, written))
    return call4(state_of(st).emit_function, st, OVERLAY, frame, -1)


@jit
def _bind(st, handle, slot):
    """Bind a handle to a slot, whose reference it takes over."""
    row = handle_row(state_of(st).handles, handle)
    old = types.int64(row.slot)
    row.slot = slot
    release(st, old)


@jit
def _is_member(st, handle, family):
    """Return whether a handle is in use and names a slot of the family."""
    row = handle_row(state_of(st).handles, handle)
    return row.refs > 0 and slot_of(st, types.int64(row.slot)).family == family


@jit
def _count_members(st, family):
    members = 0
    for handle in range(state_of(st).handles_top):
        if _is_member(st, handle, family):
            members += 1
    return members


@jit
def _bind_members(st, family, root):
    """Bind every handle of the family to the new root, or to a new view of it; return 0 or a status."""
    for handle in range(state_of(st).handles_top):
        if not _is_member(st, handle, family):
            continue
        slot = slot_of_handle(st, handle)
        if slot == root:
            continue
        if slot_of(st, slot).flags & IS_VIEW:
            fresh = _view_again(st, root, slot)
            if fresh < 0:
                return fresh
        else:
            fresh = root
            slot_of(st, root).refs += 1
            slot_of(st, root).data_refs += 1
        _bind(st, handle, fresh)
    return types.int64(0)


def rebase(self, args, count):
    """rebase(handle) -> 0 or a status, after an in-place write through the handle was recorded"""
    st = as_int64(self)
    written = slot_of_handle(st, as_int64(int64_at(args)[0]))
    row = slot_of(st, written)
    family = row.family
    if family < 0:
        return from_int64(0)
    status = reserve(st, 2 * _count_members(st, family) + 4)
    if status < 0:
        return from_int64(status)
    if not row.flags & IS_VIEW:
        return from_int64(_bind_members(st, family, written))
    root = _overlay(st, types.int64(row.base), written)
    if root < 0:
        return from_int64(root)
    status = _bind_members(st, family, root)
    release(st, root)
    return from_int64(status)
