"""Checked replays: a program's run beside an eager run of the function from the same state, instruction by instruction.

The program runs first, step by step, and what each step has made is kept. Then everything is put back, the function is
run as it is and recorded, and its results are compared with those of the program. A value that is written several times
is compared as it is after the last write. What remains is the state after the eager run.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from tapegrad.capture.notes import Instruction, Notes
from tapegrad.capture.program import Program
from tapegrad.capture.stepping import Snapshot, Stepper
from tapegrad.native.dtypes import FLOAT32, FLOAT64, ITEM_BYTES, NUMPY_DTYPES
from tapegrad.runtime.handle import Tensor
from tapegrad.runtime.machine import machine

TOLERANCES = {FLOAT32: 1e-4, FLOAT64: 1e-10}  # of the largest number beside it: sums may be in another order


class Trial:
    """A run of a program whose results are kept to be compared.

    Args:
        program: the program.
        arguments: the tensors to run it on.
    """

    def __init__(self, program: Program, arguments: Sequence[Tensor]) -> None:
        self._program, self._arguments = program, arguments
        self._snapshot = Snapshot(program, arguments)
        self._results: dict[tuple[int, int], Any] = {}  # by instruction and which of its writes
        self._last = _last_writers(program.notes.instructions)

    def run(self) -> int:
        """Run the program, and put everything back; return 0 or a status."""
        stepper = Stepper(self._program)
        try:
            status = stepper.bind(tensor._handle for tensor in self._arguments)
            for k, (first, end) in enumerate(self._program.spans):
                if status < 0:
                    return status
                status = stepper.step(k)
                for instruction in range(first, end):
                    self._keep(instruction)
            return status
        finally:
            self._snapshot.restore()
            self._snapshot.close()

    def _keep(self, k: int) -> None:
        """Keep copies of what instruction ``k`` has written, where it lies in memory."""
        found, storages = self._program.storages, machine.table("slots")["storage"]
        for n, slot, storage in written_by(self._program.instructions[k]):
            own = self._program.slot(slot)
            if storage not in found.temporary or self._program.lies_in_memory(storage):
                self._results[k, n] = contents(own, int(storages[own]))

    def difference(self, notes: Notes) -> str:
        """Return, for a message, the first instruction that has not the result of the eager run; "" if there is none.

        Args:
            notes: of the eager run, which has the same form as the program's recording.
        """
        places = {id(instruction): k for k, instruction in enumerate(self._program.notes.instructions)}
        for k, instruction in enumerate(self._program.instructions):
            eager: dict[
                int, tuple[int, int, int]
            ] = {}  # by the program's storage: the instruction that wrote it, and where it lies now
            for part in instruction.parts or (instruction,):
                place = places[id(part)]
                now = {n: (slot, other) for n, slot, other in written_by(notes.instructions[place])}
                eager |= {storage: (place, *now[n]) for n, _, storage in written_by(part)}
            for n, _, storage in written_by(instruction):
                place, *where = eager[storage]
                if (k, n) in self._results and self._last[storage] == place:
                    found, wanted = self._results[k, n], contents(*where)
                    if not _agree(found, wanted):
                        return (
                            f"instruction {k} ({instruction.op.name}, {instruction.line}): {_compared(found, wanted)}"
                        )
        return ""


def written_by(instruction: Instruction) -> Iterator[tuple[int, int, int]]:
    """Yield place, slot and storage of everything that an instruction writes: the results, then the operands."""
    written = set(instruction.writes())
    slots = (*instruction.results, *instruction.operands)
    for place, storage in enumerate((*instruction.result_storages, *instruction.operand_storages)):
        if storage in written:
            written.discard(storage)
            yield place, slots[place], storage


def contents(slot: int, storage: int) -> Any:
    """Return a copy of what a slot shows of a storage's memory."""
    row, rows = machine.table("slots")[slot], machine.table("storages")
    ndim, code = int(row["ndim"]), int(row["dtype"])
    shape, strides = row["shape"][:ndim].tolist(), row["strides"][:ndim].tolist()
    item = ITEM_BYTES[code]
    if 0 in shape:
        return np.zeros(shape, NUMPY_DTYPES[code])
    span = 1 + sum((length - 1) * stride for length, stride in zip(shape, strides, strict=True))
    start = int(rows["address"][storage]) + int(row["offset"]) * item
    flat = np.frombuffer(ctypes.string_at(start, span * item), NUMPY_DTYPES[code])
    return np.lib.stride_tricks.as_strided(flat, shape, [stride * item for stride in strides])


def _last_writers(instructions: Sequence[Instruction]) -> dict[int, int]:
    return {storage: k for k, instruction in enumerate(instructions) for storage in instruction.writes()}


def _agree(a: Any, b: Any) -> bool:
    if np.array_equal(a, b, equal_nan=a.dtype.kind == "f"):
        return True
    if a.dtype.kind != "f" or a.shape != b.shape:
        return False
    finite = np.isfinite(b)
    if not np.array_equal(np.where(finite, 0, a), np.where(finite, 0, b), equal_nan=True):
        return False
    tolerance = TOLERANCES[FLOAT32 if a.dtype == np.float32 else FLOAT64]
    # zeros in place of what is not finite, so that nothing is subtracted from infinity
    left, right = (np.where(finite, x, 0).astype(np.float64) for x in (a, b))
    return bool(np.all(np.abs(left - right) <= tolerance * max(np.abs(right).max(initial=0.0), 1e-30)))


def _compared(found: Any, wanted: Any) -> str:
    with np.errstate(all="ignore"):
        apart = ~((found == wanted) | ((found != found) & (wanted != wanted)))
    place = tuple(int(i) for i in np.argwhere(apart)[0]) if found.ndim else ()
    return f"the replay has {found[place]}, the function {wanted[place]}, at {list(place)} of {list(found.shape)}"
