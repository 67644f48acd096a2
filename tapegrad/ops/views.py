"""Views that keep every element, as users call them: reshape, squeeze, transpose, permute, expand and their kin."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NoReturn

from tapegrad.ops.calls import call, expect_tensor, function, normal_dim, normal_dims, shape_of, tensor_method
from tapegrad.ops.dtype_views import view_as_dtype
from tapegrad.ops.registry import Op, registry
from tapegrad.ops.view_ops import EXPAND, PERMUTE, SQUEEZE, TRANSPOSE, UNSQUEEZE, VIEW_OP
from tapegrad.runtime.dtype import dtype as DType
from tapegrad.runtime.errors import raise_status
from tapegrad.runtime.handle import Tensor, wrap
from tapegrad.runtime.layout import BAD_ARGUMENT, BAD_DIM, CONTIGUOUS, VIEW_IMPOSSIBLE
from tapegrad.runtime.machine import machine

_emit = machine.emit


def sizes(args: Sequence[Any], name: str) -> tuple[int, ...]:
    """Return the lengths that were given one by one or as one sequence."""
    if len(args) == 1 and type(args[0]) is not int:
        args = args[0] if type(args[0]) is tuple else _sequence(args[0], name)
    for length in args:
        if type(length) is not int:
            return tuple(length.__index__() for length in args)
    return args  # type: ignore[return-value]


def _sequence(value: Any, name: str) -> tuple[Any, ...]:
    if isinstance(value, Sequence | Tensor):
        return tuple(value)
    if hasattr(value, "__index__"):
        return (value.__index__(),)
    raise TypeError(f"{name}(): argument 'size' must be tuple of ints, not {type(value).__name__}")


def contiguous_copy(tensor: Tensor) -> Tensor:
    return call(registry["clone"], tensor)


def _raise_shape(shape: tuple[int, ...], tensor: Tensor) -> NoReturn:
    """Say why a tensor has no such shape, in torch's words."""
    count = math.prod(shape_of(tensor))
    if shape.count(-1) > 1:
        raise RuntimeError("only one dimension can be inferred")
    if any(length < -1 for length in shape):
        raise RuntimeError(f"invalid shape dimension {min(shape)}")
    if count == 0 and -1 in shape and math.prod(length for length in shape if length != -1) == 0:
        raise RuntimeError(
            f"cannot reshape tensor of 0 elements into shape {list(shape)} because the unspecified dimension size -1 "
            "can be any value and is ambiguous"
        )
    raise RuntimeError(f"shape '{list(shape)}' is invalid for input of size {count}")


@function()
def reshape(input: Tensor, *shape: Any) -> Tensor:
    """Return the elements in another shape: a view where strides allow it, else a copy.

    Args:
        input: a tensor.
        *shape: the lengths, one of which may be -1.

    Raises:
        RuntimeError: the shape has another number of elements.

    Example:
        >>> import tapegrad as tg
        >>> tg.tensor([1, 2, 3, 4]).reshape(2, -1)
        tensor([[1, 2],
                [3, 4]])
    """
    lengths = sizes(shape, "reshape")
    handle = _emit(VIEW_OP.code, 1, expect_tensor(input, "reshape")._handle, *lengths)
    if handle == VIEW_IMPOSSIBLE:
        copy = contiguous_copy(input)  # by name, so that its handle lives as long as the call
        handle = _emit(VIEW_OP.code, 1, copy._handle, *lengths)
    if handle == BAD_ARGUMENT:
        _raise_shape(lengths, input)
    if handle < 0:
        raise_status(handle)
    return wrap(handle)


