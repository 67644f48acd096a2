"""Calls of a captured program from code that is not Python: the user's Numba code, C, SciPy.

They need no GIL. A program has one set of buffers, so it is held from before its inputs are bound until its outputs
are copied; another thread waits.
"""

import math

from numba import types

from tapegrad.native.cache import jit
from tapegrad.native.dtypes import FLOAT64
from tapegrad.native.pointers import call2, float64_at, int64_at, stack_words, symbol
from tapegrad.runtime.layout import (
    CONTIGUOUS,
    data_address,
    item_bytes,
    shape_in,
    slot_of,
    state_of,
    storage_row,
    strides_in,
)
from tapegrad.runtime.replay import (
    GRAD_COUNT,
    GRADS,
    INPUT_COUNT,
    INPUT_SLOT,
    INPUT_STORAGE,
    INPUT_WORDS,
    INPUT_WRITTEN,
    INPUTS,
    MACHINE,
    OUTPUT_COUNT,
    OUTPUT_SLOT,
    OUTPUT_WORDS,
    OUTPUTS,
    RUN,
    STATE_BLOCK,
    WRITTEN,
    WRITTEN_COUNT,
    hold,
    let_go,
)
from tapegrad.runtime.replay_calls import bind_input, put_gradients

SHARED_MEMORY = -105  # an input shares memory with another, or with what the program writes

_memcpy = symbol("memcpy", types.int64, types.int64, types.int64, types.int64)
_take_gil = symbol("PyGILState_Ensure", types.int32)
_give_gil = symbol("PyGILState_Release", types.void, types.int32)


@jit
def _bytes_of(row):
    size = item_bytes(row.dtype)
    for d in range(row.ndim):
        size *= shape_in(row)[d]
    return size


@jit
def _meets(address, size, other, other_size):
    return address < other + other_size and other < address + size


@jit
def _shares(st, program, inputs, k):
    """Return whether input ``k`` lies in memory that the program writes elsewhere, or writes what another reads."""
    head = int64_at(program)
    entry = int64_at(head[INPUTS] + 8 * INPUT_WORDS * k)
    address, size = inputs[k], _bytes_of(slot_of(st, entry[INPUT_SLOT]))
    for other in range(head[INPUT_COUNT]):
        second = int64_at(head[INPUTS] + 8 * INPUT_WORDS * other)
        if other != k and (entry[INPUT_WRITTEN] or second[INPUT_WRITTEN]):
            if _meets(address, size, inputs[other], _bytes_of(slot_of(st, second[INPUT_SLOT]))):
                return True
    for w in range(head[WRITTEN_COUNT]):
        row = storage_row(state_of(st).storages, int64_at(head[WRITTEN])[w])
        if _meets(address, size, row.address, row.bytes):
            return True
    return False


@jit
def _bind(st, program, inputs):
    """Bind the inputs at their addresses; return 0 or SHARED_MEMORY."""
    head = int64_at(program)
    for k in range(head[INPUT_COUNT]):
        entry = int64_at(head[INPUTS] + 8 * INPUT_WORDS * k)
        wanted = slot_of(st, entry[INPUT_SLOT])
        start = inputs[k] - wanted.offset * item_bytes(wanted.dtype)
        if storage_row(state_of(st).storages, entry[INPUT_STORAGE]).address == start:
            continue
        if _shares(st, program, inputs, k):
            return SHARED_MEMORY
        bind_input(st, program, k, start)
    return 0


@jit
def _copy_strided(row, source, target):
    """Copy the elements of a slot that is not contiguous, in row-major order."""
    item, ndim = item_bytes(row.dtype), types.int64(row.ndim)
    count = _bytes_of(row) // item
    index = int64_at(stack_words(8))
    for d in range(ndim):
        index[d] = 0
    offset = 0
    for k in range(count):
        _memcpy(target + k * item, source + offset * item, item)
        d = ndim - 1
        while d >= 0:
            index[d] += 1
            offset += strides_in(row)[d]
            if index[d] < shape_in(row)[d]:
                break
            offset -= strides_in(row)[d] * shape_in(row)[d]
            index[d] = 0
            d -= 1


@jit
def _copy_output(st, slot, target):
    row = slot_of(st, slot)
    if row.dtype == FLOAT64 and row.ndim == 0:
        float64_at(target)[0] = float64_at(data_address(st, slot))[0]
    elif row.flags & CONTIGUOUS:
        _memcpy(target, data_address(st, slot), _bytes_of(row))
    else:
        _copy_strided(row, data_address(st, slot), target)


@jit
def _note_run(st, program):
    """Count the writes into tensors from outside; give leaves their gradients back where they were taken away."""
    head = int64_at(program)
    written = int64_at(head[WRITTEN])
    for k in range(head[WRITTEN_COUNT]):
        storage_row(state_of(st).storages, written[k]).version += 1
    grads = int64_at(head[GRADS])
    for k in range(head[GRAD_COUNT]):
        if slot_of(st, grads[3 * k]).grad != grads[3 * k + 1]:
            locked = _take_gil()
            put_gradients(head[MACHINE], program)
            _give_gil(locked)
            return


@jit
def _call(program, inputs, outputs):
    head = int64_at(program)
    st = head[STATE_BLOCK]
    hold(program)
    status = _bind(st, program, int64_at(inputs))
    if status == 0:
        status = call2(head[RUN], program, 0)
        _note_run(st, program)
    if status == 0:
        for k in range(head[OUTPUT_COUNT]):
            _copy_output(st, int64_at(head[OUTPUTS])[OUTPUT_WORDS * k + OUTPUT_SLOT], int64_at(outputs)[k])
    let_go(program)
    return status


def call_program(program, inputs, outputs):
    """Run a program on inputs at some addresses and copy its outputs to others; return 0 or a status.

    ``inputs`` and ``outputs`` are the addresses of words that have the addresses: of contiguous arrays of the shapes
    and dtypes that the program was captured with.
    """
    return _call(program, inputs, outputs)


def call_scalar(count, x, program):
    """Return the value of a program of one float64 vector at address ``x``, as SciPy asks for it; nan if it fails."""
    words = stack_words(3)
    int64_at(words)[0] = x
    int64_at(words)[1] = words + 16
    row = slot_of(int64_at(program)[STATE_BLOCK], int64_at(int64_at(program)[INPUTS])[INPUT_SLOT])
    if _bytes_of(row) != 8 * count or _call(program, words, words + 8) < 0:
        return math.nan
    return float64_at(words + 16)[0]
