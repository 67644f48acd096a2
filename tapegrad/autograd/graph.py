"""The graph as torch shows it: ``Tensor.grad_fn``, nodes and what comes before them, ``output_nr``, ``_base``."""

from __future__ import annotations

import gc
import weakref
from typing import Any

from tapegrad.autograd.names import name_of_entry, owner_of_entry
from tapegrad.runtime.handle import Tensor, wrap
from tapegrad.runtime.layout import REQUIRES_GRAD
from tapegrad.runtime.machine import machine

_SLOT, _PRODUCER = 0, 6  # among fields_of
_OP, _SEQUENCE = 0, 4  # among entry_fields
_nodes: weakref.WeakValueDictionary[tuple[str, int], Node] = weakref.WeakValueDictionary()
_classes: dict[str, type[Node]] = {}


class Node:
    """An entry of the tape, or the place where a leaf's gradient is added up. It keeps the graph behind it alive."""

    __slots__ = ("__weakref__", "_metadata", "_slot")

    def __init__(self, slot: int) -> None:
        machine.hold_row(slot)
        self._slot = slot
        self._metadata: dict[Any, Any] = {}

    def __del__(self) -> None:
        if hasattr(self, "_slot"):
            machine.drop_row(self._slot)

    def name(self) -> str:
        """Return the name, such as ``MulBackward0``."""
        return type(self).__name__

    @property
    def metadata(self) -> dict[Any, Any]:
        """A dictionary of the user's own."""
        return self._metadata

    @property
    def _entry(self) -> int:
        return machine.slot_fields(self._slot)[0]

    def _sequence_nr(self) -> int:
        return machine.entry_fields(self._entry)[_SEQUENCE]

    @property
    def next_functions(self) -> tuple[tuple[Node | None, int], ...]:
        """For each operand the node that made it, with the number of the result that it is; None for constants."""
        frame = machine.frame_of_entry(self._entry)
        return tuple([edge_of(slot) for slot in frame[2 + frame[1] :]])

    def __getattr__(self, name: str) -> Any:
        """Look up what the context of a custom Function has: saved tensors, the user's attributes."""
        context = owner_of_entry(self._entry)
        if context is None:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        context._frame = machine.frame_of_entry(self._entry)
        try:
            return getattr(context, name)
        finally:
            context._frame = None


class AccumulateGrad(Node):
    """Where the gradient of a leaf is added to its ``.grad``."""

    __slots__ = ()
    __module__ = "builtins"

    @property
    def next_functions(self) -> tuple[tuple[Node | None, int], ...]:
        """Nothing comes before a leaf."""
        return ()

    @property
    def variable(self) -> Tensor:
        """The leaf."""
        return _known_object(wrap(machine.handle_of_slot(self._slot)))

    def _sequence_nr(self) -> int:
        return (1 << 63) - 1

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"'AccumulateGrad' object has no attribute {name!r}")


_classes["AccumulateGrad"] = AccumulateGrad


def _node(kind: str, number: int, name: str, slot: int) -> Node:
    """Return the node of an entry or a leaf, the same object as long as one is alive."""
    found = _nodes.get((kind, number))
    if found is None:
        made = _classes.get(name)
        if made is None:
            made = _classes[name] = type(name, (Node,), {"__slots__": (), "__module__": "builtins"})
        found = _nodes[kind, number] = made(slot)
    return found


def edge_of(slot: int) -> tuple[Node | None, int]:
    """Return the node that a slot comes from and which of its results the slot is."""
    if slot < 0:
        return None, 0
    producer, flags, serial, _ = machine.slot_fields(slot)
    if not flags & REQUIRES_GRAD:
        return None, 0
    if producer < 0:
        return _node("leaf", serial, "AccumulateGrad", slot), 0
    frame = machine.frame_of_entry(producer)
    number = frame[2 : 2 + frame[1]].index(slot)
    return _node("entry", machine.entry_fields(producer)[_SEQUENCE], name_of_entry(producer), slot), number


def _known_object(tensor: Tensor) -> Tensor:
    """Return another tensor object that names the same slot if there is one, else the given one.

    The machine does not know the Python objects; torch's users compare ``v._base is x``, so they are looked for.
    """
    slot = machine.fields_of(tensor._handle)[_SLOT]
    for item in gc.get_objects():
        if issubclass(type(item), Tensor) and item is not tensor and machine.fields_of(item._handle)[_SLOT] == slot:
            return item
    return tensor


def _grad_fn(self: Tensor) -> Node | None:
    fields = machine.fields_of(self._handle)
    return edge_of(fields[_SLOT])[0] if fields[_PRODUCER] >= 0 else None


def _output_nr(self: Tensor) -> int:
    fields = machine.fields_of(self._handle)
    return edge_of(fields[_SLOT])[1] if fields[_PRODUCER] >= 0 else 0


def _base(self: Tensor) -> Tensor | None:
    handle = machine.base_of(self._handle)
    if handle < 0:
        return None
    return _known_object(wrap(handle))


_PROPERTIES = {
    "grad_fn": property(_grad_fn, doc="The node of the operation that made this tensor; None for leaves."),
    "output_nr": property(_output_nr, doc="Which result of its operation this tensor is."),
    "_base": property(_base, doc="The tensor that this one is a view of, or None."),
}
for _name, _member in _PROPERTIES.items():
    setattr(Tensor, _name, _member)
