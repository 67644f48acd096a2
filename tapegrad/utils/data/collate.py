"""Makes batches of samples: tensors are stacked, numbers become tensors, containers are gone through."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tapegrad.ops.calls import functions, shape_of
from tapegrad.runtime.dtype import float64
from tapegrad.runtime.handle import Tensor
from tapegrad.tensor.construct import from_numpy, tensor


def default_collate(batch: Any) -> Any:
    """Return the batch that a list of samples makes, as torch's default_collate does.

    Tensors and NumPy arrays of one shape are stacked along a new first dimension; floats become a float64 tensor, ints
    an int64 one, bools a bool one; strings and bytes stay a list; mappings, named tuples, tuples and other sequences
    are collated element by element (plain tuples become lists).

    Args:
        batch: the list.

    Raises:
        TypeError: a sample, or something in it, is of another type; the message says where it is.
        RuntimeError: shapes of tensors or lengths of sequences differ.

    Example:
        >>> import tapegrad as tg
        >>> tg.utils.data.default_collate([{"x": 1, "name": "a"}, {"x": 2, "name": "b"}])
        {'x': tensor([1, 2]), 'name': ['a', 'b']}
    """
    return _collate(list(batch), "")


def _collate(batch: list[Any], place: str) -> Any:
    first = batch[0] if batch else None
    if isinstance(first, Tensor):
        return _stack([_expect(item, Tensor, place) for item in batch], place)
    if isinstance(first, np.ndarray | np.generic):
        return _stack_arrays(batch, place)
    if isinstance(first, float):
        return tensor(batch, dtype=float64)
    if isinstance(first, int):
        return tensor(batch)
    if isinstance(first, str | bytes):
        return batch
    if isinstance(first, Mapping):
        return _rebuild_mapping(
            first, {key: _collate([item[key] for item in batch], f"{place}[{key!r}]") for key in first}
        )
    if isinstance(first, Sequence):
        return _collate_sequences(batch, place)
    raise TypeError(
        "default_collate: batch must contain tensors, numpy arrays, numbers, dicts or lists; "
        f"found {type(first)}{_where(place)}"
    )


def _where(place: str) -> str:
    return f" at sample{place}" if place else ""


def _expect(item: Any, kind: type, place: str) -> Any:
    if isinstance(item, kind):
        return item
    raise TypeError(
        f"default_collate: the first sample has a {kind.__name__} where another has a {type(item).__name__}"
        f"{_where(place)}"
    )


def _check_equal(shapes: list[tuple[int, ...]], place: str) -> None:
    for number, shape in enumerate(shapes):
        if shape != shapes[0]:
            raise RuntimeError(
                f"stack expects each tensor to be equal size, but got {list(shapes[0])} at entry 0 and "
                f"{list(shape)} at entry {number}{_where(place)}"
            )


def _stack(batch: list[Tensor], place: str) -> Tensor:
    _check_equal([shape_of(item) for item in batch], place)
    return functions["stack"](batch)


def _stack_arrays(batch: list[Any], place: str) -> Tensor:
    arrays = [np.asarray(item) for item in batch]
    _check_equal([array.shape for array in arrays], place)
    if arrays[0].dtype.kind not in "biuf":
        raise TypeError(
            "default_collate: batch must contain tensors, numpy arrays, numbers, dicts or lists; "
            f"found an array of {arrays[0].dtype}{_where(place)}"
        )
    return from_numpy(np.stack(arrays))


def _collate_sequences(batch: list[Any], place: str) -> Any:
    first = batch[0]
    if any(len(_expect(item, Sequence, place)) != len(first) for item in batch):
        raise RuntimeError(f"each element in list of batch should be of equal size{_where(place)}")
    columns = [_collate([item[k] for item in batch], f"{place}[{k}]") for k in range(len(first))]
    return columns if type(first) is tuple else _rebuild_sequence(first, columns)


def _rebuild_mapping(model: Any, items: dict[Any, Any]) -> Any:
    """Return the items as a mapping of the model's type where that can be, else as a dict."""
    try:
        if not isinstance(model, dict) or type(model) is dict:
            return type(model)(items)
        clone = copy.copy(model)  # keeps what else a subclass has, such as a defaultdict's factory
        clone.update(items)
        return clone
    except TypeError:
        return items


def _rebuild_sequence(model: Any, items: list[Any]) -> Any:
    """Return the items as a sequence of the model's type where that can be, else as a list."""
    if isinstance(model, tuple) and hasattr(model, "_fields"):
        return type(model)(*items)
    try:
        return items if isinstance(model, range) else type(model)(items)
    except TypeError:
        return items


def default_convert(data: Any) -> Any:
    """Return a sample with NumPy arrays and scalars turned into tensors, inside containers too; the rest as it is.

    It is what a loader with ``batch_size=None`` does with a sample.

    Args:
        data: the sample.
    """
    if isinstance(data, Tensor | str | bytes):
        return data
    if isinstance(data, np.ndarray | np.generic):
        return from_numpy(np.asarray(data)) if np.asarray(data).dtype.kind in "biuf" else data
    if isinstance(data, Mapping):
        return _rebuild_mapping(data, {key: default_convert(value) for key, value in data.items()})
    if isinstance(data, Sequence):
        items = [default_convert(item) for item in data]
        return items if type(data) is tuple else _rebuild_sequence(data, items)
    return data
