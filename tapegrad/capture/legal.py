"""The check of passes: what a pass returns must compute what it was given. It is on in the tests.

It takes about as long as all passes together, so elsewhere it is off, but for ``TAPEGRAD_CHECK_PASSES=1``.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Sequence

from tapegrad.capture.notes import Instruction

ENABLED = os.environ.get("TAPEGRAD_CHECK_PASSES", "") not in ("", "0")
Sight = tuple[int, int]  # a storage, and the identity of the instruction that wrote to it last (0: none in the program)


def check_pass(
    name: str,
    before: Sequence[Instruction],
    after: Sequence[Instruction],
    live: Collection[int],
    constants: Collection[int] = (),
) -> None:
    """Raise RuntimeError unless every instruction that is left meets in memory what it met before.

    Args:
        name: the pass's, for the message.
        before: the instructions that it was given, those that run nothing left out.
        after: those that it has returned.
        live: the storages whose contents count after the last instruction.
        constants: the storages whose contents are there before the first one.
    """
    before, after = _parts(before), _parts(after)
    wanted, ends = _sights(before, constants)
    found, ends_now = _sights(after, constants)
    for instruction in after:
        if found[id(instruction)] != wanted.get(id(instruction)):
            raise RuntimeError(
                f"the pass {name!r} has changed what {instruction.op.name} ({instruction.line}) reads: please report "
                f"it; without={name!r} leaves it out"
            )
    for storage in live:
        if ends.get(storage) != ends_now.get(storage):
            raise RuntimeError(f"the pass {name!r} has lost a result: please report it; without={name!r} leaves it out")


def _parts(instructions: Sequence[Instruction]) -> list[Instruction]:
    """Return the instructions, with those that were joined one by one."""
    return [part for instruction in instructions for part in instruction.parts or (instruction,)]


def _sights(
    instructions: Sequence[Instruction], constants: Collection[int]
) -> tuple[dict[int, set[Sight]], dict[int, int]]:
    """Return what each instruction meets in the storages that it reads and writes, and who wrote to each last."""
    writers: dict[int, int] = dict.fromkeys(constants, 0)
    sights: dict[int, set[Sight]] = {}
    for instruction in instructions:
        sights[id(instruction)] = {(storage, writers.get(storage, 0)) for storage in _touched(instruction)}
        for storage in instruction.writes():
            if storage not in constants:
                writers[storage] = id(instruction)
    return sights, writers


def _touched(instruction: Instruction) -> Iterator[int]:
    yield from instruction.reads()
    yield from instruction.writes()
