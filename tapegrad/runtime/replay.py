"""Replay: runs a captured program, which is a list of kernels with their arguments, without Python and without emit.

A program is a block of int64 words that Python has filled; the words below say where its parts are. An instruction is
four words: its kind, a function's address, and two arguments. The program has a state block of its own (a copy with its
own workspace), so its kernels may run while another thread holds the GIL and emits.
"""

from numba import types

from tapegrad.native.atomics import atomic_store, compare_exchange, pause
from tapegrad.native.cache import jit
from tapegrad.native.parallel import parallel_for
from tapegrad.native.pointers import call1, call2, call3, float64_at, int64_at, pointer_to, stack_words, symbol
from tapegrad.runtime.elementwise import run_elementwise
from tapegrad.runtime.layout import state_of

# words of a program's head
(
    COUNT,  # of instructions
    CODE,  # their address
    STATE_BLOCK,
    FAILED,  # the instruction that has returned a status
    INPUT_COUNT,
    INPUTS,  # address: for each input INPUT_WORDS
    PATCHES,  # address: for each patch the word to write and what to add to the input's address
    CHECK_COUNT,
    CHECKS,  # address: handles and the slots that they must name
    GRAD_COUNT,
    GRADS,  # address: for each leaf its slot, the handle of its gradient then (-1: none) and before (-2: any)
    OUTPUT_COUNT,
    OUTPUTS,  # address: for each output OUTPUT_WORDS
    WRITTEN_COUNT,
    WRITTEN,  # address: storages from outside that the program writes into
    RUNNING,  # 1 while a thread runs the program or copies its outputs
    RUN,  # address of run_program
    RUN_STEPS,  # address of run_steps
    MACHINE,  # address of the machine's own state block
    HEAD_WORDS,
) = range(20)
INPUT_SLOT, INPUT_STORAGE, INPUT_PATCH, INPUT_PATCH_COUNT, INPUT_WRITTEN, INPUT_GIVEN, INPUT_ONLY, INPUT_WORDS = range(
    8
)
# An output's own address is 0 where the caller gets a copy; else a run writes it into a new tensor. The handle is -1
# except while a call is under way.
OUTPUT_SLOT, OUTPUT_ADDRESS, OUTPUT_PATCH, OUTPUT_PATCH_COUNT, OUTPUT_HANDLE, OUTPUT_WORDS = range(6)
INSTRUCTION_WORDS = 4
RUN_PLAIN, RUN_ELEMENTWISE, RUN_GENERAL, RUN_TILES, RUN_FUSED, RUN_SCALAR = range(6)
SCALAR_OPS = ("add", "sub", "mul", "div", "neg")  # of one number: a kernel's prologue would take most of the time

# what replay returns where it does not run; statuses of kernels are below
WRONG_INPUT, WRONG_HANDLE, WRONG_GRADIENT = -101, -102, -103
ANY_GRADIENT = -2

# words of a group of elementwise instructions that run tile by tile
TILE_MEMBERS, TILE_ELEMENTS, TILE_TOTAL, TILE_CODE = range(4)
TILE_MEMBER_WORDS = 32  # kernel, count of operands, (address, 0, stride) of each, their items' bytes from word 24 on
TILE = 1024  # elements: the buffers of some intermediate results lie in the first-level cache together
MAX_LOCALS = 64
_TILES_A_TASK = 8

# words of a group that one kernel computes, made for it; see kernels/fused.py
FUSED_KERNEL, FUSED_TOTAL, FUSED_ARGUMENTS, FUSED_SUMS = range(4)
_FUSED_TASK = 1 << 15  # elements: 10 to 100 us of work
_SPINS, _WAIT = 2000, 50  # turns of about 20 ns, then microseconds of sleep, while another thread runs the program

_float32_at = pointer_to("f4")
_memcpy = symbol("memcpy", types.int64, types.int64, types.int64, types.int64)
_sleep = symbol("usleep", types.int32, types.int32)
_has_gil = symbol("PyGILState_Check", types.int32)
_save_thread = symbol("PyEval_SaveThread", types.int64)
_restore_thread = symbol("PyEval_RestoreThread", types.void, types.int64)


@jit
def _run_tiles(context, k, scratch):
    """Run a group's kernels on the tiles of task ``k``: a tile's intermediate results stay in the first-level cache.

    An operand whose address is below the number of local buffers lies in the scratch memory.
    """
    group = int64_at(context)
    members, elements, total, code = group[TILE_MEMBERS], group[TILE_ELEMENTS], group[TILE_TOTAL], group[TILE_CODE]
    start = k * elements * _TILES_A_TASK
    end = min(start + elements * _TILES_A_TASK, total)
    args_address = stack_words(20)
    args = int64_at(args_address)
    while start < end:
        n = min(elements, end - start)
        for member in range(members):
            base = code + 8 * TILE_MEMBER_WORDS * member
            words = int64_at(base)
            args[0] = 1
            args[1] = n
            for i in range(words[1]):
                address, stride, item = words[2 + 3 * i], words[4 + 3 * i], words[24 + i]
                if 0 <= address < MAX_LOCALS:
                    args[2 + 3 * i] = scratch + address * elements * 8
                else:
                    args[2 + 3 * i] = address + start * stride * item
                args[3 + 3 * i] = 0
                args[4 + 3 * i] = stride
            _read_elsewhere(args, words[1], n * words[24], scratch + MAX_LOCALS * elements * 8)
            call1(words[0], args_address)
        start += n
    return 0


