"""What a run of a function has computed, as the machine's recorder has noted it: a list of instructions."""

from __future__ import annotations

import bisect
import gc
import mmap
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import numpy as np

from tapegrad.autograd.anomaly import record_lines, site_line
from tapegrad.capture.errors import CaptureError
from tapegrad.capture.geometry import Geometry, geometries_of
from tapegrad.ops.registry import Op, op_of_code
from tapegrad.runtime.layout import FRAME_INPUTS, MAX_OUTPUTS
from tapegrad.runtime.machine import machine
from tapegrad.runtime.record import (
    NOTE_FRAME,
    NOTE_IN_PLACE,
    NOTE_KERNEL,
    NOTE_KIND,
    NOTE_LENGTH,
    NOTE_OP,
    NOTE_SITE,
    NOTE_WORDS,
)


@dataclass(slots=True)
class Instruction:
    """A kernel's run: what it read and wrote, by slots and storages (-1 for an absent operand).

    Attributes:
        kind: how emit runs it: ELEMENTWISE, VIEW or GENERAL.
        kernel: the kernel's address, 0 for a view.
        in_place: whether the first result lies in memory that was there before.
        site: where the line of the program that it comes from is noted.
        parts: the instructions in whose place it stands, where a pass has joined some.
    """

    op: Op
    kind: int
    kernel: int
    in_place: bool
    site: int
    results: tuple[int, ...]
    operands: tuple[int, ...]
    attributes: tuple[int, ...]
    result_storages: tuple[int, ...]
    operand_storages: tuple[int, ...]
    parts: tuple[Instruction, ...] = ()

    @property
    def first_result(self) -> int:
        """The slot of the first result that there is; of the first operand, where the kernel writes into those."""
        return next((slot for slot in (*self.results, *self.operands) if slot >= 0), -1)

    def places(self) -> list[tuple[int, int]]:
        """Return slot and storage of each result and operand."""
        return [*zip(self.results + self.operands, self.result_storages + self.operand_storages, strict=True)]

    def reads(self) -> tuple[int, ...]:
        """Return the storages whose contents the kernel reads."""
        found = _present(self.operand_storages)
        if self.op.shape_only:
            unread = {name.lstrip("*") for name in self.op.shape_only}
            names = [name.lstrip("*") for name in self.op.inputs]
            places = enumerate(self.operand_storages)
            found = tuple([s for k, s in places if s >= 0 and names[k % len(names)] not in unread])
        return (*found, self.result_storages[0]) if self.in_place and self.op.accumulates else found

    def writes(self) -> tuple[int, ...]:
        """Return the storages whose contents the kernel changes."""
        found = _present(self.result_storages) if self.kernel else ()
        return found + self.updates() if self.op.writes else found

    def updates(self) -> tuple[int, ...]:
        """Return the storages of the operands that the kernel writes into."""
        if not self.op.writes:
            return ()
        mask, roles = self.op.mask(self.op.writes), len(self.op.inputs)
        return tuple([s for k, s in enumerate(self.operand_storages) if s >= 0 and mask >> k % roles & 1])

    @property
    def line(self) -> str:
        """The line of the program that it comes from, as ``file.py:12``."""
        return site_line(self.site)


def _present(storages: tuple[int, ...]) -> tuple[int, ...]:
    return tuple([storage for storage in storages if storage >= 0]) if -1 in storages else storages


@dataclass
class Notes:
    """A finished recording.

    Attributes:
        instructions: what was run, in order.
        geometries: what each slot that they name shows.
        number: of the capture; storages made in it have it in their row.
        slots: that died meanwhile and were put aside.
        storages: likewise.
        data: storages that were made of Python's data.
        deferred: what the call has done in Python and a replay must do after the program: schedules' steps.
        refreshers: what must be called before a replay, to bring numbers in memory (learning rates) up to date.
        updated: whether an optimiser has stepped after its schedule.
        gradients: of every leaf that had one before or has one now its slot: the handles (before, now), -1 for none.
    """

    number: int
    instructions: list[Instruction] = field(default_factory=list)
    geometries: dict[int, Geometry] = field(default_factory=dict)
    slots: set[int] = field(default_factory=set)
    storages: set[int] = field(default_factory=set)
    data: set[int] = field(default_factory=set)
    deferred: list[Callable[[], Any]] = field(default_factory=list)
    refreshers: list[Callable[[], None]] = field(default_factory=list)
    updated: bool = False
    gradients: dict[int, tuple[int, int]] = field(default_factory=dict)


_memory: list[mmap.mmap] = []  # for the notes; pages that nobody touches take no memory
_captures = 0
_turn = threading.Lock()
_PATIENCE = 60  # seconds


def _forget_others() -> None:
    """End the capture of a thread that a forked process has not; that of the forking thread goes on."""
    global _turn
    if machine.capturing == threading.get_ident():
        return
    _turn = threading.Lock()
    if machine.capturing:
        machine.state["capture"] = machine.state["capture_id"] = machine.capturing = 0
        release(Notes(0, slots=_put_aside("slots", "next"), storages=_put_aside("storages", "owner")))


os.register_at_fork(after_in_child=_forget_others)


