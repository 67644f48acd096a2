"""Linear algebra under torch's names: decompositions, solvers, determinants, norms; differentiable, through LAPACK."""

from tapegrad.ops.calls import functions
from tapegrad.ops.linalg import (
    LinAlgError,
    cholesky,
    det,
    eigh,
    eigvalsh,
    inv,
    lstsq,
    pinv,
    qr,
    slogdet,
    solve,
    solve_triangular,
    svd,
    svdvals,
)
from tapegrad.ops.linalg_more import (
    cholesky_ex,
    eig,
    eigvals,
    inv_ex,
    matrix_exp,
    solve_ex,
    tensorinv,
    tensorsolve,
)
from tapegrad.ops.linalg_norms import (
    cond,
    cross,
    matrix_norm,
    matrix_power,
    matrix_rank,
    multi_dot,
    norm,
    vander,
    vecdot,
    vector_norm,
)
from tapegrad.ops.parameters import complete

matmul, diagonal = functions["matmul"], functions["diagonal"]

__all__ = [
    "LinAlgError",
    "cholesky",
    "cholesky_ex",
    "cond",
    "cross",
    "det",
    "diagonal",
    "eig",
    "eigh",
    "eigvals",
    "eigvalsh",
    "inv",
    "inv_ex",
    "lstsq",
    "matmul",
    "matrix_exp",
    "matrix_norm",
    "matrix_power",
    "matrix_rank",
    "multi_dot",
    "norm",
    "pinv",
    "qr",
    "slogdet",
    "solve",
    "solve_ex",
    "solve_triangular",
    "svd",
    "svdvals",
    "tensorinv",
    "tensorsolve",
    "vander",
    "vecdot",
    "vector_norm",
]

for _name in __all__:
    complete(globals()[_name])
