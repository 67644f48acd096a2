"""Ops that decompose matrices: QR, singular values, symmetric eigenvalues, pseudo-inverse, least squares.

Gradient rules: QR from Seeger et al. 2017 (arXiv:1710.08717), singular values from Townsend 2016 and Seeger et al.,
eigenvalues from Giles 2008, the pseudo-inverse from Golub and Pereyra 1973 (doi:10.1137/0710036).
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from tapegrad.kernels import lapack, lapack_spectral
from tapegrad.kernels.lapack import UPPER
from tapegrad.kernels.lapack_call import (
    BATCH,
    FLAGS,
    INFO,
    OUT0,
    OUT1,
    OUT2,
    ROUTINE0,
    WORK,
    WORK_BYTES,
    A,
    M,
    N,
    section,
)
from tapegrad.native.cache import jit
from tapegrad.native.dtypes import DTYPE_NAMES, INT64, ITEM_BYTES, POINTERS, SCALARS
from tapegrad.native.pointers import call1, float64_from_bits, int64_at, stack_words
from tapegrad.ops.addresses import address_of, gemm_address, need_gemm, need_routines, routine_index
from tapegrad.ops.lapack_ops import batch_of, failed_with, lapack_kernel, linalg_op
from tapegrad.ops.linalg_parts import columns_of, copy_lead, rows_of
from tapegrad.ops.references import REGULAR
from tapegrad.ops.validity import attributes, every, matrices
from tapegrad.runtime.blocks import give_block, size_class, take_block
from tapegrad.runtime.layout import (
    OUT_OF_MEMORY,
    attribute,
    attribute_count,
    data_address,
    input_slot,
    output_slot,
    shape_in,
    slot_of,
    state_of,
)


@jit
def _set_matrix(st, frame, k, rows, columns):
    """Give result k the operand's leading dimensions and a matrix's, or a vector's if ``columns`` is negative."""
    x, y = slot_of(st, input_slot(frame, 0)), slot_of(st, output_slot(frame, k))
    lead = copy_lead(x, y, 2)
    shape_in(y)[lead] = rows
    y.ndim = lead + 1
    if columns >= 0:
        shape_in(y)[lead + 1] = columns
        y.ndim = lead + 2


# ---- QR ----


def qr_infer(st, frame):
    """Attribute 0: 1 for the complete Q."""
    x = slot_of(st, input_slot(frame, 0))
    m, n = rows_of(x), columns_of(x)
    c = m if attribute(frame, 0) != 0 else min(m, n)
    _set_matrix(st, frame, 0, m, c)
    _set_matrix(st, frame, 1, c, n)
    return 0


def _qr_rule(g: Any, y: Any, a: Any) -> Any:
    # gA = (gQ + Q copyltu(M)) R^-T, M = R gR^T - gQ^T Q; copyltu mirrors the lower triangle
    (gq, gr), (q, r) = g, y
    m = r.bmm_nt(gr) - gq.bmm_tn(q)
    mirrored = (
        m.weigh_triangles(attributes=(1.0, 1.0, 0.0)) + m.weigh_triangles(attributes=(1.0, 0.0, 0.0)).matrix_transpose()
    )
    right = gq + q.bmm(mirrored)
    return r.solve_triangular(right.matrix_transpose(), attributes=(UPPER,)).matrix_transpose()


QR = linalg_op(
    "linalg_qr",
    qr_infer,
    lapack_kernel(
        lapack.make_qr,
        lapack.ROUTINES["qr"],
        lambda item: lambda m, n, k, flags: lapack.qr_workspace(m, n, flags != 0, item),
        (OUT0, OUT1),
    ),
    _qr_rule,
    outputs=2,
    valid=matrices(flags=range(2)),
    reference=lambda a, attributes: tuple(np.linalg.qr(a, "complete" if attributes[0] else "reduced")),
    samples=lambda make: [
        ((make(3, 3) + 2 * np.eye(3),), {"attributes": (0,)}, REGULAR),
        ((make(2, 4, 2) + 2 * np.eye(4, 2),), {"attributes": (0,)}, REGULAR),
        ((make(4, 2) + 2 * np.eye(4, 2),), {"attributes": (1,)}, REGULAR | {"gradient": False}),
        ((make(2, 4) + 2 * np.eye(2, 4),), {"attributes": (0,)}, REGULAR | {"gradient": False}),
    ],
    math="Q, R of A = Q R",
)


# ---- singular values ----


def svd_infer(st, frame):
    """Attribute 0: 1 for the full matrices."""
    x = slot_of(st, input_slot(frame, 0))
    m, n = rows_of(x), columns_of(x)
    full = attribute(frame, 0) != 0
    _set_matrix(st, frame, 0, m, m if full else min(m, n))
    _set_matrix(st, frame, 1, min(m, n), -1)
    _set_matrix(st, frame, 2, n if full else min(m, n), n)
    return 0


