"""Linear algebra as users call it: ``tg.linalg`` and the functions of ``tg.`` that it shares.

Operands are batches [..., m, n] of matrices of one float dtype. Where LAPACK fails, LinAlgError says for which matrix.
"""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable
from typing import Any, NoReturn

from tapegrad.kernels.lapack import TRANSPOSED, UNIT, UPPER
from tapegrad.kernels.lapack_call import NOT_FINITE
from tapegrad.native.dtypes import FLOAT32
from tapegrad.ops import linalg_solving, linalg_spectral
from tapegrad.ops.calls import (
    TORCH_NAMES,
    call,
    expect_tensor,
    function,
    functions,
    honours_out,
    ndim_of,
    shape_of,
    tensor_method,
)
from tapegrad.ops.creation import eye
from tapegrad.ops.linalg_parts import MT
from tapegrad.ops.matmul import matmul
from tapegrad.ops.registry import Op
from tapegrad.ops.views import expand as _expand
from tapegrad.runtime.dtype import DTYPES
from tapegrad.runtime.errors import LinAlgError, raise_status
from tapegrad.runtime.handle import Tensor, wrap
from tapegrad.runtime.layout import REQUIRES_GRAD, SINGULAR
from tapegrad.runtime.machine import machine

LinAlgError = LinAlgError
Eigh = namedtuple("Eigh", ("eigenvalues", "eigenvectors"))
Svd = namedtuple("Svd", ("U", "S", "Vh"))
Qr = namedtuple("Qr", ("Q", "R"))
Slogdet = namedtuple("Slogdet", ("sign", "logabsdet"))
Lstsq = namedtuple("Lstsq", ("solution", "residuals", "rank", "singular_values"))


# ---- arguments and errors ----


def type_name(tensor: Tensor) -> str:
    return TORCH_NAMES[machine.dtype_of(tensor._handle)]


def check_matrix(A: Tensor, name: str, argument: str = "A") -> tuple[int, ...]:
    """Return the shape of a batch of float matrices; RuntimeError in torch's words for anything else."""
    expect_tensor(A, name, argument)
    shape = shape_of(A)
    if len(shape) < 2:
        raise RuntimeError(f"{name}: The input tensor {argument} must have at least 2 dimensions.")
    if machine.dtype_of(A._handle) < FLOAT32:
        raise RuntimeError(f"{name}: Expected a floating point or complex tensor as input. Got {type_name(A)}")
    return shape


def check_square(A: Tensor, name: str) -> tuple[int, ...]:
    shape = check_matrix(A, name)
    if shape[-1] != shape[-2]:
        raise RuntimeError(
            f"{name}: A must be batches of square matrices, but they are {shape[-2]} by {shape[-1]} matrices"
        )
    return shape


def check_same_dtype(A: Tensor, B: Tensor, name: str) -> None:
    if machine.dtype_of(A._handle) != machine.dtype_of(B._handle):
        raise RuntimeError(
            f"{name}: Expected A and B to have the same dtype, but found A of type {type_name(A)} and B of type "
            f"{type_name(B)} instead"
        )


def _run(
    op: Op, words: Callable[[int, int], str], *operands: Tensor, attributes: tuple[int | float, ...] = ()
) -> tuple[Tensor, ...]:
    """Emit an op, return its results; where LAPACK failed, raise a LinAlgError in ``words(info, order)``."""
    handles = machine.emit_several(op.code, len(operands), *[operand._handle for operand in operands], *attributes)
    if not isinstance(handles, tuple):
        if handles == SINGULAR and machine.error is None:
            _fail(words, operands[0])
        raise_status(handles)
    return tuple([wrap(handle) for handle in handles])


def _fail(words: Callable[[int, int], str], A: Tensor) -> NoReturn:
    name, _, reason = words(int(machine.state["error_value1"]), shape_of(A)[-1]).partition(": ")
    batch = f"(Batch element {int(machine.state['error_value0'])}): " if ndim_of(A) > 2 else ""
    raise LinAlgError(f"{name}: {batch}{reason}")


