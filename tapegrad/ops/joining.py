"""Tensors joined along a dimension: cat, stack and their kin; meshgrid."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from tapegrad.native.dtypes import ITEM_BYTES, POINTERS
from tapegrad.ops.calls import function, functions, normal_dim, shape_of
from tapegrad.ops.registry import OF_ENTRY, OF_OPERAND, Op, declare
from tapegrad.ops.reshaping_ops import product
from tapegrad.ops.validity import Attributes, Operands, Rule, is_dim, is_few, needed, without
from tapegrad.ops.views import broadcast_shape, expand, reshape
from tapegrad.runtime.errors import raise_status
from tapegrad.runtime.handle import Tensor, wrap
from tapegrad.runtime.layout import (
    GENERAL,
    MAX_NDIM,
    SHAPE_MISMATCH,
    TOO_MANY_DIMS,
    VIEW,
    attribute,
    data_address,
    input_count,
    input_slot,
    output_slot,
    shape_in,
    slot_of,
    state_of,
    strides_in,
)
from tapegrad.runtime.machine import machine

# Gradients of the parts are views of the whole's gradient: nothing is copied until a leaf's .grad keeps it.


def cat_part_infer(st, frame):
    """Attributes: dimension, start. The length is that of `like`."""
    source = slot_of(st, input_slot(frame, 0))
    result = slot_of(st, output_slot(frame, 0))
    model = slot_of(st, input_slot(frame, 1))
    result.ndim = model.ndim
    for d in range(model.ndim):
        shape_in(result)[d] = shape_in(model)[d]
        strides_in(result)[d] = strides_in(source)[d] if model.ndim == source.ndim else 1
    if model.ndim == source.ndim:
        result.offset += attribute(frame, 1) * strides_in(source)[attribute(frame, 0)]
    return 0


def stack_part_infer(st, frame):
    """Attributes: dimension, index."""
    source = slot_of(st, input_slot(frame, 0))
    result = slot_of(st, output_slot(frame, 0))
    dim = attribute(frame, 0)
    result.ndim = source.ndim - 1
    for d in range(result.ndim):
        shape_in(result)[d] = shape_in(source)[d + (1 if d >= dim else 0)]
        strides_in(result)[d] = strides_in(source)[d + (1 if d >= dim else 0)]
    result.offset += attribute(frame, 1) * strides_in(source)[dim]
    return 0


def block_infer(st, frame):
    """The whole of which the operand is a part: attributes as above, and the whole's length in `like`."""
    result = slot_of(st, output_slot(frame, 0))
    model = slot_of(st, input_slot(frame, 1))
    result.ndim = model.ndim
    for d in range(model.ndim):
        shape_in(result)[d] = shape_in(model)[d]
    return 0


def _block_kernel(dtype: int, result_dtype: int) -> Callable[..., int]:
    """Zeros, with the operand as the block from index ``start`` of a dimension on."""
    pointer, itemsize = POINTERS[dtype], ITEM_BYTES[dtype]

    def kernel(st, frame):
        source = slot_of(st, input_slot(frame, 0))
        result = slot_of(st, output_slot(frame, 0))
        y = pointer(data_address(st, output_slot(frame, 0)))
        for i in range(np.uintp(result.numel)):
            y[i] = 0
        if source.numel == 0:
            return 0
        dim = attribute(frame, 0)
        outer = product(result, 0, dim)
        whole = product(result, dim, result.ndim)
        part = source.numel // outer
        start = attribute(frame, 1) * product(result, dim + 1, result.ndim)
        for r in range(outer):
            x = pointer(data_address(st, input_slot(frame, 0)) + r * part * itemsize)
            y = pointer(data_address(st, output_slot(frame, 0)) + (r * whole + start) * itemsize)
            for i in range(np.uintp(part)):
                y[i] = x[i]
        return 0

    return kernel


def _cat_part(x: Any, like: Any, *, attributes: tuple[int, int]) -> Any:
    dim, start = attributes
    return np.take(x, range(start, start + like.shape[dim]), dim)


