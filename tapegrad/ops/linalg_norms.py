"""Linear algebra made of other functions: norms, rank, condition, powers, chains of products, cross, Vandermonde."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tapegrad.native.dtypes import POINTERS
from tapegrad.ops.calls import (
    call,
    expect_tensor,
    function,
    functions,
    honours_out,
    ndim_of,
    normal_dim,
    shape_of,
    tensor_method,
)
from tapegrad.ops.creation import arange, eye
from tapegrad.ops.linalg import LinAlgError, check_matrix, check_square, eigvalsh, inv, machine_epsilon, svdvals
from tapegrad.ops.matmul import dot, matmul
from tapegrad.ops.reductions import vector_norm
from tapegrad.ops.registry import NUMBERS, OF_ENTRY, Op, declare
from tapegrad.ops.validity import Attributes, Operands, is_dim, needed
from tapegrad.ops.views import expand as _expand
from tapegrad.runtime.dtype import DTYPES, int64
from tapegrad.runtime.handle import Tensor
from tapegrad.runtime.layout import (
    GENERAL,
    attribute,
    data_address,
    input_slot,
    output_slot,
    shape_in,
    slot_of,
    strides_in,
)
from tapegrad.runtime.machine import machine

# ---- norms ----


def matrix_norm(
    A: Tensor,
    ord: Any = "fro",
    dim: Sequence[int] = (-2, -1),
    keepdim: bool = False,
    *,
    dtype: Any = None,
    out: Any = None,
) -> Tensor:
    """Return a norm of the matrices in two dimensions: "fro", "nuc", 1, -1, inf, -inf (sums of columns, rows), 2, -2.

    Raises:
        RuntimeError: another ``ord``, or ``dim`` does not name two dimensions.
    """
    expect_tensor(A, "linalg.matrix_norm", "A")
    if len(dim) != 2:
        raise RuntimeError(f"linalg.matrix_norm: dim must be a 2-tuple. Got {' '.join(map(str, dim))}")
    if ndim_of(A) < 2:
        raise RuntimeError("linalg.matrix_norm: The input tensor A must have at least 2 dimensions.")
    if dtype is not None:
        A = functions["to_dtype"](A, dtype)
    rows, columns = (normal_dim(d, ndim_of(A)) for d in dim)
    if rows == columns:
        raise RuntimeError(f"linalg.matrix_norm: dims must be different. Got ({dim[0]}, {dim[1]})")
    if ord == "fro":
        return vector_norm(A, 2, (rows, columns), keepdim)
    if ord in (1, -1, float("inf"), float("-inf")):
        return _largest_sum(A, rows if abs(ord) == 1 else columns, columns if abs(ord) == 1 else rows, ord > 0, keepdim)
    if ord not in ("nuc", 2, -2):
        raise RuntimeError(f"linalg.matrix_norm: Order {ord} not supported.")
    values = svdvals(functions["movedim"](A, (rows, columns), (-2, -1)))
    result = values.sum(-1) if ord == "nuc" else values.amax(-1) if ord == 2 else values.amin(-1)
    for d in sorted((rows, columns)) if keepdim else ():
        result = functions["unsqueeze"](result, d)
    return result


def _largest_sum(A: Tensor, summed: int, compared: int, largest: bool, keepdim: bool) -> Tensor:
    """Return the largest (or smallest) sum of absolute values along one dimension."""
    sums = A.abs().sum(summed, keepdim=True)
    result = sums.amax(compared, keepdim=True) if largest else sums.amin(compared, keepdim=True)
    for d in () if keepdim else sorted((summed, compared), reverse=True):
        result = functions["squeeze"](result, d)
    return result


@honours_out
def norm(
    A: Tensor, ord: Any = None, dim: Any = None, keepdim: bool = False, *, dtype: Any = None, out: Any = None
) -> Tensor:
    """Return a vector's norm or a matrix's: the former for one dimension or ``ord=None``, the latter for two.

    Raises:
        RuntimeError: ``ord`` without ``dim`` for an operand of other than 1 or 2 dimensions.
    """
    expect_tensor(A, "linalg.norm", "A")
    dims = (dim,) if isinstance(dim, int) else dim
    if dtype is not None:
        A = functions["to_dtype"](A, dtype)
    if ord is None:
        return vector_norm(A, 2, dims, keepdim)
    if dims is None and ndim_of(A) not in (1, 2):
        raise RuntimeError(
            f"linalg.norm: If dim is not specified but ord is, the input must be 1D or 2D. Got {ndim_of(A)}D."
        )
    if len(dims) == 2 if dims is not None else ndim_of(A) == 2:
        return matrix_norm(A, ord, dims or (0, 1), keepdim)
    return vector_norm(A, ord, dims, keepdim)


@honours_out
def cond(A: Tensor, p: Any = None, *, out: Any = None) -> Tensor:
    """Return the condition numbers of matrices in the norm ``p``: None or 2 and -2 by singular values, else any of
    ``matrix_norm``'s for square ones; inf for a singular one.
    """
    if p in (None, 2, -2):
        check_matrix(A, "linalg.cond")
        values = svdvals(A)
        largest, smallest = values.amax(-1), values.amin(-1)
        return smallest / largest if p == -2 else largest / smallest
    check_square(A, "linalg.cond")
    try:
        return matrix_norm(A, p) * matrix_norm(inv(A), p)
    except LinAlgError:
        shape = shape_of(A)[:-2]
        if shape:
            raise
        return functions["full"](shape, float("inf"), dtype=A.dtype)


@function()
@honours_out
def matrix_rank(
    A: Tensor, tol: Any = None, hermitian: bool = False, *, atol: Any = None, rtol: Any = None, out: Any = None
) -> Tensor:
    """Return how many singular values are greater than ``max(atol, rtol * the largest)``, as int64 [...].

    Args:
        tol: an absolute tolerance, by its older name.
        hermitian: use the eigenvalues of a symmetric matrix.
        atol: by default 0.
        rtol: by default ``max(m, n)`` times the dtype's epsilon, 0 if ``atol`` is given.
    """
    m, n = check_matrix(A, "linalg.matrix_rank", "input")[-2:]
    A = A.detach()
    absolute = tol if tol is not None else atol
    relative = rtol if rtol is not None else (0.0 if absolute is not None else max(m, n) * machine_epsilon(A))
    if min(m, n) == 0:
        return functions["zeros"](shape_of(A)[:-2], dtype=int64)
    values = eigvalsh(A).abs() if hermitian else svdvals(A)
    limit = values.amax(-1, keepdim=True) * relative
    if absolute is not None:
        absolute = functions["unsqueeze"](absolute, -1) if isinstance(absolute, Tensor) else absolute
        limit = functions["maximum"](limit, limit * 0 + absolute)
    return (values > limit).sum(-1)


# ---- products ----


@function()
@honours_out
def matrix_power(A: Tensor, n: int, *, out: Any = None) -> Tensor:
    """Return square matrices to an integer power, by repeated squaring; a negative one of the inverse.

    Args:
        n: the power.

    Raises:
        LinAlgError: the power is negative and a matrix is singular.
    """
    expect_tensor(A, "linalg.matrix_power", "A")
    shape = shape_of(A)
    if len(shape) < 2:
        raise RuntimeError("linalg.matrix_power: The input tensor A must have at least 2 dimensions.")
    if shape[-1] != shape[-2]:
        raise RuntimeError(
            f"linalg.matrix_power: A must be batches of square matrices, but they are {shape[-2]} by {shape[-1]} "
            "matrices"
        )
    if n == 0:
        identity = eye(shape[-1], dtype=DTYPES[machine.dtype_of(A._handle)])
        return functions["clone"](_expand(identity, shape))
    if n < 0:
        A, n = inv(A), -n
    result: Tensor | None = None
    while True:
        if n & 1:
            result = A if result is None else matmul(result, A)
        n >>= 1
        if n == 0:
            return functions["clone"](result) if result is A else result  # type: ignore[return-value]
        A = matmul(A, A)


@honours_out
def multi_dot(tensors: Sequence[Tensor], *, out: Any = None) -> Tensor:
    """Return the product of matrices in the order that takes the fewest multiplications; the first and the last may be
    vectors.

    Raises:
        RuntimeError: fewer than two operands, or dimensions that do not fit.
    """
    count = len(tensors)
    if count < 2:
        raise RuntimeError(f"multi_dot(): expected at least 2 tensors but got {count}")
    for k, tensor in enumerate(tensors):
        ends = k in (0, count - 1)
        if ndim_of(tensor) not in ((1, 2) if ends else (2,)):
            place = "first tensor" if k == 0 else "last tensor" if ends else f"tensor {k}"
            wanted = "1D or 2D" if ends else "2D"
            raise RuntimeError(f"multi_dot(): the {place} must be {wanted} but got {ndim_of(tensor)}D")
    if count == 2:
        return matmul(*tensors)
    first, last = ndim_of(tensors[0]) == 1, ndim_of(tensors[-1]) == 1
    matrices = list(tensors)
    matrices[0] = functions["unsqueeze"](tensors[0], 0) if first else tensors[0]
    matrices[-1] = functions["unsqueeze"](tensors[-1], 1) if last else tensors[-1]
    result = _multiply_chain(matrices, _chain_splits([*(shape_of(m)[0] for m in matrices), shape_of(matrices[-1])[1]]))
    result = functions["squeeze"](result, -1) if last else result
    return functions["squeeze"](result, 0) if first else result


def _chain_splits(sizes: list[int]) -> Callable[[int, int], int]:
    """Return where to cut the chain from matrix i to j (Cormen et al., "Introduction to Algorithms", 15.2)."""
    n = len(sizes) - 1
    cost = [[0.0] * n for _ in range(n)]
    split = [[0] * n for _ in range(n)]
    for length in range(1, n):
        for i in range(n - length):
            j = i + length
            options = [(cost[i][k] + cost[k + 1][j] + sizes[i] * sizes[k + 1] * sizes[j + 1], k) for k in range(i, j)]
            cost[i][j], split[i][j] = min(options)
    return lambda i, j: split[i][j]


def _multiply_chain(matrices: list[Tensor], split: Callable[[int, int], int], first: int = 0, last: int = -1) -> Tensor:
    last = len(matrices) - 1 if last < 0 else last
    if first == last:
        return matrices[first]
    cut = split(first, last)
    return matmul(_multiply_chain(matrices, split, first, cut), _multiply_chain(matrices, split, cut + 1, last))


# ---- cross product ----


def cross_infer(st, frame):
    x, y = slot_of(st, input_slot(frame, 0)), slot_of(st, output_slot(frame, 0))
    y.ndim = x.ndim
    for d in range(x.ndim):
        shape_in(y)[d] = shape_in(x)[d]
    return 0


def _cross_kernel(dtype: int, result_dtype: int) -> Callable[..., int]:
    """Attribute: the dimension of length 3."""
    pointer = POINTERS[dtype]

    def kernel(st, frame):
        row, dim = slot_of(st, input_slot(frame, 0)), attribute(frame, 0)
        x, w = pointer(data_address(st, input_slot(frame, 0))), pointer(data_address(st, input_slot(frame, 1)))
        y = pointer(data_address(st, output_slot(frame, 0)))
        step = strides_in(slot_of(st, output_slot(frame, 0)))[dim]
        for i in range(row.numel // 3):
            a = i // step * 3 * step + i % step
            b, c = a + step, a + 2 * step
            y[a] = x[b] * w[c] - x[c] * w[b]
            y[b] = x[c] * w[a] - x[a] * w[c]
            y[c] = x[a] * w[b] - x[b] * w[a]
        return 0

    return kernel


def _has_vectors(x: Operands, a: Attributes) -> bool:
    shape = needed(x, 0).shape
    return len(a) >= 1 and is_dim(a[0], shape) and shape[a[0]] == 3 and needed(x, 1).shape == shape


CROSS = declare(
    Op(
        name="linalg_cross",
        valid=_has_vectors,
        inputs=("input", "other"),
        kind=GENERAL,
        dtypes=NUMBERS,
        infer=cross_infer,
        kernel=_cross_kernel,
        vjp=lambda g, y, x, w: (w.linalg_cross(g, attributes=OF_ENTRY), g.linalg_cross(x, attributes=OF_ENTRY)),
        contiguous=("input", "other"),
        public=False,
        reference=lambda x, w, attributes: np.cross(x, w, axis=attributes[0]),
        samples=lambda make: [
            ((make(2, 3), make(2, 3)), {"attributes": (1,)}),
            ((make(3, 2), make(3, 2)), {"attributes": (0,)}),
        ],
        math="x cross w",
    )
)


@honours_out
def cross(input: Tensor, other: Tensor, *, dim: int = -1, out: Any = None) -> Tensor:
    """Return the cross products of the vectors of length 3 along ``dim``; the operands broadcast.

    Raises:
        RuntimeError: ``dim`` has another length, or the operands differ in their numbers of dimensions.
    """
    a, b = shape_of(expect_tensor(input, "linalg.cross")), shape_of(expect_tensor(other, "linalg.cross", "other", 2))
    if len(a) != len(b):
        raise RuntimeError(
            f"linalg.cross: inputs must have the same number of dimensions, but got {len(a)} and {len(b)}"
        )
    place = normal_dim(dim, len(a))
    if (a[place], b[place]) != (3, 3):
        raise RuntimeError(f"linalg.cross: inputs dimension {dim} must have length 3. Got {a[place]} and {b[place]}")
    if a != b:
        shape = functions["broadcast_shapes"](a, b)
        input, other = _expand(input, shape), _expand(other, shape)
    return call(CROSS, input, other, attributes=(place,))


@honours_out
def _cross_of(input: Tensor, other: Tensor, dim: int | None = None, *, out: Any = None) -> Tensor:
    """Return ``linalg.cross`` along ``dim``, by default along the first dimension of length 3."""
    if dim is None:
        dim = next((d for d, length in enumerate(shape_of(input)) if length == 3), -1)
    return cross(input, other, dim=dim)


@honours_out
def vecdot(x: Tensor, y: Tensor, *, dim: int = -1, out: Any = None) -> Tensor:
    """Return the sums of products of the vectors along ``dim``; the operands broadcast.

    Args:
        x: a tensor.
        y: a tensor that broadcasts with ``x``.
    """
    if ndim_of(x) == 1 and ndim_of(y) == 1:
        return dot(x, y)
    return (x * y).sum(dim)


def vander(x: Tensor, N: int | None = None) -> Tensor:
    """Return the Vandermonde matrices [..., n, N] of vectors [..., n]: the powers 0 .. N-1 of each element.

    Args:
        x: [..., n].
        N: the number of powers; by default n.
    """
    n = shape_of(expect_tensor(x, "linalg.vander", "x"))[-1]
    exponents = arange(n if N is None else N)
    return functions["unsqueeze"](x, -1) ** exponents


functions["cross"] = _cross_of
functions["_matrix_norm"] = matrix_norm
tensor_method("cross")(_cross_of)

__all__ = [
    "cond",
    "cross",
    "matrix_norm",
    "matrix_power",
    "matrix_rank",
    "multi_dot",
    "norm",
    "vander",
    "vecdot",
    "vector_norm",
]
