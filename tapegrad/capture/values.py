"""What an instruction's result depends on: for the passes that find the same value twice, or one that never changes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from itertools import chain

from tapegrad.capture.notes import Instruction


def write_counts(instructions: Sequence[Instruction]) -> Counter[int]:
    """Return how often each storage is written."""
    return Counter(chain.from_iterable([instruction.writes() for instruction in instructions]))


def is_pure(instruction: Instruction, made: Collection[int], counts: Counter[int]) -> bool:
    """Return whether an instruction makes values that depend on its operands alone and stay as they are.

    Args:
        instruction: the instruction.
        made: the storages that the call makes.
        counts: how often each storage is written.
    """
    if instruction.in_place or instruction.updates():
        return False
    results = [storage for storage in instruction.result_storages if storage >= 0]
    return bool(results) and all(storage in made and counts[storage] == 1 for storage in results)
