"""Pass: elementwise instructions of one length that could be one group are brought together.

What stands between them moves in front of the group, where it needs nothing of it, or behind: in a captured step, the
sum of a loss from between the operations of its forward and its backward sweep.
"""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Callable, Sequence

from tapegrad.capture.fusion import LEAST_ELEMENTS, Run, Walk
from tapegrad.capture.notes import Instruction

_AHEAD = 16  # instructions that are looked at beyond the last member: the pass is linear


class _Touched:
    """The storages that some instructions read and write."""

    def __init__(self) -> None:
        self.read: set[int] = set()
        self.written: set[int] = set()

    def add(self, read: set[int], written: set[int]) -> None:
        self.read |= read
        self.written |= written

    def conflicts(self, read: set[int], written: set[int]) -> bool:
        """Return whether an instruction that touches these must keep its place beside the others."""
        return not (
            self.written.isdisjoint(read) and self.written.isdisjoint(written) and self.read.isdisjoint(written)
        )


def gathered(
    instructions: Sequence[Instruction], walks: Sequence[Walk | None], least_elements: int = LEAST_ELEMENTS
) -> list[int]:
    """Return an order of the instructions, as their numbers, that computes the same.

    Args:
        instructions: in the order in which they were run.
        walks: of the instructions, where they walk contiguous elements.
        least_elements: how many a group must walk.
    """
    touched = functools.cache(lambda k: ({*instructions[k].reads()}, {*instructions[k].writes()}))
    order: list[int] = []
    left = deque(range(len(instructions)))
    run = Run(least_elements)
    while left:
        first = left.popleft()
        if not run.add(walks[first]):
            order.append(first)
            continue
        members, between = _look_ahead(run, first, left, walks, touched)
        before, after = _apart(members, between, touched)
        order += before + members
        left.extendleft(reversed(after))
        run = Run(least_elements)
    return order


def _look_ahead(
    run: Run,
    first: int,
    left: deque[int],
    walks: Sequence[Walk | None],
    touched: Callable[[int], tuple[set[int], set[int]]],
) -> tuple[list[int], list[int]]:
    """Take the members of a run, and what stands between them, out of what is left."""
    members = [first]
    between: list[int] = []
    skipped: list[int] = []
    passed = _Touched()  # by what is not in the run: a member that conflicts with it cannot move in front of it
    while left and len(skipped) < _AHEAD:
        k = left.popleft()
        if not passed.conflicts(*touched(k)) and run.add(walks[k]):
            members.append(k)
            between += skipped
            skipped = []
        else:
            skipped.append(k)
            passed.add(*touched(k))
    left.extendleft(reversed(skipped))
    return members, between


def _apart(
    members: Sequence[int], between: Sequence[int], touched: Callable[[int], tuple[set[int], set[int]]]
) -> tuple[list[int], list[int]]:
    """Sort what stands between the members of a run into what moves in front of it and what moves behind it."""
    before, after = [], []
    group = _Touched()
    for k in members:
        group.add(*touched(k))
    for k in between:
        if group.conflicts(*touched(k)):
            after.append(k)
            group.add(*touched(k))
        else:
            before.append(k)
    return before, after
