"""Reads programs from files: checks what a file has, emits its ops in a recording, makes a program of that.

See saved.py for what is checked, and why.
"""

from __future__ import annotations

import ctypes
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from tapegrad.autograd.modes import no_grad
from tapegrad.capture.errors import CaptureError
from tapegrad.capture.notes import Notes, recording, release
from tapegrad.capture.program import Program
from tapegrad.capture.storages import slot_of, storage_of
from tapegrad.native.dtypes import DTYPE_NAMES, ITEM_BYTES, NUMPY_DTYPES
from tapegrad.ops.recurrent import PACK
from tapegrad.ops.registry import Op, registry
from tapegrad.ops.validity import Operand, broadcast, is_few
from tapegrad.runtime.errors import raise_status
from tapegrad.runtime.handle import Tensor, wrap
from tapegrad.runtime.layout import CONTIGUOUS, ELEMENTWISE, FROM_ATTRIBUTE, GENERAL, MAX_NDIM, MAX_OUTPUTS
from tapegrad.runtime.machine import machine
from tapegrad.serialization import CheckpointError

VERSION = 1
KIND = "tapegrad program"
_ROLES = ("input", "outside", "constant", "made")
_MAX_OPERANDS = 1 << 16


@dataclass(frozen=True)
class Place:
    """What a slot shows: a storage's number, dtype, shape, strides, offset in elements."""

    storage: int
    dtype: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int

    def is_whole(self, count: int) -> bool:
        """Return whether it shows a storage of so many elements as it lies."""
        strides = tuple([math.prod(self.shape[d + 1 :]) for d in range(len(self.shape))])
        return self.offset == 0 and math.prod(self.shape) == count and strides == self.strides


@dataclass(frozen=True)
class Step:
    """An instruction of a file; slots by their numbers, -1 for none."""

    op: Op
    in_place: bool
    operands: list[int]
    results: list[int]
    attributes: list[int]

    def written(self) -> list[int]:
        """Return the slots that it writes into, besides those that it makes."""
        op = self.op
        written = [k for k in range(len(self.operands)) if op.inputs[k % len(op.inputs)] in op.writes]
        return [*[self.operands[k] for k in written], *(self.results[:1] if self.in_place else [])]