@tensor_method("view")
def view(self: Tensor, *shape: Any, dtype: DType | None = None) -> Tensor:
    """Return the elements in another shape, or the memory as another dtype; RuntimeError where strides forbid it.

    Args:
        *shape: the shape, as ints or as one sequence of them, of which one may be -1; or a dtype.
    """
    if dtype is not None and not shape:
        shape = (dtype,)
    if len(shape) == 1 and isinstance(shape[0], DType):
        return view_as_dtype(self, shape[0])
    lengths = sizes(shape, "view")
    handle = _emit(VIEW_OP.code, 1, self._handle, *lengths)
    if handle == BAD_ARGUMENT:
        _raise_shape(lengths, self)
    if handle < 0:
        raise_status(handle)
    return wrap(handle)


@tensor_method("view_as")
def view_as(self: Tensor, other: Tensor) -> Tensor:
    """Return a view in the shape of the tensor ``other``."""
    return view(self, shape_of(other))


@tensor_method("reshape_as")
def reshape_as(self: Tensor, other: Tensor) -> Tensor:
    """Return the elements in the shape of the tensor ``other``."""
    return reshape(self, shape_of(other))


@function()
def flatten(input: Tensor, start_dim: int = 0, end_dim: int = -1) -> Tensor:
    """Return the tensor with the dimensions from ``start_dim`` to ``end_dim`` made one."""
    if start_dim == 0 and end_dim == -1 and machine.flags_of(input._handle) & CONTIGUOUS:
        shape = shape_of(input)
        if len(shape) != 1 and 0 not in shape:
            return call(VIEW_OP, input, attributes=(-1,))
    shape = shape_of(input)
    start, end = normal_dim(start_dim, len(shape)), normal_dim(end_dim, len(shape))
    if start > end:
        raise RuntimeError("flatten() has invalid args: start_dim cannot come after end_dim")
    if len(shape) == 0:
        return reshape(input, 1)
    if start == end:
        return input
    return reshape(input, *shape[:start], math.prod(shape[start : end + 1]), *shape[end + 1 :])


