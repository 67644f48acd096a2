"""Linear algebra made of other functions: the matrix exponential, tensor equations, forms that report instead of raise.

Eigenvalues of general matrices are complex, which no dtype here is: ``eig`` says so.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from tapegrad.ops.calls import expect_tensor, function, functions, shape_of
from tapegrad.ops.linalg import LinAlgError, check_square, cholesky, inv, solve
from tapegrad.runtime.handle import Tensor


class Checked(NamedTuple):
    """A result, and for each matrix 0 or a number that says that it failed."""

    result: Tensor
    info: Tensor


class InvEx(NamedTuple):
    """What ``inv_ex`` returns."""

    inverse: Tensor
    info: Tensor


class CholeskyEx(NamedTuple):
    """What ``cholesky_ex`` returns."""

    L: Tensor
    info: Tensor


def _checked(compute: Any, A: Tensor, failed: Tensor, check_errors: bool) -> tuple[Tensor, Tensor]:
    """Return a result and zeros; where the whole batch cannot be computed, nan for every matrix and ones."""
    info = functions["zeros"](shape_of(A)[:-2], dtype="int32")
    try:
        return compute(), info
    except LinAlgError:
        if check_errors:
            raise
        return functions["full_like"](failed, math.nan), info + 1


def inv_ex(A: Tensor, *, check_errors: bool = False) -> InvEx:
    """Return the inverses of matrices and, for each, 0; nan and 1 for the whole batch if one of them is singular."""
    check_square(A, "linalg.inv_ex")
    return InvEx(*_checked(lambda: inv(A), A, A, check_errors))


def solve_ex(A: Tensor, B: Tensor, *, left: bool = True, check_errors: bool = False) -> Checked:
    """Return the solutions of linear systems and, for each, 0; nan and 1 for the whole batch if one is singular.

    Args:
        B: the right-hand sides, as of ``solve``.
        left: whether ``A X = B`` is solved; else ``X A = B``.
    """
    check_square(A, "linalg.solve_ex")
    return Checked(*_checked(lambda: solve(A, B, left=left), A, B, check_errors))


def cholesky_ex(A: Tensor, *, upper: bool = False, check_errors: bool = False) -> CholeskyEx:
    """Return Cholesky factors and, for each, 0; nan and 1 for the whole batch if one is not positive definite.

    Args:
        upper: whether the upper factor is returned.
    """
    check_square(A, "linalg.cholesky_ex")
    return CholeskyEx(*_checked(lambda: cholesky(A, upper=upper), A, A, check_errors))


def tensorinv(A: Tensor, ind: int = 2) -> Tensor:
    """Return the inverse of what ``tensordot`` with A over its last dimensions does; the first ``ind`` are one side.

    Raises:
        RuntimeError: ``ind`` is not positive, or the two sides differ in size.
    """
    shape = shape_of(expect_tensor(A, "linalg.tensorinv", "A"))
    if ind <= 0:
        raise RuntimeError("Expected a strictly positive integer for 'ind'")
    rows, columns = math.prod(shape[:ind]), math.prod(shape[ind:])
    if rows != columns:
        raise RuntimeError(
            f"Expected self to satisfy the requirement prod(self.shape[ind:]) == prod(self.shape[:ind]), but got "
            f"{columns} != {rows}"
        )
    flat = inv(functions["reshape"](A, (rows, columns)))
    return functions["reshape"](flat, (*shape[ind:], *shape[:ind]))


def tensorsolve(A: Tensor, B: Tensor, dims: Sequence[int] | None = None) -> Tensor:
    """Return the X with ``tensordot(A, X, X.ndim) == B``, after the dimensions ``dims`` of A were moved to its end."""
    if dims is not None:
        A = functions["movedim"](A, tuple(dims), tuple(range(A.dim() - len(dims), A.dim())))
    shape = shape_of(A)[len(shape_of(B)) :]
    count = math.prod(shape)
    if count != math.prod(shape_of(B)):
        raise RuntimeError(
            "Expected self to satisfy the requirement prod(self.shape[other.ndim:]) == prod(self.shape[:other.ndim]), "
            f"but got {count} != {math.prod(shape_of(B))}"
        )
    flat = solve(functions["reshape"](A, (count, count)), functions["reshape"](B, (-1,)))
    return functions["reshape"](flat, shape)


# Coefficients of the diagonal Pade approximant of order 13, and the 1-norm up to which it is exact in float64:
# Higham, The scaling and squaring method for the matrix exponential revisited, 2005, doi:10.1137/04061101X
_PADE = (
    64764752532480000.0,
    32382376266240000.0,
    7771770303897600.0,
    1187353796428800.0,
    129060195264000.0,
    10559470521600.0,
    670442572800.0,
    33522128640.0,
    1323241920.0,
    40840800.0,
    960960.0,
    16380.0,
    182.0,
    1.0,
)
_THETA = 5.371920351148152


@function()
def matrix_exp(input: Tensor) -> Tensor:
    """Return the exponentials of square matrices [..., n, n], differentiable.

    Computed in float64 by scaling and squaring (Higham 2005, doi:10.1137/04061101X).

    Raises:
        RuntimeError: the operand is not a batch of square float matrices.
    """
    check_square(input, "linalg.matrix_exp")
    if 0 in shape_of(input):
        return input * 1
    matmul = functions["matmul"]
    largest = functions["amax"](functions["sum"](functions["abs"](input.detach()), -2)).item()
    squarings = max(0, math.ceil(math.log2(largest / _THETA))) if 0 < largest < math.inf else 0
    A = functions["to_dtype"](input, "float64") * 0.5**squarings
    one = functions["eye"](shape_of(A)[-1], dtype="float64")
    A2 = matmul(A, A)
    A4 = matmul(A2, A2)
    A6 = matmul(A2, A4)
    b = _PADE
    odd = matmul(A6, A6 * b[13] + A4 * b[11] + A2 * b[9]) + A6 * b[7] + A4 * b[5] + A2 * b[3] + one * b[1]
    even = matmul(A6, A6 * b[12] + A4 * b[10] + A2 * b[8]) + A6 * b[6] + A4 * b[4] + A2 * b[2] + one * b[0]
    odd = matmul(A, odd)
    result = solve(even - odd, even + odd)
    for _ in range(squarings):
        result = matmul(result, result)
    return functions["to_dtype"](result, input.dtype)


def eig(A: Tensor, *, out: Any = None) -> Any:
    """Raise NotImplementedError: the result would be complex; ``eigh`` is for symmetric matrices."""
    raise NotImplementedError(
        "linalg.eig: the eigenvalues of a general matrix are complex, and tapegrad has no complex dtypes: use "
        "linalg.eigh for a symmetric matrix, or numpy.linalg.eig(A.numpy())"
    )


def eigvals(A: Tensor, *, out: Any = None) -> Any:
    """Raise NotImplementedError, as ``eig`` does; ``eigvalsh`` is for symmetric matrices."""
    return eig(A)