def _cat_block(part: Any, like: Any, *, attributes: tuple[int, int]) -> Any:
    dim, start = attributes
    before, after = start, like.shape[dim] - start - part.shape[dim]
    return np.pad(part, [(before, after) if d == dim else (0, 0) for d in range(part.ndim)])


def _stack_block(part: Any, like: Any, *, attributes: tuple[int, int]) -> Any:
    return _cat_block(np.expand_dims(part, attributes[0]), like, attributes=attributes)


_WHOLES = [((5, 4), (0, 2)), ((2, 6, 3), (1, 0))]  # shapes of the whole, dimensions and starts of a part of length 2


def _samples(part: Callable[..., Any], back: bool) -> Callable[..., Any]:
    """Return samples in which an operand of ``part(shape, dim)`` goes with the whole."""

    def samples(make: Any) -> Any:
        for whole, attributes in _WHOLES:
            arrays = make(*whole), make(*part(whole, attributes[0]))
            yield arrays[::-1] if back else arrays, {"attributes": attributes}

    return samples


def _shortened(shape: tuple[int, ...], dim: int) -> tuple[int, ...]:
    return (*shape[:dim], 2, *shape[dim + 1 :])


def _without(shape: tuple[int, ...], dim: int) -> tuple[int, ...]:
    return shape[:dim] + shape[dim + 1 :]


def _part(name: str, infer: Callable[..., int], back: str, part: Any, pick: Any, place: Any) -> None:
    """Declare the gradient of cat or stack for an operand, and the gradient of that; ``part``: see _samples."""
    shared: dict[str, Any] = {"shape_only": ("like",), "unpromoted": ("like",), "public": False}
    declare(
        Op(
            name=name,
            inputs=("input", "like"),
            kind=VIEW,
            infer=infer,
            vjp=lambda g, y, x, like: (getattr(g, back)(x, attributes=OF_ENTRY), None),
            reference=pick,
            samples=_samples(part, back=False),
            math=f"the part of x that an operand of {name.partition('_')[0]} became",
            **shared,
        )
    )
    declare(
        Op(
            name=back,
            inputs=("input", "like"),
            kind=GENERAL,
            infer=block_infer,
            valid=_is_block(name == "cat_part"),
            kernel=_block_kernel,
            vjp=lambda g, y, x, like: (getattr(g, name)(x, attributes=OF_ENTRY), None),
            contiguous=("input",),
            reference=place,
            samples=_samples(part, back=True),
            math="zeros like `like`, with x as one block",
            **shared,
        )
    )


def _is_block(along: bool) -> Rule:
    """The first operand is a part of the second one's shape, at a place inside of it."""

    def rule(x: Operands, a: Attributes) -> bool:
        part, whole = needed(x, 0).shape, needed(x, 1).shape
        if len(a) < 2 or not is_dim(a[0], whole) or a[1] < 0:
            return False
        if not along:
            return part == without(whole, a[0]) and a[1] < whole[a[0]]
        if part == (0,):
            return True
        fits = len(part) == len(whole) and without(part, a[0]) == without(whole, a[0])
        return fits and a[1] + part[a[0]] <= whole[a[0]]

    return rule


_part("cat_part", cat_part_infer, "cat_block", _shortened, _cat_part, _cat_block)
_part(
    "stack_part",
    stack_part_infer,
    "stack_block",
    _without,
    lambda x, like, attributes: np.take(x, attributes[1], attributes[0]),
    _stack_block,
)


