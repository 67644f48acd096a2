"""Reading and writing at indices, as users call it: index_select, index_put, take, masked_select, nonzero."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tapegrad.native.dtypes import BOOL, INT64
from tapegrad.ops.calls import TORCH_NAMES, call, expect_tensor, function, functions, normal_dim, shape_of
from tapegrad.ops.index_ops import NONZERO, PUT, PUT_ADD
from tapegrad.ops.indexing import _combined, _normal_items, _Plan
from tapegrad.ops.lookups import (
    as_mask,
    block_shape,
    call_at,
    check_index_dtype,
    flat_nonzero,
    is_mask,
    look_up,
    tensor_of,
    values_for,
    write_at,
)
from tapegrad.ops.parameters import explain
from tapegrad.ops.views import broadcast_shape, expand, reshape
from tapegrad.ops.writing import in_dtype_of
from tapegrad.runtime.handle import Tensor
from tapegrad.runtime.machine import machine


def _index_1d(index: Any, name: str) -> Tensor:
    """Return a vector of indices as int64; errors in torch's words."""
    index = check_index_dtype(expect_tensor(index, name, "index", 3), name)
    if len(shape_of(index)) > 1:
        raise IndexError(f"{name}(): Index is supposed to be a vector, but got dim: {len(shape_of(index))}")
    return index if shape_of(index) else reshape(index, 1)


def _at_least_1d(tensor: Tensor) -> Tensor:
    return tensor if shape_of(tensor) else reshape(tensor, 1)


def _like(result: Tensor, tensor: Tensor) -> Tensor:
    """Undo _at_least_1d."""
    return result if shape_of(tensor) else reshape(result, ())


def _is_vector_of_indices(index: Any) -> bool:
    return isinstance(index, Tensor) and machine.dtype_of(index._handle) == INT64 and len(shape_of(index)) == 1


@function()
def index_select(input: Tensor, dim: int, index: Tensor, *, out: Tensor | None = None) -> Tensor:
    """Return the parts of ``input`` at indices of one dimension.

    Args:
        input: a tensor.
        dim: the dimension.
        index: int64 or int32 of at most one dimension, not negative.
        out: where to write the result.

    Raises:
        IndexError: an index is out of range, or ``index`` has several dimensions.

    Example:
        >>> import tapegrad as tg
        >>> tg.tensor([1.0, 2.0, 3.0]).index_select(0, tg.tensor([2, 0]))
        tensor([3., 1.])
    """
    dim = normal_dim(dim, len(shape_of(expect_tensor(input, "index_select"))))
    if out is None and shape_of(input) and _is_vector_of_indices(index):
        return look_up(input, index, dim, negative=False)
    index = _index_1d(index, "index_select")
    if not shape_of(input) and shape_of(index) != (1,):
        count = shape_of(index)[0]
        raise RuntimeError(f"index_select(): Index to scalar can have only 1 value, got {count} value(s)")
    result = look_up(_at_least_1d(input), index, dim, negative=False)
    result = _like(result, input)
    return result if out is None else functions["_write_out"](out, result)


def _write_blocks(name: str, op: Any, in_place: bool, input: Tensor, dim: int, index: Tensor, values: Any) -> Tensor:
    target = _at_least_1d(expect_tensor(input, name))
    dim = normal_dim(dim, len(shape_of(target)))
    index = _index_1d(index, name)
    if isinstance(values, Tensor):
        want = block_shape(target, index, dim)
        if shape_of(_at_least_1d(values)) != want:
            raise RuntimeError(
                f"{name}(): Source/destination tensor must have same slice shapes: the source has shape "
                f"{list(shape_of(values))}, expected {list(want)}"
            )
        if machine.dtype_of(values._handle) != machine.dtype_of(input._handle):
            raise RuntimeError(
                f"{name}(): self and source expected to have the same dtype, but got (self) "
                f"{TORCH_NAMES[machine.dtype_of(input._handle)]} and (source) "
                f"{TORCH_NAMES[machine.dtype_of(values._handle)]}"
            )
    if in_place:
        write_at(op, target, index, values, attributes=(dim, 1, 0))
        return input
    return _like(call_at(op, target, index, values, attributes=(dim, 1, 0)), input)