def svdvals_infer(st, frame):
    x = slot_of(st, input_slot(frame, 0))
    _set_matrix(st, frame, 0, min(rows_of(x), columns_of(x)), -1)
    return 0


def _svd_rule(tall: bool, wide: bool) -> Callable[..., Any]:
    def rule(g: Any, y: Any, a: Any) -> Any:
        # gA = U [skew(U^T gU)/E S + S skew(V^T gV)/E + diag gS] V^T, E_ij = s_j^2 - s_i^2,
        # plus (I - U U^T) gU S^-1 V^T for a tall matrix, plus U S^-1 gV^T (I - V V^T) for a wide one
        (gu, gs, gv), (u, s, v) = g, y
        row, column = s.as_row(), s.as_column()
        squares = s * s
        gaps = squares.as_row() - squares.as_column()
        eye = gaps.eye_like()
        gaps = gaps + eye
        left, right = u.bmm_tn(gu), v.bmm_nt(gv)
        inner = (left - left.matrix_transpose()) / gaps * row
        inner = inner + column * ((right - right.matrix_transpose()) / gaps) + gs.as_row() * eye
        total = u.bmm(inner).bmm(v)
        if tall:
            total = total + ((gu - u.bmm(left)) / row).bmm(v)
        if wide:
            total = total + (u / row).bmm(gv - gv.bmm_nt(v).bmm(v))
        return total

    return rule


def _svd_samples(shape: tuple[int, int]) -> Callable[..., Any]:
    """Return samples with singular values far apart; the signs of singular vectors are anyone's."""
    options = REGULAR | {"after": lambda results: [abs(result) for result in results], "tolerance": 512.0}
    spread = np.diag([2.0, 5.0, 9.0, 14.0, 20.0])[: shape[0], : shape[1]]
    return lambda make: [
        ((spread + make(*lead, *shape, low=-1, high=1),), {"attributes": (0,)}, options) for lead in ((), (2,))
    ]


_svd_workspace = lambda item: lambda m, n, k, flags: lapack_spectral.svd_workspace(m, n, item)  # noqa: E731
SVD = {
    (tall, wide): linalg_op(
        name,
        svd_infer,
        lapack_kernel(lapack_spectral.make_svd, lapack_spectral.ROUTINES["svd"], _svd_workspace, (OUT0, OUT1, OUT2)),
        _svd_rule(tall, wide),
        outputs=3,
        valid=matrices(flags=(0,)),
        reference=lambda a, attributes: tuple(np.linalg.svd(a, full_matrices=False)),
        samples=_svd_samples((5, 3) if tall else (3, 5) if wide else (3, 3)),
        math="U, S, V^T of A = U diag(S) V^T",
    )
    for name, tall, wide in (
        ("linalg_svd", False, False),
        ("linalg_svd_tall", True, False),
        ("linalg_svd_wide", False, True),
    )
}
FULL_SVD = linalg_op(
    "linalg_svd_full",
    svd_infer,
    lapack_kernel(
        lapack_spectral.make_svd, lapack_spectral.ROUTINES["svd"], _svd_workspace, (OUT0, OUT1, OUT2), flags=1
    ),
    outputs=3,
    valid=matrices(flags=(1,)),
    reference=lambda a, attributes: tuple(np.linalg.svd(a)),
    samples=lambda make: [
        # where U or V^T has more columns or rows than there are singular values, those are any basis of what is left
        (call[0], {"attributes": (1,)}, call[2])
        for call in [*_svd_samples((3, 3))(make), *_svd_samples((4, 3))(make)]
    ],
    math="U, S, V^T of A = U diag(S) V^T, with all columns of U and V",
)
SVDVALS = linalg_op(
    "linalg_svdvals",
    svdvals_infer,
    lapack_kernel(lapack_spectral.make_svd, lapack_spectral.ROUTINES["svd"], _svd_workspace, (OUT1,)),
    valid=matrices(flags=(0,)),
    reference=lambda a, attributes: np.linalg.svd(a, compute_uv=False),
    samples=lambda make: [call for shape in ((5, 3), (3, 5)) for call in _svd_samples(shape)(make)],
    math="S of A = U diag(S) V^T",
)


# ---- symmetric eigenvalues ----


def eigh_infer(st, frame):
    n = columns_of(slot_of(st, input_slot(frame, 0)))
    _set_matrix(st, frame, 0, n, -1)
    _set_matrix(st, frame, 1, n, n)
    return 0