def cat_infer(st, frame):
    """Attributes: dimension, and where each operand starts. 1-d operands without elements do not count."""
    result = slot_of(st, output_slot(frame, 0))
    dim = attribute(frame, 0)
    result.ndim = 0
    for k in range(input_count(frame)):
        row = slot_of(st, input_slot(frame, k))
        if row.ndim == 1 and shape_in(row)[0] == 0 and result.ndim != 1:
            continue
        if result.ndim == 0:
            result.ndim = row.ndim
            for d in range(row.ndim):
                shape_in(result)[d] = shape_in(row)[d]
            continue
        if row.ndim != result.ndim:
            return SHAPE_MISMATCH
        for d in range(row.ndim):
            if d != dim and shape_in(row)[d] != shape_in(result)[d]:
                state_of(st).error_value0 = d
                return SHAPE_MISMATCH
        shape_in(result)[dim] += shape_in(row)[dim]
    if result.ndim == 0:
        result.ndim = 1
        shape_in(result)[0] = 0
    return 0


def stack_infer(st, frame):
    """Attributes: dimension, and the index of each operand."""
    result = slot_of(st, output_slot(frame, 0))
    first = slot_of(st, input_slot(frame, 0))
    dim = attribute(frame, 0)
    if first.ndim >= MAX_NDIM:
        return TOO_MANY_DIMS
    result.ndim = first.ndim + 1
    for d in range(result.ndim):
        shape_in(result)[d] = shape_in(first)[d - (1 if d > dim else 0)] if d != dim else input_count(frame)
    for k in range(1, input_count(frame)):
        row = slot_of(st, input_slot(frame, k))
        if row.ndim != first.ndim:
            return SHAPE_MISMATCH
        for d in range(row.ndim):
            if shape_in(row)[d] != shape_in(first)[d]:
                return SHAPE_MISMATCH
    return 0


def _join_kernel(dtype: int, result_dtype: int) -> Callable[..., int]:
    pointer, itemsize = POINTERS[dtype], ITEM_BYTES[dtype]

    def kernel(st, frame):
        result = slot_of(st, output_slot(frame, 0))
        if result.numel == 0:
            return 0
        outer = product(result, 0, attribute(frame, 0))
        at = data_address(st, output_slot(frame, 0))
        for r in range(outer):  # in the result's order: 2 x [30000, 128] along dim 1 took 12 ms the other way, 3 this
            for k in range(input_count(frame)):
                part = slot_of(st, input_slot(frame, k)).numel // outer
                x = pointer(data_address(st, input_slot(frame, k)) + r * part * itemsize)
                y = pointer(at)
                for i in range(np.uintp(part)):
                    y[i] = x[i]
                at += part * itemsize
        return 0

    return kernel


def _makes_whole(x: Operands, a: Attributes) -> bool:
    """The dimension is one of the result's, which has as many elements as the operands."""
    ndim = max(len(needed(x, k).shape) for k in range(len(x)))
    return len(a) >= 1 and 0 <= a[0] < ndim and is_few(sum(needed(x, k).numel for k in range(len(x))))


def _makes_stack(x: Operands, a: Attributes) -> bool:
    return len(a) >= 1 and 0 <= a[0] <= len(needed(x, 0).shape) and is_few(needed(x, 0).numel, len(x))


def _join(name: str, infer: Callable[..., int], math: str) -> Op:
    return declare(
        Op(
            name=name,
            inputs=("*tensors",),
            kind=GENERAL,
            infer=infer,
            valid=_makes_whole if name == "cat" else _makes_stack,
            kernel=_join_kernel,
            vjp=lambda g, y, x: getattr(g, f"{name}_part")(x, attributes=OF_OPERAND),
            contiguous=("*tensors",),
            reference=(lambda xs, dim=0: np.concatenate(xs, dim))
            if name == "cat"
            else (lambda xs, dim=0: np.stack(xs, dim)),
            samples=lambda make: [
                (([make(2, 3), make(2, 3)],), {"dim": 0}),
                (([make(2, 3), make(2, 3), make(2, 3)],), {"dim": -1}),
                (([make(4)],),),
            ],
            math=math,
            doc=f"Join tensors along {'a dimension' if name == 'cat' else 'a new dimension'}.",
        )
    )