def _inverse_words(info: int, n: int) -> str:
    return (
        f"linalg.inv: The diagonal element {info} is zero, the inversion could not be completed because the input "
        "matrix is singular."
    )


def _not_converged(name: str) -> Callable[[int, int], str]:
    def words(info: int, n: int) -> str:
        if info == NOT_FINITE:
            return f"{name}: The algorithm failed to converge because the input matrix contained non-finite values."
        return (
            f"{name}: The algorithm failed to converge because the input matrix is ill-conditioned or has too many "
            f"repeated singular values (error code: {info})."
        )

    return words


def _solver_words(info: int, n: int) -> str:
    return "torch.linalg.solve: The solver failed because the input matrix is singular."


def _cholesky_words(info: int, n: int) -> str:
    return (
        "linalg.cholesky: The factorization could not be completed because the input is not positive-definite (the "
        f"leading minor of order {info} is not positive-definite)."
    )


def transposed(A: Tensor) -> Tensor:
    """Return a view of each matrix's transpose."""
    return call(MT, A)


def _broadcast_lead(A: Tensor, B: Tensor, name: str) -> tuple[Tensor, Tensor]:
    """Expand the batches of two operands to each other."""
    a, b = shape_of(A)[:-2], shape_of(B)[:-2]
    if a == b:
        return A, B
    lead = functions["broadcast_shapes"](a, b)
    return (
        _expand(A, (*lead, *shape_of(A)[-2:])),
        _expand(B, (*lead, *shape_of(B)[-2:])),
    )


def wants_gradient(A: Tensor) -> bool:
    return bool(machine.modes() & 1) and bool(machine.flags_of(A._handle) & REQUIRES_GRAD)


# ---- square systems ----


@honours_out
def inv(A: Tensor, *, out: Any = None) -> Tensor:
    """Return the inverses of square matrices [..., n, n].

    Raises:
        LinAlgError: a matrix is singular.
        RuntimeError: the operand is not a batch of square float matrices.

    Example:
        >>> import tapegrad as tg
        >>> tg.linalg.inv(tg.tensor([[2.0, 0.0], [0.0, 4.0]])).tolist()
        [[0.5, 0.0], [0.0, 0.25]]
    """
    check_square(A, "linalg.inv")
    return _run(linalg_solving.INV, _inverse_words, A)[0]


@honours_out
def solve(A: Tensor, B: Tensor, *, left: bool = True, out: Any = None) -> Tensor:
    """Return the X of ``A X = B`` (or of ``X A = B`` if not ``left``).

    Args:
        A: [..., n, n].
        B: [..., n, k] ([..., k, n] if not ``left``), or vectors [n] or, for a batch of A's shape, [..., n].

    Raises:
        LinAlgError: a matrix is singular.
        RuntimeError: shapes or dtypes do not fit.
    """
    a = check_square(A, "linalg.solve")
    expect_tensor(B, "linalg.solve", "B", 2)
    check_same_dtype(A, B, "linalg.solve")
    vector = ndim_of(B) == 1 or (ndim_of(B) == len(a) - 1 and shape_of(B) == a[:-1])
    if vector:
        B = functions["unsqueeze"](B, -1)
    if not left:
        A, B = transposed(A), B if vector else transposed(B)
    if shape_of(B)[-2] != a[-1]:
        b = shape_of(B) if left else (shape_of(B)[-1], shape_of(B)[-2])
        raise RuntimeError(
            f"linalg.solve: Incompatible shapes of A and B for the equation {'AX = B' if left else 'XA = B'} "
            f"({a[-2]}x{a[-1]} and {b[-2]}x{b[-1]})"
        )
    A, B = _broadcast_lead(A, B, "linalg.solve")
    (X,) = _run(linalg_solving.SOLVE, _solver_words, A, B)
    if vector:
        return functions["squeeze"](X, -1)
    return X if left else transposed(X)


