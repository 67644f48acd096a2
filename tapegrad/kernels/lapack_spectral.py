"""Batches of singular values, symmetric eigenvalues and least squares by LAPACK, for float32 and float64.

`lapack_call` has the words and the status of these kernels; workspaces and `ROUTINES` are as in `lapack`. Matrices
with nan or inf are found beforehand, have nan for results and count as failed: on a 3x3 with an inf SciPy 1.17's gesdd
and gelsd never return, on others they return info = 0 or print.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numba.extending import register_jitable

from tapegrad.kernels.lapack_call import (
    BATCH,
    FLAGS,
    NOT_FINITE,
    OUT0,
    OUT1,
    OUT2,
    RCOND,
    ROUTINE0,
    WORK,
    WORK_BYTES,
    A,
    B,
    K,
    M,
    N,
    all_finite,
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
    transpose_square,
    write_identity,
)
from tapegrad.kernels.vector_primitives import helper
from tapegrad.native.pointers import float64_from_bits, int64_at, pointer_to

ROUTINES = {"svd": ("gesdd",), "eigh": ("syevd",), "lstsq_gelsd": ("gelsd",), "lstsq_gelsy": ("gelsy",)}

_BLOCK = 64  # at least LAPACK's block size
_LEAF = 25  # gelsd: the size of the problems at the leaves of its tree
_int32_at = pointer_to(np.int32)


@register_jitable  # type: ignore[untyped-decorator]
def svd_workspace(m, n, item):  # type: ignore[no-untyped-def]
    """Return the bytes of workspace of the kernel svd (LWORK is at least gesdd's optimum for every job)."""
    k = min(m, n)
    return section(m * n, item) + section(8 * k, 4) + section(5 * k * k + 16 * k + _BLOCK * (m + n) + 1, item)


@register_jitable  # type: ignore[untyped-decorator]
def eigh_workspace(n, item):  # type: ignore[no-untyped-def]
    """Return the bytes of workspace of the kernel eigh."""
    return section(n * n, item) + section(5 * n + 3, 4) + section(2 * n * n + (6 + _BLOCK) * n + 1, item)


@register_jitable  # type: ignore[untyped-decorator]
def _levels(k):  # type: ignore[no-untyped-def]
    """Return the depth of gelsd's tree, max(0, int(log2(k / (leaf + 1))) + 1), or one more."""
    levels = 1
    while k > _LEAF:
        k //= 2
        levels += 1
    return levels


@register_jitable  # type: ignore[untyped-decorator]
def lstsq_workspace(m, n, k, item):  # type: ignore[no-untyped-def]
    """Return the bytes of workspace of the kernels lstsq."""
    low, high = min(m, n), max(m, n)
    integers = 3 * low * _levels(low) + 11 * low + n + 2
    k = max(1, k)
    reals = low * (low + 12 + 2 * _LEAF + 8 * _levels(low) + k) + (_LEAF + 1) ** 2 + _BLOCK * (m + n + k + 1)
    return (
        section(m * n, item)
        + section(high * k, item)
        + section(low, item)
        + section(integers, 4)
        + section(reals, item)
    )


def make_svd(dtype: Any) -> Callable[[int], int]:
    """Make A[m, n] -> OUT0 U[m, c], OUT1 S[k] falling, OUT2 V^T[d, n]; OUT0 = 0 for S alone.

    k is min(m, n); c = d = k, or c = m and d = n if FLAGS is 1 (full matrices). LAPACK sees A^T = V S U^T, whose V and
    U^T are, column-major, the V^T and U asked for: nothing is transposed.
    """
    real_at, item = pointers(dtype)
    nan = np.dtype(dtype).type(np.nan)

    def kernel(args):  # type: ignore[no-untyped-def]
        a = int64_at(args)
        m, n, full, vectors, status = a[M], a[N], a[FLAGS] != 0, a[OUT0] != 0, 0
        k = min(m, n)
        c, d = (m, n) if full else (k, k)
        integers = a[WORK] + section(m * n, item)
        work = integers + section(8 * k, 4)
        size = items_left(a[WORK], a[WORK_BYTES], work, item)
        job = letter(vectors, letter(full, ord("A"), ord("S")), ord("N"))
        for index in range(a[BATCH]):
            u, s, v = a[OUT0] + index * m * c * item, a[OUT1] + index * k * item, a[OUT2] + index * d * n * item
            if k == 0:
                if vectors:
                    write_identity(real_at(u), c)
                    write_identity(real_at(v), d)
                continue
            source, info = real_at(a[A] + index * m * n * item), NOT_FINITE
            if all_finite(source, m * n):
                copy(source, real_at(a[WORK]), m * n)
                sizes = (job, np.int32(n), np.int32(m), a[WORK], np.int32(n), s)
                outputs = (v if vectors else work, np.int32(n), u if vectors else work, np.int32(c))
                info = call_routine(a[ROUTINE0], sizes + outputs + (work, size, integers))
            if info != 0:
                fill(real_at(s), k, nan)
                if vectors:
                    fill(real_at(u), m * c, nan)
                    fill(real_at(v), d * n, nan)
                status = failed(a, status, index, info)
        return status

    return kernel


def make_eigh(dtype: Any) -> Callable[[int], int]:
    """Make symmetric A[n, n] -> OUT0 its eigenvalues [n] rising, OUT1 its eigenvectors [n, n] as columns (0: none).

    It reads the lower triangle, or the upper one if FLAGS is 1.
    """
    real_at, item = pointers(dtype)
    real = np.dtype(dtype).type
    zero, nan = real(0), real(np.nan)

    def kernel(args):  # type: ignore[no-untyped-def]
        a = int64_at(args)
        n, vectors, status = a[N], a[OUT1] != 0, 0
        integers = a[WORK] + section(n * n, item)
        work = integers + section(5 * n + 3, 4)
        size = items_left(a[WORK], a[WORK_BYTES], work, item)
        job, triangle = letter(vectors, ord("V"), ord("N")), letter(a[FLAGS], ord("L"), ord("U"))
        for index in range(a[BATCH] if n > 0 else 0):
            source, values = real_at(a[A] + index * n * n * item), a[OUT0] + index * n * item
            matrix, info = a[OUT1] + index * n * n * item if vectors else a[WORK], NOT_FINITE
            copy_triangle(source, real_at(matrix), n, a[FLAGS] != 0, zero)
            if all_finite(real_at(matrix), n * n):
                sizes = (job, triangle, np.int32(n), matrix, np.int32(n), values)
                info = call_routine(a[ROUTINE0], sizes + (work, size, integers, np.int32(5 * n + 3)))
            if info != 0:
                fill(real_at(values), n, nan)
                fill(real_at(matrix), n * n, nan)
                status = failed(a, status, index, info)
            elif vectors:
                transpose_square(real_at(matrix), n)
        return status

    return kernel


def make_lstsq_gelsd(dtype: Any) -> Callable[[int], int]:
    """Make A[m, n], B[m, k] -> OUT0 X[n, k] of least |A X - B|, OUT1 rank int64 [], OUT2 singular values [min(m, n)].

    By the singular values of A, of which those below RCOND (float64 bits) times the largest count as 0.
    """
    solve = _make_lstsq(dtype)
    real = np.dtype(dtype).type

    @helper
    def driver(a, matrix, x, singular, integers, work, size):  # type: ignore[no-untyped-def]
        m, n, ld = np.int32(a[M]), np.int32(a[N]), leading(max(a[M], a[N]))
        rcond = real(float64_from_bits(a[RCOND]))
        sizes = (m, n, np.int32(max(1, a[K])), matrix, leading(a[M]), x, ld)
        return call_routine(a[ROUTINE0], sizes + (singular, rcond, integers, work, size, integers + 8))

    return solve(driver)


def make_lstsq_gelsy(dtype: Any) -> Callable[[int], int]:
    """Make A[m, n], B[m, k] -> OUT0 X[n, k] of least |A X - B|, OUT1 rank int64 []; OUT2 is 0.

    By QR with pivoting, which takes for the rank that of the largest leading triangle of condition below 1 / RCOND.
    """
    solve = _make_lstsq(dtype)
    real = np.dtype(dtype).type

    @helper
    def driver(a, matrix, x, singular, integers, work, size):  # type: ignore[no-untyped-def]
        m, n, ld = np.int32(a[M]), np.int32(a[N]), leading(max(a[M], a[N]))
        rcond = real(float64_from_bits(a[RCOND]))
        fill(_int32_at(integers + 8), a[N], np.int32(0))
        sizes = (m, n, np.int32(max(1, a[K])), matrix, leading(a[M]), x, ld)
        return call_routine(a[ROUTINE0], sizes + (integers + 8, rcond, integers, work, size))

    return solve(driver)


def _make_lstsq(dtype: Any) -> Callable[[Callable[..., Any]], Callable[[int], int]]:
    """Make the maker of a least-squares kernel from the call of its driver, which leaves the rank in ``integers``."""
    real_at, item = pointers(dtype)
    real = np.dtype(dtype).type
    nan, zero = real(np.nan), real(0)

    def make(driver: Callable[..., Any]) -> Callable[[int], int]:
        def kernel(args):  # type: ignore[no-untyped-def]
            a = int64_at(args)
            m, n, k, matrix, status = a[M], a[N], a[K], a[WORK], 0
            low, high = min(m, n), max(m, n)
            x = matrix + section(m * n, item)
            singular = x + section(high * max(1, k), item)  # gelsd refuses 0 right-hand sides
            integers = singular + section(low, item)
            work = integers + section(3 * low * _levels(low) + 11 * low + n + 2, 4)
            size = items_left(matrix, a[WORK_BYTES], work, item)
            rank = _int32_at(integers)
            for index in range(a[BATCH]):
                source, right = real_at(a[A] + index * m * n * item), real_at(a[B] + index * m * k * item)
                out, values = real_at(a[OUT0] + index * n * k * item), real_at(a[OUT2] + index * low * item)
                info, ranks = NOT_FINITE, int64_at(a[OUT1])
                rank[0] = 0
                if all_finite(source, m * n) and all_finite(right, m * k):
                    transpose(source, real_at(matrix), m, n)
                    columns = real_at(x)
                    fill(columns, high * max(1, k), zero)
                    for i in range(m):
                        for j in range(k):
                            columns[j * high + i] = right[i * k + j]
                    fill(real_at(singular), low, zero)
                    info = driver(a, matrix, x, singular, integers, work, size) if low > 0 else 0
                ranks[index] = np.int64(rank[0])
                if info != 0:
                    fill(out, n * k, nan)
                    fill(real_at(singular), low, nan)
                    status = failed(a, status, index, info)
                else:
                    for i in range(n):
                        for j in range(k):
                            out[i * k + j] = real_at(x)[j * high + i] if low > 0 else zero
                if a[OUT2] != 0:
                    copy(real_at(singular), values, low)
            return status

        return kernel

    return make
