"""Nested arguments and results: dicts, lists, tuples and named tuples of tensors, taken apart and put together."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any


def leaves(tree: Any) -> Iterator[Any]:
    """Yield what is in a nest of dicts, lists and tuples, in order."""
    if isinstance(tree, dict):
        for value in tree.values():
            yield from leaves(value)
    elif isinstance(tree, list | tuple):
        for value in tree:
            yield from leaves(value)
    elif tree is not None:
        yield tree


def rebuild(tree: Any, make: Callable[[Any], Any]) -> Any:
    """Return a nest of the same form with ``make(leaf)`` in the place of each leaf."""
    if isinstance(tree, dict):
        return type(tree)((key, rebuild(value, make)) for key, value in tree.items())
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        return type(tree)(*[rebuild(value, make) for value in tree])
    if isinstance(tree, list | tuple):
        return type(tree)(rebuild(value, make) for value in tree)
    return None if tree is None else make(tree)


def refill(tree: Any, values: Iterator[Any]) -> Any:
    """Return a nest of the same form with the next of the values in the place of each leaf."""
    return rebuild(tree, lambda leaf: next(values))