def eigvalsh_infer(st, frame):
    _set_matrix(st, frame, 0, columns_of(slot_of(st, input_slot(frame, 0))), -1)
    return 0


def _eigh_rule(g: Any, y: Any, a: Any) -> Any:
    # gA = V (skew(V^T gV) / E + diag gL) V^T, E_ij = l_j - l_i, skew(X) = (X - X^T) / 2: symmetric, as A is
    (gl, gv), (values, v) = g, y
    gaps = values.as_row() - values.as_column()
    eye = gaps.eye_like()
    turn = v.bmm_tn(gv)
    inner = (turn - turn.matrix_transpose()) / (gaps + eye) * 0.5
    return v.bmm(inner + gl.as_row() * eye).bmm_nt(v)


def _eigh_samples(make: Any) -> Any:
    """Symmetric matrices with eigenvalues far apart; the signs of eigenvectors are anyone's."""
    options = REGULAR | {"prepare": lambda a: (a + a.swapaxes(-1, -2)) / 2, "after": _unsigned, "tolerance": 512.0}
    spread = np.diag([1.0, 5.0, -4.0])
    return [((spread + make(*lead, 3, 3, low=-1, high=1),), {"attributes": (0,)}, options) for lead in ((), (2,))]


def _unsigned(results: Any) -> Any:
    return [abs(result) for result in results] if isinstance(results, list | tuple) else results


_eigh_workspace = lambda item: lambda m, n, k, flags: lapack_spectral.eigh_workspace(n, item)  # noqa: E731
EIGH = linalg_op(
    "linalg_eigh",
    eigh_infer,
    lapack_kernel(lapack_spectral.make_eigh, lapack_spectral.ROUTINES["eigh"], _eigh_workspace, (OUT0, OUT1)),
    _eigh_rule,
    outputs=2,
    valid=matrices(square=True, flags=range(16)),
    reference=lambda a, attributes: tuple(np.linalg.eigh(a)),
    samples=_eigh_samples,
    math="eigenvalues and eigenvectors of a symmetric A",
)
EIGVALSH = linalg_op(
    "linalg_eigvalsh",
    eigvalsh_infer,
    lapack_kernel(lapack_spectral.make_eigh, lapack_spectral.ROUTINES["eigh"], _eigh_workspace),
    valid=matrices(square=True, flags=range(16)),
    reference=lambda a, attributes: np.linalg.eigvalsh(a),
    samples=_eigh_samples,
    math="eigenvalues of a symmetric A",
)


# ---- pseudo-inverse ----


def pinv_infer(st, frame):
    x = slot_of(st, input_slot(frame, 0))
    _set_matrix(st, frame, 0, columns_of(x), rows_of(x))
    return 0


def _pinv_kernel(dtype: int, result_dtype: int) -> Callable[..., int]:
    """Attributes: absolute and relative tolerance (below 0: max(m, n) epsilon). V diag(1/S) U^T, small S left out."""
    need_routines(("gesdd",), dtype)
    need_gemm(dtype)
    svd, pointer, item = jit(lapack_spectral.make_svd(DTYPE_NAMES[dtype])), POINTERS[dtype], ITEM_BYTES[dtype]
    gesdd, epsilon = routine_index("gesdd", dtype), float(np.finfo(DTYPE_NAMES[dtype]).eps)
    one, zero = SCALARS[dtype](1), SCALARS[dtype](0)

    @jit
    def scale_rows(vt, s, k, n, absolute, relative):
        limit = max(absolute, relative * np.float64(s[0])) if k > 0 else 0.0
        for i in range(k):
            factor = one / s[i] if s[i] > limit else zero
            for j in range(n):
                vt[i * n + j] *= factor

    def kernel(st, frame):
        x = slot_of(st, input_slot(frame, 0))
        m, n = rows_of(x), columns_of(x)
        k = min(m, n)
        absolute, relative = 0.0, -1.0
        if attribute_count(frame) > 1:
            absolute, relative = float64_from_bits(attribute(frame, 0)), float64_from_bits(attribute(frame, 1))
        if relative < 0:
            relative = max(m, n) * epsilon if absolute == 0 else 0.0
        words, products = stack_words(16), stack_words(17)
        a, p = int64_at(words), int64_at(products)
        parts = section(m * k, item) + section(k, item) + section(k * n, item)
        need = lapack_spectral.svd_workspace(m, n, item)
        index = size_class(parts + need)
        u = take_block(st, index)
        if u == 0:
            return OUT_OF_MEMORY
        s = u + section(m * k, item)
        vt = s + section(k, item)
        a[BATCH], a[M], a[N], a[FLAGS], a[OUT0], a[OUT1], a[OUT2] = 1, m, n, 0, u, s, vt
        a[ROUTINE0], a[WORK], a[WORK_BYTES] = address_of(st, gesdd), vt + section(k * n, item), need
        status, info = 0, 0
        for i in range(batch_of(x)):
            a[A] = data_address(st, input_slot(frame, 0)) + i * m * n * item
            if svd(words) != 0 and status == 0:
                status, info = 1 + i, a[INFO]
            scale_rows(pointer(vt), pointer(s), k, n, absolute, relative)
            p[0], p[1], p[2], p[3], p[4], p[5] = n, m, k, vt, 1, n
            p[6], p[7], p[8], p[9], p[10] = u, 1, k, data_address(st, output_slot(frame, 0)) + i * m * n * item, m
            p[11], p[12], p[13], p[14], p[15], p[16] = 0, 1, 0, 0, 0, state_of(st).workspace
            call1(gemm_address(st, dtype), products)
        give_block(st, u, index)
        return failed_with(st, status, info) if status != 0 else 0

    return kernel


