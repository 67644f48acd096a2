"""Whether two recordings are of the same computation: the same ops on the same operands, by whatever slots."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

from tapegrad.capture.notes import Notes
from tapegrad.capture.storages import Storages
from tapegrad.runtime.machine import machine

Form = list[tuple[Any, ...]]


def form_of(notes: Notes, storages: Storages, outputs: Sequence[tuple[int, int]]) -> Form:
    """Return a recording in a form that does not depend on the numbers that slots and storages happen to have.

    Args:
        notes: the recording.
        storages: what its storages are.
        outputs: slot and storage of each result of the function.
    """
    namer = _Namer(storages)
    form: Form = [
        (
            instruction.op.code,
            instruction.kernel,
            instruction.in_place,
            tuple(instruction.attributes),
            tuple([namer.name(*place) for place in instruction.places()]),
        )
        for instruction in notes.instructions
    ]
    form.append(("outputs", *[namer.name(slot, storage) for slot, storage in outputs]))
    return form


class _Namer:
    def __init__(self, storages: Storages) -> None:
        self._inputs = {storage: k for k, storage in enumerate(storages.inputs)}
        self._offsets = dict(zip(storages.inputs, storages.offsets, strict=True))
        self._outside, self._constants = storages.outside | storages.written, storages.constants
        self._numbers: dict[int, int] = {}
        self._slots, self._storages = machine.table("slots"), machine.table("storages")

    def name(self, slot: int, storage: int) -> tuple[Any, ...]:
        if slot < 0:
            return ()
        row = self._slots[slot]
        ndim = int(row["ndim"])
        shape = row["shape"][:ndim].tobytes() + row["strides"][:ndim].tobytes()
        offset = int(row["offset"]) - self._offsets.get(storage, 0)
        return (*self._memory(storage), int(row["dtype"]), offset, shape)

    def _memory(self, storage: int) -> tuple[Any, ...]:
        if storage in self._inputs:
            return ("input", self._inputs[storage])
        if storage in self._outside:
            return ("outside", storage)
        if storage in self._constants:
            return ("constant", self._bytes(storage))
        return ("made", self._numbers.setdefault(storage, len(self._numbers)))

    def _bytes(self, storage: int) -> bytes:
        row = self._storages[storage]
        return ctypes.string_at(int(row["address"]), int(row["bytes"]))


def first_difference(before: Form, now: Form, notes: Notes) -> str:
    """Return what is different between the last recording and this one, for a message."""
    for k, (old, new) in enumerate(zip(before, now, strict=False)):
        if old == new:
            continue
        if k >= len(notes.instructions):
            return "what it returns"
        instruction = notes.instructions[k]
        return f"operation {k} ({instruction.op.name}, {instruction.line}): {_why(old, new)}"
    return f"the number of operations ({len(before) - 1}, then {len(now) - 1})"


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