def _note_words() -> Any:
    if not _memory:
        _memory.append(
            mmap.mmap(-1, 8 * NOTE_WORDS, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        )  # a forked child has its own
    return np.frombuffer(_memory[0], np.int64)


def _gradients() -> dict[int, int]:
    slots = machine.table("slots")
    return {int(slot): int(slots["grad"][slot]) for slot in np.flatnonzero((slots["grad"] >= 0) & (slots["refs"] > 0))}


@contextmanager
def collector_off() -> Iterator[None]:
    """Keep Python's collector off: it would walk the instructions again and again while more of them are made.

    It was a quarter of the time that capturing 200,000 operations took.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


@contextmanager
def recording() -> Iterator[Notes]:
    """Note what this thread computes inside of the ``with`` block; the notes are complete when it ends.

    Captures of several threads take turns.

    Raises:
        RuntimeError: this thread is capturing already, another one does not come to an end, or the notes do not fit
            into memory.
    """
    if machine.capturing == threading.get_ident():
        raise RuntimeError("a function that is being captured cannot capture another one: call that one uncompiled")
    if not _turn.acquire(timeout=_PATIENCE):
        raise RuntimeError(f"another thread has been capturing a function for {_PATIENCE} seconds")
    try:
        with _recording() as notes:
            yield notes
    finally:
        _turn.release()


@contextmanager
def _recording() -> Iterator[Notes]:
    global _captures
    words = _note_words()
    _captures += 1
    notes = Notes(_captures)
    before = _gradients()
    machine.modes()  # makes this thread the one that the machine knows
    state = machine.state
    machine.deferred, machine.made_of_data, machine.refreshers = [], [], {}
    state["capture_top"], state["capture_thread"], state["capture_id"] = 0, state["thread"], notes.number
    machine.capturing = threading.get_ident()
    state["capture"] = words.ctypes.data
    try:
        with record_lines():
            yield notes
    finally:
        state["capture"] = 0
        state["capture_id"] = 0
        machine.capturing = 0
        top = int(state["capture_top"])
        notes.slots, notes.storages = _put_aside("slots", "next"), _put_aside("storages", "owner")
    if top > NOTE_WORDS:
        release(notes)
        raise RuntimeError(f"the function runs too many operations to be captured ({top} words of notes)")
    notes.data = set(machine.made_of_data)
    notes.refreshers = list(machine.refreshers.values())
    notes.deferred = [call for call, _ in machine.deferred]
    after = _gradients()
    notes.gradients = {slot: (before.get(slot, -1), after.get(slot, -1)) for slot in before.keys() | after.keys()}
    with collector_off():
        places, notes.instructions = _decode(words[:top])
        named = set(chain.from_iterable([i.results + i.operands for i in notes.instructions]))
        notes.geometries = geometries_of(named - {-1})
    for call, place in machine.deferred:
        numbers = _numbers_of(call)
        later = notes.instructions[bisect.bisect_left(places, place) :]
        notes.updated |= any(not numbers.isdisjoint(instruction.operand_storages) for instruction in later)
    for instruction in notes.instructions:
        if instruction.op.shape_from_values:
            release(notes)
            raise CaptureError(
                f"{instruction.op.name} at {instruction.line}: the shape of its result depends on values, and a replay "
                "cannot change shapes; use tg.where or a mask of fixed shape"
            )


def _put_aside(table: str, link: str) -> set[int]:
    """Return the rows that were put aside; they are the caller's now."""
    rows = machine.table(table)[link]
    found, row = set(), int(machine.state[f"{table}_aside"])
    while row >= 0:
        found.add(row)
        following = int(rows[row])
        rows[row] = -1  # a storage's link lies where its owner's number does: it would free some other tensor's array
        row = following
    machine.state[f"{table}_aside"] = -1
    return found


def release(notes: Notes) -> None:
    """Let the machine use again what was put aside."""
    for slot in notes.slots:
        machine.recycle(slot, -1)
    for storage in notes.storages:
        machine.recycle(-1, storage)
    notes.slots, notes.storages = set(), set()


def _numbers_of(call: Any) -> set[int]:
    """Return the storages of the numbers of the optimiser whose schedule a deferred call steps."""
    rows = machine.table("handles")["slot"], machine.table("slots")["storage"]
    handles = [numbers.handle for numbers in call.func.__self__.optimizer._numbers.values()]
    return {int(rows[1][rows[0][handle]]) for handle in handles}


def _shared(words: Any) -> Any:
    """Return words as Python's numbers, each of those of rows one object however often it is named."""
    small = (words >= -1) & (words < len(words))
    limit = int(words[small].max(initial=0)) + 1
    numbers = np.append(np.arange(limit, dtype=object), -1)
    found = numbers[np.where(small, words, 0)]
    found[~small] = words[~small]
    return found


def _decode(words: Any) -> tuple[list[int], list[Instruction]]:
    """Return where each note begins, and what they say."""
    values, at = tuple(_shared(words).tolist()), 0
    places, found = [], []
    while at < len(values):
        note = values[at : at + values[at + NOTE_LENGTH]]
        frame = note[NOTE_FRAME:]
        inputs = frame[3]
        first = FRAME_INPUTS + inputs
        storages = first + frame[4]
        places.append(at)
        op = op_of_code(note[NOTE_OP])
        instruction = Instruction(
            op,
            note[NOTE_KIND],
            note[NOTE_KERNEL],
            bool(note[NOTE_IN_PLACE]),
            note[NOTE_SITE],
            frame[: op.outputs],
            frame[FRAME_INPUTS:first],
            frame[first:storages],
            frame[storages : storages + op.outputs],
            frame[storages + MAX_OUTPUTS : storages + MAX_OUTPUTS + inputs],
        )
        found.append(instruction)
        at += note[NOTE_LENGTH]
    return places, found
