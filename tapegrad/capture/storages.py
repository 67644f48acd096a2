"""What the storages of a recording are to the program: arguments, constants, intermediate results, or lasting ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from tapegrad.capture.errors import CaptureError
from tapegrad.capture.geometry import Geometry, geometries_of
from tapegrad.capture.notes import Notes
from tapegrad.runtime.handle import Tensor
from tapegrad.runtime.machine import machine


@dataclass
class Storages:
    """The storages that the instructions of a recording touch.

    Attributes:
        inputs: of the arguments, in their order.
        offsets: where in them the arguments begin, in elements.
        outside: that were there before the call and are no argument's: parameters, buffers, states of optimisers.
        written: those among ``outside`` that the call writes into.
        constants: made in the call from Python's data; only read.
        temporary: made in the call and gone with it.
        kept: made in the call and still alive after it, such as gradients.
        problem: why a replay could not repeat the call; empty where it can.
    """

    inputs: list[int]
    offsets: list[int]
    outside: set[int] = field(default_factory=set)
    written: set[int] = field(default_factory=set)
    constants: set[int] = field(default_factory=set)
    temporary: set[int] = field(default_factory=set)
    kept: set[int] = field(default_factory=set)
    problem: str = ""


def storage_of(tensor: Tensor) -> int:
    """Return the storage of a tensor."""
    return int(machine.table("slots")["storage"][slot_of(tensor)])


def slot_of(tensor: Tensor) -> int:
    """Return the slot that a tensor's handle names."""
    return int(machine.table("handles")["slot"][tensor._handle])


def _span(shown: Geometry) -> tuple[int, int]:
    """Return the first and the last element of its storage that a slot shows."""
    length = sum((n - 1) * stride for n, stride in zip(shown.shape, shown.strides, strict=True))
    return shown.offset, shown.offset + length


def _check_spans(notes: Notes, arguments: Sequence[Tensor], inputs: Sequence[int]) -> None:
    """Raise CaptureError where memory beside an argument is touched: beside another argument lies something else."""
    given = [slot_of(tensor) for tensor in arguments]
    shown = geometries_of(given)
    spans = {storage: _span(shown[slot]) for storage, slot in zip(inputs, given, strict=True)}
    for instruction in notes.instructions if spans else ():
        for slot, storage in instruction.places():
            if storage in spans and notes.geometries[slot].numel > 0:
                first, last = _span(notes.geometries[slot])
                if first < spans[storage][0] or last > spans[storage][1]:
                    raise CaptureError(
                        f"memory beside an argument is touched ({instruction.op.name}, {instruction.line}), of the "
                        "tensor that the argument is a view of: pass that one"
                    )


def check_arguments(arguments: Sequence[Tensor]) -> None:
    """Raise CaptureError where two arguments lie in one storage: a recording could not tell them apart."""
    places: dict[int, int] = {}
    for k, tensor in enumerate(arguments):
        first = places.setdefault(storage_of(tensor), k)
        if first != k:
            raise CaptureError(
                f"two arguments share memory, tensors {first} and {k} of the call: pass a clone of one of them, or the "
                "tensor that both are views of"
            )


def _check_overlaps(notes: Notes, found: Storages) -> None:
    """Raise CaptureError where memory is written that two storages lie over, as of two tensors of one NumPy array."""
    rows = machine.table("storages")
    lasting = {*found.inputs, *found.outside, *found.written, *found.constants}
    spans = sorted((int(rows["address"][s]), int(rows["bytes"][s]), s) for s in lasting if rows["bytes"][s] > 0)
    touching = set()
    end, last = 0, -1
    for address, size, storage in spans:
        if address < end:
            touching |= {storage, last}
        if address + size > end:
            end, last = address + size, storage
    for instruction in notes.instructions if touching else ():
        if not touching.isdisjoint(instruction.writes()):
            raise CaptureError(
                f"{instruction.op.name} at {instruction.line} writes into memory that another tensor, made of the same "
                "NumPy array, shows too: make one tensor of the array and views of that, or a copy"
            )


def classify(notes: Notes, arguments: Sequence[Tensor]) -> Storages:
    """Sort the storages of a recording.

    Raises:
        CaptureError: memory is touched that overlaps an argument's, or two tensors' memory overlaps and is written.
    """
    offsets = [int(machine.table("slots")["offset"][slot_of(tensor)]) for tensor in arguments]
    found = Storages([storage_of(tensor) for tensor in arguments], offsets)
    _check_spans(notes, arguments, found.inputs)
    rows = machine.table("storages")
    made = set(np.flatnonzero(rows["made_in"] == notes.number).tolist())
    inputs = set(found.inputs)
    touched = set(inputs)
    for instruction in notes.instructions:
        filled = instruction.updates()  # what was there before does not count: it was never set
        for storage in instruction.reads():
            if storage in touched or (storage in filled and storage not in notes.data):
                continue
            touched.add(storage)
            if storage in made:
                found.constants.add(storage)
        for storage in instruction.writes():
            touched.add(storage)
            if storage in found.constants:
                found.problem = (
                    f"a tensor made of Python's data is written into ({instruction.op.name}, {instruction.line}): a "
                    "replay would not make it anew; make it with tg.zeros, tg.full or another operation, or outside"
                )
            if storage not in made and storage not in inputs:
                found.written.add(storage)
    results = (touched & made) - found.constants - inputs
    found.outside = touched - made - inputs
    found.temporary = results & notes.storages
    found.kept = results - notes.storages
    _check_overlaps(notes, found)
    if notes.updated:
        found.problem = (
            "a learning rate schedule steps before its optimiser: call its step() after the optimiser's, or outside"
        )
    dropped = {storage for storage in found.outside if rows["refs"][storage] <= 0}
    for instruction in notes.instructions if dropped else ():
        if not dropped.isdisjoint(instruction.reads()):
            found.problem = (
                f"a value that the previous call has made is read ({instruction.op.name}, {instruction.line}) and "
                "dropped: return it and pass it in, or write into a tensor that stays"
            )
    return found
