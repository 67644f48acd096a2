"""The words that replay runs for a program's instructions, and the memory that they lead to; see runtime/replay.py."""

from __future__ import annotations

import ctypes
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from tapegrad.capture.fusion import Group, Operand, Walk
from tapegrad.capture.generated import Generated, Loops, Straight
from tapegrad.capture.notes import Instruction
from tapegrad.kernels.fused import STRIP
from tapegrad.native.dtypes import FLOAT32, FLOAT64, ITEM_BYTES
from tapegrad.runtime import replay
from tapegrad.runtime.layout import (
    ELEMENTWISE,
    FRAME_ATTRIBUTE_COUNT,
    FRAME_INPUT_COUNT,
    FRAME_INPUTS,
    MAX_OUTPUTS,
)
from tapegrad.runtime.machine import machine

_SMALL = 1 << 16  # elements up to which a kernel is called as it is
_FLOATS = ({FLOAT32}, {FLOAT64})
_IN_PLACE = 128  # elements from which an elementwise kernel must not write where it reads


class Blocks:
    """Memory that words lead to."""

    def __init__(self) -> None:
        self._blocks: list[Any] = []

    def add(self, values: Any) -> int:
        """Return the address of some int64 words.

        Args:
            values: the words, an array or nested lists.
        """
        block = np.array(values, np.int64).reshape(-1)
        self._blocks.append(block)
        return int(block.ctypes.data)


class Step(NamedTuple):
    """An instruction as replay has it: four words."""

    kind: int
    function: int
    argument: int
    extra: int = 0
    operands: tuple[Operand, ...] = ()  # whose addresses the three words are


