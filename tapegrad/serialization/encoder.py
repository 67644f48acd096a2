"""Nested Python values as JSON, with the names of arrays in the places of tensors and arrays.

None, bools, ints, finite floats and strings are themselves and lists are lists; all else is an object of one key:
{"dict": [[key, value], ...]}, {"tuple": [...]}, {"tensor": {"name": ...}}, and so on. Reading makes values of these
kinds only, and runs nothing.
"""

from __future__ import annotations

import base64
import math
from collections import Counter, OrderedDict
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tapegrad.nn.parameter import Parameter
from tapegrad.nn.state import StateDict
from tapegrad.ops.random import Generator
from tapegrad.runtime.dtype import dtype as DType
from tapegrad.runtime.handle import Tensor
from tapegrad.serialization.container import NAMES
from tapegrad.tensor.convert import array_of
from tapegrad.tensor.properties import Size, device

MAX_DEPTH = 200
MAPPINGS = {"dict": dict, "OrderedDict": OrderedDict, "Counter": Counter}
SEQUENCES: dict[str, Callable[[list[Any]], Any]] = {
    "tuple": tuple,
    "set": set,
    "frozenset": frozenset,
    "Size": Size,
}
KEYS = (str, int, float, bool, type(None), bytes)


class Encoder:
    """Turns a value into JSON, and collects the arrays in it under names made of their places."""

    def __init__(self) -> None:
        self.arrays: dict[str, NDArray[Any]] = {}
        self._by_memory: dict[tuple[Any, ...], str] = {}
        self._numbers: dict[int, int] = {}  # of tensors and arrays, by id
        self._open: list[int] = []
        self._kept: list[Any] = []

    def encode(self, value: Any, path: tuple[Any, ...] = ()) -> Any:
        """Return ``value`` as JSON.

        Raises:
            TypeError: something in it is of a type that is not saved; the message says where.
            ValueError: it contains itself, or is nested too deep.
        """
        kind = type(value)
        if value is None or kind in (bool, str):
            return value
        if kind is int:
            return value if abs(value) < 2**63 else {"int": hex(value)}
        if kind is float:
            return value if math.isfinite(value) else {"float": str(value)}
        if isinstance(value, Tensor):
            return self._tensor(value, path)
        if isinstance(value, np.ndarray | np.generic):
            return self._array(value, path)
        if kind is StateDict:
            metadata = getattr(value, "_metadata", OrderedDict())
            return {"state_dict": [self._container(OrderedDict(value), path), self.encode(metadata, path)]}
        if kind is list or kind.__name__ in (*SEQUENCES, *MAPPINGS):
            return self._container(value, path)
        return self._small(value, path)

    def _small(self, value: Any, path: tuple[Any, ...]) -> Any:
        kind = type(value)
        if kind in (bytes, bytearray):
            return {kind.__name__: base64.b64encode(value).decode()}
        if kind is complex:
            return {"complex": [self.encode(value.real), self.encode(value.imag)]}
        if kind is DType:
            return {"dtype": value.name}
        if kind is device:
            return {"device": value.type}
        if kind is Generator:
            return {"generator": list(value.__getstate__())}
        raise TypeError(f"save: a {kind.__module__}.{kind.__qualname__} is not saved{_where(path)}{_advice(value)}")

    def _container(self, value: Any, path: tuple[Any, ...]) -> Any:
        kind = type(value)
        if id(value) in self._open:
            raise ValueError(f"save: the value contains itself{_where(path)}")
        if len(path) >= MAX_DEPTH:
            raise ValueError(f"save: the value is nested more than {MAX_DEPTH} levels deep")
        self._open.append(id(value))
        try:
            if kind is list:
                return [self.encode(item, (*path, k)) for k, item in enumerate(value)]
            if kind is MAPPINGS.get(kind.__name__):
                pairs = [[self._key(key, path), self.encode(item, (*path, key))] for key, item in value.items()]
                return {kind.__name__: pairs}
            if kind in SEQUENCES.values():
                return {kind.__name__: [self.encode(item, (*path, k)) for k, item in enumerate(value)]}
        finally:
            self._open.pop()
        raise TypeError(f"save: a {kind.__module__}.{kind.__qualname__} is not saved{_where(path)}")

    def _key(self, key: Any, path: tuple[Any, ...]) -> Any:
        if type(key) in KEYS or (type(key) is tuple and all(type(part) in KEYS for part in key)):
            return self.encode(key)
        raise TypeError(f"save: a {type(key).__name__} as the key of a dict is not saved{_where(path)}")

    def _again(self, value: Any) -> Any:
        """Return the reference to a tensor or array that has been met before, or None."""
        number = self._numbers.get(id(value))
        if number is not None:
            return {"again": number}
        self._numbers[id(value)] = len(self._numbers)
        self._kept.append(value)  # so that its id stays its own
        return None

    def _tensor(self, tensor: Tensor, path: tuple[Any, ...]) -> Any:
        again = self._again(tensor)
        if again is not None:
            return again
        fields = {"name": self._name(array_of(tensor), path), "requires_grad": bool(tensor.requires_grad)}
        return {"parameter" if isinstance(tensor, Parameter) else "tensor": fields}

    def _array(self, array: Any, path: tuple[Any, ...]) -> Any:
        whole = np.asarray(array)
        if whole.dtype.newbyteorder("<") not in NAMES or isinstance(array, np.ma.MaskedArray):
            raise TypeError(f"save: an array of {whole.dtype} is not saved{_where(path)}")
        if isinstance(array, np.generic):
            return {"scalar": self._name(whole, path)}
        return self._again(array) or {"array": self._name(whole, path)}

    def _name(self, array: NDArray[Any], path: tuple[Any, ...]) -> str:
        """Enter an array, once for all that lie at the same place; return its name."""
        place = (array.__array_interface__["data"][0], array.shape, array.strides, array.dtype.str)
        if array.size and place in self._by_memory:
            return self._by_memory[place]
        first = name = ".".join(str(part) for part in path).encode("utf-8", "replace").decode() or "value"
        number = 1
        while name in self.arrays or name == "__metadata__":
            number += 1
            name = f"{first}~{number}"
        self._by_memory[place] = name
        self._kept.append(array)
        # (0-d arrays become 1-d in ascontiguousarray)
        self.arrays[name] = np.ascontiguousarray(array, array.dtype.newbyteorder("<")).reshape(array.shape)
        return name


def _where(path: tuple[Any, ...]) -> str:
    return " (at " + "".join(f"[{part!r}]" for part in path) + ")" if path else ""


def _advice(value: Any) -> str:
    if hasattr(value, "state_dict"):
        return ": save its state_dict()"
    if hasattr(value, "_asdict"):
        return ": save its _asdict()"
    return ": a checkpoint holds tensors, arrays, numbers, strings, bytes and plain containers of them"
