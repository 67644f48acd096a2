"""Programs in files: the ops by name with their operands, the contents of constants and of tensors from outside.

A file is a checkpoint (serialization/container.py): data only, with a checksum. It holds no addresses and nothing that
was compiled. Loading emits the ops one by one in a recording, so that each is checked as if a function had called it,
and the kernels are those of the loading machine; then the recording becomes a program as any other. What a kernel
trusts its callers with, its op's rule (ops/validity.py) checks before; an op without a rule is refused. So a file that
was forged gives an error, or a program that computes something else, and never memory that is not its own.
"""

from __future__ import annotations

import ctypes
import os
from pathlib import Path
from typing import Any

import numpy as np

from tapegrad.capture.compiled import Compiled
from tapegrad.capture.errors import CaptureError
from tapegrad.capture.notes import Instruction
from tapegrad.capture.program import Program
from tapegrad.capture.program_reader import KIND, VERSION, Reader
from tapegrad.capture.stepping import Snapshot
from tapegrad.native.dtypes import DTYPE_NAMES, ITEM_BYTES
from tapegrad.ops.calls import functions
from tapegrad.runtime.errors import raise_status
from tapegrad.runtime.handle import Tensor, wrap
from tapegrad.runtime.layout import MAX_OUTPUTS
from tapegrad.runtime.machine import machine
from tapegrad.serialization import CheckpointError, load, save
from tapegrad.tensor.convert import array_of

# ---- saving ----


def save_program(program: Program | Compiled, path: str | os.PathLike[str], check: bool = True) -> None:
    """Write a program to a file that ``load_program`` reads, with all that it reads besides its arguments.

    Args:
        program: a program, or a captured function that has exactly one.
        path: of the file.
        check: run what would be loaded beside the program, once, on numbers from -1 to 1 (0 for integers), and compare
            results and state; everything is afterwards as before.

    Raises:
        ValueError: the function has no program, or several.
        CaptureError: the program has something that a file cannot hold, or what would be loaded computes something
            else; nothing is written.
    """
    if isinstance(program, Compiled):
        found = [variant.program for variant in program.variants if variant.program is not None]
        if len(found) != 1:
            raise ValueError(f"save_program: expected a function with one program, got one with {len(found)}")
        program = found[0]
    content = _content(program)
    try:
        loaded = SavedProgram(content, "the program")  # what could not be loaded is not written
        problem = _difference(program, loaded) if check else ""
    except CheckpointError as error:
        raise CaptureError(f"save_program: {error}") from None
    if problem:
        raise CaptureError(f"save_program: what would be loaded computes something else: {problem}; please report it")
    save(content, path)


def _difference(program: Program, loaded: SavedProgram) -> str:
    """Return what differs between a run of a program and one of what was made of its file, or nothing."""
    arguments = [_example(tensor) for tensor in loaded.inputs]
    copies = [tensor.clone() for tensor in arguments]
    snapshot = Snapshot(program, copies)
    try:
        found = program.run(*[tensor._handle for tensor in copies])
        if not isinstance(found, tuple):  # the numbers mean nothing to it: there is nothing to compare
            return ""
        tensors = [*[wrap(handle) for handle in found], *copies]
        wanted = [array_of(tensor).copy() for tensor in tensors]  # before everything is put back
    finally:
        snapshot.restore()
        snapshot.close()
    results = [array_of(tensor) for tensor in (*loaded(*arguments), *arguments)]
    for k, (a, b) in enumerate(zip(results, wanted, strict=True)):
        if not _is_close(a, b):
            return f"result {k}" if k < len(found) else f"argument {k - len(found)}"
    return ""


def _example(like: Tensor) -> Tensor:
    """Return a tensor of a shape and dtype with numbers from -1 to 1."""
    made = functions["empty_like"](like)
    array = array_of(made)
    array[...] = np.linspace(-1, 1, array.size).reshape(array.shape) if array.dtype.kind == "f" else 0
    return made


def _is_close(a: Any, b: Any) -> bool:
    if a.dtype.kind != "f":
        return bool(np.array_equal(a, b))
    return bool(
        np.allclose(a, b, rtol=1e-3, atol=1e-5 * max(1.0, np.abs(np.nan_to_num(b)).max(initial=0)), equal_nan=True)
    )


def _content(program: Program) -> dict[str, Any]:
    writer = _Writer(program)
    code = [writer.instruction(instruction) for instruction in program.instructions]
    outputs = [writer.slot(slot) for slot in program.output_slots]
    return {
        "kind": KIND,
        "version": VERSION,
        "inputs": len(program.storages.inputs),
        "input_slots": [writer.slot(slot) for slot, *_ in program.input_slots],
        "storages": writer.storages,
        "slots": writer.slots,
        "code": code,
        "outputs": outputs,
    }


