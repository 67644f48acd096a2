"""A program's memory plan as text and as a picture."""

from __future__ import annotations

import os
from pathlib import Path

from tapegrad.capture.costs import shape_of_slot
from tapegrad.capture.program import Program
from tapegrad.native.dtypes import DTYPE_NAMES
from tapegrad.runtime.machine import machine
from tapegrad.viz.memory_plan import Box, size_text, svg_of_plan


def boxes_of(program: Program) -> list[Box]:
    """Return the storages of a program's plan, in the order in which they are needed."""
    sizes = machine.table("storages")["bytes"]
    boxes = []
    for storage, offset in program.plan.places.items():
        first, last = program.plan.lifetimes[storage]
        boxes.append(Box(first, last, offset, int(sizes[storage]), _label(program, first, last, storage)))
    return sorted(boxes, key=lambda box: (box.first, box.offset))


def _label(program: Program, first: int, last: int, storage: int) -> str:
    alive = program.instructions[first : last + 1]  # what a group keeps may be the result of any of its instructions
    written = [(instruction, instruction.results, instruction.result_storages) for instruction in alive]
    read = [(instruction, instruction.operands, instruction.operand_storages) for instruction in alive]
    for instruction, slots, storages in written + read:
        if storage in storages:
            slot = program.slot(slots[storages.index(storage)])
            shape = "x".join(map(str, shape_of_slot(slot))) or "scalar"
            return f"{instruction.op.name} {shape} {DTYPE_NAMES[int(machine.table('slots')['dtype'][slot])]}"
    return f"storage {storage}"


def memory_text(program: Program) -> str:
    """Return a program's memory plan as a table.

    Args:
        program: a captured program.
    """
    boxes = boxes_of(program)
    apart = sum(box.size for box in boxes)
    lines = [
        f"intermediate results: {len(boxes)} of {size_text(apart)} in all, in {size_text(program.plan.size)}",
        f"{'offset':>12} {'bytes':>12} {'from':>5} {'to':>5}  made by",
    ]
    lines += [f"{box.offset:12d} {box.size:12d} {box.first:5d} {box.last:5d}  {box.label}" for box in boxes]
    return "\n".join(lines)


def draw_memory(program: Program, path: str | os.PathLike[str] | None = None) -> str:
    """Return a program's memory plan as an SVG drawing, and write it to ``path`` if that is given.

    Args:
        program: a captured program.
    """
    svg = svg_of_plan(boxes_of(program), program.plan.size, len(program))
    if path is not None:
        Path(path).write_text(svg)
    return svg
