"""Matrix products as users call them: matmul, mm, bmm, mv, dot, outer, addmm and their kin, linear.

Each emits its op at once; what was wrong with the operands is found out only when the op has refused them.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any, NoReturn

from tapegrad.ops.calls import TORCH_NAMES, call, expect_tensor, function, functions, ndim_of, shape_of, tensor_method
from tapegrad.ops.products import ADDMM, BMM, DOT, LINEAR, MM, MM_TN
from tapegrad.runtime.errors import raise_status
from tapegrad.runtime.handle import Tensor, wrap
from tapegrad.runtime.layout import BAD_ARGUMENT
from tapegrad.runtime.machine import machine

_emit = machine.emit
_C_NAMES = ("bool", "unsigned char", "int", "long", "float", "double")


def _write(out: Tensor | None, result: Tensor) -> Tensor:
    return result if out is None else functions["_write_out"](out, result)


def _type(tensor: Tensor) -> str:
    return TORCH_NAMES[machine.dtype_of(tensor._handle)]


def _same_dtype(a: Tensor, b: Tensor) -> bool:
    return bool(machine.dtype_of(a._handle) == machine.dtype_of(b._handle))


def _shape_text(tensor: Tensor) -> str:
    """Return a tensor's shape as that of a matrix, "6x4" for [2, 3, 4]."""
    *lead, last = shape_of(tensor)
    rows = 1
    for length in lead:
        rows *= length
    return f"{rows}x{last}"


def _refuse(status: int, problem: str | None) -> NoReturn:
    """Raise what a product refused its operands for; the status has it where the operands fit."""
    if problem is None or status != BAD_ARGUMENT:
        raise_status(status)
    raise RuntimeError(problem)


def _matrix_problem(a: Tensor, b: Tensor, *, transposed: bool = False) -> str | None:
    """Return why two matrices (the first may have leading dimensions) cannot be multiplied."""
    if not _same_dtype(a, b):
        if transposed:
            return f"mat1 and mat2 must have the same dtype, but got {_type(a)} and {_type(b)}"
        names = [_C_NAMES[machine.dtype_of(t._handle)] for t in (a, b)]
        return f"expected m1 and m2 to have the same dtype, but got: {names[0]} != {names[1]}"
    rows, columns = shape_of(b)[::-1] if transposed else shape_of(b)
    if shape_of(a)[-1] != rows:
        return f"mat1 and mat2 shapes cannot be multiplied ({_shape_text(a)} and {rows}x{columns})"
    return None


def _vector_problem(a: Tensor, v: Tensor) -> str | None:
    """Return why a matrix (or a batch of them, folded) and a vector cannot be multiplied."""
    rows, columns = _shape_text(a).split("x")
    if shape_of(a)[-1] != shape_of(v)[0]:
        return f"size mismatch, got input ({rows}), mat ({rows}x{columns}), vec ({shape_of(v)[0]})"
    if not _same_dtype(a, v):
        return f"addmv input tensors must have the same dtype, but got {_type(v)}, {_type(a)}, and {_type(v)}"
    return None


@function()
def mm(input: Tensor, mat2: Tensor, *, out: Tensor | None = None) -> Tensor:
    """Return the product of two matrices.

    Args:
        input: [n, k].
        mat2: [k, m], of the same dtype.

    Returns:
        [n, m].

    Raises:
        RuntimeError: an operand is no matrix, or shapes or dtypes do not fit.

    Example:
        >>> import tapegrad as tg
        >>> tg.mm(tg.ones(2, 3), tg.ones(3, 1)).tolist()
        [[3.0], [3.0]]
    """
    try:
        handle = _emit(MM.code, 2, input._handle, mat2._handle, 2)
    except AttributeError:
        expect_tensor(input, "mm")
        expect_tensor(mat2, "mm", "mat2", 2)
        raise
    if handle < 0:
        for name, tensor in (("self", input), ("mat2", mat2)):
            if ndim_of(tensor) != 2:
                raise RuntimeError(f"{name} must be a matrix")
        _refuse(handle, _matrix_problem(input, mat2))
    return wrap(handle) if out is None else _write(out, wrap(handle))