class _Writer:
    def __init__(self, program: Program) -> None:
        self._program = program
        self.storages: list[dict[str, Any]] = []
        self.slots: list[list[Any]] = []
        self._storage_numbers: dict[int, int] = {}
        self._slot_numbers: dict[int, int] = {}
        storages = machine.table("slots")["storage"]
        self._inputs = [int(storages[slot]) for slot, *_ in program.input_slots]

    def instruction(self, instruction: Instruction) -> list[Any]:
        return [
            instruction.op.name,
            bool(instruction.in_place),
            self._operands(instruction),
            [self.slot(slot) for slot in instruction.results] + [-1] * (MAX_OUTPUTS - len(instruction.results)),
            list(instruction.attributes),
            instruction.line,
        ]

    def _operands(self, instruction: Instruction) -> list[int]:
        read = {*instruction.reads(), *instruction.writes()}
        pairs = zip(instruction.operands, instruction.operand_storages, strict=True)
        return [self.slot(slot) if slot < 0 or storage in read else self._shape(slot) for slot, storage in pairs]

    def _shape(self, slot: int) -> int:
        """Return the number of a slot of which only the shape is read: it gets memory of its own."""
        row = machine.table("slots")[self._program.slot(slot)]
        shape, dtype = row["shape"][: row["ndim"]].tolist(), int(row["dtype"])
        strides = [int(np.prod(shape[d + 1 :], dtype=np.int64)) for d in range(len(shape))]
        self.storages.append({"role": "made", "bytes": int(np.prod(shape, dtype=np.int64)) * ITEM_BYTES[dtype]})
        self.slots.append([len(self.storages) - 1, DTYPE_NAMES[dtype], shape, strides, 0])
        return len(self.slots) - 1

    def slot(self, slot: int) -> int:
        """Return the number of a slot in the file, -1 for none."""
        if slot < 0:
            return -1
        own = self._program.slot(slot)
        if own not in self._slot_numbers:
            row = machine.table("slots")[own]
            ndim = int(row["ndim"])
            geometry = [row[name][:ndim].tolist() for name in ("shape", "strides")]
            place = [self._storage(int(row["storage"])), DTYPE_NAMES[int(row["dtype"])], *geometry, int(row["offset"])]
            self._slot_numbers[own] = len(self.slots)
            self.slots.append(place)
        return self._slot_numbers[own]

    def _storage(self, storage: int) -> int:
        if storage not in self._storage_numbers:
            self._storage_numbers[storage] = len(self.storages)
            self.storages.append(self._describe(storage))
        return self._storage_numbers[storage]

    def _describe(self, storage: int) -> dict[str, Any]:
        found = self._program.storages
        if storage in self._inputs:
            return {"role": "input", "number": self._inputs.index(storage)}
        row = machine.table("storages")[storage]
        if storage in found.outside or storage in found.written or storage in found.constants:
            content = np.frombuffer(ctypes.string_at(int(row["address"]), int(row["bytes"])), np.uint8)
            return {"role": "constant" if storage in found.constants else "outside", "content": content}
        return {"role": "made", "bytes": int(row["bytes"])}


Program.save = save_program  # type: ignore[attr-defined]  # a method, as tensors get theirs


# ---- loading ----


def load_program(path: str | os.PathLike[str]) -> SavedProgram:
    """Return a program that ``save_program`` wrote, ready to be called.

    Every op is checked, as in a call of it from Python, before it runs; no code in the file is run.

    Args:
        path: the file.

    Raises:
        CheckpointError: the file is truncated, altered, of a newer version, or no program.
        FileNotFoundError: there is no file.
    """
    return SavedProgram(load(path), str(Path(path)))


class SavedProgram:
    """A program from a file: called with tensors of the shapes and dtypes of the original's, it returns its results.

    Attributes:
        state: the tensors that the program reads and writes besides its arguments, such as parameters, as uint8, in
            the order in which it meets them; they go on from where they were when it was saved.
        program: the program.

    Args:
        content: what the file has.
        file: its name, for messages.
    """

    def __init__(self, content: Any, file: str) -> None:
        self._reader = reader = Reader(content, file)
        self.program = reader.program()
        self.state = reader.lasting
        self.inputs = reader.inputs
        self._shapes = [(tuple(t.shape), t.dtype) for t in reader.inputs]

    def __call__(self, *arguments: Tensor) -> tuple[Tensor, ...]:
        """Run the program; return its results.

        Raises:
            TypeError: an argument is no tensor, or there are too many or too few.
            RuntimeError: an argument has another shape or dtype than the program was made for.
        """
        if len(arguments) != len(self._shapes) or not all(isinstance(value, Tensor) for value in arguments):
            raise TypeError(f"a saved program: expected {len(self._shapes)} tensors, got {len(arguments)} arguments")
        for k, (value, (shape, dtype)) in enumerate(zip(arguments, self._shapes, strict=True)):
            if tuple(value.shape) != shape or value.dtype != dtype:
                raise RuntimeError(
                    f"a saved program: argument {k} is {value.dtype} {list(value.shape)}, "
                    f"expected {dtype} {list(shape)}"
                )
        plain = [value.detach() for value in arguments]
        found = self.program.run(*[value._handle for value in plain])
        if isinstance(found, tuple):
            return tuple([wrap(handle) for handle in found])
        if found > -100:
            raise_status(found)
        raise RuntimeError("a saved program: the arguments share memory, are read-only, or laid out otherwise")


__all__ = ["SavedProgram", "load_program", "save_program"]
