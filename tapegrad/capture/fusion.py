"""Pass: runs of elementwise instructions become groups that run tile by tile, so that a tile stays in the first cache.

A group's members walk the same number of elements in row-major order. What one of them makes and only they read is
never written to memory: it lies in a local buffer as long as a tile.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from tapegrad.capture.notes import Instruction
from tapegrad.native.dtypes import ITEM_BYTES
from tapegrad.runtime.layout import CONTIGUOUS, ELEMENTWISE
from tapegrad.runtime.machine import machine
from tapegrad.runtime.replay import MAX_LOCALS

LEAST_ELEMENTS = 1 << 14  # below, all that a run of instructions touches stays in the second-level cache anyway


@dataclass(frozen=True)
class Operand:
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


@dataclass(frozen=True)
class Walk:
    """An elementwise instruction that walks contiguous elements: how many, its result and its operands."""

    total: int
    operands: tuple[Operand, ...]

    @property
    def dtypes(self) -> set[int]:
        """The dtypes of result and operands."""
        return {operand.dtype for operand in self.operands}

    @property
    def in_place(self) -> bool:
        """Whether it writes where it reads."""
        return any(operand == self.operands[0] for operand in self.operands[1:])


@dataclass
class Group:
    """Instructions from ``first`` up to ``last``, which run tile by tile.

    Attributes:
        walks: of the members.
        local: the number of the buffer of each storage that is none of memory's.
    """

    first: int
    last: int
    walks: list[Walk]
    local: dict[int, int] = field(default_factory=dict)


def walk_of(instruction: Instruction) -> Walk | None:
    """Return how an instruction walks its operands, or None if it is no walk over contiguous elements."""
    if instruction.kind != ELEMENTWISE:
        return None
    slots = machine.table("slots")
    result = slots[instruction.results[0]]
    total = int(result["numel"])
    if total == 0 or not result["flags"] & CONTIGUOUS:
        return None
    shape = result["shape"][: result["ndim"]].tolist()
    found = []
    storages = [instruction.result_storages[0], *instruction.operand_storages]
    for k, slot in enumerate([instruction.results[0], *instruction.operands]):
        row = slots[slot]
        own_shape, strides = (row[name][: row["ndim"]].tolist() for name in ("shape", "strides"))
        single = all(n == 1 or stride == 0 for n, stride in zip(own_shape, strides, strict=True))
        same = bool(row["flags"] & CONTIGUOUS) and own_shape == shape
        if k > 0 and single and (total > 1 or not same):
            stride = 0
        elif same or k == 0:
            stride = 1
        else:
            return None
        item = ITEM_BYTES[int(row["dtype"])]
        found.append(Operand(storages[k], int(row["offset"]) * item, stride, item, int(row["dtype"])))
    return Walk(total, tuple(found))


def find_groups(
    walks: Sequence[Walk | None], lifetimes: dict[int, tuple[int, int]], least_elements: int = LEAST_ELEMENTS
) -> list[Group]:
    """Return the groups among instructions.

    Args:
        walks: of the instructions, in order.
        lifetimes: of storages that hold intermediate results: the first and last instruction that touches them.
        least_elements: how many a group must walk.
    """
    groups: list[Group] = []
    members: list[Walk] = []
    for k, walk in enumerate([*walks, None]):
        fits = walk is not None and walk.total >= least_elements
        if walk is not None and fits and _may_join(members, walk):
            members.append(walk)
            continue
        if len(members) > 1:
            groups.append(Group(k - len(members), k - 1, members))
        members = [walk] if walk is not None and fits else []
    for group in groups:
        _choose_local(group, lifetimes)
    return groups


def widen_lifetimes(groups: Sequence[Group], lifetimes: dict[int, tuple[int, int]]) -> None:
    """Have what a group touches live as long as the group, all of whose members run on one tile before the next."""
    for group in groups:
        for storage in {operand.storage for walk in group.walks for operand in walk.operands} & lifetimes.keys():
            first, last = lifetimes[storage]
            lifetimes[storage] = (min(first, group.first), max(last, group.last))


def _may_join(members: list[Walk], walk: Walk) -> bool:
    """Return whether tile after tile computes the same as member after member.

    What is written in the group must be read there at the same place of the same tile.
    """
    if not members or members[0].total != walk.total:
        return False
    places = {operand.storage: operand for member in [*members, walk] for operand in member.operands[:1]}
    return all(
        operand == places[operand.storage]
        for member in [*members, walk]
        for operand in member.operands
        if operand.storage in places
    )


def _choose_local(group: Group, lifetimes: dict[int, tuple[int, int]]) -> None:
    """Give a local buffer to what only the members touch, and the buffer to another when it is over."""
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
