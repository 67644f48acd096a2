"""Pass: a loss and its gradient, which read the same numbers, become one instruction that reads them once."""

from __future__ import annotations

import functools
from collections.abc import Collection, Mapping, Sequence

from tapegrad.capture.geometry import Geometry
from tapegrad.capture.notes import Instruction
from tapegrad.ops.registry import Op, kernel_address, registry


def joined(
    instructions: Sequence[Instruction], made: Collection[int], geometries: Mapping[int, Geometry]
) -> list[Instruction]:
    """Return the instructions with one in place of each pair that an op joins, where the first of them stood.

    Args:
        instructions: in order.
        made: the storages that the call makes.
        geometries: of the slots.
    """
    ops = _joining_ops()
    firsts = {op.joins[0] for op in ops.values() if op.joins}
    found: list[Instruction | None] = [*instructions]
    written: dict[int, int] = {}  # the last instruction that writes a storage
    touched: dict[int, int] = {}  # the last one that reads or writes it
    waiting: dict[tuple[object, ...], int] = {}  # for an op's operands the first instructions of pairs
    for k, instruction in enumerate(instructions):
        op = ops.get(instruction.op.name)
        if op is not None and op.joins:
            own = len(instruction.operands) - len(registry[op.joins[0]].inputs)
            first = waiting.pop(_key(op.joins[0], instruction, own), -1)
            last = max((written.get(storage, -1) for storage in instruction.operand_storages), default=-1)
            (result,) = instruction.writes()
            if first > last and result in made and result not in touched and not instruction.in_place:
                found[first], found[k] = _joint(op, instructions[first], instruction, geometries), None
        if instruction.op.name in firsts and not instruction.in_place:
            waiting[_key(instruction.op.name, instruction, 0)] = k
        for storage in instruction.writes():
            written[storage] = touched[storage] = k
        for storage in instruction.reads():
            touched[storage] = k
    return [instruction for instruction in found if instruction is not None]


@functools.cache
def _joining_ops() -> dict[str, Op]:
    """Return the ops that join two, by the name of the second."""
    return {op.joins[1]: op for op in registry.values() if op.joins}


def _key(name: str, instruction: Instruction, start: int) -> tuple[object, ...]:
    """Return what an instruction does with its operands from ``start`` on."""
    return name, instruction.attributes, instruction.operands[start:], instruction.operand_storages[start:]


def _joint(op: Op, first: Instruction, second: Instruction, geometries: Mapping[int, Geometry]) -> Instruction:
    dtype, result = (geometries[slot].dtype for slot in (second.operands[0], second.results[0]))
    return Instruction(
        op,
        second.kind,
        kernel_address(op, dtype, result),
        False,
        first.site,
        first.results + second.results,
        second.operands,
        second.attributes,
        first.result_storages + second.result_storages,
        second.operand_storages,
        (first, second),
    )
