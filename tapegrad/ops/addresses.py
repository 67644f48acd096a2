"""Addresses of functions that the kernels of several ops call: they lie in one table, which the state block leads to.

GEMM is compiled once for a dtype and not into each op that multiplies matrices; LAPACK's routines lie elsewhere in
every process. So machine code finds them in the table, and an op's kernel maker, which runs in Python when the kernel
is first needed, sees to it that they are there.
"""

from collections.abc import Sequence

from tapegrad.kernels.gemm import make_gemm
from tapegrad.kernels.gemm_integer import make_integer_gemm
from tapegrad.kernels.lapack_call import routine_address
from tapegrad.native.cache import compile_function, jit
from tapegrad.native.dtypes import DTYPE_NAMES, FLOAT32, FLOAT64, NUMPY_DTYPES
from tapegrad.native.pointers import int64_at
from tapegrad.runtime.layout import state_of
from tapegrad.runtime.machine import machine

ROUTINES = ("getrf", "getri", "gesv", "potrf", "geqrf", "orgqr", "trsm", "gesdd", "syevd", "gelsd", "gelsy")

_GEMM = 0  # by dtype
_LAPACK = 8  # by dtype (float32, float64), then by routine
_LAPACK_ROW = 16


def need_gemm(dtype: int) -> None:
    """See to it that the table has the matrix multiplication of a dtype."""
    if machine.addresses[_GEMM + dtype] == 0:
        make = make_gemm if dtype in (FLOAT32, FLOAT64) else make_integer_gemm
        gemm = make(NUMPY_DTYPES[dtype])
        machine.addresses[_GEMM + dtype] = compile_function(gemm, f"gemm.{DTYPE_NAMES[dtype]}", "int64(int64)")


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


@jit
def gemm_address(st, dtype):
    """Return the address of the matrix multiplication of a dtype."""
    return int64_at(state_of(st).addresses)[_GEMM + dtype]
