"""Calls of a captured program from Python: checks of what it is given, its inputs bound, its outputs made.

What a run itself does is in replay.py.
"""

from numba import types

from tapegrad.native.cache import jit
from tapegrad.native.fastcall import as_int64, from_int64, new_tuple, set_tuple_item
from tapegrad.native.pointers import call2, int64_at, symbol
from tapegrad.runtime.blocks import give_block
from tapegrad.runtime.emit import emit_one
from tapegrad.runtime.layout import (
    CLONE,
    CONTIGUOUS,
    REQUIRES_GRAD,
    handle_row,
    item_bytes,
    shape_in,
    slot_of,
    state_of,
    storage_row,
    strides_in,
)
from tapegrad.runtime.memory import (
    foreign_storage,
    free_storage,
    new_handle,
    new_slot,
    new_storage,
    recycle_slot,
    release_handle,
    slot_of_handle,
)
from tapegrad.runtime.replay import (
    ANY_GRADIENT,
    CHECK_COUNT,
    CHECKS,
    GRAD_COUNT,
    GRADS,
    INPUT_COUNT,
    INPUT_GIVEN,
    INPUT_ONLY,
    INPUT_PATCH,
    INPUT_PATCH_COUNT,
    INPUT_SLOT,
    INPUT_STORAGE,
    INPUT_WORDS,
    INPUT_WRITTEN,
    INPUTS,
    OUTPUT_ADDRESS,
    OUTPUT_COUNT,
    OUTPUT_HANDLE,
    OUTPUT_PATCH,
    OUTPUT_PATCH_COUNT,
    OUTPUT_SLOT,
    OUTPUT_WORDS,
    OUTPUTS,
    PATCHES,
    RUN,
    RUN_STEPS,
    WRITTEN,
    WRITTEN_COUNT,
    WRONG_GRADIENT,
    WRONG_HANDLE,
    WRONG_INPUT,
    hold,
    let_go,
)
from tapegrad.runtime.strides import copy_geometry
from tapegrad.runtime.tables import reserve
from tapegrad.runtime.threads import enter_thread

_ANY_SIZE = 1 << 60  # of an input, whose own size is known to the tensor that is given
_save_thread = symbol("PyEval_SaveThread", types.int64)
_restore_thread = symbol("PyEval_RestoreThread", types.void, types.int64)


@jit
def _fits(st, given, wanted):
    """Return whether a slot has the dtype, shape and strides that the program was made for."""
    a, b = slot_of(st, given), slot_of(st, wanted)
    if a.dtype != b.dtype or a.ndim != b.ndim or (a.flags ^ b.flags) & REQUIRES_GRAD or a.storage < 0:
        return False
    for d in range(a.ndim):
        if shape_in(a)[d] != shape_in(b)[d]:
            return False
        if strides_in(a)[d] != strides_in(b)[d] and shape_in(a)[d] > 1:
            return False
    return True


@jit
def bind_input(st, program, k, address):
    """Let a program read and write its input ``k`` at an address."""
    head = int64_at(program)
    entry = int64_at(head[INPUTS] + 8 * INPUT_WORDS * k)
    row = storage_row(state_of(st).storages, entry[INPUT_STORAGE])
    if row.address == address:
        return
    row.address = address
    _patch(head, entry[INPUT_PATCH], entry[INPUT_PATCH_COUNT], address)


@jit
def _patch(head, first, count, address):
    """Write where a storage lies now into the words that lead to it."""
    patches = int64_at(head[PATCHES])
    for p in range(first, first + count):
        int64_at(patches[2 * p])[0] = address + patches[2 * p + 1]


@jit
def _meet(storages, a, b):
    """Return whether two storages are one, or lie over the same memory: two tensors may be of one NumPy array."""
    first, second = storage_row(storages, a), storage_row(storages, b)
    return a == b or (first.address < second.address + second.bytes and second.address < first.address + first.bytes)


@jit
def _is_read(st, head, storage):
    """Return whether a tensor from outside lies in a storage's memory."""
    checks = int64_at(head[CHECKS])
    for k in range(head[CHECK_COUNT]):
        other = types.int64(slot_of(st, checks[2 * k + 1]).storage)
        if other >= 0 and _meet(state_of(st).storages, other, storage):
            return True
    return False


