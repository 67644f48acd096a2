"""Square brackets: ``x[...]`` and ``x[...] = value``.

Integers, slices, None and Ellipsis make one view, whatever their number. Masks, index tensors, arrays and lists are
applied to that view: each is one index into the dimensions that it stands for, and together they are one flat index.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NoReturn

import numpy as np

from tapegrad.native.dtypes import BOOL, INT64
from tapegrad.ops.calls import call, functions, shape_of, tensor_method
from tapegrad.ops.index_ops import PUT
from tapegrad.ops.lookups import (
    as_mask,
    block_shape,
    flat_index,
    flat_nonzero,
    index_tensor,
    is_mask,
    look_up,
    raise_index,
    tensor_of,
    values_for,
    write_at,
)
from tapegrad.ops.view_ops import ELLIPSIS, END, INDEX, NEW_DIM, PERMUTE, SELECT, SKIP, SLICE
from tapegrad.ops.writing import in_dtype_of, write
from tapegrad.runtime.errors import raise_status
from tapegrad.runtime.handle import Tensor, wrap
from tapegrad.runtime.layout import BAD_DIM, BAD_INDEX
from tapegrad.runtime.machine import machine

_emit, _new = machine.emit, object.__new__
_INDEX = INDEX.code


@tensor_method("__getitem__")
def _getitem(self: Tensor, index: Any) -> Tensor:
    """Return ``self[index]``: a view for integers, slices, None and Ellipsis; a copy where a tensor is an index."""
    if type(index) is int:
        handle = _emit(_INDEX, 1, self._handle, SELECT, index)
    else:
        words = _commands(index)
        if words is None:
            return _get_advanced(self, index)
        handle = _emit(_INDEX, 1, self._handle, *words)
    if handle < 0:
        _raise_basic(self, handle)
    tensor = _new(Tensor)
    tensor._handle = handle
    return tensor


def _commands(index: Any) -> list[int] | None:
    """Return the commands of the op `index`; None if there is more than integers, slices, None and one Ellipsis."""
    words: list[int] = []
    ellipsis = False
    for item in index if type(index) is tuple else (index,):
        kind = type(item)
        if kind is int:
            words += (SELECT, item)
        elif kind is slice:
            words += _slice(item)
        elif item is None:
            words.append(NEW_DIM)
        elif item is Ellipsis and not ellipsis:
            words.append(ELLIPSIS)
            ellipsis = True
        else:
            return None
    return words


def _slice(item: slice) -> tuple[int, int, int, int]:
    start, stop, step = item.start, item.stop, item.step
    step = 1 if step is None else step.__index__()
    if step <= 0:
        raise ValueError("step must be greater than zero")
    return SLICE, 0 if start is None else start.__index__(), END if stop is None else stop.__index__(), step


def _raise_basic(tensor: Tensor, status: int) -> NoReturn:
    ndim = len(shape_of(tensor))
    if status == BAD_DIM and ndim == 0:
        raise IndexError(
            "invalid index of a 0-dim tensor. Use `tensor.item()` in Python to convert a 0-dim tensor to a number"
        )
    if status == BAD_DIM:
        raise IndexError(f"too many indices for tensor of dimension {ndim}")
    if status == BAD_INDEX:
        raise_index(status)
    raise_status(status)


@dataclass
class _Plan:
    """What an index is made of.

    Attributes:
        words: commands for the view, without the advanced indices' dimensions taken out.
        indices: for each advanced index its first dimension in the view, the number of dimensions and the tensor.
    """

    words: list[int] = field(default_factory=list)
    indices: list[tuple[int, int, Tensor]] = field(default_factory=list)

    @property
    def is_plain(self) -> bool:
        """Whether the view is the tensor itself."""
        return all(kind in (SKIP, ELLIPSIS) for kind in self.kinds())

    def kinds(self) -> Iterator[int]:
        """The commands without their arguments."""
        at = 0
        while at < len(self.words):
            yield self.words[at]
            at += {SLICE: 4, SELECT: 2, SKIP: 2}.get(self.words[at], 1)


def _normal_items(index: Any) -> list[Any]:
    """Return the items of an index: tensors for arrays and lists, Python numbers for 0-d tensors."""
    items: list[Any] = []
    for item in index if isinstance(index, tuple) else (index,):
        if item is None or item is Ellipsis or isinstance(item, slice | bool):
            items.append(item)
        elif isinstance(item, np.bool_):
            items.append(bool(item))
        elif isinstance(item, int | np.integer):
            items.append(int(item))
        elif isinstance(item, Tensor | np.ndarray | list | tuple):
            tensor = index_tensor(item)
            number = tensor.item() if shape_of(tensor) == () else None
            items.append(tensor if number is None else bool(number) if is_mask(tensor) else number)
        elif hasattr(item, "__index__"):
            items.append(item.__index__())
        else:
            raise IndexError(
                "only integers, slices (`:`), ellipsis (`...`), None and long or byte Variables are valid indices "
                f"(got {type(item).__name__})"
            )
    return items


def _dims_used(item: Any) -> int:
    if item is None or item is Ellipsis or isinstance(item, bool):
        return 0
    return len(shape_of(item)) if isinstance(item, Tensor) and is_mask(item) else 1


def _plan(tensor: Tensor, index: Any) -> _Plan:
    items = _normal_items(index)
    ndim = len(shape_of(tensor))
    used = sum(_dims_used(item) for item in items)
    if used > ndim:
        _raise_basic(tensor, BAD_DIM)
    if sum(item is Ellipsis for item in items) > 1:
        raise IndexError("an index can only have a single ellipsis ('...')")
    plan = _Plan()
    dim = 0
    for item in items:
        if item is Ellipsis:
            plan.words.append(ELLIPSIS)
            dim += ndim - used
        elif item is None:
            plan.words.append(NEW_DIM)
            dim += 1
        elif isinstance(item, bool):
            plan.words.append(NEW_DIM)
            plan.indices.append((dim, 1, _one_mask(item)))
            dim += 1
        elif isinstance(item, slice):
            plan.words += _slice(item)
            dim += 1
        elif isinstance(item, int):
            plan.words += (SELECT, item)
        else:
            count = _dims_used(item)
            plan.words += (SKIP, count)
            plan.indices.append((dim, count, item))
            dim += count
    return plan


def _one_mask(value: bool) -> Tensor:
    return tensor_of(np.array([value]))


def _view(tensor: Tensor, plan: _Plan) -> Tensor:
    """Return the view that the integers, slices and None of a plan make."""
    if plan.is_plain:
        return tensor
    handle = _emit(_INDEX, 1, tensor._handle, *plan.words)
    if handle < 0:
        _raise_basic(tensor, handle)
    return wrap(handle)


def _check_mask(view: Tensor, mask: Tensor, dim: int) -> None:
    have, want = shape_of(view)[dim : dim + len(shape_of(mask))], shape_of(mask)
    for k, (a, b) in enumerate(zip(have, want, strict=False)):
        if a != b:
            raise IndexError(
                f"The shape of the mask {list(want)} at index {k} does not match the shape of the indexed tensor "
                f"{list(shape_of(view))} at index {dim + k}"
            )


def _combined(view: Tensor, plan: _Plan) -> tuple[Tensor, Tensor, int, int]:
    """Return the view, its indexed dimensions side by side, the flat index into them, their place and their number.

    Where other dimensions lie between the indexed ones, these come first, as in NumPy.
    """
    indices: list[Tensor] = []
    lengths: list[int] = []
    dims: list[int] = []
    for dim, count, index in plan.indices:
        if is_mask(index):
            _check_mask(view, index, dim)
            index = flat_nonzero(as_mask(index))
        indices.append(index)
        lengths.append(int(np.prod(shape_of(view)[dim : dim + count], dtype=np.int64)))
        dims += range(dim, dim + count)
    first = dims[0]
    if dims != list(range(first, first + len(dims))):
        rest = [d for d in range(len(shape_of(view))) if d not in dims]
        view = call(PERMUTE, view, attributes=(*dims, *rest))
        first = 0
    return view, flat_index(indices, lengths, first), first, len(dims)


def _get_advanced(tensor: Tensor, index: Any) -> Tensor:
    shape = shape_of(tensor)
    if isinstance(index, Tensor) and machine.dtype_of(index._handle) == INT64 and shape and shape_of(index):
        return look_up(tensor, index, 0)
    if isinstance(index, Tensor) and shape and shape_of(index) == shape and machine.dtype_of(index._handle) == BOOL:
        return look_up(tensor, flat_nonzero(index), 0, len(shape), negative=False)
    plan = _plan(tensor, index)
    view = _view(tensor, plan)
    if not plan.indices:
        return view if view is not tensor else call(INDEX, tensor, attributes=(ELLIPSIS,))
    return look_up(*_combined(view, plan))


@tensor_method("__setitem__")
def _setitem(self: Tensor, index: Any, value: Any) -> None:
    """Write a number or a tensor, broadcast and cast, to ``self[index]``; gradients flow back to a tensor."""
    words = (SELECT, index) if type(index) is int else _commands(index)
    if words is None:
        _set_advanced(self, index, value)
        return
    handle = _emit(_INDEX, 1, self._handle, *words)
    if handle < 0:
        _raise_basic(self, handle)
    _assign(wrap(handle), value)


def _assign(view: Tensor, value: Any) -> None:
    """Write a value into a view; one that is the same memory has been written there already (``x[0] += 1``)."""
    value = in_dtype_of(view, _tensor_or_number(value))
    if not isinstance(value, Tensor):
        write(view, value)
        return
    if _geometry(value) == _geometry(view):
        return
    shape, have = shape_of(view), shape_of(value)
    while len(have) > len(shape) and have[0] == 1:
        value = functions["squeeze"](value, 0)
        have = have[1:]
    write(view, value)


def _geometry(tensor: Tensor) -> tuple[Any, ...]:
    fields = machine.fields_of(tensor._handle)
    return fields[4], fields[12], machine.shape_of(tensor._handle), machine.strides_of(tensor._handle)


def _tensor_or_number(value: Any) -> Any:
    if isinstance(value, Tensor | bool | int | float):
        return value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray | list | tuple):
        return tensor_of(np.asarray(value))
    raise TypeError(f"can't assign a {type(value).__name__} to a tapegrad tensor")


def _set_advanced(tensor: Tensor, index: Any, value: Any) -> None:
    plan = _plan(tensor, index)
    view = _view(tensor, plan)
    if not plan.indices:
        _assign(view, value)
        return
    value = in_dtype_of(view, _tensor_or_number(value))
    if len(plan.indices) == 1 and is_mask(plan.indices[0][2]) and not isinstance(value, Tensor):
        _fill_masked(view, plan.indices[0], value)
        return
    view, flat, dim, count = _combined(view, plan)
    if isinstance(value, Tensor):
        value = values_for(value, block_shape(view, flat, dim, count))
    write_at(PUT, view, flat, value, attributes=(dim, count, 1))


def _fill_masked(view: Tensor, where: tuple[int, int, Tensor], value: float) -> None:
    """Write a number where a mask is true: no indices are needed."""
    dim, count, mask = where
    _check_mask(view, mask, dim)
    after = len(shape_of(view)) - dim - count
    if after:
        mask = functions["reshape"](mask, *shape_of(mask), *[1] * after)
    functions["masked_fill_"](view, as_mask(mask), value)


@tensor_method("__len__")
def _len(self: Tensor) -> int:
    """Return the length of dimension 0; TypeError for a 0-d tensor."""
    shape = shape_of(self)
    if not shape:
        raise TypeError("len() of a 0-d tensor")
    return shape[0]


@tensor_method("__iter__")
def _iterate(self: Tensor) -> Iterator[Tensor]:
    """Return an iterator over the views ``self[0]``, ``self[1]``, ...; TypeError for a 0-d tensor."""
    if not shape_of(self):
        raise TypeError("iteration over a 0-d tensor")
    return iter(functions["unbind"](self, 0))


@tensor_method("__reversed__")
def _reverse(self: Tensor) -> Tensor:
    """Return the tensor in reverse order along dimension 0."""
    return functions["flip"](self, 0) if shape_of(self) else self


@tensor_method("__contains__")
def _contains(self: Tensor, element: Any) -> bool:
    """Return whether any element equals a number or a broadcast tensor."""
    if not isinstance(element, Tensor | bool | int | float):
        raise RuntimeError(f"Tensor.__contains__ only supports Tensor or scalar, but you passed in a {type(element)}.")
    return bool((self == element).any().item())