@function(method=False)
def linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return ``input @ weight.T + bias``, in one op.

    Args:
        input: [..., in].
        weight: [out, in], or [in].
        bias: [out], or none.

    Returns:
        [..., out], or [...] for a weight [in].

    Raises:
        RuntimeError: shapes or dtypes do not fit.

    Example:
        >>> import tapegrad as tg
        >>> tg.linear(tg.ones(2, 3), tg.ones(4, 3), tg.ones(4)).shape
        tapegrad.Size([2, 4])
    """
    try:
        if bias is None:
            handle = _emit(LINEAR.code, 2, input._handle, weight._handle)
        else:
            handle = _emit(LINEAR.code, 3, input._handle, weight._handle, bias._handle)
    except AttributeError:
        expect_tensor(input, "linear")
        expect_tensor(weight, "linear", "weight", 2)
        expect_tensor(bias, "linear", "bias", 3)
        raise
    if handle < 0:
        return _other_linear(handle, input, weight, bias)
    return wrap(handle)


def _other_linear(status: int, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Handle what the op refused: a weight of one dimension; else raise."""
    if ndim_of(weight) == 1 and ndim_of(input) > 0:
        result = matmul(input, weight)
        return result if bias is None else result + bias
    if ndim_of(weight) != 2 or ndim_of(input) == 0:
        raise RuntimeError(
            "linear: expected an input of at least 1 dimension and a weight of 1 or 2 dimensions, got the shapes "
            f"{list(shape_of(input))} and {list(shape_of(weight))}"
        )
    problem = _matrix_problem(input, weight, transposed=True)
    if problem is None and bias is not None:
        problem = _addend_problem(bias, (*shape_of(input)[:-1], shape_of(weight)[0]), weight)
    _refuse(status, problem)


def _addend_problem(addend: Tensor, shape: tuple[int, ...], factor: Tensor) -> str | None:
    """Return why an addend does not broadcast to the result's shape or has not its dtype."""
    if not _same_dtype(addend, factor):
        return f"self and mat2 must have the same dtype, but got {_type(addend)} and {_type(factor)}"
    given = shape_of(addend)
    lead = len(shape) - len(given)
    for d in range(len(given)):
        if given[d] not in (1, shape[lead + d]):
            return (
                f"The expanded size of the tensor ({shape[lead + d]}) must match the existing size ({given[d]}) at "
                f"non-singleton dimension {lead + d}.  Target sizes: {list(shape)}.  Tensor sizes: {list(given)}"
            )
    return None


@function()
def addmm(
    input: Tensor, mat1: Tensor, mat2: Tensor, *, beta: float = 1, alpha: float = 1, out: Tensor | None = None
) -> Tensor:
    """Return ``beta * input + alpha * (mat1 @ mat2)``; with ``beta=0`` nothing of ``input`` counts, not even a nan.

    Args:
        input: broadcast to [n, m].
        mat1: [n, k].
        mat2: [k, m].

    Raises:
        RuntimeError: shapes or dtypes do not fit.
    """
    if beta != 1 or alpha != 1:
        shape = (*shape_of(mat1)[:1], *shape_of(mat2)[1:])
        return _write(out, _scaled_sum(input, lambda: mm(mat1, mat2), beta, alpha, shape))
    for tensor, argument in ((input, "input"), (mat1, "mat1"), (mat2, "mat2")):
        expect_tensor(tensor, "addmm", argument)
    handle = _emit(ADDMM.code, 3, mat1._handle, mat2._handle, input._handle, 2)
    if handle < 0:
        if ndim_of(mat1) != 2 or ndim_of(mat2) != 2:
            raise RuntimeError(f"mat1 and mat2 must be matrices, got {ndim_of(mat1)}-D and {ndim_of(mat2)}-D tensors")
        shape = (shape_of(mat1)[0], shape_of(mat2)[1])
        _refuse(handle, _matrix_problem(mat1, mat2) or _addend_problem(input, shape, mat2))
    return _write(out, wrap(handle))


def _scaled_sum(
    input: Tensor, product: Callable[[], Tensor], beta: float, alpha: float, shape: tuple[int, ...]
) -> Tensor:
    """Return ``beta * input + alpha * product()``, of the product's shape and dtype."""
    result = product()
    problem = _addend_problem(input, shape, result)
    if problem is not None:
        raise RuntimeError(problem)
    if alpha != 1:
        result = result * alpha
    if beta == 0:
        return result
    return (input if beta == 1 else input * beta) + result


@function()
def bmm(input: Tensor, mat2: Tensor, *, out: Tensor | None = None) -> Tensor:
    """Return the products of the matrices of two batches: [b, n, k] and [b, k, m] give [b, n, m].

    Args:
        input: [b, n, k], floats or integers.
        mat2: [b, k, m], of the same dtype.

    Raises:
        RuntimeError: shapes or dtypes do not fit.
    """
    expect_tensor(input, "bmm")
    expect_tensor(mat2, "bmm", "mat2", 2)
    a, b = shape_of(input), shape_of(mat2)
    for k, shape in enumerate((a, b)):
        if len(shape) != 3:
            raise RuntimeError(f"batch{k + 1} must be a 3D tensor")
    if (a[0], a[2]) != b[:2]:
        raise RuntimeError(
            f"Expected size for first two dimensions of batch2 tensor to be: [{a[0]}, {a[2]}] "
            f"but got: [{b[0]}, {b[1]}]."
        )
    return _write(out, _batched(input, mat2))


