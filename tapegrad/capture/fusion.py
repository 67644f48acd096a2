"""Pass: runs of elementwise instructions become groups that run tile by tile, so that a tile stays in the first cache.

A group's members walk the same number of elements in row-major order. What one of them makes and only they read is
never written to memory: it lies in a local buffer as long as a tile.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from tapegrad.capture.geometry import Geometry
from tapegrad.capture.notes import Instruction
from tapegrad.native.dtypes import FLOAT32, ITEM_BYTES
from tapegrad.runtime.layout import ELEMENTWISE
from tapegrad.runtime.replay import MAX_LOCALS

MAX_SUMS = 4  # after a group: each has a buffer in the first-level cache
LEAST_ELEMENTS = 1 << 14  # below, all that a run of instructions touches stays in the second-level cache anyway


class Operand(NamedTuple):
    """Where an elementwise kernel finds its result or an operand.

    Attributes:
        storage: the storage.
        offset: into it, in bytes.
        stride: 1, or 0 for a single element.
        item: bytes of an element.
        dtype: its dtype's code.
    """

    storage: int
    offset: int
    stride: int
    item: int
    dtype: int


class Walk(NamedTuple):
    """An elementwise instruction that walks contiguous elements: how many, its result and operands, their dtypes."""

    total: int
    operands: tuple[Operand, ...]
    dtypes: frozenset[int]

    @property
    def in_place(self) -> bool:
        """Whether it writes where it reads."""
        return any(operand == self.operands[0] for operand in self.operands[1:])


@dataclass(frozen=True)
class Sum:
    """An instruction that sums all of what a member of a group has made into one element.

    Attributes:
        total: how many elements are summed.
        source: where they are.
        result: where the sum goes.
        mean: whether it is divided by their number.
    """

    total: int
    source: Operand
    result: Operand
    mean: bool


@dataclass
class Group:
    """Instructions from ``first`` up to ``last``, which run tile by tile, and sums of their results after them.

    Attributes:
        walks: of the members.
        sums: of the instructions after ``last``: a generated loop takes them over, tiles leave them alone.
        local: the number of the buffer of each storage that is none of memory's.
        unstored: the storages that only members and sums touch.
    """

    first: int
    last: int
    walks: list[Walk]
    sums: list[Sum] = field(default_factory=list)
    local: dict[int, int] = field(default_factory=dict)
    unstored: set[int] = field(default_factory=set)

    @property
    def storages(self) -> set[int]:
        """All that members and sums touch."""
        touched = {operand.storage for walk in self.walks for operand in walk.operands}
        return touched | {one.result.storage for one in self.sums}

    @property
    def end(self) -> int:
        """The last instruction, sums included."""
        return self.last + len(self.sums)


class Run:
    """Walks that may be a group: tile after tile computes the same as one after the other.

    What is written in the group must be read there at the same place of the same tile.
    """

    def __init__(self, least_elements: int) -> None:
        self._least = least_elements
        self.walks: list[Walk] = []
        self._written: dict[int, Operand] = {}
        self._read: dict[int, set[Operand]] = {}

    def add(self, walk: Walk | None) -> bool:
        """Add a walk if it may join; return whether it has."""
        if walk is None or walk.total < self._least or (self.walks and walk.total != self.walks[0].total):
            return False
        result, *operands = walk.operands
        if self._written.get(result.storage, result) != result or self._read.get(result.storage, set()) - {result}:
            return False
        for operand in operands:
            if (
                result if operand.storage == result.storage else self._written.get(operand.storage, operand)
            ) != operand:
                return False
        self._written[result.storage] = result
        for operand in operands:
            self._read.setdefault(operand.storage, set()).add(operand)
        self.walks.append(walk)
        return True


def walk_of(instruction: Instruction, geometries: Mapping[int, Geometry]) -> Walk | None:
    """Return how an instruction walks its operands, or None if it is no walk over contiguous elements.

    Args:
        instruction: the instruction.
        geometries: of the slots.
    """
    if instruction.kind != ELEMENTWISE:
        return None
    result = geometries[instruction.results[0]]
    if result.numel == 0 or not result.contiguous:
        return None
    found = [_operand(instruction.result_storages[0], result, 1)]
    for slot, storage in zip(instruction.operands, instruction.operand_storages, strict=True):
        shown = geometries[slot]
        same = shown.contiguous and shown.shape == result.shape
        if not same and not shown.single:
            return None
        found.append(_operand(storage, shown, 0 if shown.single and (result.numel > 1 or not same) else 1))
    return Walk(result.numel, tuple(found), _set_of(tuple([operand.dtype for operand in found])))


@functools.cache
def _set_of(dtypes: tuple[int, ...]) -> frozenset[int]:
    return frozenset(dtypes)  # one object for all walks of these dtypes


def _operand(storage: int, shown: Geometry, stride: int) -> Operand:
    item = ITEM_BYTES[shown.dtype]
    return Operand(storage, shown.offset * item, stride, item, shown.dtype)


def sum_of(instruction: Instruction, geometries: Mapping[int, Geometry]) -> Sum | None:
    """Return which elements an instruction sums, or None if it is no sum or mean of all of a contiguous tensor.

    Args:
        instruction: the instruction.
        geometries: of the slots.
    """
    if instruction.op.name not in ("sum", "mean", "sum_to_shape"):
        return None
    source, result = geometries[instruction.operands[0]], geometries[instruction.results[0]]
    if result.numel != 1 or not source.contiguous or source.dtype < FLOAT32 or result.dtype != source.dtype:
        return None
    read = _operand(instruction.operand_storages[0], source, 1)
    written = _operand(instruction.result_storages[0], result, 0)
    return Sum(source.numel, read, written, instruction.op.name == "mean")


def find_groups(
    walks: Sequence[Walk | None],
    lifetimes: dict[int, tuple[int, int]],
    least_elements: int = LEAST_ELEMENTS,
    sums: Sequence[Sum | None] = (),
) -> list[Group]:
    """Return the groups among instructions.

    Args:
        walks: of the instructions, in order.
        lifetimes: of storages that hold intermediate results: the first and last instruction that touches them.
        least_elements: how many a group must walk.
        sums: of the instructions, where groups may end with sums.
    """
    groups: list[Group] = []
    run = Run(least_elements)
    for k, walk in enumerate([*walks, None]):
        if run.add(walk):
            continue
        count = len(run.walks)
        if count == 0:
            continue
        found = _sums_of(run.walks, sums[k : k + MAX_SUMS])
        if count > 1 or found:
            groups.append(Group(k - count, k - 1, run.walks, found))
        run = Run(least_elements)
        run.add(walk)
    for group in groups:
        _choose_local(group, lifetimes)
    return groups


def _sums_of(walks: Sequence[Walk], sums: Sequence[Sum | None]) -> list[Sum]:
    """Return the sums, of what the walks have made, that come first."""
    made = {walk.operands[0]: walk.total for walk in walks}
    touched = {operand.storage for walk in walks for operand in walk.operands}
    found: list[Sum] = []
    for one in sums:
        if one is None or made.get(one.source) != one.total or one.result.storage in touched:
            break
        found.append(one)
        touched.add(one.result.storage)
    return found


def widen_lifetimes(groups: Sequence[Group], lifetimes: dict[int, tuple[int, int]]) -> None:
    """Have what a group touches live as long as the group, all of whose members run on one tile before the next."""
    for group in groups:
        for storage in group.storages & lifetimes.keys():
            first, last = lifetimes[storage]
            lifetimes[storage] = (min(first, group.first), max(last, group.end))


def _choose_local(group: Group, lifetimes: dict[int, tuple[int, int]]) -> None:
    """Find what only the members touch, and give it a local buffer, which another gets when it is over."""
    for k, walk in enumerate(group.walks, group.first):
        first, last = lifetimes.get(walk.operands[0].storage, (-1, -1))
        if first == k and last <= group.end:
            group.unstored.add(walk.operands[0].storage)
    free: list[int] = []
    count = 0
    for k, walk in enumerate(group.walks, group.first):
        storage = walk.operands[0].storage
        first, last = lifetimes.get(storage, (-1, -1))
        if first == k and last <= group.last and (free or count < MAX_LOCALS):
            if not free:
                free.append(count)
                count += 1
            group.local[storage] = free.pop()
        for operand in walk.operands:
            if operand.storage in group.local and lifetimes[operand.storage][1] == k:
                free.append(group.local[operand.storage])
                lifetimes[operand.storage] = (lifetimes[operand.storage][0], -1)  # given back once
