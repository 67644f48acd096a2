"""Batches of LU, solve, inverse, determinants, Cholesky, QR and triangular systems by LAPACK, for float32 and float64.

`lapack_call` has the words and the status of these kernels. Below, ``item`` is the size of the dtype in bytes; each
kernel wants the workspace that the function of its name gives, or none where there is none, and the addresses of the
routines that `ROUTINES` names, in the words ROUTINE0 and ROUTINE1.

Measured on one Zen 4 core, in us a matrix of a batch and, behind the slash, for numpy.linalg (float32):
4x4: solve 0.08/0.18, inverse 0.10/0.36, det 0.04/0.14, Cholesky 0.09/0.21, QR 0.61/0.89, SVD 2.7/3.3, eigh 1.4/1.8;
32x32: solve 4.6/5.9, inverse 9.3/18, det 3.8/5.4, Cholesky 2.1/2.8, QR 17/18, SVD 95/118, eigh 61/70.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numba.extending import register_jitable

from tapegrad.kernels.lapack_call import (
    BATCH,
    FLAGS,
    OUT0,
    OUT1,
    OUT2,
    ROUTINE0,
    ROUTINE1,
    WORK,
    WORK_BYTES,
    A,
    B,
    K,
    M,
    N,
    call_routine,
    copy,
    copy_triangle,
    failed,
    fill,
    items_left,
    leading,
    letter,
    pointers,
    section,
    transpose,
    write_identity,
)
from tapegrad.kernels.lapack_small import SMALL, eliminate, substitute_back
from tapegrad.kernels.vector_primitives import helper
from tapegrad.native.cache import jit
from tapegrad.native.pointers import int64_at, pointer_to

ROUTINES = {
    "lu": ("getrf",),
    "solve": ("gesv",),
    "inverse": ("getrf", "getri"),
    "det": ("getrf",),
    "slogdet": ("getrf",),
    "cholesky": ("potrf",),
    "qr": ("geqrf", "orgqr"),
    "triangular": ("trsm",),
}
UPPER, UNIT, RIGHT, TRANSPOSED = 1, 2, 4, 8  # flags of the triangular kernel; the Cholesky kernel has UPPER

_BLOCK = 64  # at least LAPACK's block size, by which its optimal workspaces are multiplied
_int32_at = pointer_to(np.int32)


@helper
def _factor(routine, a, m, n, pivots):  # type: ignore[no-untyped-def]
    return call_routine(routine, (np.int32(m), np.int32(n), a, leading(m), pivots))


@register_jitable  # type: ignore[untyped-decorator]
def lu_workspace(m, n, item):  # type: ignore[no-untyped-def]
    """Return the bytes of workspace of the kernels lu, det and slogdet."""
    return section(m * n, item) + section(min(m, n), 4)


@register_jitable  # type: ignore[untyped-decorator]
def solve_workspace(n, k, item):  # type: ignore[no-untyped-def]
    """Return the bytes of workspace of the kernel solve."""
    return section(n * n, item) + section(n * k, item) + section(n, 4)


@register_jitable  # type: ignore[untyped-decorator]
def inverse_workspace(n, item):  # type: ignore[no-untyped-def]
    """Return the bytes of workspace of the kernel inverse."""
    return section(n * n, item) + section(n, 4) + section(n * _BLOCK + 1, item)


@register_jitable  # type: ignore[untyped-decorator]
def qr_workspace(m, n, complete, item):  # type: ignore[no-untyped-def]
    """Return the bytes of workspace of the kernel qr."""
    columns = max(m, n) if complete else n
    return section(m * columns, item) + section(min(m, n), item) + section(max(m, n) * _BLOCK + 1, item)


def make_lu(dtype: Any) -> Callable[[int], int]:
    """Make A[m, n] -> OUT0 L and U packed [m, n], OUT1 pivots int32 [min(m, n)] from 1, OUT2 rows int64 [m] (or 0).

    Row i of L U is row ``rows[i]`` of A. It fails at an exact zero on U's diagonal, but writes the factors.
    """
    real_at, item = pointers(dtype)

    def kernel(args):  # type: ignore[no-untyped-def]
        a = int64_at(args)
        m, n, work, status = a[M], a[N], a[WORK], 0
        k = min(m, n)
        for index in range(a[BATCH]):
            transpose(real_at(a[A] + index * m * n * item), real_at(work), m, n)
            pivots = a[OUT1] + index * k * 4
            info = _factor(a[ROUTINE0], work, m, n, pivots)
            if info != 0:
                status = failed(a, status, index, info)
            transpose(real_at(work), real_at(a[OUT0] + index * m * n * item), n, m)
            if a[OUT2] != 0:
                _write_rows(int64_at(a[OUT2] + index * m * 8), _int32_at(pivots), m, k)
        return status

    return kernel


@jit
def _write_rows(rows, pivots, m, k):  # type: ignore[no-untyped-def]
    for i in range(m):
        rows[i] = i
    for i in range(k):
        j = pivots[i] - 1
        rows[i], rows[j] = rows[j], rows[i]


def make_solve(dtype: Any) -> Callable[[int], int]:
    """Make A[n, n], B[n, k] -> OUT0 X[n, k] of A X = B, nan where A is exactly singular."""
    real_at, item = pointers(dtype)
    nan = np.dtype(dtype).type(np.nan)

    def kernel(args):  # type: ignore[no-untyped-def]
        a = int64_at(args)
        n, k, factors, status = a[N], a[K], a[WORK], 0
        x = factors + section(n * n, item)
        pivots = x + section(n * k, item)
        for index in range(a[BATCH]):
            source, right = real_at(a[A] + index * n * n * item), real_at(a[B] + index * n * k * item)
            out, order, ld = real_at(a[OUT0] + index * n * k * item), np.int32(n), leading(n)
            if n <= SMALL:
                copy(right, out, n * k)
                info = _solve_small(source, real_at(factors), n, out, k)
            else:
                transpose(source, real_at(factors), n, n)
                transpose(right, real_at(x), n, k)
                info = call_routine(a[ROUTINE0], (order, np.int32(k), factors, ld, pivots, x, ld))
                transpose(real_at(x), out, k, n)
            if info != 0:
                fill(out, n * k, nan)
                status = failed(a, status, index, info)
        return status

    return kernel


def make_inverse(dtype: Any) -> Callable[[int], int]:
    """Make A[n, n] -> OUT0 its inverse [n, n], nan where A is exactly singular."""
    real_at, item = pointers(dtype)
    nan = np.dtype(dtype).type(np.nan)

    def kernel(args):  # type: ignore[no-untyped-def]
        a = int64_at(args)
        n, factors, status = a[N], a[WORK], 0
        pivots = factors + section(n * n, item)
        work = pivots + section(n, 4)
        size = items_left(a[WORK], a[WORK_BYTES], work, item)
        for index in range(a[BATCH]):
            source, out = real_at(a[A] + index * n * n * item), real_at(a[OUT0] + index * n * n * item)
            if n <= SMALL:
                write_identity(out, n)
                info = _solve_small(source, real_at(factors), n, out, n)
            else:
                transpose(source, real_at(factors), n, n)
                info = _factor(a[ROUTINE0], factors, n, n, pivots)
                if info == 0:
                    call_routine(a[ROUTINE1], (np.int32(n), factors, leading(n), pivots, work, size))
                transpose(real_at(factors), out, n, n)
            if info != 0:
                fill(out, n * n, nan)
                status = failed(a, status, index, info)
        return status

    return kernel


@jit
def _solve_small(source, factors, n, x, k):  # type: ignore[no-untyped-def]
    """Solve A Y = X[n, k] in the place of X; return 0, or 1 + the index of the first pivot that is 0."""
    copy(source, factors, n * n)
    _, info = eliminate(factors, n, x, k)
    if info == 0:
        substitute_back(factors, n, x, k)
    return info


@jit
def _triangle(a, source, factors, pivots_address):  # type: ignore[no-untyped-def]
    """Bring a matrix to a triangle with the same determinant but for the sign; return whether that is turned."""
    n, pivots = a[N], _int32_at(pivots_address)
    if n <= SMALL:
        copy(source, factors, n * n)
        swaps, _ = eliminate(factors, n, factors, 0)
        return swaps % 2 == 1
    transpose(source, factors, n, n)
    _factor(a[ROUTINE0], a[WORK], n, n, pivots_address)
    swaps = 0
    for i in range(n):
        swaps += pivots[i] != i + 1
    return swaps % 2 == 1


def make_det(dtype: Any) -> Callable[[int], int]:
    """Make A[n, n] -> OUT0 the determinant []; a singular matrix is no failure."""
    real_at, item = pointers(dtype)
    one = np.dtype(dtype).type(1)

    def kernel(args):  # type: ignore[no-untyped-def]
        a = int64_at(args)
        n, factors, out = a[N], real_at(a[WORK]), real_at(a[OUT0])
        pivots = a[WORK] + section(n * n, item)
        for index in range(a[BATCH]):
            negative = _triangle(a, real_at(a[A] + index * n * n * item), factors, pivots)
            det = -one if negative else one
            for i in range(n):
                det *= factors[i * n + i]
            out[index] = det
        return 0

    return kernel


def make_slogdet(dtype: Any) -> Callable[[int], int]:
    """Make A[n, n] -> OUT0 sign of the determinant [], OUT1 log of its absolute value []; singular: 0 and -inf."""
    real_at, item = pointers(dtype)
    real = np.dtype(dtype).type
    one = real(1)

    def kernel(args):  # type: ignore[no-untyped-def]
        a = int64_at(args)
        n, factors, sign_out, log_out = a[N], real_at(a[WORK]), real_at(a[OUT0]), real_at(a[OUT1])
        pivots = a[WORK] + section(n * n, item)
        for index in range(a[BATCH]):
            negative = _triangle(a, real_at(a[A] + index * n * n * item), factors, pivots)
            sign, total = -one if negative else one, real(0)
            for i in range(n):
                sign *= np.sign(factors[i * n + i])
                total += np.log(abs(factors[i * n + i]))
            sign_out[index], log_out[index] = sign, total
        return 0

    return kernel


def make_cholesky(dtype: Any) -> Callable[[int], int]:
    """Make symmetric A[n, n] -> OUT0 the lower L of A = L L^T, of which it reads the lower triangle; FLAGS: UPPER.

    A row-major lower triangle is a column-major upper one, so nothing is transposed. No workspace. Where A is not
    positive definite (or has a nan there), the result is nan.
    """
    real_at, item = pointers(dtype)
    real = np.dtype(dtype).type
    zero, nan = real(0), real(np.nan)

    def kernel(args):  # type: ignore[no-untyped-def]
        a = int64_at(args)
        n, upper, status = a[N], a[FLAGS] & UPPER != 0, 0
        for index in range(a[BATCH]):
            source, address = real_at(a[A] + index * n * n * item), a[OUT0] + index * n * n * item
            out = real_at(address)
            copy_triangle(source, out, n, upper, zero)
            info = call_routine(a[ROUTINE0], (letter(upper, ord("L"), ord("U")), np.int32(n), address, leading(n)))
            for i in range(n):  # OpenBLAS takes a nan for a pivot
                info = 1 + i if info == 0 and not out[i * n + i] > 0 else info
            if info != 0:
                fill(out, n * n, nan)
                status = failed(a, status, index, info)
        return status

    return kernel


def make_qr(dtype: Any) -> Callable[[int], int]:
    """Make A[m, n] -> OUT0 Q[m, c] (or 0 for none), OUT1 R[c, n]; c is min(m, n), or m if FLAGS is 1 (complete)."""
    real_at, item = pointers(dtype)
    zero = np.dtype(dtype).type(0)

    def kernel(args):  # type: ignore[no-untyped-def]
        a = int64_at(args)
        m, n, complete, columns_address = a[M], a[N], a[FLAGS] != 0, a[WORK]
        k = min(m, n)
        c = m if complete else k
        columns = real_at(columns_address)
        tau = columns_address + section(m * (max(m, n) if complete else n), item)
        work = tau + section(k, item)
        size = items_left(a[WORK], a[WORK_BYTES], work, item)
        for index in range(a[BATCH]):
            transpose(real_at(a[A] + index * m * n * item), columns, m, n)
            call_routine(a[ROUTINE0], (np.int32(m), np.int32(n), columns_address, leading(m), tau, work, size))
            r = real_at(a[OUT1] + index * c * n * item)
            for i in range(c):
                for j in range(n):
                    r[i * n + j] = columns[j * m + i] if j >= i else zero
            if a[OUT0] != 0:
                rows, order, count = np.int32(m), np.int32(c), np.int32(k)
                call_routine(a[ROUTINE1], (rows, order, count, columns_address, leading(m), tau, work, size))
                transpose(columns, real_at(a[OUT0] + index * m * c * item), c, m)
        return 0

    return kernel


def make_triangular(dtype: Any) -> Callable[[int], int]:
    """Make triangular A[n, n], B[n, k] -> OUT0 X[n, k] of A X = B; with RIGHT, B[k, n] -> X[k, n] of X A = B.

    FLAGS: UPPER, UNIT (the diagonal is taken for ones), TRANSPOSED (A^T for A; UPPER still tells of A). It reads one
    triangle of A. A zero on the diagonal gives inf or nan, no failure. Column-major, A X = B is X^T A^T = B^T: the
    other triangle on the other side, nothing transposed (hence trsm, which takes a side, not trtrs). No workspace.
    """
    real_at, item = pointers(dtype)
    real = np.dtype(dtype).type

    def kernel(args):  # type: ignore[no-untyped-def]
        a = int64_at(args)
        n, k, flags = a[N], a[K], a[FLAGS]
        right = flags & RIGHT != 0
        side, triangle = letter(right, ord("L"), ord("R")), letter(flags & UPPER, ord("L"), ord("U"))
        turned, diagonal = letter(flags & TRANSPOSED, ord("T"), ord("N")), letter(flags & UNIT, ord("U"), ord("N"))
        rows, columns = np.int32(n if right else k), np.int32(k if right else n)
        for index in range(a[BATCH] if n * k > 0 else 0):
            matrix, address = a[A] + index * n * n * item, a[OUT0] + index * n * k * item
            copy(real_at(a[B] + index * n * k * item), real_at(address), n * k)
            sizes = (side, triangle, turned, diagonal, rows, columns, real(1))
            call_routine(a[ROUTINE0], sizes + (matrix, leading(n), address, rows))
        return 0

    return kernel