def _batched(a: Tensor, b: Tensor) -> Tensor:
    if not _same_dtype(a, b):
        raise RuntimeError(f"expected scalar type {_type(a)} but found {_type(b)}")
    return call(BMM, a, b)


@function()
def baddbmm(
    input: Tensor, batch1: Tensor, batch2: Tensor, *, beta: float = 1, alpha: float = 1, out: Tensor | None = None
) -> Tensor:
    """Return ``beta * input + alpha * bmm(batch1, batch2)``; with ``beta=0`` nothing of ``input`` counts."""
    shape = (*shape_of(batch1)[:2], *shape_of(batch2)[2:])
    return _write(out, _scaled_sum(input, lambda: bmm(batch1, batch2), beta, alpha, shape))


@function()
def addbmm(
    input: Tensor, batch1: Tensor, batch2: Tensor, *, beta: float = 1, alpha: float = 1, out: Tensor | None = None
) -> Tensor:
    """Return ``beta * input + alpha *`` the sum over the batch of ``batch1 @ batch2``."""

    def product() -> Tensor:
        a, b = shape_of(batch1), shape_of(batch2)
        if len(a) != 3 or len(b) != 3 or (a[0], a[2]) != b[:2] or not _same_dtype(batch1, batch2):
            bmm(batch1, batch2)  # raises
        return call(MM_TN, functions["transpose"](batch1, 1, 2), batch2)

    shape = (*shape_of(batch1)[1:2], *shape_of(batch2)[2:])
    return _write(out, _scaled_sum(input, product, beta, alpha, shape))


@function()
def mv(input: Tensor, vec: Tensor, *, out: Tensor | None = None) -> Tensor:
    """Return the product of a matrix [n, k] and a vector [k].

    Args:
        input: [n, k].
        vec: [k], of the same dtype.

    Raises:
        RuntimeError: shapes or dtypes do not fit.
    """
    expect_tensor(input, "mv")
    expect_tensor(vec, "mv", "vec", 2)
    if (ndim_of(input), ndim_of(vec)) != (2, 1):
        raise RuntimeError(f"vector + matrix @ vector expected, got 1, {ndim_of(input)}, {ndim_of(vec)}")
    return _write(out, _matrix_vector(input, vec))


def _matrix_vector(matrix: Tensor, vec: Tensor) -> Tensor:
    handle = _emit(LINEAR.code, 2, vec._handle, matrix._handle)
    if handle < 0:
        _refuse(handle, _vector_problem(matrix, vec))
    return wrap(handle)


@function()
def addmv(
    input: Tensor, mat: Tensor, vec: Tensor, *, beta: float = 1, alpha: float = 1, out: Tensor | None = None
) -> Tensor:
    """Return ``beta * input + alpha * (mat @ vec)``; with ``beta=0`` nothing of ``input`` counts."""
    return _write(out, _scaled_sum(input, lambda: mv(mat, vec), beta, alpha, shape_of(mat)[:1]))


@function()
def dot(input: Tensor, tensor: Tensor, *, out: Tensor | None = None) -> Tensor:
    """Return the sum of the products of two vectors' elements.

    Raises:
        RuntimeError: an operand is no vector, or lengths or dtypes do not fit.
    """
    expect_tensor(input, "dot")
    expect_tensor(tensor, "dot", "tensor", 2)
    handle = _emit(DOT.code, 2, input._handle, tensor._handle)
    if handle < 0:
        _refuse(handle, _dot_problem(input, tensor))
    return _write(out, wrap(handle))


def _dot_problem(a: Tensor, b: Tensor) -> str | None:
    if ndim_of(a) != 1 or ndim_of(b) != 1:
        return f"1D tensors expected, but got {ndim_of(a)}D and {ndim_of(b)}D tensors"
    if not _same_dtype(a, b):
        return f"dot : expected both vectors to have same dtype, but found {_type(a)} and {_type(b)}"
    n, m = shape_of(a)[0], shape_of(b)[0]
    if n == m:
        return None
    return (
        f"inconsistent tensor size, expected tensor [{n}] and src [{m}] to have the same number of elements, "
        f"but got {n} and {m} elements respectively"
    )


@function()
def vdot(input: Tensor, other: Tensor, *, out: Tensor | None = None) -> Tensor:
    """Return the sum of the products of two vectors' elements, as ``dot`` (there are no complex numbers)."""
    return dot(input, other, out=out)


