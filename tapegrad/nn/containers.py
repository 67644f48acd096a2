"""Modules made of other modules: Sequential, ModuleList, ModuleDict."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby
from operator import index
from typing import Any, Self

from tapegrad.nn.module import Module


class _Numbered(Module):
    """Modules in an order, by names that are their numbers unless they were given others."""

    def _name(self, idx: int) -> str:
        names = list(self._modules)
        if not -len(names) <= index(idx) < len(names):
            raise IndexError(f"index {idx} is out of range")
        return names[idx]

    def __len__(self) -> int:
        return len(self._modules)

    def __iter__(self) -> Iterator[Any]:
        return iter(list(self._modules.values()))

    def __setitem__(self, idx: int, module: Module) -> None:
        setattr(self, self._name(idx), module)

    def __delitem__(self, idx: int | slice) -> None:
        names = list(self._modules)
        gone = set(names[idx]) if isinstance(idx, slice) else {self._name(idx)}
        self._replace([module for name, module in self._modules.items() if name not in gone])

    def _replace(self, modules: Iterable[Any]) -> None:
        kept = list(modules)
        for name in list(self._modules):
            delattr(self, name)
        for k, module in enumerate(kept):
            self.add_module(str(k), module)

    def append(self, module: Module) -> Self:
        """Add a module at the end."""
        self.add_module(str(len(self)), module)
        return self

    def extend(self, modules: Iterable[Module]) -> Self:
        """Add modules at the end."""
        for module in list(_iterable(modules, type(self).__name__, "extend")):
            self.append(module)
        return self

    def pop(self, key: int | slice) -> Any:
        """Take a module out and return it."""
        found = self[key]
        del self[key]
        return found

    def __getitem__(self, idx: int | slice) -> Any:
        return getattr(self, self._name(idx)) if not isinstance(idx, slice) else self._slice(idx)

    def _slice(self, idx: slice) -> Any:
        raise NotImplementedError

    def __iadd__(self, other: Iterable[Module]) -> Self:
        return self.extend(other)


def _iterable(value: Any, name: str, method: str) -> Iterable[Any]:
    if not isinstance(value, Iterable):
        raise TypeError(f"{name}.{method} should be called with an iterable, but got {type(value).__name__}")
    return value


class Sequential(_Numbered):
    """Modules of which each gets what the one before it returned.

    Args:
        *args: the modules, or one dict of modules by name.

    Example:
        >>> import tapegrad as tg
        >>> tg.nn.Sequential(tg.nn.Linear(2, 3), tg.nn.ReLU())
        Sequential(
          (0): Linear(in_features=2, out_features=3, bias=True)
          (1): ReLU()
        )
    """

    def __init__(self, *args: Any) -> None:
        super().__init__()
        named = args[0].items() if len(args) == 1 and isinstance(args[0], dict) else enumerate(args)
        for name, module in named:
            self.add_module(str(name), module)

    def forward(self, input: Any) -> Any:
        """Return what the last module makes of the input, which may be anything that the first one takes."""
        for module in self._modules.values():
            input = module(input)
        return input

    def _slice(self, idx: slice) -> Sequential:
        return type(self)(dict(list(self._modules.items())[idx]))

    def insert(self, index: int, module: Module) -> Sequential:
        """Put a module before the one at ``index``.

        Raises:
            IndexError: ``index`` is not in -len .. len.
            ValueError: ``module`` is no Module.
        """
        if not isinstance(module, Module):
            raise AssertionError(f"module should be of type: {Module}")
        if not -len(self) <= index <= len(self):
            raise IndexError(f"Index out of range: {index}")
        modules = list(self._modules.values())
        modules.insert(index, module)
        self._replace(modules)
        return self

    def __add__(self, other: Any) -> Sequential:
        if not isinstance(other, Sequential):
            raise ValueError(f"add operator supports only objects of Sequential class, but {type(other)} is given.")
        return Sequential(*self, *other)

    def __mul__(self, other: int) -> Sequential:
        return Sequential(*list(self) * _times(other))

    __rmul__ = __mul__

    def __imul__(self, other: int) -> Self:
        modules = list(self)
        for _ in range(_times(other) - 1):
            self.extend(modules)
        return self


def _times(count: Any) -> int:
    if not isinstance(count, int):
        raise TypeError(f"unsupported operand type(s) for *: {Sequential} and {type(count)}")
    if count <= 0:
        raise ValueError(f"Non-positive multiplication factor {count} for {Sequential}")
    return count


class ModuleList(_Numbered):
    """Modules in a list.

    Args:
        modules: the modules.
    """

    def __init__(self, modules: Iterable[Module] | None = None) -> None:
        super().__init__()
        self.extend(modules or ())

    def _slice(self, idx: slice) -> ModuleList:
        return type(self)(list(self._modules.values())[idx])

    def insert(self, index: int, module: Module) -> None:
        """Put a module before the one at ``index``.

        Args:
            module: the module.
        """
        modules = list(self._modules.values())
        modules.insert(index, module)
        self._replace(modules)

    def __add__(self, other: Iterable[Module]) -> ModuleList:
        return ModuleList([*self, *other])

    def __repr__(self) -> str:
        """Return the children's lines, with one for equal neighbours."""
        if not len(self):
            return f"{self._get_name()}()"
        lines, at = [], 0
        for text, equal in groupby(repr(module) for module in self):
            count = len(list(equal))
            name = f"({at}): " if count == 1 else f"({at}-{at + count - 1}): {count} x "
            lines.append(name + text.replace("\n", "\n  "))
            at += count
        return f"{self._get_name()}(\n  " + "\n  ".join(lines) + "\n)"