@jit
def _check(st, program, objects):
    """Return 0 where the inputs fit and every tensor from outside is what it was, else why not."""
    head = int64_at(program)
    storages = state_of(st).storages
    for k in range(head[INPUT_COUNT]):
        entry = int64_at(head[INPUTS] + 8 * INPUT_WORDS * k)
        given = slot_of_handle(st, as_int64(objects[1 + k]))
        if not _fits(st, given, entry[INPUT_SLOT]):
            return WRONG_INPUT
        storage = types.int64(slot_of(st, given).storage)
        if entry[INPUT_WRITTEN] and storage_row(storages, storage).read_only:
            return WRONG_INPUT
        entry[INPUT_GIVEN] = storage
        if entry[INPUT_ONLY] >= 0 and entry[INPUT_ONLY] != storage:
            return WRONG_INPUT
        for other in range(k):
            second = int64_at(head[INPUTS] + 8 * INPUT_WORDS * other)
            if (entry[INPUT_WRITTEN] or second[INPUT_WRITTEN]) and _meet(storages, second[INPUT_GIVEN], storage):
                return WRONG_INPUT
        written = int64_at(head[WRITTEN])
        for w in range(head[WRITTEN_COUNT]):
            if _meet(storages, written[w], storage):
                return WRONG_INPUT
        if entry[INPUT_WRITTEN] and entry[INPUT_ONLY] < 0 and _is_read(st, head, storage):
            return WRONG_INPUT
    checks = int64_at(head[CHECKS])
    handles = state_of(st).handles
    for k in range(head[CHECK_COUNT]):
        if handle_row(handles, checks[2 * k]).slot != checks[2 * k + 1]:
            return WRONG_HANDLE
    grads = int64_at(head[GRADS])
    for k in range(head[GRAD_COUNT]):
        if grads[3 * k + 2] != ANY_GRADIENT and slot_of(st, grads[3 * k]).grad != grads[3 * k + 2]:
            return WRONG_GRADIENT
    return 0


@jit
def put_gradients(st, program):
    """Make the ``.grad`` of the leaves what the program has written, where it was taken away meanwhile."""
    head = int64_at(program)
    grads = int64_at(head[GRADS])
    for k in range(head[GRAD_COUNT]):
        leaf, handle = slot_of(st, grads[3 * k]), grads[3 * k + 1]
        if leaf.grad == handle:
            continue
        if leaf.grad >= 0:
            release_handle(st, types.int64(leaf.grad))
        if handle >= 0:
            handle_row(state_of(st).handles, handle).refs += 1
        leaf.grad = handle


@jit
def _count_writes(st, program):
    head = int64_at(program)
    storages = state_of(st).storages
    written = int64_at(head[WRITTEN])
    for k in range(head[WRITTEN_COUNT]):
        storage_row(storages, written[k]).version += 1
    for k in range(head[INPUT_COUNT]):
        entry = int64_at(head[INPUTS] + 8 * INPUT_WORDS * k)
        if entry[INPUT_WRITTEN]:
            storage_row(storages, entry[INPUT_GIVEN]).version += 1


@jit
def _begin(st, program, objects, count):
    """Bind the inputs of a program that fit it; return 0, or why it cannot run."""
    head = int64_at(program)
    enter_thread(st)
    if count != head[INPUT_COUNT]:
        return WRONG_INPUT
    status = reserve(st, 8)
    if status == 0:
        status = _check(st, program, objects)
    if status < 0:
        return status
    for k in range(head[INPUT_COUNT]):
        row = slot_of(st, slot_of_handle(st, as_int64(objects[1 + k])))
        wanted = slot_of(st, int64_at(head[INPUTS] + 8 * INPUT_WORDS * k)[INPUT_SLOT])
        start = storage_row(state_of(st).storages, row.storage).address
        bind_input(st, program, k, start + (row.offset - wanted.offset) * item_bytes(row.dtype))
    return 0


@jit
def _run_unlocked(st, program, function, argument):
    """Call ``function(program, argument)`` without the GIL; return what it returns."""
    python_thread = _save_thread()
    status = call2(function, program, argument)
    _restore_thread(python_thread)
    enter_thread(st)
    _count_writes(st, program)
    return status


@jit
def _run(st, program, function, argument):
    """Run a program that this thread holds and whose inputs are bound; return 0 or a status."""
    status = _run_unlocked(st, program, function, argument)
    if status == 0:
        put_gradients(st, program)
    return status


@jit
def _output(head, k):
    return int64_at(head[OUTPUTS] + 8 * OUTPUT_WORDS * k)


@jit
def _new_output(st, wanted):
    """Return the handle of a tensor of a slot's dtype and shape, of its own memory, or a status."""
    status = reserve(st, 8)
    if status < 0:
        return status
    source = slot_of(st, wanted)
    storage = new_storage(st, types.int64(storage_row(state_of(st).storages, source.storage).bytes))
    if storage < 0:
        return storage
    slot = new_slot(st)
    row = slot_of(st, slot)
    row.dtype = source.dtype
    copy_geometry(row, source)
    row.flags = CONTIGUOUS
    row.storage = storage
    return new_handle(st, slot)


@jit
def _bind_output(st, head, output, address):
    storage_row(state_of(st).storages, slot_of(st, output[OUTPUT_SLOT]).storage).address = address
    _patch(head, output[OUTPUT_PATCH], output[OUTPUT_PATCH_COUNT], address)


@jit
def _make_outputs(st, program):
    """Make the tensors that a run writes its large outputs into; return 0 or a status."""
    head = int64_at(program)
    for k in range(head[OUTPUT_COUNT]):
        output = _output(head, k)
        if output[OUTPUT_ADDRESS] == 0:
            continue
        handle = _new_output(st, output[OUTPUT_SLOT])
        if handle < 0:
            return handle
        output[OUTPUT_HANDLE] = handle
        made = slot_of(st, slot_of_handle(st, handle))
        _bind_output(st, head, output, types.int64(storage_row(state_of(st).storages, made.storage).address))
    return 0


