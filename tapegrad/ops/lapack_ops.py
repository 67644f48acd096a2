"""Turns a kernel of LAPACK into the kernel of an op: words, workspace, the routines' addresses, the status."""

from collections.abc import Callable
from typing import Any

from tapegrad.kernels.lapack_call import (
    BATCH,
    FLAGS,
    INFO,
    OUT0,
    RCOND,
    ROUTINE0,
    ROUTINE1,
    WORDS,
    WORK,
    WORK_BYTES,
    A,
    B,
    K,
    M,
    N,
)
from tapegrad.native.cache import jit
from tapegrad.native.dtypes import DTYPE_NAMES, ITEM_BYTES
from tapegrad.native.pointers import int64_at, stack_words
from tapegrad.ops.addresses import address_of, need_routines, routine_index
from tapegrad.ops.linalg_parts import columns_of, rows_of
from tapegrad.ops.registry import FLOATS, Op, declare
from tapegrad.runtime.blocks import give_block, size_class, take_block
from tapegrad.runtime.layout import (
    GENERAL,
    OUT_OF_MEMORY,
    SINGULAR,
    attribute,
    attribute_count,
    data_address,
    input_count,
    input_slot,
    output_slot,
    shape_in,
    slot_of,
    state_of,
)
from tapegrad.runtime.machine import WORKSPACE_BYTES


@jit
def work_class(size):
    """Return the size class of a scratch of so many bytes, -1 where the state's workspace is large enough."""
    return -1 if size <= WORKSPACE_BYTES else size_class(size)


@jit
def take_work(st, index):
    return state_of(st).workspace if index < 0 else take_block(st, index)


@jit
def give_work(st, block, index):
    if index >= 0:
        give_block(st, block, index)


@jit
def batch_of(row):
    """Return the number of matrices of an operand: the product of its leading dimensions."""
    count = 1
    for d in range(row.ndim - 2):
        count *= shape_in(row)[d]
    return count


@jit
def failed_with(st, status, info):
    """Note which matrix of a batch failed and why; return the status."""
    state_of(st).error_value0 = status - 1
    state_of(st).error_value1 = info
    return SINGULAR


def lapack_kernel(
    make: Callable[[Any], Callable[[int], int]],
    routines: tuple[str, ...],
    workspace: Callable[[int], Callable[..., int]],
    outputs: tuple[int, ...] = (OUT0,),
    flags: int | None = None,
) -> Callable[[int, int], Callable[..., int]]:
    """Return the maker of an op's kernel.

    Args:
        make: makes the kernel of LAPACK for a dtype; see kernels/lapack_call.py.
        routines: the routines it calls.
        workspace: returns, for the bytes of an element, a function of m, n, k and the flags: the bytes of scratch.
        outputs: the words that the addresses of the op's results go to.
        flags: the flags, by default the op's attribute 0. Attribute 1 is RCOND.
    """

    def maker(dtype: int, result_dtype: int) -> Callable[..., int]:
        need_routines(routines, dtype)
        run, size = jit(make(DTYPE_NAMES[dtype])), jit(workspace(ITEM_BYTES[dtype]))
        first, second = routine_index(routines[0], dtype), routine_index(routines[-1], dtype)
        given = flags if flags is not None else -1

        def kernel(st, frame):
            x = slot_of(st, input_slot(frame, 0))
            words = stack_words(16)
            a = int64_at(words)
            for k in range(WORDS):
                a[k] = 0
            a[BATCH], a[M], a[N] = batch_of(x), rows_of(x), columns_of(x)
            a[A] = data_address(st, input_slot(frame, 0))
            if input_count(frame) > 1:
                a[B], a[K] = data_address(st, input_slot(frame, 1)), columns_of(slot_of(st, input_slot(frame, 1)))
            a[FLAGS] = given if given >= 0 else attribute(frame, 0) if attribute_count(frame) > 0 else 0
            a[RCOND] = attribute(frame, 1) if attribute_count(frame) > 1 else 0
            for k in range(len(outputs)):
                a[outputs[k]] = data_address(st, output_slot(frame, k))
            a[ROUTINE0], a[ROUTINE1] = address_of(st, first), address_of(st, second)
            a[WORK_BYTES] = size(a[M], a[N], a[K], a[FLAGS])
            index = work_class(a[WORK_BYTES])
            a[WORK] = take_work(st, index)
            if a[WORK] == 0:
                return OUT_OF_MEMORY
            status = run(words)
            give_work(st, a[WORK], index)
            return failed_with(st, status, a[INFO]) if status != 0 else 0

        return kernel

    return maker


def linalg_op(name: str, infer: Callable[..., int], kernel: Any, vjp: Any = None, **declared: Any) -> Op:
    """Declare an op on contiguous batches of matrices."""
    inputs = declared.pop("inputs", ("A",))
    return declare(
        Op(
            name=name,
            inputs=inputs,
            kind=GENERAL,
            dtypes=FLOATS,
            infer=infer,
            kernel=kernel,
            vjp=vjp,
            contiguous=inputs,
            public=False,
            **declared,
        )
    )
