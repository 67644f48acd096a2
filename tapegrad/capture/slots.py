"""Where a module keeps its native function: in an attribute that guards do not see come and go."""

from __future__ import annotations

from typing import Any

from tapegrad.nn.module import Module

_KEY = "_njit"


class NativeSlot:
    """Holds a native function, or None; a copy of the module, or one from a file, gets an empty one."""

    def __init__(self) -> None:
        self.native: Any = None

    def __reduce__(self) -> Any:
        return NativeSlot, ()


def native_slot(module: Module) -> NativeSlot:
    """Return a module's slot; it is made for every module that a guard sees, since its attributes are counted."""
    found: NativeSlot = module.__dict__.setdefault(_KEY, NativeSlot())
    return found
