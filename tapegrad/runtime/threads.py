"""Recording modes belong to a Python thread: the state has those of the thread that emitted last, a table the others'.

Compiled code runs with the GIL held; only where it asks something of Python may another thread come in between, emit,
and put its own modes into the state. So every such call is made through this file.
"""

from numba import types

from tapegrad.native.cache import jit
from tapegrad.native.pointers import call1, call3, int64_at, symbol
from tapegrad.runtime.layout import THREAD_LIMIT, state_of

_USUAL_MODES = 1  # record, no inference mode: these are not put into the table

_thread_state = symbol("PyThreadState_Get", types.int64)
_id_of = symbol("PyThreadState_GetID", types.int64, types.int64)


@jit
def modes_of(state):
    return state.grad_enabled + 2 * state.inference_enabled


@jit
def set_modes(state, modes):
    state.grad_enabled = modes & 1
    state.inference_enabled = modes >> 1


@jit
def _put_aside(state, thread, modes):
    """Remember a thread's modes; when the table is full, in the place of the first, whose thread has likely ended."""
    table = int64_at(state.thread_modes)
    place = state.thread_count if state.thread_count < THREAD_LIMIT else 0
    table[2 * place] = thread
    table[2 * place + 1] = modes
    state.thread_count = min(state.thread_count + 1, THREAD_LIMIT)


@jit
def _take_out(state, thread):
    """Return a thread's remembered modes and forget them."""
    table = int64_at(state.thread_modes)
    for k in range(state.thread_count):
        if table[2 * k] == thread:
            modes = table[2 * k + 1]
            state.thread_count -= 1
            table[2 * k] = table[2 * state.thread_count]
            table[2 * k + 1] = table[2 * state.thread_count + 1]
            return modes
    return types.int64(_USUAL_MODES)


@jit
def enter_thread(st):
    """Put the modes of the running thread into the state, where another thread's are there."""
    state = state_of(st)
    thread = _id_of(_thread_state())
    if state.thread == thread:
        return
    if modes_of(state) != _USUAL_MODES:
        _put_aside(state, types.int64(state.thread), modes_of(state))
    set_modes(state, _take_out(state, thread))
    state.thread = thread


@jit
def ask_python(st, kind, a, b):
    """Have Python do something (one of CALL_); return its answer or a status."""
    answer = call3(state_of(st).python_callback, kind, a, b)
    enter_thread(st)
    return answer


@jit
def resolve(st, op, dtype, result_dtype):
    """Return the address of a function that Python compiles or loads, or 0."""
    address = call3(state_of(st).resolve_callback, op, dtype, result_dtype)
    enter_thread(st)
    return address


@jit
def drop_owner(st, owner):
    """Let a Python object go that a storage or an entry has kept alive."""
    call1(state_of(st).drop_callback, owner)
    enter_thread(st)