def _pinv_rule(g: Any, y: Any, a: Any) -> Any:
    # gA = -P^T gP P^T + (I - A P) gP^T P P^T + P^T P gP^T (I - P A)
    outside = g.matrix_transpose().bmm(y).bmm_nt(y)
    inside = y.bmm_tn(y.bmm_nt(g))
    total = -(y.bmm_tn(g).bmm_nt(y))
    return total + (outside - a.bmm(y.bmm(outside))) + (inside - inside.bmm(y).bmm(a))


PINV = linalg_op(
    "linalg_pinv",
    pinv_infer,
    _pinv_kernel,
    _pinv_rule,
    valid=matrices(),
    reference=np.linalg.pinv,
    samples=lambda make: [((make(4, 3),),), ((make(2, 2, 3),),)],
    math="pseudo-inverse of A",
)


# ---- least squares ----


def lstsq_infer(st, frame):
    """Attributes: flags, rcond. Results: solution, rank, singular values."""
    x, b = slot_of(st, input_slot(frame, 0)), slot_of(st, input_slot(frame, 1))
    _set_matrix(st, frame, 0, columns_of(x), columns_of(b))
    rank = slot_of(st, output_slot(frame, 1))
    rank.dtype = INT64
    rank.ndim = copy_lead(x, rank, 2)
    _set_matrix(st, frame, 2, min(rows_of(x), columns_of(x)), -1)
    return 0


def _lstsq_rule(g: Any, y: Any, a: Any, b: Any) -> Any:
    # X = P B: gB = P^T gX; gA = -P^T gX X^T + (B - A X) gX^T P P^T + P^T X gX^T (I - P A)
    gx, x = g[0], y[0]
    p = a.linalg_pinv()
    gb = p.bmm_tn(gx)
    rest = (b - a.bmm(x)).bmm_nt(gx).bmm(p).bmm_nt(p)
    inside = p.bmm_tn(x).bmm_nt(gx)
    return rest - gb.bmm_nt(x) + (inside - inside.bmm(p).bmm(a)), gb


_SOLVED = {"after": lambda results: results[:2]}  # gelsy finds no singular values


def _lstsq(a: Any, b: Any, *, attributes: tuple[Any, ...]) -> Any:
    return np.linalg.pinv(a) @ b, np.linalg.matrix_rank(a)


LSTSQ = {
    driver: linalg_op(
        f"linalg_lstsq_{driver}",
        lstsq_infer,
        lapack_kernel(
            make,
            lapack_spectral.ROUTINES[f"lstsq_{driver}"],
            lambda item: lambda m, n, k, flags: lapack_spectral.lstsq_workspace(m, n, k, item),
            words,
        ),
        _lstsq_rule,
        inputs=("A", "B"),
        outputs=3,
        valid=every(attributes(2), matrices(solved=True, flags=(0,))),
        reference=_lstsq,
        samples=lambda make: [
            ((make(5, 3) + 2 * np.eye(5, 3), make(5, 2)), {"attributes": (0, 1e-6)}, REGULAR | _SOLVED),
            ((make(2, 3, 3) + 2 * np.eye(3), make(2, 3, 1)), {"attributes": (0, 1e-6)}, REGULAR | _SOLVED),
            ((make(2, 4) + 2 * np.eye(2, 4), make(2, 2)), {"attributes": (0, 1e-6)}, REGULAR | _SOLVED),
        ],
        math="X of least |A X - B|",
    )
    for driver, make, words in (
        ("gelsd", lapack_spectral.make_lstsq_gelsd, (OUT0, OUT1, OUT2)),
        ("gelsy", lapack_spectral.make_lstsq_gelsy, (OUT0, OUT1)),
    )
}