@function()
def det(A: Tensor) -> Tensor:
    """Return the determinants [...] of matrices [..., n, n]; the gradient exists for singular ones too."""
    check_square(A, "linalg.det")
    return _run(linalg_solving.DET, _not_converged("linalg.det"), A)[0]


@function()
def slogdet(A: Tensor) -> Any:
    """Return sign and logarithm of the absolute value of the determinants of matrices [..., n, n]."""
    check_square(A, "linalg.slogdet")
    return Slogdet(*_run(linalg_solving.SLOGDET, _not_converged("linalg.slogdet"), A))


@function()
def logdet(A: Tensor) -> Tensor:
    """Return the logarithm of the determinants of matrices [..., n, n]: nan for a negative one, -inf for 0."""
    sign, logabsdet = slogdet(A)
    return logabsdet + sign.detach().log()


@honours_out
def cholesky(A: Tensor, *, upper: bool = False, out: Any = None) -> Tensor:
    """Return the lower L of ``A = L L^T`` (the upper U of ``A = U^T U``) for symmetric positive definite [..., n, n].

    Only one triangle of A is read, the lower one (the upper one); its gradient is symmetric.

    Args:
        upper: whether the upper factor is returned.

    Raises:
        LinAlgError: a matrix is not positive definite.
    """
    check_square(A, "linalg.cholesky")
    if upper:
        return transposed(cholesky(transposed(A)))
    return _run(linalg_solving.CHOLESKY, _cholesky_words, A)[0]


@honours_out
def solve_triangular(
    A: Tensor, B: Tensor, *, upper: bool, left: bool = True, unitriangular: bool = False, out: Any = None
) -> Tensor:
    """Return the X of ``A X = B`` (``X A = B`` if not ``left``) for a triangular A [..., n, n], B [..., n, k].

    Args:
        upper: whether A is upper triangular; the other triangle is not read.
        left: on which side of X the matrix stands.
        unitriangular: take the diagonal for ones.

    Raises:
        RuntimeError: shapes or dtypes do not fit.
    """
    name = "linalg.solve_triangular"
    a = check_square(A, name)
    b = check_matrix(B, name, "B")
    check_same_dtype(A, B, name)
    if (b[-2] if left else b[-1]) != a[-1]:
        equation = "AX = B" if left else "XA = B"
        raise RuntimeError(
            f"{name}: Incompatible shapes of A and B for the equation {equation} ({a[-2]}x{a[-1]} and {b[-2]}x{b[-1]})"
        )
    flags = (UPPER if upper else 0) | (UNIT if unitriangular else 0) | (0 if left else TRANSPOSED)
    A, B = _broadcast_lead(A, B if left else transposed(B), name)
    X = call(linalg_solving.TRIANGULAR, A, B, attributes=(flags,))
    return X if left else transposed(X)


@function()
def cholesky_solve(B: Tensor, L: Tensor, upper: bool = False) -> Tensor:
    """Return the X of ``A X = B`` from the Cholesky factor of A, lower or ``upper``.

    Args:
        L: the factor [..., n, n].
    """
    first = solve_triangular(transposed(L) if upper else L, B, upper=False)
    return solve_triangular(L if upper else transposed(L), first, upper=True)


@function()
def cholesky_inverse(L: Tensor, upper: bool = False) -> Tensor:
    """Return the inverse of A from its Cholesky factor, lower or ``upper``.

    Args:
        L: the factor [..., n, n].
    """
    n = shape_of(L)[-1]
    return cholesky_solve(eye(n, dtype=DTYPES[machine.dtype_of(L._handle)]), L, upper)


# ---- decompositions ----


