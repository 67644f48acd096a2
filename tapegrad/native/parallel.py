"""Threads for kernels: tasks of one parallel loop, handed out one by one to whoever is free.

A pool's threads are the system's own and know nothing of Python. They wait in a loop for some 50 us, letting others
have the processor if they want it, and then sleep. A loop's tasks are claimed by counting up one word, the ticket, that
has the number of tasks in its upper half; a thread that comes late finds nothing left, so the caller never waits for
one that the system has put aside, unless it is in the middle of a task; then the caller goes to sleep, too, and leaves
it a processor. Where the pool is busy with another loop, is asked for from inside a task, or has one thread, the caller
does all the tasks itself, in order.
"""

from typing import Any

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from tapegrad.native.atomics import atomic_add, atomic_load, atomic_store, compare_exchange, pause
from tapegrad.native.cache import jit
from tapegrad.native.pages import PAGE
from tapegrad.native.pointers import call3, int64_at, symbol

SCRATCH_BYTES = 4 << 20  # each thread's own
SCRATCH_STEP = SCRATCH_BYTES + PAGE  # from one to the next: a page between them that nobody may touch
MAX_TASKS = (1 << 31) - 1

# The pool's words. What different threads write lies on different cache lines, in pairs (they are fetched so).
THREADS, RUN, SCRATCH, STARTED = 0, 1, 2, 3  # read by all, written when the pool is set up
BUSY, TICKET, BODY, CONTEXT, STATUS, DONE, SLEEPING, STOP, WAITING = 16, 32, 48, 49, 50, 64, 80, 81, 82
MUTEX, CONDITION, FINISHED, HANDLES = 96, 112, 120, 128  # pthread's objects take at most 64 bytes
MAX_THREADS = 256
POOL_WORDS = HANDLES + 3 * MAX_THREADS  # and of each thread its handle and its two arguments

_SPINS = 2000  # of about 20 ns
_YIELDS = 200
_CALLERS_YIELDS = 50

_i64 = types.int64
_WORD = ir.IntType(64)
_yield_processor = symbol("sched_yield", types.int32)
_lock = symbol("pthread_mutex_lock", types.int32, _i64)
_unlock = symbol("pthread_mutex_unlock", types.int32, _i64)
_wait = symbol("pthread_cond_wait", types.int32, _i64, _i64)
_wake_all = symbol("pthread_cond_broadcast", types.int32, _i64)
_create = symbol("pthread_create", types.int32, _i64, _i64, _i64, _i64)
_malloc = symbol("malloc", _i64, _i64)
_free = symbol("free", types.void, _i64)


def address_of_helper(context: Any, builder: ir.IRBuilder, helper: Any, count: int) -> ir.Value:
    """Return the address of a function ``int64(int64, ...)`` of ``count`` arguments that calls a ``jit`` helper."""
    compiled = helper.dispatcher.overloads[(_i64,) * count]
    context.add_linking_libs([compiled.library])
    callee = context.declare_function(builder.module, compiled.fndesc)
    function_type = ir.FunctionType(_WORD, [_WORD] * count)
    name = builder.module.get_unique_name(f"by_address.{compiled.fndesc.mangled_name}")
    function = ir.Function(builder.module, function_type, name)
    function.linkage = "internal"
    inner = ir.IRBuilder(function.append_basic_block())
    returns, takes = compiled.fndesc.restype, compiled.fndesc.argtypes
    _, value = context.call_conv.call_function(inner, callee, returns, takes, function.args)
    inner.ret(context.cast(inner, value, returns, _i64))
    return builder.ptrtoint(function, _WORD)


@intrinsic
def _thread_address(typing_context, helper):
    """Return the address of a ``jit`` helper of one int64 that is named in the source."""
    typing_context.resolve_function_type(helper, (_i64,), {})

    def build(context, builder, signature, args):
        return address_of_helper(context, builder, helper, 1)

    return _i64(helper), build


@intrinsic
def parallel_for(typing_context, pool, body, context, count):
    """Run ``body(context, k, scratch)`` for k from 0 to ``count`` - 1, in any order and on any thread.

    Args:
        pool: the address of the pool's words: ``state_of(st).pool``.
        body: a ``jit`` helper of three int64, named in the source; it returns 0 or a status (< 0).
        context: an int64 that every task gets, usually the address of the words it needs.
        count: how many tasks, fewer than 2**31. Cut work by its size alone: no result may depend on the threads.

    Returns: 0, or a status that a task has returned; which one, if several have, is not defined.

    A task may use ``SCRATCH_BYTES`` at ``scratch``, which begins at a multiple of 64, until it returns.
    """
    typing_context.resolve_function_type(body, (_i64,) * 3, {})

    def build(context, builder, signature, args):
        words = builder.inttoptr(args[0], _WORD.as_pointer())
        run = builder.load(builder.gep(words, [_WORD(RUN)]))
        function_type = ir.FunctionType(_WORD, [_WORD] * 4)
        task = address_of_helper(context, builder, body, 3)
        return builder.call(builder.inttoptr(run, function_type.as_pointer()), [args[0], task, args[2], args[3]])

    return _i64(_i64, body, _i64, _i64), build


