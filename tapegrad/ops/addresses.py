"""Addresses of functions that the kernels of several ops call: they lie in one table, which the state block leads to.

GEMM is compiled once for a dtype and not into each op that multiplies matrices; LAPACK's routines lie elsewhere in
every process. So machine code finds them in the table, and an op's kernel maker, which runs in Python when the kernel
is first needed, sees to it that they are there.
"""

from collections.abc import Callable, Sequence
from typing import Any

from tapegrad.kernels.gemm import make_gemm
from tapegrad.kernels.gemm_blocks import make_gemm_blocks
from tapegrad.kernels.gemm_integer import make_integer_gemm
from tapegrad.kernels.gemm_packed import make_packed_gemm
from tapegrad.kernels.lapack_call import routine_address
from tapegrad.native.cache import compile_function, jit
from tapegrad.native.dtypes import DTYPE_NAMES, FLOAT32, FLOAT64, ITEM_BYTES, NUMPY_DTYPES
from tapegrad.native.pointers import call1, int64_at
from tapegrad.runtime.layout import state_of
from tapegrad.runtime.machine import machine

ROUTINES = ("getrf", "getri", "gesv", "potrf", "geqrf", "orgqr", "trsm", "gesdd", "syevd", "gelsd", "gelsy")

_GEMM = 0  # by dtype
_LAPACK = 8  # by dtype (float32, float64), then by routine
_LAPACK_ROW = 16
_PACKED_GEMM = 40  # by dtype
CONVOLUTION, WINOGRAD, WINOGRAD_WEIGHT, PIXELS, PIXELS_WEIGHT = 64, 72, 80, 88, 96  # by dtype
UPDATE_DRIVER = 56


def need(place: int, function: Callable[..., int], key: str, signature: str) -> None:
    """See to it that the table has a function at a place."""
    if machine.addresses[place] == 0:
        machine.addresses[place] = compile_function(function, key, signature)


def need_gemm(dtype: int) -> None:
    """See to it that the table has the matrix multiplication of a dtype."""
    if machine.addresses[_GEMM + dtype] == 0:
        make = make_gemm if dtype in (FLOAT32, FLOAT64) else make_integer_gemm
        gemm = make(NUMPY_DTYPES[dtype])
        machine.addresses[_GEMM + dtype] = compile_function(gemm, f"gemm.{DTYPE_NAMES[dtype]}", "int64(int64)")


def need_packed_gemm(dtype: int) -> None:
    """See to it that the table has the multiplication by packed matrices of a float dtype."""
    if machine.addresses[_PACKED_GEMM + dtype] == 0:
        gemm = make_packed_gemm(NUMPY_DTYPES[dtype])
        key = f"packed_gemm.{DTYPE_NAMES[dtype]}"
        machine.addresses[_PACKED_GEMM + dtype] = compile_function(gemm, key, "int64(int64)")


def need_routines(names: Sequence[str], dtype: int) -> None:
    """See to it that the table has LAPACK's routines of a float dtype."""
    for name in names:
        place = routine_index(name, dtype)
        if machine.addresses[place] == 0:
            machine.addresses[place] = routine_address(name, NUMPY_DTYPES[dtype])


def routine_index(name: str, dtype: int) -> int:
    """Return the index in the table of a routine of LAPACK for a float dtype."""
    return _LAPACK + _LAPACK_ROW * (dtype == FLOAT64) + ROUTINES.index(name)


@jit
def address_of(st, index):
    """Return an address of the table."""
    return int64_at(state_of(st).addresses)[index]


def threaded_gemm(dtype: int) -> Callable[..., Any]:
    """Return the helper ``multiply(st, words)`` that multiplies matrices of a dtype; see kernels/gemm.py."""
    need_gemm(dtype)
    item = ITEM_BYTES[dtype]
    if dtype not in (FLOAT32, FLOAT64):

        @jit
        def multiply(st, words):
            return call1(gemm_address(st, dtype), words)

        return multiply
    blocks = make_gemm_blocks(NUMPY_DTYPES[dtype])

    @jit
    def multiply_in_blocks(st, words):
        return blocks(state_of(st).pool, gemm_address(st, dtype), words, item)

    return multiply_in_blocks


@jit
def gemm_address(st, dtype):
    """Return the address of the matrix multiplication of a dtype."""
    return int64_at(state_of(st).addresses)[_GEMM + dtype]


@jit
def packed_gemm_address(st, dtype):
    """Return the address of the multiplication by packed matrices of a dtype."""
    return int64_at(state_of(st).addresses)[_PACKED_GEMM + dtype]
