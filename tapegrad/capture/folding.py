"""Pass: what depends on constants alone is not computed again: its value in the recording is a constant too.

Larger constants than RECORDED_BYTES would take more from the caches than computing them takes time.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from tapegrad.capture.notes import Instruction
from tapegrad.capture.values import is_pure, write_counts
from tapegrad.runtime.memory import RECORDED_BYTES


def without_constants(
    instructions: Sequence[Instruction],
    constants: set[int],
    temporary: Collection[int],
    sizes: Any,
) -> list[Instruction]:
    """Return the instructions without those that compute constants, whose storages are added to ``constants``.

    Args:
        instructions: in order.
        constants: the storages whose contents never change.
        temporary: the storages whose contents nobody sees after the call; they hold what the recording put there.
        sizes: of each storage its bytes.
    """
    counts = write_counts(instructions)
    kept = []
    for instruction in instructions:
        of_constants = constants.issuperset(instruction.reads()) and is_pure(instruction, temporary, counts)
        results = [storage for storage in instruction.result_storages if storage >= 0] if of_constants else []
        if results and sum(sizes[storage] for storage in results) <= RECORDED_BYTES:
            constants.update(results)
        else:
            kept.append(instruction)
    return kept