class ModuleDict(Module):
    """Modules by name.

    Args:
        modules: a mapping of names to modules, or pairs.
    """

    def __init__(self, modules: Mapping[str, Module] | Iterable[tuple[str, Module]] | None = None) -> None:
        super().__init__()
        if modules is not None:
            self.update(modules)

    def __getitem__(self, key: str) -> Any:
        return self._modules[key]

    def __setitem__(self, key: str, module: Module) -> None:
        self.add_module(key, module)

    def __delitem__(self, key: str) -> None:
        del self._modules[key]

    def __len__(self) -> int:
        return len(self._modules)

    def __iter__(self) -> Iterator[str]:
        return iter(self._modules)

    def __contains__(self, key: object) -> bool:
        return key in self._modules

    def clear(self) -> None:
        """Take all modules out."""
        self._modules.clear()

    def pop(self, key: str) -> Any:
        """Take a module out and return it.

        Args:
            key: the module's name.
        """
        return self._modules.pop(key)

    def keys(self) -> Iterable[str]:
        """Return the names."""
        return self._modules.keys()

    def items(self) -> Iterable[tuple[str, Any]]:
        """Return names and modules."""
        return self._modules.items()

    def values(self) -> Iterable[Any]:
        """Return the modules."""
        return self._modules.values()

    def update(self, modules: Mapping[str, Module] | Iterable[tuple[str, Module]]) -> None:
        """Put modules in, in the place of those of the same name."""
        if not isinstance(modules, Iterable):
            raise TypeError(
                "ModuleDict.update should be called with an iterable of key/value pairs, but got "
                f"{type(modules).__name__}"
            )
        for name, module in _pairs(modules, "ModuleDict"):
            self[name] = module


def _pairs(values: Any, name: str) -> Iterable[tuple[str, Any]]:
    """Return the pairs of a mapping, of a dict of modules or of a sequence of pairs."""
    if hasattr(values, "items"):
        return list(values.items())
    pairs = list(values)
    for k, pair in enumerate(pairs):
        if not isinstance(pair, Iterable):
            raise TypeError(f"{name} update sequence element #{k} should be Iterable; is {type(pair).__name__}")
        if len(list(pair)) != 2:
            raise ValueError(f"{name} update sequence element #{k} has length {len(list(pair))}; 2 is required")
    return [tuple(pair) for pair in pairs]
