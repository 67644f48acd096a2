"""Pass: a group of elementwise instructions becomes one kernel, made of the ops' formulas.

Over many elements it is a loop (kernels/fused.py), over one straight-line code (kernels/straight.py).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from tapegrad.capture.fusion import Group, Operand, Walk
from tapegrad.capture.notes import Instruction
from tapegrad.kernels import fused, straight
from tapegrad.kernels.fused import Applied, FusedLoop
from tapegrad.native.cache import compile_function, is_cached
from tapegrad.native.dtypes import FLOAT32
from tapegrad.runtime.replay import SCALAR_OPS

MOST_MEMBERS = 64  # of a loop: more take longer to compile than they save, and their values do not fit into registers
# Seconds for each element and op by tiles, and those that a loop and each of its formulas take to compile. Measured:
# by tiles and generated two operations took 0.13 and 0.10 ns an element, a mean of squares 0.16 and 0.07, where() of
# two branches 0.28 and 0.12, a chain of 23 with its gradient 3.3 and 1.5; the chain's loop took 0.47 s to compile.
_TILES, _COMPILED, _COMPILED_EACH = 1e-10, 0.2, 0.012
MOST_STORES = 8  # each has a buffer in the first-level cache
# The same for single numbers.
_ONE_BY_ONE, _STRAIGHT, _STRAIGHT_EACH = 9e-9, 0.02, 1e-4


_addresses: dict[str, int] = {}  # of the kernels that this process has, by their keys


@dataclass(frozen=True)
class Generated:
    """A loop for a group, and where in memory its values lie.

    Attributes:
        loop: what is computed.
        loaded: where each load is from.
        stored: where each store goes.
        sums: where each sum goes.
        total: how many elements.
    """

    loop: FusedLoop
    loaded: tuple[Operand, ...]
    stored: tuple[Operand, ...]
    sums: tuple[Operand, ...]
    total: int

    signature = fused.SIGNATURE

    @cached_property
    def key(self) -> str:
        """The kernel's name in the disk cache."""
        return f"fused.{self.loop.key}"

    @cached_property
    def _kernel(self) -> Callable[..., Any]:
        return fused.make_fused(self.loop)

    def compile(self) -> int:
        """Return the address of the kernel, from the disk cache where it is there."""
        if self.key not in _addresses:
            _addresses[self.key] = compile_function(self._kernel, self.key, self.signature)
        return _addresses[self.key]

    @property
    def is_cached(self) -> bool:
        """Whether the kernel is there, or in the disk cache."""
        return self.key in _addresses or is_cached(self._kernel, self.key, self.signature)

    @property
    def seconds(self) -> float:
        """About how many seconds a run takes without the kernel."""
        return _TILES * self.total * len(self.loop.applied)

    @property
    def cost(self) -> float:
        """About how many seconds the kernel takes to compile."""
        return _COMPILED + _COMPILED_EACH * len(self.loop.applied)


class Straight(Generated):
    """Straight-line code for a run of operations on single numbers, and where in memory its values lie."""

    signature = straight.SIGNATURE

    @cached_property
    def key(self) -> str:
        """The kernel's name in the disk cache."""
        return f"straight.{self.loop.key}"

    @cached_property
    def _kernel(self) -> Callable[..., Any]:
        return straight.make_straight(self.loop)

    def called(self) -> list[int]:
        """Return the addresses of the functions that the kernel calls."""
        return [straight.function_of(key, applied) for key, applied in straight.called(self.loop).items()]

    @property
    def seconds(self) -> float:
        """About how many seconds a run takes without the kernel."""
        return _ONE_BY_ONE * len(self.loop.applied)

    @property
    def cost(self) -> float:
        """About how many seconds the kernel takes to compile."""
        return _STRAIGHT + _STRAIGHT_EACH * len(self.loop.applied)


