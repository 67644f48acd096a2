"""functional_call: a module called with other tensors in the places of its parameters."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from tapegrad.runtime.handle import Tensor


def functional_call(
    module: Any, parameter_and_buffer_dicts: Any, args: Any = None, kwargs: dict[str, Any] | None = None, **options: Any
) -> Any:
    """Call a module with other tensors in the places of its parameters and buffers.

    Args:
        module: an ``nn.Module``.
        parameter_and_buffer_dicts: tensors by name, as of ``named_parameters()``; or a sequence of such dicts.
        args: the module's arguments; one that is no tuple is the only one.
        kwargs: its named arguments.
        **options: ``tie_weights`` and ``strict`` are accepted.
    """
    given = parameter_and_buffer_dicts
    tensors = given if isinstance(given, dict) else {name: value for part in given for name, value in part.items()}
    arguments = () if args is None else args if isinstance(args, tuple) else (args,)
    with _swapped(module, tensors):
        return module(*arguments, **(kwargs or {}))


@contextlib.contextmanager
def _swapped(module: Any, tensors: dict[str, Tensor]) -> Iterator[None]:
    """Put tensors into the modules' tables for as long as the block runs."""
    places = []
    for name, tensor in tensors.items():
        path, _, last = name.rpartition(".")
        table = module.get_submodule(path).__dict__
        if not isinstance(table.get(last), Tensor):
            raise KeyError(f"functional_call: the module has no parameter or buffer {name!r}")
        places.append((table, last, table[last], tensor))
    try:
        for table, last, _, tensor in places:
            table[last] = tensor
        yield
    finally:
        for table, last, before, _ in reversed(places):
            table[last] = before
