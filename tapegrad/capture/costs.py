"""What a captured instruction costs at least: floating-point operations of products, bytes of memory touched."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

from tapegrad.capture.notes import Instruction
from tapegrad.capture.program import Program
from tapegrad.native.dtypes import ITEM_BYTES
from tapegrad.runtime.machine import machine

_INNER = {  # the dimension of the first operand that a product sums over
    "mm": -1,
    "bmm": -1,
    "addmm": -1,
    "linear": -1,
    "bmm_nt": -1,
    "bmm_tn": -2,
    "dot": -1,
}


def _row(slot: int) -> Any:
    return machine.table("slots")[slot]


def shape_of_slot(slot: int) -> list[int]:
    """Return a slot's shape."""
    row = _row(slot)
    return row["shape"][: row["ndim"]].tolist()


def flops_of(program: Program, instruction: Instruction) -> int:
    """Return the multiplications and additions of a product or a convolution; 0 for other instructions."""

    def shape(slot: int) -> list[int]:
        return shape_of_slot(program.slot(slot)) if slot >= 0 else []

    name = instruction.op.name
    operands, result = [shape(slot) for slot in instruction.operands], shape(instruction.first_result)
    if name in _INNER:
        return 2 * math.prod(result) * operands[0][_INNER[name]]
    if name == "mm_tn":  # over all leading dimensions
        return 2 * math.prod(operands[0]) * result[-1]
    if name == "convolution_nd":  # each output: a kernel over its group's channels
        return 2 * math.prod(result) * math.prod(operands[1][1:])
    if name == "convolution_transposed":
        return 2 * math.prod(operands[0]) * math.prod(operands[1][1:])
    if name == "convolution_weight":
        return 2 * math.prod(operands[1]) * math.prod(result[1:])
    if name in ("attention", "attention_backward"):
        query, key = (operands[k + (name != "attention")] for k in (0, 1))
        return (4 if name == "attention" else 10) * math.prod(query) * key[-2]
    return 0


def bytes_of(program: Program, instructions: Sequence[Instruction]) -> int:
    """Return the bytes that instructions read and write, what several of them touch counted once.

    Intermediate results that lie in no memory, within a group, do not count.
    """
    places: dict[tuple[int, ...], int] = {}
    for instruction in instructions:
        for kind, slot, storage in _touched(instruction):
            if storage in program.storages.temporary and not program.lies_in_memory(storage):
                continue
            row = _row(program.slot(slot))
            lengths = zip(row["shape"][: row["ndim"]].tolist(), row["strides"][: row["ndim"]].tolist(), strict=True)
            distinct = math.prod(length for length, stride in lengths if stride != 0)
            places[kind, storage, int(row["offset"])] = distinct * ITEM_BYTES[int(row["dtype"])]
    return sum(places.values())


def _touched(instruction: Instruction) -> Iterator[tuple[int, int, int]]:
    """Yield (0 for a read and 1 for a write, slot, storage)."""
    read, written = set(instruction.reads()), set(instruction.writes())
    for slot, storage in zip(instruction.operands, instruction.operand_storages, strict=True):
        if storage in read:
            yield 0, slot, storage
        if storage in written:
            yield 1, slot, storage
    for slot, storage in zip(instruction.results, instruction.result_storages, strict=True):
        if storage in written:
            yield 1, slot, storage