def run_tasks(pool, body, context, count):
    """Do ``count`` tasks with the help of the pool's threads; see parallel_for."""
    words = int64_at(pool)
    if not compare_exchange(pool + 8 * BUSY, 0, 1):
        return _run_apart(body, context, count)
    status = 0
    if count > 1 and words[THREADS] > 1 and (words[STARTED] > 0 or _start(pool)):
        status = _run_together(pool, body, context, count)
    else:
        status = _run_alone(body, context, count, words[SCRATCH])
    atomic_store(pool + 8 * BUSY, 0)
    return status


@jit
def _run_alone(body, context, count, scratch):
    status = 0
    for k in range(count):
        found = call3(body, context, k, scratch)
        status = found if found < 0 else status
    return status


@jit
def _run_apart(body, context, count):
    """Do the tasks with memory of their own, beside another loop that has the pool's."""
    block = _malloc(SCRATCH_BYTES + 64)
    if block == 0:
        return -2  # runtime.layout.OUT_OF_MEMORY
    status = _run_alone(body, context, count, (block + 63) // 64 * 64)
    _free(block)
    return status


@jit
def _run_together(pool, body, context, count):
    words = int64_at(pool)
    words[BODY] = body
    words[CONTEXT] = context
    words[STATUS] = 0
    words[DONE] = 0
    atomic_store(pool + 8 * TICKET, count << 32)
    if atomic_load(pool + 8 * SLEEPING) > 0:
        _lock(pool + 8 * MUTEX)
        _wake_all(pool + 8 * CONDITION)
        _unlock(pool + 8 * MUTEX)
    _take_tasks(pool, words[SCRATCH])
    turns = 0
    while atomic_load(pool + 8 * DONE) < count:
        turns += 1
        if turns < _SPINS:
            pause()
        elif turns < _SPINS + _CALLERS_YIELDS:
            _yield_processor()
        else:
            _wait_for_the_last(pool, count)
    return words[STATUS]


@jit
def _wait_for_the_last(pool, count):
    """Sleep until all tasks are done: a thread that the system has put aside then gets this one's processor."""
    _lock(pool + 8 * MUTEX)
    atomic_store(pool + 8 * WAITING, 1)
    while atomic_load(pool + 8 * DONE) < count:
        _wait(pool + 8 * FINISHED, pool + 8 * MUTEX)
    atomic_store(pool + 8 * WAITING, 0)
    _unlock(pool + 8 * MUTEX)


@jit
def _take_tasks(pool, scratch):
    """Claim and do tasks until none is left."""
    words = int64_at(pool)
    while True:
        ticket = atomic_load(pool + 8 * TICKET)
        if ticket & 0xFFFFFFFF >= ticket >> 32:
            return
        if not compare_exchange(pool + 8 * TICKET, ticket, ticket + 1):
            continue
        # Until this task is counted as done the loop cannot end, so these words are the ones of the loop it is from.
        status = call3(words[BODY], words[CONTEXT], ticket & 0xFFFFFFFF, scratch)
        if status < 0:
            words[STATUS] = status
        last = atomic_add(pool + 8 * DONE, 1) + 1 == ticket >> 32
        if last and atomic_load(pool + 8 * WAITING) != 0:
            _lock(pool + 8 * MUTEX)
            _wake_all(pool + 8 * FINISHED)
            _unlock(pool + 8 * MUTEX)


@jit
def _start(pool):
    """Start the pool's threads; return whether there is at least one."""
    words = int64_at(pool)
    words[STOP] = 0
    words[TICKET] = 0
    started = 0
    for k in range(words[THREADS] - 1):
        handle = HANDLES + 3 * k
        words[handle + 1] = pool
        words[handle + 2] = words[SCRATCH] + (k + 1) * SCRATCH_STEP
        if _create(pool + 8 * handle, 0, _thread_address(_work), pool + 8 * (handle + 1)) != 0:
            break
        started += 1
    words[STARTED] = started
    return started > 0


@jit
def _work(arguments):
    """What a thread of the pool does until the pool is stopped: wait, work, sleep."""
    words = int64_at(arguments)
    pool, scratch = words[0], words[1]
    turns = 0
    while atomic_load(pool + 8 * STOP) == 0:
        ticket = atomic_load(pool + 8 * TICKET)
        if ticket & 0xFFFFFFFF < ticket >> 32:
            _take_tasks(pool, scratch)
            turns = 0
        elif turns < _SPINS:
            turns += 1
            pause()
        elif turns < _SPINS + _YIELDS:
            turns += 1
            _yield_processor()
        else:
            _sleep(pool)
            turns = 0
    return 0


@jit
def _sleep(pool):
    """Sleep until there are tasks or the pool is stopped. Who hands out tasks looks for sleepers after doing so."""
    _lock(pool + 8 * MUTEX)
    atomic_add(pool + 8 * SLEEPING, 1)
    while atomic_load(pool + 8 * STOP) == 0:
        ticket = atomic_load(pool + 8 * TICKET)
        if ticket & 0xFFFFFFFF < ticket >> 32:
            break
        _wait(pool + 8 * CONDITION, pool + 8 * MUTEX)
    atomic_add(pool + 8 * SLEEPING, -1)
    _unlock(pool + 8 * MUTEX)
