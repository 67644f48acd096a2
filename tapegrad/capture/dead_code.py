"""Passes: leave out instructions whose results nobody reads, and single results where a kernel can do without."""

from __future__ import annotations

from collections.abc import Collection

from tapegrad.capture.notes import Instruction


def without_dead_code(instructions: list[Instruction], live: set[int]) -> list[Instruction]:
    """Return the instructions that something of lasting effect needs.

    Args:
        instructions: in order; views, which run nothing, are left out too.
        live: the storages whose contents count after the last instruction.
    """
    needed, kept = set(live), []
    for instruction in reversed(instructions):
        if instruction.kernel and not needed.isdisjoint(instruction.writes()):
            needed.update(instruction.reads())
            kept.append(instruction)
    return kept[::-1]


def without_dead_results(instructions: list[Instruction], temporary: Collection[int]) -> list[Instruction]:
    """Return the instructions, in which results that nobody reads are absent, if their op can leave them out.

    Args:
        instructions: in order; they change in place.
        temporary: the storages whose contents nobody sees after the call.
    """
    read = {storage for instruction in instructions for storage in instruction.reads()}
    for instruction in instructions:
        for k in instruction.op.spared:
            storage = instruction.result_storages[k]
            if storage in temporary and storage not in read:
                instruction.results = _without(instruction.results, k)
                instruction.result_storages = _without(instruction.result_storages, k)
    return instructions


def _without(numbers: tuple[int, ...], k: int) -> tuple[int, ...]:
    return (*numbers[:k], -1, *numbers[k + 1 :])
