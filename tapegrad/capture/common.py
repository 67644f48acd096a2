"""Pass: what an earlier instruction has computed is not computed again (common subexpressions)."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from tapegrad.capture.geometry import Geometry
from tapegrad.capture.notes import Instruction
from tapegrad.capture.values import is_pure, write_counts


def without_repetition(
    instructions: Sequence[Instruction],
    made: Collection[int],
    temporary: Collection[int],
    geometries: Mapping[int, Geometry],
) -> list[Instruction]:
    """Return the instructions without those whose results are there already; what read those reads the others.

    Operands of the instructions that are left change in place.

    Args:
        instructions: in order.
        made: the storages that the call makes.
        temporary: those of which nobody sees the contents afterwards.
        geometries: of the slots.
    """
    counts = write_counts(instructions)
    versions: dict[int, int] = {}  # how often a storage has been written by now
    first: dict[Any, Instruction] = {}
    instead: dict[int, int] = {}  # for the storage of a result that is not computed: the one that has the same
    kept: list[Instruction] = []
    for instruction in instructions:
        if instead:
            instruction.operand_storages = tuple([instead.get(s, s) for s in instruction.operand_storages])
        if is_pure(instruction, made, counts):
            key = _key(instruction, versions, geometries)
            other = first.setdefault(key, instruction)
            if other is not instruction and all(s in temporary for s in instruction.result_storages if s >= 0):
                instead |= zip(instruction.result_storages, other.result_storages, strict=True)
                instead.pop(-1, None)
                continue
        for storage in instruction.writes():
            versions[storage] = versions.get(storage, 0) + 1
        kept.append(instruction)
    return kept


def _key(instruction: Instruction, versions: dict[int, int], geometries: Mapping[int, Geometry]) -> Any:
    """Return what the results depend on: the kernel, the operands' contents, all shapes."""
    storages = instruction.operand_storages
    contents = tuple([versions.get(storage, 0) for storage in storages])
    shown = tuple([geometries.get(slot) for slot in instruction.results + instruction.operands])
    return instruction.op.code, instruction.kernel, instruction.attributes, storages, contents, shown