_shape_of = machine.shape_of
_CAT = _join("cat", cat_infer, "x1, x2, ... one after the other")
_STACK = _join("stack", stack_infer, "x1, x2, ... along a new dimension")


def _tensor_list(tensors: Any, name: str) -> list[Tensor]:
    if isinstance(tensors, Tensor):
        raise TypeError(f"{name}(): argument 'tensors' (position 1) must be tuple of Tensors, not Tensor")
    listed = list(tensors)
    for k, tensor in enumerate(listed):
        if not isinstance(tensor, Tensor):
            raise TypeError(f"expected Tensor as element {k} in argument 0, but got {type(tensor).__name__}")
    return listed


def _starts(shapes: list[tuple[int, ...]], dim: int) -> list[int]:
    """Return where each operand of cat starts; RuntimeError if the shapes do not fit together."""
    starts, length, model = [], 0, None
    for k, shape in enumerate(shapes):
        starts.append(length)
        if shape == (0,):
            continue
        if model is None:
            model = shape
        if len(shape) != len(model):
            raise RuntimeError(f"Tensors must have same number of dimensions: got {len(model)} and {len(shape)}")
        if shape != model and (shape[:dim] != model[:dim] or shape[dim + 1 :] != model[dim + 1 :]):
            bad = next(d for d in range(len(shape)) if d != dim and shape[d] != model[d])
            raise RuntimeError(
                f"Sizes of tensors must match except in dimension {dim}. Expected size {model[bad]} but got size "
                f"{shape[bad]} for tensor number {k} in the list."
            )
        length += shape[dim]
    return starts


def _emit(op: Op, parts: list[Tensor], dim: int, places: Iterable[int]) -> Tensor:
    handle = machine.emit(op.code, len(parts), *[part._handle for part in parts], dim, *places)
    if handle < 0:
        raise_status(handle)
    return wrap(handle)


def _alike(tensors: Any) -> tuple[list[int], tuple[int, ...]] | None:
    """Return the handles and the shape of tensors of one shape, the usual case; None for anything else."""
    if (tensors.__class__ is not list and tensors.__class__ is not tuple) or not tensors:
        return None
    handles = []
    for part in tensors:
        if not isinstance(part, Tensor):
            return None
        handles.append(part._handle)
    shape = _shape_of(handles[0])
    for handle in handles:
        if _shape_of(handle) != shape:
            return None
    return handles, shape


def _join_alike(op: Op, handles: list[int], dim: int, step: int) -> Tensor:
    """Join tensors of one shape, each ``step`` after the one before."""
    handle = machine.emit(op.code, len(handles), *handles, dim, *range(0, len(handles) * step, step))
    if handle < 0:
        raise_status(handle)
    return wrap(handle)


@function(method=False, aliases=("concat", "concatenate"))
def cat(tensors: Sequence[Tensor], dim: int = 0, *, out: Tensor | None = None, axis: int | None = None) -> Tensor:
    """Return tensors joined along a dimension.

    Args:
        tensors: tensors of one shape but for dimension ``dim``; 1-d ones without elements are left out.
        dim: the dimension.
        out: where to write the result.
        axis: ``dim`` under NumPy's name.

    Raises:
        RuntimeError: the other dimensions differ.
        ValueError: the list is empty.

    Example:
        >>> import tapegrad as tg
        >>> tg.cat([tg.tensor([1, 2]), tg.tensor([3])])
        tensor([1, 2, 3])
    """
    if axis is not None:
        dim = axis
    alike = _alike(tensors) if out is None else None
    if alike is not None and -len(alike[1]) <= dim < len(alike[1]) and alike[1][dim] > 0:
        return _join_alike(_CAT, alike[0], dim % len(alike[1]), alike[1][dim])
    parts = _tensor_list(tensors, "cat")
    if not parts:
        raise ValueError("cat(): expected a non-empty list of Tensors")
    shapes = [shape_of(part) for part in parts]
    if () in shapes:
        raise RuntimeError(f"zero-dimensional tensor (at position {shapes.index(())}) cannot be concatenated")
    ndim = max(map(len, shapes))
    dim = normal_dim(dim, ndim)
    result = _emit(_CAT, parts, dim, _starts(shapes, dim))
    return result if out is None else functions["_write_out"](out, result)


