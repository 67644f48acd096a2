"""Ops that solve and factor square systems: inverse, solve, determinants, Cholesky, triangular systems.

The gradient rules are the textbook's: Giles 2008, "An extended collection of matrix derivative results for forward and
reverse mode algorithmic differentiation"; for Cholesky Murray 2016 (arXiv:1602.07527).
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from tapegrad.kernels import lapack, lapack_spectral
from tapegrad.kernels.lapack import TRANSPOSED, UNIT, UPPER
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
    section,
)
from tapegrad.native.cache import jit
from tapegrad.native.dtypes import DTYPE_NAMES, ITEM_BYTES, POINTERS, SCALARS
from tapegrad.native.pointers import int64_at, stack_words
from tapegrad.ops.addresses import address_of, need_routines, routine_index
from tapegrad.ops.lapack_ops import batch_of, failed_with, give_work, lapack_kernel, linalg_op, take_work, work_class
from tapegrad.ops.linalg_parts import columns_of, copy_lead, same_shape_infer
from tapegrad.ops.references import REGULAR
from tapegrad.ops.registry import OF_ENTRY
from tapegrad.ops.validity import matrices
from tapegrad.runtime.layout import OUT_OF_MEMORY, attribute, data_address, input_slot, output_slot, slot_of


def _none(item: int) -> Callable[..., int]:
    return lambda m, n, k, flags: 64


def solve_infer(st, frame):
    """The result has the shape of the second operand."""
    b, y = slot_of(st, input_slot(frame, 1)), slot_of(st, output_slot(frame, 0))
    y.ndim = copy_lead(b, y, 0)
    return 0


def det_infer(st, frame):
    x, y = slot_of(st, input_slot(frame, 0)), slot_of(st, output_slot(frame, 0))
    y.ndim = copy_lead(x, y, 2)
    return 0


def slogdet_infer(st, frame):
    x = slot_of(st, input_slot(frame, 0))
    for k in range(2):
        y = slot_of(st, output_slot(frame, k))
        y.ndim = copy_lead(x, y, 2)
    return 0


def _well(make: Any, *shape: int) -> Any:
    """Return well-conditioned matrices."""
    return make(*shape) + 4 * np.eye(shape[-1])


# Y = A^-1: dY = -Y dA Y
INV = linalg_op(
    "linalg_inv",
    same_shape_infer,
    lapack_kernel(
        lapack.make_inverse,
        lapack.ROUTINES["inverse"],
        lambda item: lambda m, n, k, flags: lapack.inverse_workspace(n, item),
    ),
    lambda g, y, a: -(y.bmm_tn(g).bmm_nt(y)),
    valid=matrices(square=True),
    reference=np.linalg.inv,
    samples=lambda make: [((_well(make, 3, 3),), {}, REGULAR), ((_well(make, 2, 2, 2),), {}, REGULAR)],
    math="A^-1",
)


def _solve_rule(g: Any, y: Any, a: Any, b: Any) -> Any:
    gb = a.matrix_transpose().linalg_solve(g)  # A dX = dB - dA X
    return -(gb.bmm_nt(y)), gb


SOLVE = linalg_op(
    "linalg_solve",
    solve_infer,
    lapack_kernel(
        lapack.make_solve,
        lapack.ROUTINES["solve"],
        lambda item: lambda m, n, k, flags: lapack.solve_workspace(n, k, item),
    ),
    _solve_rule,
    inputs=("A", "B"),
    valid=matrices(square=True, solved=True),
    reference=np.linalg.solve,
    samples=lambda make: [
        ((_well(make, 3, 3), make(3, 2)), {}, REGULAR),
        ((_well(make, 2, 3, 3), make(2, 3, 1)), {}, REGULAR),
    ],
    math="X of A X = B",
)


def _lu_workspace(item: int) -> Callable[..., int]:
    return lambda m, n, k, flags: lapack.lu_workspace(m, n, item)


DET = linalg_op(
    "linalg_det",
    det_infer,
    lapack_kernel(lapack.make_det, lapack.ROUTINES["det"], _lu_workspace),
    lambda g, y, a: g.as_column().as_column() * a.cofactors(),
    valid=matrices(square=True),
    reference=np.linalg.det,
    samples=lambda make: [((_well(make, 3, 3),),), ((_well(make, 2, 2, 2),),)],
    math="det A",
)
SLOGDET = linalg_op(
    "linalg_slogdet",
    slogdet_infer,
    lapack_kernel(lapack.make_slogdet, lapack.ROUTINES["slogdet"], _lu_workspace, (OUT0, OUT1)),
    lambda g, y, a: g[1].as_column().as_column() * a.linalg_inv().matrix_transpose(),
    outputs=2,
    valid=matrices(square=True),
    reference=lambda a: tuple(np.linalg.slogdet(a)),
    samples=lambda make: [((_well(make, 3, 3),), {}, REGULAR), ((-_well(make, 2, 3, 3),), {}, REGULAR)],
    math="sign and log |det A|",
)


def _cofactors_kernel(dtype: int, result_dtype: int) -> Callable[..., int]:
    """det(A) A^-T; where A is singular det(U) det(V) U cof(S) V^T of its singular values, which needs no inverse."""
    name, item, pointer = DTYPE_NAMES[dtype], ITEM_BYTES[dtype], POINTERS[dtype]
    need_routines(("getrf", "getri", "gesdd"), dtype)
    inverse, det, svd = (jit(make(name)) for make in (lapack.make_inverse, lapack.make_det, lapack_spectral.make_svd))
    one, zero = SCALARS[dtype](1), SCALARS[dtype](0)
    getrf, getri, gesdd = (routine_index(routine, dtype) for routine in ("getrf", "getri", "gesdd"))

    @jit
    def determinant(words, matrix, routine, result):
        a = int64_at(words)
        a[A], a[OUT0], a[ROUTINE0] = matrix, result, routine
        det(words)
        return pointer(result)[0]

    @jit
    def by_inverse(inverted, y, n, value):
        for i in range(n):
            for j in range(n):
                y[i * n + j] = value * inverted[j * n + i]

    @jit
    def by_singular_values(u, s, v, y, n, sign):
        for i in range(n * n):
            y[i] = zero
        for r in range(n):
            others = sign
            for q in range(n):
                others *= s[q] if q != r else one
            for i in range(n):
                for j in range(n):
                    y[i * n + j] += u[i * n + r] * others * v[r * n + j]

    def kernel(st, frame):
        x = slot_of(st, input_slot(frame, 0))
        n = columns_of(x)
        words, value = stack_words(16), stack_words(1)
        a = int64_at(words)
        part = section(n * n, item)
        need = max(lapack.inverse_workspace(n, item), lapack_spectral.svd_workspace(n, n, item))
        index = work_class(3 * part + need)
        u = take_work(st, index)
        if u == 0:
            return OUT_OF_MEMORY
        s, v = u + part, u + 2 * part
        a[BATCH], a[M], a[N], a[FLAGS], a[WORK], a[WORK_BYTES] = 1, n, n, 0, u + 3 * part, need
        status, getrf_address = 0, address_of(st, getrf)
        for k in range(batch_of(x)):
            source = data_address(st, input_slot(frame, 0)) + k * n * n * item
            y = pointer(data_address(st, output_slot(frame, 0)) + k * n * n * item)
            a[A], a[OUT0], a[ROUTINE0], a[ROUTINE1] = source, u, getrf_address, address_of(st, getri)
            if inverse(words) == 0:
                by_inverse(pointer(u), y, n, determinant(words, source, getrf_address, value))
                continue
            a[OUT1], a[OUT2], a[ROUTINE0] = s, v, address_of(st, gesdd)
            if svd(words) != 0 and status == 0:
                status = 1 + k
            sign = determinant(words, u, getrf_address, value) * determinant(words, v, getrf_address, value)
            by_singular_values(pointer(u), pointer(s), pointer(v), y, n, sign)
        give_work(st, u, index)
        return failed_with(st, status, -1) if status != 0 else 0

    return kernel


def _cofactors_rule(g: Any, y: Any, a: Any) -> Any:
    # C = det(A) A^-T: gA = (<g, C> C - C g^T C) / det A
    det = a.linalg_det().as_column().as_column()
    return ((g * y).sum_to_shape(det) * y - y.bmm_nt(g).bmm(y)) / det


linalg_op(
    "cofactors",
    same_shape_infer,
    _cofactors_kernel,
    _cofactors_rule,
    valid=matrices(square=True),
    reference=lambda a: np.linalg.det(a)[..., None, None] * np.swapaxes(np.linalg.inv(a), -1, -2),
    samples=lambda make: [((_well(make, 3, 3),), {}, REGULAR), ((_well(make, 2, 2, 2),), {}, REGULAR)],
    math="det(A) A^-T",
)


# ---- Cholesky and triangular systems ----


def _cholesky_rule(g: Any, y: Any, a: Any) -> Any:
    # gA = the symmetric part of L^-T phi(L^T gL) L^-1, phi taking the lower triangle and half of the diagonal
    inner = y.bmm_tn(g).weigh_triangles(attributes=(1.0, 0.5, 0.0))
    left = y.solve_triangular(inner, attributes=(TRANSPOSED,))
    both = y.solve_triangular(left.matrix_transpose(), attributes=(TRANSPOSED,))
    return (both + both.matrix_transpose()) * 0.5


CHOLESKY = linalg_op(
    "linalg_cholesky",
    same_shape_infer,
    lapack_kernel(lapack.make_cholesky, lapack.ROUTINES["cholesky"], _none, flags=0),
    _cholesky_rule,
    valid=matrices(square=True),
    reference=np.linalg.cholesky,
    samples=lambda make: [((make.spd(3),), {}, REGULAR | {"prepare": _symmetric, "torch": False})],
    math="L of A = L L^T",
)


def _symmetric(a: Any) -> Any:
    return (a + a.swapaxes(-1, -2)) / 2


def _triangular_kernel(adjoint: bool) -> Callable[[int, int], Callable[..., int]]:
    """Attribute 0: the flags. The adjoint solves with the transposed matrix."""

    def make(dtype: int, result_dtype: int) -> Callable[..., int]:
        need_routines(("trsm",), dtype)
        run = jit(lapack.make_triangular(DTYPE_NAMES[dtype]))
        trsm, change = routine_index("trsm", dtype), TRANSPOSED if adjoint else 0

        def kernel(st, frame):
            x, b = slot_of(st, input_slot(frame, 0)), slot_of(st, input_slot(frame, 1))
            words = stack_words(16)
            a = int64_at(words)
            a[BATCH], a[N], a[K], a[FLAGS] = batch_of(x), columns_of(x), columns_of(b), attribute(frame, 0) ^ change
            a[A], a[B] = data_address(st, input_slot(frame, 0)), data_address(st, input_slot(frame, 1))
            a[OUT0], a[ROUTINE0] = data_address(st, output_slot(frame, 0)), address_of(st, trsm)
            run(words)
            return 0

        return kernel

    return make


def _solve_reference(a: Any, b: Any, *, attributes: tuple[int], turn: int = 0) -> Any:
    flags = attributes[0] ^ turn
    triangle = np.triu(a) if flags & UPPER else np.tril(a)
    if flags & UNIT:
        triangle = triangle - triangle * np.eye(a.shape[-1]) + np.eye(a.shape[-1])
    return np.linalg.solve(np.swapaxes(triangle, -1, -2) if flags & TRANSPOSED else triangle, b)


def _triangular_samples(make: Any) -> Any:
    return [
        ((_well(make, 3, 3), make(3, 2)), {"attributes": (flags,)}) for flags in (0, UPPER, UNIT, UPPER | TRANSPOSED)
    ]


def _triangular_rule(g: Any, y: Any, a: Any, b: Any) -> Any:
    # op(A) X = B: gB = op(A)^-T gX; gA = the triangle of -gB X^T, or of its transpose
    gb = a.solve_triangular_adjoint(g, attributes=OF_ENTRY)
    return -(gb.bmm_nt(y).triangle_of(attributes=OF_ENTRY)), gb


def _triangular_adjoint_rule(g: Any, y: Any, a: Any, b: Any) -> Any:
    gb = a.solve_triangular(g, attributes=OF_ENTRY)
    return -(y.bmm_nt(gb).triangle_of(attributes=OF_ENTRY)), gb


TRIANGULAR = linalg_op(
    "solve_triangular",
    solve_infer,
    _triangular_kernel(False),
    _triangular_rule,
    inputs=("A", "B"),
    valid=matrices(square=True, solved=True, flags=range(16)),
    reference=_solve_reference,
    samples=_triangular_samples,
    math="X of A X = B for a triangular A",
)
linalg_op(
    "solve_triangular_adjoint",
    solve_infer,
    _triangular_kernel(True),
    _triangular_adjoint_rule,
    inputs=("A", "B"),
    valid=matrices(square=True, solved=True, flags=range(16)),
    reference=lambda a, b, attributes: _solve_reference(a, b, attributes=attributes, turn=TRANSPOSED),
    samples=_triangular_samples,
    math="X of A^T X = B for a triangular A",
)