class Loops:
    """The generated kernels of a program. Those on the disk are used at once.

    Others are compiled when their groups have run without them for as long as compiling takes: so it never costs more
    than as much again.

    Attributes:
        due: after how many more runs to compile the others; 0 for never.
        unstored: the storages that the kernels in use leave alone though they have places in the memory plan.

    Args:
        groups: that run tile by tile where they have no kernel.
        runs: of operations on single numbers.
        instructions: of the program.
        constants: the storages whose contents never change.
    """

    def __init__(
        self,
        groups: Sequence[Group],
        runs: Sequence[Group],
        instructions: Sequence[Instruction],
        constants: Collection[int] = (),
    ) -> None:
        self._kernels: dict[int, tuple[Generated, int]] = {}  # by the group's first instruction
        self._waiting: list[tuple[Group, Generated]] = []
        self.unstored: set[int] = set()
        for group in (*groups, *runs):
            members = instructions[group.first : group.last + 1]
            if group.walks[0].total > 1:
                made: Generated | None = generate(group, members)
            else:
                made = generate_straight(group, members, constants)
            if made is not None and made.is_cached:
                self._kernels[group.first] = made, made.compile()
            elif made is not None:
                self._waiting.append((group, made))
        self.unstored |= {storage for run in runs if run.first in self._kernels for storage in run.unstored}
        seconds = sum(made.seconds for _, made in self._waiting)
        cost = sum({made.key: made.cost for _, made in self._waiting}.values())
        self.due = int(cost / seconds) + 1 if self._waiting else 0

    def of(self, group: Group) -> tuple[Generated, int] | None:
        """Return what was generated for a group and its kernel, if it has been compiled."""
        return self._kernels.get(group.first)

    def nowhere(self, group: Group) -> Collection[int]:
        """Return the storages of a group that need no memory."""
        return group.unstored if group.first in self._kernels else group.local

    def compile(self) -> bool:
        """Compile what is not yet; return whether there was anything."""
        if not self._waiting:
            return False
        for group, made in self._waiting:
            self._kernels[group.first] = made, made.compile()
            self.unstored |= group.unstored
        self._waiting, self.due = [], 0
        return True


def generate(group: Group, members: Sequence[Instruction]) -> Generated | None:
    """Return the loop for a group; None where an op has no plain formula, or there is too much of it."""
    made = _described(group, members) if len(members) <= MOST_MEMBERS else None
    if (
        made is None
        or any(applied.repair for applied in made[0].applied)
        or len(made[2]) + len(group.sums) > MOST_STORES
    ):
        return None
    return Generated(*made, tuple(one.result for one in group.sums), group.walks[0].total)


def generate_straight(run: Group, members: Sequence[Instruction], constants: Collection[int]) -> Straight | None:
    """Return the straight-line code for a run; None where an op has no plain formula."""
    made = _described(run, members)
    if made is None:
        return None
    loop, loaded, stored = made
    # beside each other in the order of their use: through their addresses 10^6 operations took 2.4 times as long
    constant = frozenset(k for k, operand in enumerate(loaded) if operand.storage in constants)
    return Straight(replace(loop, constants=constant), loaded, stored, (), 1)


def _described(
    group: Group, members: Sequence[Instruction]
) -> tuple[FusedLoop, tuple[Operand, ...], tuple[Operand, ...]] | None:
    """Return what a group computes, where its loads are from and its stores go; None where an op has no formula."""
    latest: dict[Operand, tuple[str, int]] = {}  # what a place has by now: a load or a formula's result, and its number
    loaded: list[Operand] = []
    rows: list[tuple[Instruction, Callable[..., Any], list[tuple[str, int]], int]] = []
    for instruction, walk in zip(members, group.walks, strict=True):
        result, *operands = walk.operands
        formula = _formula(instruction, walk)
        if formula is None:
            return None
        for operand in operands:
            if operand not in latest:
                latest[operand] = "load", len(loaded)
                loaded.append(operand)
        rows.append((instruction, formula, [latest[operand] for operand in operands], result.dtype))
        latest[result] = "result", len(rows) - 1
    written = {walk.operands[0]: None for walk in group.walks}  # in order
    stored = tuple(place for place in written if place.storage not in group.unstored)

    def number(value: tuple[str, int]) -> int:
        return value[1] + (len(loaded) if value[0] == "result" else 0)

    applied = []
    for instruction, formula, values, dtype in rows:
        op, repair = instruction.op, instruction.op.repair if dtype >= FLOAT32 else None
        single = op.name in SCALAR_OPS
        applied.append(Applied(f"{op.name}{op.stamp}", formula, tuple(map(number, values)), dtype, single, repair))
    loads = tuple((operand.dtype, operand.stride == 0) for operand in loaded)
    sums = tuple((number(latest[one.source]), one.mean) for one in group.sums)
    loop = FusedLoop(loads, tuple(applied), tuple(number(latest[place]) for place in stored), sums)
    return loop, tuple(loaded), stored


def _formula(instruction: Instruction, walk: Walk) -> Callable[..., Any] | None:
    result, *operands = walk.operands
    maker = instruction.op.formula
    if maker is None or instruction.op.stamp is None:  # a user's, of which the disk cache cannot tell what it does
        return None
    return maker(tuple(operand.dtype for operand in operands), result.dtype)
