"""Pass: leave out instructions whose results nobody reads."""

from __future__ import annotations

from tapegrad.capture.notes import Instruction


def without_dead_code(instructions: list[Instruction], live: set[int]) -> list[Instruction]:
    """Return the instructions that something of lasting effect needs.

    Args:
        instructions: in order; views, which run nothing, are left out too.
        live: the storages whose contents count after the last instruction.
    """
    needed, kept = set(live), []
    for instruction in reversed(instructions):
        if instruction.kernel and any(storage in needed for storage in instruction.writes()):
            needed.update(instruction.reads())
            kept.append(instruction)
    return kept[::-1]