class Reader:
    """Checks the content of a file and emits its ops."""

    def __init__(self, content: Any, file: str) -> None:
        self._file = file
        if not isinstance(content, dict) or content.get("kind") != KIND:
            raise CheckpointError(f"{file}: no saved program")
        if content.get("version") != VERSION:
            raise CheckpointError(
                f"{file}: a program of version {content.get('version')!r:.20}, this tapegrad reads {VERSION}"
            )
        self._content = content
        self.inputs: list[Tensor] = []
        self.lasting: list[Tensor] = []  # what is from outside, as bytes
        self._roots: dict[int, Tensor] = {}
        self._views: dict[int, Tensor] = {}

    def program(self) -> Program:
        """Return the program; what its making has changed is put back.

        Raises:
            CheckpointError: anything is wrong with the content.
        """
        try:
            with no_grad():
                return self._make()
        except CheckpointError:
            raise
        except (CaptureError, RuntimeError, ValueError, TypeError, LookupError, OverflowError, MemoryError) as error:
            raise CheckpointError(f"{self._file}: cannot be loaded: {type(error).__name__}: {error}") from error

    def _make(self) -> Program:
        self._places = [self._place(entry) for entry in self._list("slots")]
        self._storages = [self._storage(entry) for entry in self._list("storages")]
        for place in self._places:
            self._expect(0 <= place.storage < len(self._storages), "a slot lies in no storage")
        self._make_inputs()
        contents = self._make_lasting()
        with recording() as notes:
            outputs = self._emit_all()
        try:
            program = Program(notes, self.inputs, outputs, [])
        except BaseException:
            release(notes)
            raise
        for root, content in contents:
            _write(root, content)
        self._check_same(notes)
        return program

    def _list(self, name: str) -> list[Any]:
        found = self._content.get(name)
        self._expect(isinstance(found, list), f"{name!r} is no list")
        return found  # type: ignore[return-value]

    def _expect(self, condition: bool, problem: str) -> None:
        if not condition:
            raise CheckpointError(f"{self._file}: malformed: {problem}")

    def _place(self, entry: Any) -> Place:
        self._expect(isinstance(entry, list) and len(entry) == 5, "a slot has not five fields")
        storage, dtype, shape, strides, offset = entry
        self._expect(dtype in DTYPE_NAMES, "a slot has an unknown dtype")
        for numbers in (shape, strides):
            self._expect(isinstance(numbers, list) and len(numbers) <= MAX_NDIM, "a shape or strides are no short list")
            self._expect(all(_is_size(n) for n in numbers), "a shape or strides have what is no size")
        self._expect(len(shape) == len(strides) and _is_size(offset) and _is_size(storage), "a slot's fields disagree")
        self._expect(is_few(*shape), "a slot is too large")
        return Place(storage, DTYPE_NAMES.index(dtype), tuple(shape), tuple(strides), offset)

    def _storage(self, entry: Any) -> dict[str, Any]:
        self._expect(isinstance(entry, dict) and entry.get("role") in _ROLES, "a storage has no known role")
        if entry["role"] in ("outside", "constant"):
            content = entry.get("content")
            good = isinstance(content, np.ndarray) and content.dtype == np.uint8 and content.ndim == 1
            self._expect(good, "a storage has no bytes")
        if entry["role"] == "made":
            self._expect(_is_size(entry.get("bytes")), "a storage has no size")
        return entry

    def _dtype_of_storage(self, number: int) -> int:
        dtypes = {place.dtype for place in self._places if place.storage == number}
        self._expect(len(dtypes) == 1, "a storage is seen in several dtypes, which is not supported")
        return dtypes.pop()

    def _make_inputs(self) -> None:
        """Make a tensor of zeros for each argument."""
        for number in self._list("input_slots"):
            self._expect(_is_size(number) and number < len(self._places), "an argument is no slot")
            place = self._places[number]
            role = self._storages[place.storage]
            self._expect(role["role"] == "input" and role.get("number") == len(self.inputs), "the arguments disagree")
            span = 1 + sum((n - 1) * stride for n, stride in zip(place.shape, place.strides, strict=True) if n)
            self._expect(is_few(place.offset + span), "an argument is too large")
            root = _zeros(place.dtype, place.offset + span)
            self._roots[place.storage] = root
            self.inputs.append(self._view(root, place))
            self._views[number] = self.inputs[-1]

    def _make_lasting(self) -> list[tuple[Tensor, Any]]:
        found = []
        for number, storage in enumerate(self._storages):
            if storage["role"] == "outside":
                root = self._filled(number)
                self.lasting.append(root)
                found.append((root, storage["content"]))
        return found

    def _filled(self, number: int) -> Tensor:
        content = self._storages[number]["content"]
        dtype = self._dtype_of_storage(number)
        self._expect(content.size % ITEM_BYTES[dtype] == 0, "a storage has a fraction of an element")
        if NUMPY_DTYPES[dtype] == np.bool_:
            self._expect(content.size == 0 or content.max() <= 1, "a bool storage has bytes other than 0 and 1")
        root = self._roots[number] = _zeros(dtype, content.size // ITEM_BYTES[dtype])
        _write(root, content)
        return root

    def _view(self, root: Tensor, place: Place) -> Tensor:
        view: Tensor = root.as_strided(place.shape, place.strides, place.offset)
        if machine.dtype_of(view._handle) != place.dtype:
            raise CheckpointError(f"{self._file}: a slot has another dtype than its storage")
        return view

    # ---- in the recording ----

    def _emit_all(self) -> list[Tensor]:
        for number, storage in enumerate(self._storages):
            if storage["role"] == "constant":
                self._filled(number)
        self._code: list[tuple[Op, list[int]]] = []
        code = [self._step(entry) for entry in self._list("code")]
        self._written = {self._storage_of(number) for step in code for number in step.written()}
        for step in code:
            self._emit(step)
        outputs = [self._tensor(number) for number in self._list("outputs")]
        outside = {storage_of(root) for root in (*self.lasting, *self.inputs)}
        results = [t if storage_of(t) in outside else t.detach() for t in outputs]
        self._views.clear()
        self._roots.clear()
        return results

    def _tensor(self, number: Any) -> Tensor:
        self._expect(type(number) is int and 0 <= number < len(self._places), "an operand is no slot")
        if number not in self._views:
            place = self._places[number]
            if place.storage not in self._roots:
                storage = self._storages[place.storage]
                self._expect(storage["role"] == "made", "a storage is used before it is made")
                item = ITEM_BYTES[place.dtype]
                self._expect(storage["bytes"] % item == 0 and is_few(storage["bytes"] // item), "its size")
                count = storage["bytes"] // item
                if place.is_whole(count):  # a view of what is not written yet would count as a constant
                    self._views[number] = wrap(_made(machine.new_tensor(place.dtype, *place.shape)))
                    self._roots[place.storage] = self._views[number]
                    return self._views[number]
                self._roots[place.storage] = wrap(_made(machine.new_tensor(place.dtype, count)))
            root = self._roots[place.storage]
            whole = tuple(root.shape) == place.shape and place.is_whole(math.prod(place.shape))
            whole = whole and self._storages[place.storage]["role"] == "made"
            same = whole and machine.dtype_of(root._handle) == place.dtype
            self._views[number] = root if same else self._view(root, place)  # see above: no view where none is needed
        return self._views[number]

    def _storage_of(self, number: int) -> int:
        return self._places[number].storage if number < len(self._places) else -1

    def _step(self, entry: Any) -> Step:
        """Return an instruction, of an op that files may have and as many operands as it takes."""
        self._expect(isinstance(entry, list) and len(entry) == 6, "an instruction has not six fields")
        name, in_place, operands, results, attributes, _ = entry
        self._expect(isinstance(name, str) and name in registry, f"the op {name!r:.40} is unknown")
        op = registry[name]
        allowed = op.kind == ELEMENTWISE or (op.kind == GENERAL and op.valid is not None)
        self._expect(allowed and not op.shape_from_values, f"{name}: an op that programs in files cannot have")
        for numbers in (operands, results, attributes):
            self._expect(isinstance(numbers, list) and all(type(n) is int for n in numbers), f"{name}: no list of ints")
        self._expect(type(in_place) is bool and all(abs(n) < 2**63 for n in attributes), f"{name}: malformed")
        self._expect(len(results) == MAX_OUTPUTS, f"{name}: the number of results")
        fewest = len(op.inputs) if op.fewest is None else op.fewest
        whole = len(operands) % len(op.inputs) == 0 if op.variadic else fewest <= len(operands) <= len(op.inputs)
        self._expect(whole and len(operands) <= _MAX_OPERANDS, f"{name}: {len(operands)} operands")
        absent = {op.inputs[k % len(op.inputs)] for k, number in enumerate(operands) if number == -1}
        needed = sorted(absent.difference(op.optional))
        self._expect(not needed, f"{name}: an operand that it needs is absent: {needed}")
        if op.result == FROM_ATTRIBUTE:
            self._expect(attributes != [] and 0 <= attributes[0] < len(DTYPE_NAMES), f"{name}: an unknown dtype")
        self._expect(not in_place or op.outputs == 1, f"{name}: several results in place")
        return Step(op, in_place, operands, results, attributes)

    def _operand(self, number: int) -> Operand | None:
        if number == -1:
            return None
        slot, storage = slot_of(self._tensor(number)), self._storage_of(number)
        row = machine.table("slots")[slot]
        fixed = self._storages[storage]["role"] in ("outside", "constant") and storage not in self._written
        shape = tuple(row["shape"][: row["ndim"]].tolist())
        return Operand(int(row["dtype"]), shape, bool(row["flags"] & CONTIGUOUS), fixed)

    def _check(self, step: Step) -> None:
        """Raise CheckpointError where a kernel would get what it trusts its callers not to give it."""
        op, operands = step.op, [self._operand(number) for number in step.operands]
        if op.valid is not None:
            self._expect(op.valid(operands, step.attributes), f"{op.name}: operands or attributes that do not fit")
        else:
            shape = broadcast(*[operand.shape for operand in operands if operand is not None])
            self._expect(is_few(*shape), f"{op.name}: its result is too large")
        if step.in_place and op.kind == GENERAL and not op.accumulates:
            target, number = self._operand(step.results[0]), step.results[0]
            self._expect(target is not None and target.contiguous, f"{op.name}: it writes in place what has gaps")
            shared = [self._storage_of(other) for other in step.operands[1:] if other not in (number, -1)]
            self._expect(self._storage_of(number) not in shared, f"{op.name}: it writes in place what it reads")

    def _emit(self, step: Step) -> None:
        self._check(step)
        op, attributes = step.op, step.attributes
        handles = [None if number == -1 else self._tensor(number)._handle for number in step.operands]
        if step.in_place:
            target = self._tensor(step.results[0])
            if op.accumulates:  # as the sweep does where it can: here what is added is made first
                self._add(op, target, handles, attributes)
                return
            status = machine.emit_in_place(op.code, target._handle, len(handles), *handles, *attributes)
            if status < 0:
                raise_status(status)
        else:
            self._take(op, step.results, machine.emit_several(op.code, len(handles), *handles, *attributes))
        self._code.append((op, attributes))

    def _add(self, op: Op, target: Tensor, handles: list[int | None], attributes: list[int]) -> None:
        """Emit an op that adds to the last of its operands, of which it needs the shape."""
        made = machine.emit_several(op.code, len(handles), *handles, *attributes)
        if not isinstance(made, tuple):
            raise_status(made)
        (term,) = [wrap(handle) for handle in made]
        add = registry["add"]
        self._expect(
            handles[-1] == target._handle and term.shape == target.shape, f"{op.name}: it adds to what it reads"
        )
        status = machine.emit_in_place(add.code, target._handle, 2, target._handle, term._handle)
        if status < 0:
            raise_status(status)
        self._code += [(op, attributes), (add, [])]

    def _take(self, op: Op, results: list[int], handles: Any) -> None:
        """Enter an op's results; they must have the geometry that the file says."""
        if handles == -1 and op.outputs == 0:
            handles = ()
        if not isinstance(handles, tuple):
            raise_status(handles)
        made = [wrap(handle) for handle in handles]
        for number, result in zip(results, made, strict=False):
            if number < 0:
                continue
            self._expect(number < len(self._places), f"{op.name}: a result is no slot")
            place = self._places[number]
            same = tuple(result.shape) == place.shape and machine.dtype_of(result._handle) == place.dtype
            layout = machine.strides_of(result._handle) == place.strides and place.offset == 0
            if op is PACK:  # which has the widths of this machine's vectors in it
                same = layout = len(place.shape) == 1 and place.offset == 0
            self._expect(same and layout, f"{op.name}: it makes {list(result.shape)}, not {list(place.shape)}")
            self._expect(place.storage not in self._roots, f"{op.name}: its result's storage is made twice")
            self._roots[place.storage] = result
            self._views[number] = result

    def _check_same(self, notes: Notes) -> None:
        """Raise CheckpointError where emitting has made other instructions than the file has."""
        made = [(i.op, list(i.attributes)) for i in notes.instructions if i.kernel]
        self._expect(made == self._code, "its operations are not those that it would make here")


def _is_size(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**48


def _made(handle: int) -> int:
    if handle < 0:
        raise_status(handle)
    return handle


def _zeros(dtype: int, count: int) -> Tensor:
    made = wrap(_made(machine.new_tensor(dtype, count)))
    _write(made, np.zeros(count * ITEM_BYTES[dtype], np.uint8))
    return made


def _write(root: Tensor, content: Any) -> None:
    """Write bytes into the memory of a tensor that has all of its storage."""
    row = machine.table("storages")[storage_of(root)]
    if content.size > int(row["bytes"]):
        raise CheckpointError("a storage's content is larger than its memory")
    ctypes.memmove(int(row["address"]), np.ascontiguousarray(content).ctypes.data, content.size)
