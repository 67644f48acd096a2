"""Nested containers of tensors, taken apart and put together again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tapegrad.runtime.handle import Tensor

Path = tuple[Any, ...]


def take_apart(value: Any, tensors: list[Tensor], once: bool = False) -> Any:
    """Return a value's structure, with the place in ``tensors`` of each tensor in it; they are appended there.

    The structure can be compared and hashed where the plain values in it can.

    Args:
        value: of any kind.
        tensors: gets the tensors.
        once: append a tensor that is there already no second time.
    """
    if isinstance(value, Tensor):
        for place, known in enumerate(tensors if once else ()):
            if known is value:
                return ("tensor", place)
        tensors.append(value)
        return ("tensor", len(tensors) - 1)
    if isinstance(value, tuple):
        return (type(value), tuple([take_apart(item, tensors, once) for item in value]))
    if isinstance(value, list):
        return (list, tuple([take_apart(item, tensors, once) for item in value]))
    if isinstance(value, dict):
        return (dict, tuple([(key, take_apart(item, tensors, once)) for key, item in value.items()]))
    if type(value) is float and value == 0:
        return ("plain", float, value, str(value))  # 0.0 is not -0.0
    return ("plain", type(value), value)


def put_together(structure: Any, tensor: Callable[[int], Any]) -> Any:
    """Return the value that a structure describes, with ``tensor(k)`` in the place of tensor ``k``."""
    kind = structure[0]
    if kind == "tensor":
        return tensor(structure[1])
    if kind == "plain":
        return structure[2]
    if kind is dict:
        return {key: put_together(item, tensor) for key, item in structure[1]}
    items = [put_together(item, tensor) for item in structure[1]]
    if kind is list:
        return items
    return kind(*items) if hasattr(kind, "_fields") else kind(items)