@function()
def unflatten(input: Tensor, dim: int, sizes: Sequence[int]) -> Tensor:
    """Return a view with one dimension split into several; one of ``sizes`` may be -1."""
    shape = shape_of(input)
    dim = normal_dim(dim, len(shape))
    if not sizes:
        raise RuntimeError("unflatten: sizes must be non-empty")
    known = math.prod(length for length in sizes if length != -1)
    if known != shape[dim] and not (-1 in sizes and known and shape[dim] % known == 0):
        raise RuntimeError(
            f"unflatten: Provided sizes {list(sizes)} don't multiply up to the size of dim {dim} ({shape[dim]}) in the "
            "input tensor"
        )
    return view(input, *shape[:dim], *[shape[dim] // known if n == -1 else n for n in sizes], *shape[dim + 1 :])


@function()
def ravel(input: Tensor) -> Tensor:
    """Return the elements in one dimension: a view where the tensor is contiguous."""
    return reshape(input, -1) if math.prod(shape_of(input)) else reshape(input, 0)


@function()
def squeeze(input: Tensor, dim: int | Sequence[int] | None = None) -> Tensor:
    """Return a view without dimensions of length 1: all of them, or those named that have this length."""
    shape = shape_of(expect_tensor(input, "squeeze"))
    dims = range(len(shape)) if dim is None else () if dim == () else normal_dims(dim, len(shape))
    mask = 0
    for d in dims:
        if d < len(shape) and shape[d] == 1:
            mask |= 1 << d
    return call(SQUEEZE, input, attributes=(mask,))


@function()
def unsqueeze(input: Tensor, dim: int) -> Tensor:
    """Return a view with a new dimension of length 1 at ``dim``."""
    ndim = len(shape_of(expect_tensor(input, "unsqueeze"))) + 1
    return call(UNSQUEEZE, input, attributes=(1 << (dim if 0 <= dim < ndim else normal_dim(dim, ndim)),))


@function(aliases=("swapaxes", "swapdims"))
def transpose(input: Tensor, dim0: int, dim1: int) -> Tensor:
    """Return a view with two dimensions swapped.

    Args:
        dim0: a dimension; negative ones count from the end.
        dim1: the other one.

    Raises:
        IndexError: there is no such dimension.
    """
    handle = _emit(TRANSPOSE.code, 1, expect_tensor(input, "transpose")._handle, dim0, dim1)
    if handle == BAD_DIM:
        for dim in (dim0, dim1):
            normal_dim(dim, len(shape_of(input)))
    if handle < 0:
        raise_status(handle)
    return wrap(handle)


@function()
def t(input: Tensor) -> Tensor:
    """Return the transpose of a matrix; tensors of fewer dimensions as they are."""
    ndim = len(shape_of(input))
    if ndim > 2:
        raise RuntimeError(f"t() expects a tensor with <= 2 dimensions, but self is {ndim}D")
    return transpose(input, 0, 1) if ndim == 2 else input


@function(aliases=("adjoint",))
def mT(input: Tensor) -> Tensor:
    """Return a view with the last two dimensions swapped."""
    ndim = len(shape_of(input))
    if ndim < 2:
        raise RuntimeError(f"tensor.mT is only supported on matrices or batches of matrices. Got {ndim}-D tensor.")
    return transpose(input, -2, -1)


@function()
def permute(input: Tensor, *dims: Any) -> Tensor:
    """Return a view whose dimensions are those of ``input`` in another order.

    Args:
        *dims: for each dimension of the result, which one it is, as ints or as one sequence of them.

    Raises:
        RuntimeError: the number of dimensions differs, or one is named twice.
    """
    order = sizes(dims, "permute")
    handle = _emit(PERMUTE.code, 1, expect_tensor(input, "permute")._handle, *order)
    if handle == BAD_ARGUMENT:
        _raise_order(order, len(shape_of(input)))
    if handle < 0:
        raise_status(handle)
    return wrap(handle)


def _raise_order(order: tuple[int, ...], ndim: int) -> NoReturn:
    """Say, in torch's words, why the dimensions are no permutation."""
    if len(order) != ndim:
        raise RuntimeError(
            f"permute(sparse_coo): number of dimensions in the tensor input does not match the length of the desired "
            f"ordering of dimensions i.e. input.dim() = {ndim} is not equal to len(dims) = {len(order)}"
        )
    for dim in order:
        normal_dim(dim, ndim)
    raise RuntimeError("permute(): duplicate dims are not allowed.")


def _reversed(self: Tensor) -> Tensor:
    """The tensor with its dimensions in reverse order: a view."""
    ndim = len(shape_of(self))
    return transpose(self, 0, 1) if ndim == 2 else permute(self, *range(ndim)[::-1])


def _matrix_transpose(self: Tensor) -> Tensor:
    """The tensor with its last two dimensions swapped: a view."""
    return mT(self)


Tensor.T = Tensor.H = property(_reversed)  # type: ignore[attr-defined]
Tensor.mT = Tensor.mH = property(_matrix_transpose)  # type: ignore[attr-defined]


@function(aliases=("moveaxis",))
def movedim(input: Tensor, source: int | Sequence[int], destination: int | Sequence[int]) -> Tensor:
    """Return a view with dimensions moved from the places ``source`` to ``destination``, the others in their order."""
    ndim = len(shape_of(input))
    start = [normal_dim(d, ndim) for d in ([source] if isinstance(source, int) else source)]
    goal = [normal_dim(d, ndim) for d in ([destination] if isinstance(destination, int) else destination)]
    if len(start) != len(goal):
        raise RuntimeError(
            f"movedim: Invalid source or destination dims: source ({start} dims) should contain the same number of "
            f"dims as destination ({goal} dims)"
        )
    if len(set(start)) != len(start) or len(set(goal)) != len(goal):
        raise RuntimeError(f"movedim: repeated dim in `source` ({start}) or `destination` ({goal})")
    rest = iter([d for d in range(ndim) if d not in start])
    order = [start[goal.index(d)] if d in goal else next(rest) for d in range(ndim)]
    return permute(input, order) if ndim else input


@tensor_method("expand")
def expand(self: Tensor, *sizes_: Any) -> Tensor:
    """Return a view broadcast to a shape; -1 keeps a length.

    Args:
        *sizes_: the shape, as ints or as one sequence of them; new dimensions come first.

    Raises:
        RuntimeError: a length is neither 1 nor the wanted one.
    """
    shape = sizes(sizes_, "expand")
    handle = _emit(EXPAND.code, 1, self._handle, *shape)
    if handle == BAD_ARGUMENT:
        raise_expanded(shape, shape_of(self))
    if handle < 0:
        raise_status(handle)
    return wrap(handle)


def raise_expanded(shape: tuple[int, ...], have: tuple[int, ...]) -> NoReturn:
    """Say, in torch's words, why a tensor of shape ``have`` does not expand to ``shape``."""
    if len(shape) < len(have):
        raise RuntimeError(
            f"expand({list(have)}, size={list(shape)}): the number of sizes provided ({len(shape)}) must be greater or "
            f"equal to the number of dimensions in the tensor ({len(have)})"
        )
    lead = len(shape) - len(have)
    for d, length in enumerate(shape):
        if length < 0 and (length < -1 or d < lead):
            raise RuntimeError(
                f"The expanded size of the tensor ({length}) isn't allowed in a leading, non-existing dimension {d}"
            )
        if d >= lead and length not in (-1, have[d - lead]) and have[d - lead] != 1:
            raise RuntimeError(
                f"The expanded size of the tensor ({length}) must match the existing size ({have[d - lead]}) at "
                f"non-singleton dimension {d}.  Target sizes: {list(shape)}.  Tensor sizes: {list(have)}"
            )
    raise RuntimeError(f"expand: cannot expand {list(have)} to {list(shape)}")


@tensor_method("expand_as")
def expand_as(self: Tensor, other: Tensor) -> Tensor:
    """Return a view broadcast to the shape of the tensor ``other``."""
    return expand(self, shape_of(other))


@function()
def broadcast_to(input: Tensor, size: Sequence[int]) -> Tensor:
    """Return a view broadcast to a shape.

    Args:
        size: the shape.
    """
    return expand(input, tuple(size))


def broadcast_shape(*shapes: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape that shapes broadcast to; RuntimeError if they do not."""
    ndim = max((len(shape) for shape in shapes), default=0)
    result = [1] * ndim
    for shape in shapes:
        for d, length in enumerate(shape, ndim - len(shape)):
            if length == 1 or length == result[d]:
                continue
            if result[d] != 1:
                raise RuntimeError(
                    f"The size of tensor a ({result[d]}) must match the size of tensor b ({length}) at non-singleton "
                    f"dimension {d}"
                )
            result[d] = length
    return tuple(result)


@function(method=False)
def broadcast_tensors(*tensors: Any) -> tuple[Tensor, ...]:
    """Return the tensors, each expanded to the shape that they broadcast to together."""
    given: tuple[Tensor, ...] = tuple(tensors[0]) if len(tensors) == 1 and isinstance(tensors[0], Sequence) else tensors
    shape = broadcast_shape(*(shape_of(tensor) for tensor in given))
    return tuple(expand(tensor, shape) for tensor in given)


@function(method=False)
def broadcast_shapes(*shapes: Any) -> tuple[int, ...]:
    """Return the shape that shapes broadcast to.

    Args:
        *shapes: shapes: sequences of ints, or ints.
    """
    return broadcast_shape(*((shape,) if isinstance(shape, int) else tuple(shape) for shape in shapes))


def is_contiguous(tensor: Tensor) -> bool:
    return bool(machine.flags_of(tensor._handle) & CONTIGUOUS)


__all__ = ["Op", "broadcast_shape", "contiguous_copy", "expand", "is_contiguous", "permute", "reshape", "sizes", "view"]