@honours_out
def qr(A: Tensor, mode: str = "reduced", *, out: Any = None) -> Any:
    """Return ``A = Q R`` of matrices [..., m, n], Q having orthonormal columns and R being upper triangular.

    Args:
        mode: "reduced" (Q [..., m, k], R [..., k, n], k the smaller of m and n), "complete" (Q [..., m, m]) or "r" (Q
            empty). "complete" of a tall matrix and "r" have no gradient.

    Raises:
        RuntimeError: not a batch of float matrices, or another mode.
    """
    m, n = check_matrix(A, "linalg.qr")[-2:]
    if mode not in ("reduced", "complete", "r"):
        raise RuntimeError(
            f"qr received unrecognized mode '{mode}' but expected one of 'reduced' (default), 'r', or 'complete'"
        )
    words = _not_converged("linalg.qr")
    if mode == "r" or (mode == "complete" and m > n):
        Q, R = _run(linalg_spectral.QR, words, A.detach(), attributes=(int(mode == "complete"),))
        return Qr(functions["empty"](0, dtype=Q.dtype) if mode == "r" else Q, R)
    if m >= n:
        return Qr(*_run(linalg_spectral.QR, words, A, attributes=(0,)))
    narrow = functions["narrow"]
    Q, R = _run(linalg_spectral.QR, words, narrow(A, -1, 0, m), attributes=(0,))  # A = Q [R, Q^T the rest]
    return Qr(Q, functions["cat"]([R, matmul(transposed(Q), narrow(A, -1, m, n - m))], -1))


@honours_out
def svd(A: Tensor, full_matrices: bool = True, *, driver: Any = None, out: Any = None) -> Any:
    """Return ``A = U diag(S) Vh`` of matrices [..., m, n], S falling.

    Args:
        full_matrices: whether U is [..., m, m] and Vh [..., n, n]; else [..., m, k] and [..., k, n]. The columns
            beyond k have no gradient.
        driver: accepted for torch's sake.

    Raises:
        LinAlgError: a matrix has nan or inf, or the algorithm did not converge.
    """
    m, n = check_matrix(A, "linalg.svd")[-2:]
    words = _not_converged("linalg.svd")
    if full_matrices and m != n and not wants_gradient(A):
        return Svd(*_run(linalg_spectral.FULL_SVD, words, A, attributes=(1,)))
    U, S, Vh = _run(linalg_spectral.SVD[m > n, m < n], words, A, attributes=(0,))
    if not full_matrices or m == n:
        return Svd(U, S, Vh)
    k, narrow, cat = min(m, n), functions["narrow"], functions["cat"]
    full = svd(A.detach())
    if m > n:
        return Svd(cat([U, narrow(full.U, -1, k, m - k)], -1), S, Vh)
    return Svd(U, S, cat([Vh, narrow(full.Vh, -2, k, n - k)], -2))


@honours_out
def svdvals(A: Tensor, *, driver: Any = None, out: Any = None) -> Tensor:
    """Return the singular values [..., min(m, n)] of matrices [..., m, n], falling.

    Args:
        driver: accepted for torch's sake.
    """
    check_matrix(A, "linalg.svdvals")
    if wants_gradient(A):
        return svd(A, full_matrices=False).S
    return _run(linalg_spectral.SVDVALS, _not_converged("linalg.svdvals"), A)[0]


@honours_out
def eigh(A: Tensor, UPLO: str = "L", *, out: Any = None) -> Any:
    """Return eigenvalues [..., n], rising, and eigenvectors [..., n, n], as columns, of symmetric matrices.

    Args:
        UPLO: which triangle is read, "L" or "U".

    Raises:
        LinAlgError: a matrix has nan or inf, or the algorithm did not converge.
    """
    check_square(A, "linalg.eigh")
    words = _not_converged("linalg.eigh")
    return Eigh(*_run(linalg_spectral.EIGH, words, A, attributes=(_uplo(UPLO, "linalg.eigh"),)))


def _uplo(UPLO: str, name: str) -> int:
    if UPLO.upper() not in ("L", "U"):
        raise RuntimeError(f"{name}: UPLO argument must be 'L' or 'U', but got {UPLO}")
    return int(UPLO.upper() == "U")