def _publish(name: str, body: Callable[..., Tensor], doc: str) -> None:
    """Make ``name`` and its in-place form of a function whose first argument says whether to write in place."""

    def plain(input: Tensor, *args: Any, out: Tensor | None = None, **kwargs: Any) -> Tensor:
        result = body(False, input, *args, **kwargs)
        return result if out is None else functions["_write_out"](out, result)

    def in_place(input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return body(True, input, *args, **kwargs)

    parameters = list(inspect.signature(body).parameters.values())[1:]
    out_parameter = inspect.Parameter("out", inspect.Parameter.KEYWORD_ONLY, default=None)
    explained = explain(doc, body, [*(parameter.name for parameter in parameters), "out"])
    for form, suffix, text in ((plain, "", explained), (in_place, "_", f"In-place form of ``{name}``.")):
        form.__name__ = form.__qualname__ = name + suffix
        form.__doc__ = text
        own = parameters if suffix else [*parameters, out_parameter]
        form.__signature__ = inspect.Signature(own, return_annotation=Tensor)  # type: ignore[union-attr]
        setattr(Tensor, name + suffix, form)
    functions[name] = plain
    functions[f"{name}_"] = in_place


def _index_add(in_place: bool, input: Tensor, dim: int, index: Tensor, source: Tensor, *, alpha: float = 1) -> Tensor:
    if isinstance(source, Tensor) and alpha != 1:
        source = source * alpha
    return _write_blocks("index_add", PUT_ADD, in_place, input, dim, index, source)


def _index_copy(in_place: bool, input: Tensor, dim: int, index: Tensor, source: Tensor) -> Tensor:
    return _write_blocks("index_copy", PUT, in_place, input, dim, index, source)


def _index_fill(in_place: bool, input: Tensor, dim: int, index: Tensor, value: Any) -> Tensor:
    value = in_dtype_of(input, value)
    target = _at_least_1d(input)
    if isinstance(value, Tensor) and shape_of(value):
        raise RuntimeError(
            "index_fill_ only supports a 0-dimensional value tensor, but got tensor with "
            f"{len(shape_of(value))} dimension(s)."
        )
    dim, index = normal_dim(dim, len(shape_of(target))), _index_1d(index, "index_fill")
    if in_place:
        write_at(PUT, target, index, value, attributes=(dim, 1, 1))
        return input
    return _like(call_at(PUT, target, index, value, attributes=(dim, 1, 1)), input)


def _index_put(
    in_place: bool, input: Tensor, indices: Sequence[Tensor | None], values: Tensor, accumulate: bool = False
) -> Tensor:
    if machine.dtype_of(values._handle) != machine.dtype_of(input._handle):
        raise RuntimeError(
            "Index put requires the source and destination dtypes match, got "
            f"{TORCH_NAMES[machine.dtype_of(input._handle)]} for the destination and "
            f"{TORCH_NAMES[machine.dtype_of(values._handle)]} for the source."
        )
    target = input if in_place else functions["clone"](input)
    plan = _Plan()
    dim = 0
    for item in indices:
        count = 1
        if item is not None:
            tensor = _normal_items(([item],))[0] if not isinstance(item, Tensor) else item
            count = len(shape_of(tensor)) if is_mask(tensor) else 1
            plan.indices.append((dim, count, tensor))
        dim += count
    if dim > len(shape_of(input)):
        raise IndexError(f"too many indices for tensor of dimension {len(shape_of(input))} (got {dim})")
    view, flat, first, count = _combined(target, plan)
    values = values_for(values, block_shape(view, flat, first, count))
    write_at(PUT_ADD if accumulate else PUT, view, flat, values, attributes=(first, count, 1))
    return target


def _put(in_place: bool, input: Tensor, index: Tensor, source: Tensor, accumulate: bool = False) -> Tensor:
    index = check_index_dtype(index, "put_")
    if math.prod(shape_of(index)) != math.prod(shape_of(source)):
        raise RuntimeError(
            "put_(): Expected source and index to have the same number of elements, but got source.numel() = "
            f"{math.prod(shape_of(source))}, index.numel() = {math.prod(shape_of(index))}"
        )
    target = input if in_place else functions["clone"](input)
    attributes = (0, len(shape_of(target)), 1)
    write_at(PUT_ADD if accumulate else PUT, target, reshape(index, -1), reshape(source, -1), attributes=attributes)
    return target


def _masked_scatter(in_place: bool, input: Tensor, mask: Tensor, source: Tensor) -> Tensor:
    if machine.dtype_of(mask._handle) != BOOL:
        raise RuntimeError("masked_scatter_ only supports boolean masks, but got mask with another dtype")
    if machine.dtype_of(input._handle) != machine.dtype_of(source._handle):
        raise RuntimeError("masked_scatter_: expected self and source to have same dtypes")
    shape = broadcast_shape(shape_of(input), shape_of(mask))
    target = input if in_place else functions["clone"](expand(input, shape))
    index = flat_nonzero(expand(mask, shape_of(target)))
    count, have = shape_of(index)[0], math.prod(shape_of(source))
    if have < count:
        raise RuntimeError(
            f"masked_scatter_: expected the source to have at least as many elements as the mask has true ones: got "
            f"{have}, expected {count}"
        )
    values = functions["narrow"](reshape(source, have), 0, 0, count)
    write_at(PUT, target, index, values, attributes=(0, len(shape), 1))
    return target


_publish("index_add", _index_add, "Return ``input`` with ``alpha * source`` added at indices of a dimension.")
_publish("index_copy", _index_copy, "Return ``input`` with the parts of ``source`` at indices of a dimension.")
_publish("index_fill", _index_fill, "Return ``input`` with a number at indices of a dimension.")
_publish("index_put", _index_put, "Return ``input`` with values at the given index tensors, set or added.")
_publish("put", _put, "Return ``input`` with ``source`` at indices into the flat tensor, set or added.")
_publish("masked_scatter", _masked_scatter, "Return ``input`` with the elements of ``source`` where a mask is true.")


@function()
def take(input: Tensor, index: Tensor) -> Tensor:
    """Return the elements of the flat tensor at indices, in the shape of ``index``."""
    if machine.dtype_of(expect_tensor(index, "take", "index", 2)._handle) != 3:
        raise RuntimeError("take(): Expected a long tensor for index")
    return look_up(input, index, 0, len(shape_of(input)))


@function()
def masked_select(input: Tensor, mask: Tensor, *, out: Tensor | None = None) -> Tensor:
    """Return the elements where a mask is true, in one dimension; tensor and mask are broadcast together."""
    if machine.dtype_of(expect_tensor(mask, "masked_select", "mask", 2)._handle) != BOOL:
        raise RuntimeError("masked_select: expected BoolTensor for mask")
    shape = broadcast_shape(shape_of(input), shape_of(mask))
    result = look_up(expand(input, shape), flat_nonzero(expand(mask, shape)), 0, len(shape))
    return result if out is None else functions["_write_out"](out, result)


@function()
def nonzero(input: Tensor, *, as_tuple: bool = False) -> Any:
    """Return the indices of the elements that are not zero.

    Args:
        input: a tensor.
        as_tuple: return a vector of indices for each dimension, with which ``input`` can be indexed.

    Returns:
        int64 of shape (count, ndim), or a tuple of ``ndim`` tensors of shape (count,).
    """
    if as_tuple and not shape_of(input):
        input = reshape(input, 1)
    result = call(NONZERO, as_mask(expect_tensor(input, "nonzero")), attributes=(1,))
    return functions["unbind"](result, 1) if as_tuple else result


@function()
def argwhere(input: Tensor) -> Tensor:
    """Return the indices of the elements that are not zero, a row for each."""
    return nonzero(input)


@function()
def repeat_interleave(input: Tensor, repeats: Any, dim: int | None = None, *, output_size: int | None = None) -> Tensor:
    """Return each element, or each part along a dimension, repeated in place.

    Args:
        input: a tensor.
        repeats: how often: a number, or a tensor with one for each index of the dimension.
        dim: the dimension; without it the flat tensor is taken.
        output_size: accepted for torch's sake.
    """
    if dim is None:
        input, dim = reshape(input, -1), 0
    dim = normal_dim(dim, len(shape_of(input)))
    length = shape_of(input)[dim]
    counts = np.asarray(repeats.tolist() if isinstance(repeats, Tensor) else repeats, np.int64)
    if counts.size not in (1, length):
        raise RuntimeError(
            f"repeats must have the same size as input along dim, but got repeats.size(0) = {counts.size}"
            f" and input.size({dim}) = {length}"
        )
    if (counts < 0).any():
        raise RuntimeError("Repeats must be non-negative")
    index = np.repeat(np.arange(length), counts.reshape(-1) if counts.size > 1 else int(counts.reshape(())))
    return look_up(input, tensor_of(index), dim)
