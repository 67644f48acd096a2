"""Whether two recordings are of the same computation: the same ops on the same operands, by whatever slots."""

from __future__ import annotations

import ctypes
from array import array
from collections.abc import Sequence
from typing import Any, NamedTuple

from tapegrad.capture.geometry import geometries_of
from tapegrad.capture.notes import Notes
from tapegrad.capture.storages import Storages
from tapegrad.runtime.machine import machine


class Form(NamedTuple):
    """A recording without the numbers that slots and storages happen to have.

    Attributes:
        words: of each instruction its op, kernel, whether it is in place, how many attributes and places it has, the
            attributes, and which of ``names`` its places have.
        names: what its places are, in the order in which they come up.
        outputs: which of ``names`` the function's results have.
        returned: what else it returns.
    """

    words: array[int]
    names: list[tuple[Any, ...]]
    outputs: list[int]
    returned: Any


def form_of(notes: Notes, storages: Storages, outputs: Sequence[tuple[int, int]], returned: Any) -> Form:
    """Return a recording in a form that does not depend on the numbers that slots and storages happen to have.

    Args:
        notes: the recording.
        storages: what its storages are.
        outputs: slot and storage of each result of the function.
        returned: what else it returns.
    """
    names = _Names(notes, storages)
    words = array("q")
    for instruction in notes.instructions:
        attributes, places = instruction.attributes, [names[place] for place in instruction.places()]
        head = (instruction.op.code, instruction.kernel, instruction.in_place, len(attributes), len(places))
        words.extend([*head, *attributes, *places])
    return Form(words, names.found, [names[place] for place in outputs], returned)


class _Names(dict[tuple[int, int], int]):
    """The numbers of places, a slot and its storage, by the order in which they come up; and the names for them."""

    def __init__(self, notes: Notes, storages: Storages) -> None:
        self.found: list[tuple[Any, ...]] = []
        self._geometries = notes.geometries
        self._inputs = dict(zip(storages.inputs, enumerate(storages.offsets), strict=True))
        self._outside, self._constants = storages.outside | storages.written, storages.constants
        self._made: dict[int, int] = {}
        self._storages = machine.table("storages")

    def __missing__(self, place: tuple[int, int]) -> int:
        self[place] = len(self.found)
        self.found.append(self._name(*place))
        return self[place]

    def _name(self, slot: int, storage: int) -> tuple[Any, ...]:
        if slot < 0:
            return ()
        geometry = self._geometries.get(slot) or geometries_of([slot])[slot]
        if storage in self._inputs:
            number, offset = self._inputs[storage]
            return "input", number, geometry._replace(offset=geometry.offset - offset)
        if storage in self._outside:
            return "outside", storage, geometry
        if storage in self._constants:
            return "constant", self._bytes(storage), geometry
        return "made", self._made.setdefault(storage, len(self._made)), geometry

    def _bytes(self, storage: int) -> bytes:
        row = self._storages[storage]
        return ctypes.string_at(int(row["address"]), int(row["bytes"]))


def first_difference(before: Form, now: Form, notes: Notes) -> str:
    """Return what is different between the last recording and this one, for a message."""
    old, new = _entries(before), _entries(now)
    for k, (instruction, a, b) in enumerate(zip(notes.instructions, old, new, strict=False)):
        if a != b:
            return f"operation {k} ({instruction.op.name}, {instruction.line}): {_why(a, b)}"
    if len(old) == len(new):
        return "what it returns"
    return f"the number of operations ({len(old)}, then {len(new)})"


def _entries(form: Form) -> list[tuple[Any, ...]]:
    """Return op, kernel, whether it is in place, attributes and the names of the places of each instruction."""
    found, at = [], 0
    while at < len(form.words):
        *head, attributes, places = form.words[at : at + 5]
        first = at + 5 + attributes
        found.append((*head, form.words[at + 5 : first], [form.names[k] for k in form.words[first : first + places]]))
        at = first + places
    return found


def _why(old: tuple[Any, ...], new: tuple[Any, ...]) -> str:
    if old[0] != new[0]:
        return "another operation than in the last call"
    if old[3] != new[3]:
        return "an argument that is a number has changed"
    for a, b in zip(old[4], new[4], strict=False):
        if a != b and a[:1] == b[:1] == ("constant",):
            return "a number made in Python has changed"
        if a != b:
            return "another tensor, or one of another shape"
    return "its operands have changed"