@function(method=False)
def stack(tensors: Sequence[Tensor], dim: int = 0, *, out: Tensor | None = None) -> Tensor:
    """Return tensors of one shape joined along a new dimension."""
    alike = _alike(tensors) if out is None else None
    if alike is not None and -len(alike[1]) - 1 <= dim <= len(alike[1]):
        return _join_alike(_STACK, alike[0], dim % (len(alike[1]) + 1), 1)
    parts = _tensor_list(tensors, "stack")
    if not parts:
        raise RuntimeError("stack expects a non-empty TensorList")
    shape = _shape_of(parts[0]._handle)
    for k, part in enumerate(parts):
        if _shape_of(part._handle) != shape:
            raise RuntimeError(
                f"stack expects each tensor to be equal size, but got {list(shape)} at entry 0 and "
                f"{list(shape_of(part))} at entry {k}"
            )
    result = _emit(_STACK, parts, normal_dim(dim, len(shape) + 1), range(len(parts)))
    return result if out is None else functions["_write_out"](out, result)


@function(method=False, aliases=("row_stack",))
def vstack(tensors: Sequence[Tensor]) -> Tensor:
    """Return tensors joined along dimension 0, after 1-d ones became rows."""
    return cat([functions["atleast_2d"](part) for part in _tensor_list(tensors, "vstack")], 0)


@function(method=False)
def hstack(tensors: Sequence[Tensor]) -> Tensor:
    """Return tensors joined along dimension 1, or along dimension 0 if they are 1-d."""
    parts = [functions["atleast_1d"](part) for part in _tensor_list(tensors, "hstack")]
    return cat(parts, 0 if len(shape_of(parts[0])) == 1 else 1)


@function(method=False)
def dstack(tensors: Sequence[Tensor]) -> Tensor:
    """Return tensors joined along dimension 2, after those of fewer dimensions got new ones."""
    return cat([functions["atleast_3d"](part) for part in _tensor_list(tensors, "dstack")], 2)


@function(method=False)
def column_stack(tensors: Sequence[Tensor]) -> Tensor:
    """Return tensors joined along dimension 1, after 1-d ones became columns."""
    parts = _tensor_list(tensors, "column_stack")
    return cat([reshape(p, -1, 1) if len(shape_of(p)) < 2 else p for p in parts], 1)


@function(method=False)
def meshgrid(*tensors: Any, indexing: str | None = None) -> tuple[Tensor, ...]:
    """Return the coordinates of a grid, one tensor for each of the given 1-d ones: expanded views.

    Args:
        *tensors: 1-d or 0-d.
        indexing: ``"ij"``, the default: dimensions in the order of the tensors; ``"xy"``: the first two swapped.
    """
    given = list(tensors[0]) if len(tensors) == 1 and not isinstance(tensors[0], Tensor) else list(tensors)
    if indexing is None:
        warnings.warn("meshgrid: pass indexing='ij' or 'xy'; without it 'ij' is meant", stacklevel=2)
    elif indexing not in ("ij", "xy"):
        raise RuntimeError(f'torch.meshgrid: indexing must be one of "xy" or "ij", but received: {indexing}')
    if any(len(shape_of(tensor)) > 1 for tensor in given):
        raise RuntimeError("torch.meshgrid: Expected 0D or 1D tensor in the tensor list")
    order = list(range(len(given)))
    if indexing == "xy" and len(given) > 1:
        order[:2] = [1, 0]
    shaped = [reshape(t, *[-1 if d == order[k] else 1 for d in range(len(given))]) for k, t in enumerate(given)]
    shape = broadcast_shape(*(shape_of(tensor) for tensor in shaped))
    return tuple(expand(tensor, shape) for tensor in shaped)