@jit
def _finish_outputs(st, program):
    """Let the program write into its own memory again; have the handles of copies of the other outputs; or a status."""
    head = int64_at(program)
    status = types.int64(0)
    for k in range(head[OUTPUT_COUNT]):
        output = _output(head, k)
        if output[OUTPUT_ADDRESS] != 0:
            _bind_output(st, head, output, output[OUTPUT_ADDRESS])
        elif status == 0:
            status = reserve(st, 8)
            slot = emit_one(st, CLONE, output[OUTPUT_SLOT], 0) if status == 0 else status
            if slot >= 0:
                output[OUTPUT_HANDLE] = new_handle(st, slot)
            status = min(slot, types.int64(0))
    return status


@jit
def _give_up_outputs(st, program):
    """Forget what was made for a run that has failed."""
    head = int64_at(program)
    for k in range(head[OUTPUT_COUNT]):
        output = _output(head, k)
        if output[OUTPUT_ADDRESS] != 0:
            _bind_output(st, head, output, output[OUTPUT_ADDRESS])
        if output[OUTPUT_HANDLE] >= 0:
            release_handle(st, output[OUTPUT_HANDLE])
        output[OUTPUT_HANDLE] = -1


@jit
def _outputs(program):
    """Return a tuple of the outputs' handles, which are the caller's from now on."""
    head = int64_at(program)
    found = new_tuple(head[OUTPUT_COUNT])
    for k in range(head[OUTPUT_COUNT]):
        output = _output(head, k)
        set_tuple_item(found, k, from_int64(output[OUTPUT_HANDLE]))
        output[OUTPUT_HANDLE] = -1
    return found


def replay(self, args, count):
    """replay(program, *inputs) -> a tuple of the handles of its outputs, new tensors, or a status"""
    st = as_int64(self)
    objects = int64_at(args)
    program = as_int64(objects[0])
    hold(program)
    status = _begin(st, program, objects, count - 1)
    if status == 0:
        status = _make_outputs(st, program)
        if status == 0:
            status = _run(st, program, int64_at(program)[RUN], 0)
        if status == 0:
            status = _finish_outputs(st, program)
        if status < 0:
            _give_up_outputs(st, program)
    found = from_int64(status) if status < 0 else _outputs(program)
    let_go(program)
    return found


def replay_steps(self, args, count):
    """replay_steps(program, *inputs, steps) -> 0 or a status; ``steps`` is the address of run_steps's words"""
    st = as_int64(self)
    objects = int64_at(args)
    program = as_int64(objects[0])
    hold(program)
    status = _begin(st, program, objects, count - 2)
    if status == 0:
        status = _run(st, program, int64_at(program)[RUN_STEPS], as_int64(objects[count - 1]))
    let_go(program)
    return from_int64(status)


def new_input(self, args, count):
    """new_input(handle) -> handle of a tensor like the given one over memory that is bound later, or a status"""
    st = as_int64(self)
    status = reserve(st, 1)
    if status < 0:
        return from_int64(status)
    source = slot_of(st, slot_of_handle(st, as_int64(int64_at(args)[0])))
    slot = new_slot(st)
    row = slot_of(st, slot)
    row.dtype = source.dtype
    copy_geometry(row, source)
    row.offset = source.offset
    row.flags = source.flags & (REQUIRES_GRAD | CONTIGUOUS)
    row.storage = foreign_storage(st, 0, types.int64(_ANY_SIZE), -1, -1, 0)
    return from_int64(new_handle(st, slot))


def recycle(self, args, count):
    """recycle(slot, storage): free the row of a slot and a storage that a program has had; -1 for none"""
    st = as_int64(self)
    objects = int64_at(args)
    slot, storage = as_int64(objects[0]), as_int64(objects[1])
    if slot >= 0:
        recycle_slot(st, slot)
    if storage >= 0:
        free_storage(st, storage)
    return from_int64(0)


def release_block(self, args, count):
    """release_block(storage): give back the memory of a storage, whose row will lead elsewhere"""
    st = as_int64(self)
    row = storage_row(state_of(st).storages, as_int64(int64_at(args)[0]))
    if row.size_class >= 0:
        give_block(st, row.address, row.size_class)
    row.size_class = -1
    return from_int64(0)


def hold_program(self, args, count):
    """hold_program(program): wait until no thread runs a program, and keep it from being run"""
    hold(as_int64(int64_at(args)[0]))
    return from_int64(0)


def let_program_go(self, args, count):
    """let_program_go(program): let it be run again"""
    let_go(as_int64(int64_at(args)[0]))
    return from_int64(0)


REPLAY_ENTRY_POINTS = {
    "hold_program": hold_program,
    "let_program_go": let_program_go,
    "replay": replay,
    "replay_steps": replay_steps,
    "new_input": new_input,
    "recycle": recycle,
    "release_block": release_block,
}