@function()
def inner(input: Tensor, other: Tensor, *, out: Tensor | None = None) -> Tensor:
    """Return the products summed over the last dimension of both: [..., k] and [*, k] give [..., *].

    Raises:
        RuntimeError: the last dimensions or the dtypes differ.
    """
    expect_tensor(input, "inner")
    expect_tensor(other, "inner", "other", 2)
    a, b = shape_of(input), shape_of(other)
    if not a or not b:
        return _write(out, input * other)
    if a[-1] != b[-1]:
        raise RuntimeError(
            f"inner() the last dimension must match on both input tensors but got shapes {list(a)} and {list(b)}"
        )
    if not _same_dtype(input, other):
        raise RuntimeError("both inputs should have same dtype")
    if len(a) == len(b) == 1:
        return dot(input, other, out=out)
    flat = other if len(b) == 2 else functions["reshape"](other, (prod(b[:-1]), b[-1]))
    result = call(LINEAR, input, flat)
    return _write(out, result if len(b) == 2 else functions["reshape"](result, (*a[:-1], *b[:-1])))


@function(aliases=("ger",))
def outer(input: Tensor, vec2: Tensor, *, out: Tensor | None = None) -> Tensor:
    """Return the products of each element of ``input`` [n] with each of ``vec2`` [m], as [n, m].

    Raises:
        RuntimeError: an operand is no vector.
    """
    for tensor, argument, position, name in ((input, "input", 1, "self"), (vec2, "vec2", 2, "vec2")):
        expect_tensor(tensor, "outer", argument, position)
        if ndim_of(tensor) != 1:
            raise RuntimeError(f"outer: Expected 1-D argument {name}, but got {ndim_of(tensor)}-D")
    return _write(out, functions["unsqueeze"](input, 1) * vec2)


@function()
def matmul(input: Tensor, other: Tensor, *, out: Tensor | None = None) -> Tensor:
    """Return the matrix product ``input @ other``.

    Args:
        input: [k] or [..., n, k].
        other: [k] or [..., k, m], of the same dtype. The leading dimensions broadcast.

    Returns:
        [..., n, m], without the dimension n or m where the operand has one dimension only.

    Raises:
        RuntimeError: an operand has no dimension, or shapes or dtypes do not fit.

    Example:
        >>> import tapegrad as tg
        >>> (tg.ones(5, 2, 3) @ tg.ones(3, 4)).shape
        tapegrad.Size([5, 2, 4])
    """
    try:
        handle = _emit(MM.code, 2, input._handle, other._handle)
    except AttributeError:
        expect_tensor(input, "matmul")
        expect_tensor(other, "matmul", "other", 2)
        raise
    result = wrap(handle) if handle >= 0 else _other_matmul(handle, input, other)
    return result if out is None else _write(out, result)


def _other_matmul(status: int, a: Tensor, b: Tensor) -> Tensor:
    """Multiply what is not a stack of rows times a matrix."""
    n, m = ndim_of(a), ndim_of(b)
    if n == 0 or m == 0:
        raise RuntimeError(f"both arguments to matmul need to be at least 1D, but they are {n}D and {m}D")
    if m == 2:
        _refuse(status, _matrix_problem(a, b))
    if n == 1 and m == 1:
        return dot(a, b)
    if m == 1 and n == 2:
        return _matrix_vector(a, b)
    squeeze, unsqueeze = functions["squeeze"], functions["unsqueeze"]
    if m == 1:
        problem = _vector_problem(a, b)
        if problem is not None:
            raise RuntimeError(problem)
        return squeeze(call(MM, a, unsqueeze(b, 1)), -1)
    if n == 1:
        return squeeze(_broadcast_matmul(unsqueeze(a, 0), b), -2)
    return _broadcast_matmul(a, b)


def _broadcast_matmul(a: Tensor, b: Tensor) -> Tensor:
    first, second = shape_of(a), shape_of(b)
    dims = max(len(first), len(second)) - 2
    lead_a, lead_b = ((1,) * (dims + 2 - len(shape)) + shape[:-2] for shape in (first, second))
    for d in range(dims):
        if lead_a[d] != lead_b[d] and 1 not in (lead_a[d], lead_b[d]):
            raise RuntimeError(
                f"The size of tensor a ({lead_a[d]}) must match the size of tensor b ({lead_b[d]}) at non-singleton "
                f"dimension {d}"
            )
    if first[-1] != second[-2]:
        batch = prod(tuple(max(x, y) if x and y else 0 for x, y in zip(lead_a, lead_b, strict=True)))
        raise RuntimeError(
            f"Expected size for first two dimensions of batch2 tensor to be: [{batch}, {first[-1]}] "
            f"but got: [{batch}, {second[-2]}]."
        )
    return _batched(a, b)


@tensor_method("__matmul__")
def _matmul_operator(self: Tensor, other: Any) -> Any:
    return matmul(self, other) if isinstance(other, Tensor) else NotImplemented


@tensor_method("__rmatmul__")
def _reflected_matmul(self: Tensor, other: Any) -> Any:
    return matmul(other, self) if isinstance(other, Tensor) else NotImplemented


__all__ = ["linear", "matmul", "mm"]