class Code:
    """The instructions of a program as replay has them.

    Attributes:
        address: of the words.
        spans: of each step the first instruction and the one after the last.
        patches: for each storage that lies elsewhere in each run, the words that lead to it, and what to add.

    Args:
        instructions: of the program.
        walks: of the instructions.
        groups: that run tile by tile, or by a loop.
        runs: of operations on single numbers, by their first instructions.
        loops: the kernels of groups and runs.
        slots: the program's own slot for an argument's.
        patched: the storages that lie elsewhere in each run.
    """

    def __init__(
        self,
        instructions: Sequence[Instruction],
        walks: Sequence[Walk | None],
        groups: Sequence[Group],
        runs: Mapping[int, Group],
        loops: Loops,
        slots: Mapping[int, int],
        patched: Collection[int],
    ) -> None:
        self._instructions, self._walks, self._loops, self._slots = instructions, walks, loops, slots
        self._groups, self._runs = {group.first: group for group in groups}, runs
        self._blocks = Blocks()
        self._addresses: list[int] = machine.table("storages")["address"].tolist()
        self.patches: dict[int, list[tuple[int, int]]] = {storage: [] for storage in patched}
        self.spans: list[tuple[int, int]] = []
        steps = list(self._steps())
        self.address = self._blocks.add([step[:4] for step in steps])
        for k, step in enumerate(steps if self.patches else ()):
            for place, operand in enumerate((*step.operands, *step.operands[-1:])[:3], 1):
                self._note_patch(self.address + 8 * (replay.INSTRUCTION_WORDS * k + place), operand)

    def _frame(self, instruction: Instruction) -> int:
        operands = [self._slots.get(slot, slot) for slot in instruction.operands]
        results = [self._slots.get(slot, slot) for slot in instruction.results]
        frame = [0] * FRAME_INPUTS
        frame[:MAX_OUTPUTS] = results + [-1] * (MAX_OUTPUTS - len(results))
        frame[FRAME_INPUT_COUNT], frame[FRAME_ATTRIBUTE_COUNT] = len(operands), len(instruction.attributes)
        return self._blocks.add([*frame, *operands, *instruction.attributes])

    def _steps(self) -> Iterator[Step]:
        """Yield what replay runs: an instruction, or a group of them; note which in ``spans``."""
        k = 0
        while k < len(self._instructions):
            if k in self._groups:
                group = self._groups[k]
                loop = self._loops.of(group)
                self.spans.append((k, group.end + 1 if loop else group.last + 1))
                yield self._fused(*loop) if loop else self._tiles(group)
            elif k in self._runs and (straight := self._loops.of(self._runs[k])):
                self.spans.append((k, self._runs[k].end + 1))
                yield self._straight(*straight)
            else:
                self.spans.append((k, k + 1))
                yield self._step(self._instructions[k], self._walks[k])
            k = self.spans[-1][1]

    def _step(self, instruction: Instruction, walk: Walk | None) -> Step:
        if instruction.kind != ELEMENTWISE:
            return Step(replay.RUN_GENERAL, instruction.kernel, self._frame(instruction))
        if walk is None or walk.total > _SMALL or (walk.in_place and walk.total > _IN_PLACE):
            result = self._slots.get(instruction.results[0], instruction.results[0])
            return Step(replay.RUN_ELEMENTWISE, instruction.kernel, self._frame(instruction), result)
        if walk.total == 1 and instruction.op.name in replay.SCALAR_OPS and walk.dtypes in _FLOATS:
            return self._scalar_step(instruction, walk)
        arguments = [1, walk.total]
        for operand in walk.operands:
            arguments += [0, 0, operand.stride]
        start = self._blocks.add(arguments)
        for k, operand in enumerate(walk.operands):
            self._set_address(start + 8 * (2 + 3 * k), operand)
        return Step(replay.RUN_PLAIN, instruction.kernel, start)

    def _scalar_step(self, instruction: Instruction, walk: Walk) -> Step:
        """Return the step of an operation on single numbers, whose addresses are in the instruction itself."""
        kind = replay.RUN_SCALAR + replay.SCALAR_OPS.index(instruction.op.name)
        kind += len(replay.SCALAR_OPS) * (walk.dtypes == {FLOAT32})
        addresses = [self._address(operand) for operand in walk.operands]
        return Step(kind, addresses[0], addresses[1], addresses[-1], tuple(walk.operands))

    def _tiles(self, group: Group) -> Step:
        """Return the step that runs a group tile by tile."""
        members = self._instructions[group.first : group.last + 1]
        code = np.zeros((len(members), replay.TILE_MEMBER_WORDS), np.int64)
        for row, instruction, walk in zip(code, members, group.walks, strict=True):
            row[0], row[1] = instruction.kernel, len(walk.operands)
            for k, operand in enumerate(walk.operands):
                row[4 + 3 * k], row[24 + k] = operand.stride, operand.item
        start = self._blocks.add(code)
        for member, walk in enumerate(group.walks):
            for k, operand in enumerate(walk.operands):
                self._set_address(
                    start + 8 * (replay.TILE_MEMBER_WORDS * member + 2 + 3 * k),
                    operand,
                    group.local.get(operand.storage),
                )
        words = [len(members), replay.TILE, group.walks[0].total, start]
        return Step(replay.RUN_TILES, 0, self._blocks.add(words))

    def _fused(self, made: Generated, kernel: int) -> Step:
        """Return the step that runs a group by the kernel that was made for it."""
        first = len(made.loop.applied)
        places = (*made.loaded, *made.stored)
        arguments = self._blocks.add([0] * (first + len(places) + 2 * len(made.sums)))
        for k, operand in enumerate(places, first):
            self._set_address(arguments + 8 * k, operand)
        for k, operand in enumerate(made.sums):
            word = arguments + 8 * (first + len(places) + 2 * k)
            ctypes.c_int64.from_address(word).value = self._blocks.add([0] * (made.total // STRIP + 1))
            self._set_address(word + 8, operand)
        return Step(replay.RUN_FUSED, 0, self._blocks.add([kernel, made.total, arguments, len(made.sums)]))

    def _straight(self, made: Generated, kernel: int) -> Step:
        """Return the step that runs operations on single numbers by the kernel that was made for them."""
        assert isinstance(made, Straight)
        words = made.called()
        arguments = self._blocks.add(words + [0] * (len(made.loaded) + len(made.stored)))
        for k, operand in enumerate((*made.loaded, *made.stored)):
            word = arguments + 8 * (len(words) + k)
            if k in made.loop.constants:
                ctypes.memmove(word, self._address(operand), ITEM_BYTES[operand.dtype])
            else:
                self._set_address(word, operand)
        return Step(replay.RUN_PLAIN, kernel, arguments)

    def _address(self, operand: Operand) -> int:
        return self._addresses[operand.storage] + operand.offset

    def _set_address(self, word: int, operand: Operand, local: int | None = None) -> None:
        """Write an operand's address, or the number of its local buffer, into a word."""
        ctypes.c_int64.from_address(word).value = self._address(operand) if local is None else local
        self._note_patch(word, operand)

    def _note_patch(self, word: int, operand: Operand) -> None:
        """Note where the address of what lies elsewhere in each run is."""
        if operand.storage in self.patches:
            self.patches[operand.storage].append((word, operand.offset))