@honours_out
def eigvalsh(A: Tensor, UPLO: str = "L", *, out: Any = None) -> Tensor:
    """Return the eigenvalues [..., n], rising, of symmetric matrices.

    Args:
        UPLO: ``L`` or ``U``: which triangle of A is read.
    """
    check_square(A, "linalg.eigvalsh")
    if wants_gradient(A):
        return eigh(A, UPLO).eigenvalues
    words = _not_converged("linalg.eigvalsh")
    return _run(linalg_spectral.EIGVALSH, words, A, attributes=(_uplo(UPLO, "linalg.eigvalsh"),))[0]


@honours_out
def pinv(A: Tensor, *, atol: Any = None, rtol: Any = None, hermitian: bool = False, out: Any = None) -> Tensor:
    """Return the pseudo-inverses [..., n, m] of matrices [..., m, n].

    Args:
        atol, rtol: singular values up to ``max(atol, rtol * the largest)`` count as 0; by default 0 and ``max(m, n)``
            times the dtype's epsilon (0 if ``atol`` is given).
        hermitian: accepted for torch's sake.
    """
    check_matrix(A, "linalg.pinv")
    attributes = (0.0 if atol is None else float(atol), -1.0 if rtol is None else float(rtol))
    return _run(linalg_spectral.PINV, _not_converged("linalg.pinv"), A, attributes=attributes)[0]


def lstsq(A: Tensor, B: Tensor, rcond: float | None = None, *, driver: str | None = None) -> Any:
    """Return the X [..., n, k] of least ``|A X - B|``, of least norm where there are several.

    Args:
        A: [..., m, n].
        B: [..., m, k], or [..., m] for a batch A of the same leading dimensions.
        rcond: the relative size below which singular values (or pivots) count as 0; by default epsilon times max(m, n).
        driver: "gelsy" (default), "gels", "gelsd" or "gelss".

    Returns:
        solution, residuals (squared, [..., k]; empty for gelsy, if m <= n or if A has not full rank), rank, and
        singular values (empty but for gelsd and gelss).

    Raises:
        RuntimeError: shapes or dtypes do not fit, or an unknown driver.
    """
    name = "torch.linalg.lstsq"
    a = check_matrix(A, name, "input")
    expect_tensor(B, name, "other", 2)
    check_same_dtype(A, B, name)
    driver = driver or "gelsy"
    if driver not in ("gels", "gelsy", "gelsd", "gelss"):
        raise RuntimeError(f"{name}: parameter `driver` should be one of (gels, gelsy, gelsd, gelss)")
    vector = ndim_of(B) == len(a) - 1
    if shape_of(B)[-1 if vector else -2] != a[-2]:
        raise RuntimeError(f"{name}: input.size(-2) should match other.size({-1 if vector else -2})")
    A, B = _broadcast_lead(A, functions["unsqueeze"](B, -1) if vector else B, name)
    limit = machine_epsilon(A) * max(a[-2:]) if rcond is None else float(rcond)
    op = linalg_spectral.LSTSQ["gelsd" if driver in ("gelsd", "gelss") else "gelsy"]
    X, rank, values = _run(op, _not_converged(name), A, B, attributes=(0, limit))
    none = functions["empty"](0, dtype=A.dtype)
    residuals = none
    if driver != "gelsy" and a[-2] > a[-1] and bool((rank == a[-1]).all()):
        residuals = ((B - matmul(A, X)) ** 2).sum(-2)
    if vector:
        X = functions["squeeze"](X, -1)
    return Lstsq(X, residuals, rank, values if driver in ("gelsd", "gelss") else none)


def machine_epsilon(A: Tensor) -> float:
    return 2.0**-23 if machine.dtype_of(A._handle) == FLOAT32 else 2.0**-52


for _name, _function in (("inverse", inv), ("pinverse", pinv), ("cholesky", cholesky)):
    functions[_name] = _function
    tensor_method(_name)(_function)

__all__ = [
    "LinAlgError",
    "cholesky",
    "det",
    "eigh",
    "eigvalsh",
    "inv",
    "lstsq",
    "pinv",
    "qr",
    "slogdet",
    "solve",
    "solve_triangular",
    "svd",
    "svdvals",
]
