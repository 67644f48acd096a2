"""Modules made of other modules: Sequential, ModuleList."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from operator import index
from typing import Any

from tapegrad.nn.module import Module


class _Numbered(Module):
    """Modules that are attributes in an order: ``"0"``, ``"1"``, ... unless they were given names."""

    def _all(self) -> list[Module]:
        return [value for value in self.__dict__.values() if isinstance(value, Module)]

    def _name(self, idx: int) -> str:
        names = list(self._modules)
        if not -len(names) <= index(idx) < len(names):
            raise IndexError(f"index {idx} is out of range")
        return names[idx]

    def __len__(self) -> int:
        return len(self._all())

    def __iter__(self) -> Iterator[Module]:
        return iter(self._all())

    def __getitem__(self, idx: int | slice) -> Any:
        if isinstance(idx, slice):
            return type(self)._of(self._all()[idx])
        return getattr(self, self._name(idx))

    def __setitem__(self, idx: int, module: Module) -> None:
        setattr(self, self._name(idx), module)

    def __delitem__(self, idx: int | slice) -> None:
        names = list(self._modules)
        gone = set(names[idx]) if isinstance(idx, slice) else {self._name(idx)}
        self._replace([module for name, module in self._modules.items() if name not in gone])

    def _replace(self, modules: Iterable[Module]) -> None:
        for name in list(self._modules):
            delattr(self, name)
        self.extend(modules)

    def append(self, module: Module) -> Any:
        """Add a module at the end."""
        self.add_module(str(len(self)), module)
        return self

    def extend(self, modules: Iterable[Module]) -> Any:
        """Add modules at the end."""
        for module in modules:
            self.append(module)
        return self

    def insert(self, index: int, module: Module) -> Any:
        """Put a module before the one at ``index``."""
        modules = self._all()
        modules.insert(index, module)
        self._replace(modules)
        return self

    @classmethod
    def _of(cls, modules: list[Module]) -> Any:
        made = cls()
        made.extend(modules)
        return made


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
        """Return what the last module makes of it."""
        for module in self._all():
            input = module(input)
        return input


class ModuleList(_Numbered):
    """Modules in a list.

    Args:
        modules: the modules.
    """

    def __init__(self, modules: Iterable[Module] | None = None) -> None:
        super().__init__()
        self.extend(modules or ())

    def __iadd__(self, modules: Iterable[Module]) -> ModuleList:
        self.extend(modules)
        return self