@jit
def _scalar(op, a, b):
    if op == 0:
        return a + b
    if op == 1:
        return a - b
    if op == 2:
        return a * b
    return a / b if op == 3 else -a


@jit
def _run_scalar(op, result, a, b):
    """Compute one of SCALAR_OPS on single numbers: float64, or from len(SCALAR_OPS) on float32."""
    if op < 5:
        float64_at(result)[0] = _scalar(op, float64_at(a)[0], float64_at(b)[0])
    else:
        _float32_at(result)[0] = _scalar(op - 5, _float32_at(a)[0], _float32_at(b)[0])


@jit
def _read_elsewhere(args, count, size, copied):
    """Have a kernel that writes where it reads read a copy: it would not be vectorised (see runtime/elementwise.py)."""
    result = args[2]
    for i in range(1, count):
        if args[2 + 3 * i] == result:
            _memcpy(copied, result, size)
            args[2 + 3 * i] = copied


@jit
def _run_group(st, group):
    words = int64_at(group)
    task = words[TILE_ELEMENTS] * _TILES_A_TASK
    return parallel_for(state_of(st).pool, _run_tiles, group, (words[TILE_TOTAL] + task - 1) // task)


@jit
def _run_fused_task(context, k, scratch):
    words = int64_at(context)
    start = k * _FUSED_TASK
    return call3(words[FUSED_KERNEL], words[FUSED_ARGUMENTS], start, min(start + _FUSED_TASK, words[FUSED_TOTAL]))


@jit
def _run_fused(st, group):
    words = int64_at(group)
    total = words[FUSED_TOTAL]
    parallel_for(state_of(st).pool, _run_fused_task, group, (total + _FUSED_TASK - 1) // _FUSED_TASK)
    if words[FUSED_SUMS]:
        call3(words[FUSED_KERNEL], words[FUSED_ARGUMENTS], -1, total)
    return 0


def run_program(program, unused):
    """Run the instructions of a program once; return 0 or the status of the kernel that has failed."""
    head = int64_at(program)
    st, code, count = head[STATE_BLOCK], int64_at(head[CODE]), head[COUNT]
    status, at = 0, 0
    for k in range(count):
        kind = code[at]
        if kind == RUN_PLAIN:
            call1(code[at + 1], code[at + 2])
        elif kind == RUN_GENERAL:
            status = call2(code[at + 1], st, code[at + 2])
            if status < 0:
                head[FAILED] = k
                return status
        elif kind == RUN_ELEMENTWISE:
            run_elementwise(st, code[at + 1], code[at + 2], code[at + 3])
        elif kind == RUN_TILES:
            _run_group(st, code[at + 2])
        elif kind == RUN_FUSED:
            _run_fused(st, code[at + 2])
        else:
            _run_scalar(kind - RUN_SCALAR, code[at + 1], code[at + 2], code[at + 3])
        at += INSTRUCTION_WORDS
    return 0


@jit
def _copy_row(target, source, size):
    """Copy a row of a batch; small ones without a call."""
    if size > 64 or size % 8 != 0:
        _memcpy(target, source, size)
        return
    a, b = int64_at(target), int64_at(source)
    for k in range(size // 8):
        a[k] = b[k]


def run_steps(program, steps):
    """Run a program on batch after batch, whose rows are gathered into its inputs; note what each step puts out.

    ``steps`` is the address of words: first batch, their number, rows of a batch, address of the rows' order (0: as
    they lie), number of arrays, for each the addresses of rows and batch and the bytes of a row, number of outputs, for
    each its address, that of the record and the bytes, number of tables, for each its address, where the program reads
    a row of it and the bytes: a row for each step. Returns 0, or the status of the step that failed; the number of
    steps done is added to the first word.
    """
    words = int64_at(steps)
    rows, order, arrays = words[2], words[3], words[4]
    outputs = 5 + 3 * arrays
    tables = outputs + 1 + 3 * words[outputs]
    for step in range(words[1]):
        for k in range(words[tables]):
            at = tables + 1 + 3 * k
            _copy_row(words[at + 1], words[at] + step * words[at + 2], words[at + 2])
        first = words[0] * rows
        for k in range(arrays):
            source, batch, size = words[5 + 3 * k], words[6 + 3 * k], words[7 + 3 * k]
            if order == 0:
                _memcpy(batch, source + first * size, rows * size)
            else:
                places = int64_at(order)
                for row in range(rows):
                    _copy_row(batch + row * size, source + places[first + row] * size, size)
        status = call2(int64_at(program)[RUN], program, 0)
        if status < 0:
            return status
        for k in range(words[outputs]):
            at = outputs + 1 + 3 * k
            _memcpy(words[at + 1] + words[0] * words[at + 2], words[at], words[at + 2])
        words[0] += 1
    return 0


@jit
def hold(program):
    """Make a program this thread's until it lets go of it; who must wait for another thread does so without the GIL."""
    running = program + 8 * RUNNING
    if compare_exchange(running, 0, 1):
        return
    locked = _has_gil() != 0
    python_thread = _save_thread() if locked else types.int64(0)
    turns = 0
    while not compare_exchange(running, 0, 1):
        turns += 1
        if turns < _SPINS:
            pause()
        else:
            _sleep(_WAIT)
    if locked:
        _restore_thread(python_thread)


@jit
def let_go(program):
    atomic_store(program + 8 * RUNNING, 0)
