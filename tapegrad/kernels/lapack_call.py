"""Calls of SciPy's BLAS and LAPACK by address from compiled code, the words of such kernels, and moves of matrices.

A kernel is ``kernel(args) -> status`` over the int64 words named below; a word that a kernel does not use may hold
anything. Inputs and outputs are batches of contiguous row-major matrices, while LAPACK's are column-major: a kernel
transposes in its workspace where no identity saves it. The status is 0, or 1 + the index of the first matrix of the
batch that failed; then the word INFO has LAPACK's word on it (for getrf and potrf: 1 + the index of the pivot), or
NOT_FINITE. What failed has nan for results.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import types
from numba.core.cgutils import alloca_once_value, unpack_tuple
from numba.extending import get_cython_function_address, intrinsic, register_jitable

from tapegrad.kernels.vector_primitives import helper
from tapegrad.native.cache import jit
from tapegrad.native.pointers import pointer_to

BATCH, M, N, K, FLAGS, WORK, WORK_BYTES, A, B, OUT0, OUT1, OUT2, ROUTINE0, ROUTINE1, RCOND, INFO = range(16)
WORDS = 16
NOT_FINITE = -1  # an INFO

_LARGEST_INT = 2**31 - 1
_INT, _POINTER = ir.IntType(32), ir.IntType(8).as_pointer()


@cache
def routine_address(name: str, dtype: Any) -> int:
    """Return the address in this process of a BLAS or LAPACK routine, such as "getrf", for float32 or float64.

    It changes from process to process, so it is a word of a kernel's args and never part of cached code. SciPy is
    imported (0.3 s) by the first call.
    """
    module = "scipy.linalg.cython_blas" if name == "trsm" else "scipy.linalg.cython_lapack"
    return int(get_cython_function_address(module, ("s" if np.dtype(dtype) == np.float32 else "d") + name))


@intrinsic
def call_routine(typing_context, address, arguments):  # type: ignore[no-untyped-def]
    """Call a LAPACK routine and return its INFO: int64 arguments are addresses, all others go by reference."""

    def build(context, builder, signature, args):  # type: ignore[no-untyped-def]
        values = unpack_tuple(builder, args[1], len(arguments))
        pointers = [
            builder.inttoptr(value, _POINTER)
            if kind == types.int64
            else builder.bitcast(alloca_once_value(builder, value), _POINTER)
            for kind, value in zip(arguments, values, strict=True)
        ]
        info = alloca_once_value(builder, ir.Constant(_INT, 0))
        pointers.append(builder.bitcast(info, _POINTER))
        function = ir.FunctionType(ir.VoidType(), [_POINTER] * len(pointers)).as_pointer()
        builder.call(builder.inttoptr(args[0], function), pointers)
        return builder.sext(builder.load(info), ir.IntType(64))

    if not isinstance(arguments, types.BaseTuple):
        return None
    return types.int64(types.int64, arguments), build


@helper
def failed(a, status, index, info):  # type: ignore[no-untyped-def]
    """Return the status after matrix ``index`` of the batch has failed, and note why if it is the first one."""
    if status != 0:
        return status
    a[INFO] = info
    return 1 + index


@register_jitable  # type: ignore[untyped-decorator]
def section(count, item):  # type: ignore[no-untyped-def]
    """Return the bytes of a workspace's section of ``count`` items, rounded up to a cache line."""
    return (count * item + 63) // 64 * 64


@helper
def items_left(work, work_bytes, cursor, item):  # type: ignore[no-untyped-def]
    """Return, as LWORK, how many items fit between the cursor and the workspace's end."""
    return np.int32(max(1, min(_LARGEST_INT, (work + work_bytes - cursor) // item)))


@helper
def letter(condition, yes, no):  # type: ignore[no-untyped-def]
    """Return one of two character codes as a Fortran character."""
    return np.uint8(yes) if condition else np.uint8(no)


@helper
def leading(rows):  # type: ignore[no-untyped-def]
    """Return a leading dimension, which LAPACK wants positive for empty matrices too."""
    return np.int32(max(1, rows))


@jit
def transpose(source, target, rows, columns):  # type: ignore[no-untyped-def]
    """Write the transpose of row-major ``source`` [rows, columns], in tiles that stay in the first cache."""
    for i0 in range(0, rows, 16):
        for j0 in range(0, columns, 16):
            for j in range(j0, j0 + 16 if j0 + 16 < columns else columns):
                for i in range(i0, i0 + 16 if i0 + 16 < rows else rows):
                    target[j * rows + i] = source[i * columns + j]


@jit
def transpose_square(x, n):  # type: ignore[no-untyped-def]
    """Transpose an [n, n] matrix in its place."""
    for i in range(n):
        for j in range(i):
            x[i * n + j], x[j * n + i] = x[j * n + i], x[i * n + j]


@jit
def copy(source, target, count):  # type: ignore[no-untyped-def]
    """Copy ``count`` elements."""
    for i in range(count):
        target[i] = source[i]


@jit
def fill(target, count, value):  # type: ignore[no-untyped-def]
    """Write ``value`` to ``count`` elements."""
    for i in range(count):
        target[i] = value


@jit
def copy_triangle(source, target, n, upper, zero):  # type: ignore[no-untyped-def]
    """Copy one triangle of an [n, n] matrix and write zeros to the other one."""
    for i in range(n):
        for j in range(n):
            target[i * n + j] = source[i * n + j] if (j >= i if upper else j <= i) else zero


@jit
def write_identity(target, n):  # type: ignore[no-untyped-def]
    """Write the [n, n] identity."""
    for i in range(n):
        for j in range(n):
            target[i * n + j] = i == j


@jit
def all_finite(x, count):  # type: ignore[no-untyped-def]
    """Return whether no element is nan or infinite: x - x is 0 for the others, and a sum of zeros vectorises."""
    total = x[0] - x[0] if count else x[0]
    for i in range(count):
        total += x[i] - x[i]
    return count == 0 or total == 0


def pointers(dtype: Any) -> tuple[Callable[..., Any], int]:
    """Return the pointer intrinsic and the size of ``dtype``."""
    return pointer_to(dtype), np.dtype(dtype).itemsize
