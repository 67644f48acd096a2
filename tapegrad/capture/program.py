"""A captured program: its instructions, the rows of the machine's tables that it has, the words that replay runs."""

from __future__ import annotations

import ctypes
import inspect
import os
import weakref
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from tapegrad.capture import legal
from tapegrad.capture.code import Blocks, Code
from tapegrad.capture.common import without_repetition
from tapegrad.capture.dead_code import without_dead_code, without_dead_results
from tapegrad.capture.errors import CaptureError
from tapegrad.capture.folding import without_constants
from tapegrad.capture.fusion import Group, find_groups, sum_of, walk_of, widen_lifetimes
from tapegrad.capture.gather import gathered
from tapegrad.capture.generated import Loops
from tapegrad.capture.joining import joined
from tapegrad.capture.notes import Instruction, Notes
from tapegrad.capture.passes import check_names
from tapegrad.capture.plan import Plan, lifetimes_of, plan_memory
from tapegrad.capture.runs import find_runs
from tapegrad.capture.storages import Storages, classify, slot_of, storage_of
from tapegrad.native.dtypes import DTYPE_NAMES
from tapegrad.runtime import replay
from tapegrad.runtime.blocks import _SMALL as _SMALL_BLOCK
from tapegrad.runtime.blocks import class_bytes
from tapegrad.runtime.core import compile_one
from tapegrad.runtime.handle import Tensor, wrap
from tapegrad.runtime.layout import (
    CONTIGUOUS,
    IS_VIEW,
    STATE,
)
from tapegrad.runtime.machine import WORKSPACE_BYTES, machine
from tapegrad.runtime.memory import RECORDED_BYTES

_COPIED = 1 << 16  # bytes of an output from which a run writes it into a new tensor: of a smaller one it makes a copy


_programs: weakref.WeakSet[Program] = weakref.WeakSet()


def _forget_threads() -> None:
    """A forked process has none of the threads that its parent's programs may be held by."""
    for program in _programs:
        program.let_go()


os.register_at_fork(after_in_child=_forget_threads)

_BOOKS = ("storages_top", "storages_free", "slots_top", "slots_free", "handles_top", "handles_free", "entries_top")
_spare: list[tuple[Any, int, int]] = []  # small blocks and a chunk of a program that is gone, for the next one

_bytes_of_class = inspect.unwrap(class_bytes)  # as a function of Python


class Program:
    """The instructions of one run of a function, ready to be run again.

    Args:
        notes: what was recorded; its rows become the program's.
        arguments: the tensors that the function got.
        outputs: the tensors that it returned, of which a run makes copies.
        others: tensors that it can reach.
        without: names of passes to leave out; see ``PASSES``.
        storages: of the notes, where they have been classified.

    Raises:
        CaptureError: a replay could not repeat the run.
    """

    def __init__(
        self,
        notes: Notes,
        arguments: Sequence[Tensor],
        outputs: Sequence[Tensor],
        others: Sequence[Tensor],
        without: Collection[str] = (),
        storages: Storages | None = None,
    ) -> None:
        self.notes = notes
        self._passes = check_names(without)
        self.storages = storages or classify(notes, arguments)
        if self.storages.problem:
            raise CaptureError(self.storages.problem)
        self._own = _Rows(notes)
        self._finalizer = weakref.finalize(self, self._own.release)
        self._finalizer.atexit = False
        self._slots: dict[int, int] = {}  # the program's own slot for an argument's
        self._kept: list[Tensor] = []
        self._take_arguments(arguments)
        self._shared = self._shared_with(arguments, others)
        returned = {*map(storage_of, outputs)}
        live = {*self.storages.written, *self.storages.inputs, *self.storages.kept, *returned}
        self.instructions = self._optimised(notes.instructions, live, returned)
        self._outputs = [self._output(tensor) for tensor in outputs]
        self._adopt_rows(outputs)
        self.plan = self._place(outputs)
        self._words = self._build(notes, arguments, others)
        self.address = int(self._words.ctypes.data)
        _programs.add(self)

    def _optimised(self, instructions: Sequence[Instruction], live: set[int], outputs: set[int]) -> list[Instruction]:
        """Return the instructions after the passes over them, each of which is checked."""
        found = self.storages
        temporary, sizes = found.temporary - outputs, machine.table("storages")["bytes"]
        runs: dict[str, Callable[[list[Instruction]], list[Instruction]]] = {
            "dead_code": lambda code: without_dead_code(code, live),
            "folding": lambda code: without_constants(code, found.constants, temporary, sizes),
            "common": lambda code: without_repetition(
                code, found.temporary | found.kept, temporary, self.notes.geometries
            ),
            "dead_results": lambda code: without_dead_results(code, temporary),
            "joining": lambda code: joined(code, found.temporary | found.kept, self.notes.geometries),
            "gather": self._gathered,
        }
        given = [instruction for instruction in instructions if instruction.kernel]
        for name, run in runs.items():
            if name in self._passes:
                made = run(given)
                found.temporary -= found.constants
                if legal.ENABLED:
                    legal.check_pass(name, given, made, live, found.constants)
                given = made
        return given

    def _gathered(self, instructions: list[Instruction]) -> list[Instruction]:
        walks = [walk_of(instruction, self.notes.geometries) for instruction in instructions]
        order = gathered(instructions, walks)
        self._walks = [walks[k] for k in order]
        return [instructions[k] for k in order]

    # ---- rows ----

    def _take_arguments(self, arguments: Sequence[Tensor]) -> None:
        """Make a slot and a storage for each argument; what lies in the argument's storage will lie in that one."""
        self._inputs: list[Tensor] = []
        self._storage_of_input: dict[int, int] = {}
        for tensor in arguments:
            own = wrap(machine.new_input(tensor._handle))
            slots = machine.table("slots")
            mine, given = slots[slot_of(own)], slots[slot_of(tensor)]
            self._inputs.append(own)
            self._slots[slot_of(tensor)] = slot_of(own)
            self._storage_of_input[int(given["storage"])] = int(mine["storage"])

    def _shared_with(self, arguments: Sequence[Tensor], others: Sequence[Tensor]) -> dict[int, list[tuple[int, int]]]:
        """Return the storages of the arguments over which the function finds other tensors, with their checks.

        A recording does not tell which of the two an operation has read: such an argument must always be the same one.
        """
        found: dict[int, list[tuple[int, int]]] = {}
        for tensor in others:
            if storage_of(tensor) in self._storage_of_input:
                found.setdefault(storage_of(tensor), []).append((tensor._handle, slot_of(tensor)))
        self._pinned = [
            wrap(machine.handle_of_slot(slot_of(tensor))) for tensor in arguments if storage_of(tensor) in found
        ]
        return found

    def _output(self, tensor: Tensor) -> int:
        return self._slots.get(slot_of(tensor), slot_of(tensor))

    def _adopt_rows(self, outputs: Sequence[Tensor]) -> None:
        """Bring the rows of what died in the recording back to life, and keep the others alive."""
        pairs: dict[int, int] = {}
        for instruction in self.instructions:
            for slot, storage in instruction.places():
                # the memory of an operand of which only the shape is read may be gone
                if slot >= 0 and pairs.get(slot, -1) < 0:
                    pairs[slot] = storage
        used = set(pairs)
        revived = {slot: self._storage_of_input.get(pairs[slot]) or pairs[slot] for slot in self._own.slots & used}
        _revive([*revived], [*revived.values()])
        self._own.drop_slots_but(used)
        self._own.drop_storages_but({*pairs.values()})
        argument_slots = set(self._slots)
        alive = used - self._own.slots - argument_slots
        alive |= {slot_of(tensor) for tensor in outputs} - argument_slots
        for slot in sorted(alive):
            storage = int(machine.table("slots")["storage"][slot])
            if storage < 0:
                raise CaptureError("the graph of the call is kept after it: return results detached, or drop them")
            if storage in self._storage_of_input:
                raise CaptureError("an argument shares memory with a tensor that the function finds elsewhere")
            self._kept.append(wrap(machine.handle_of_slot(slot)))

    def _place(self, outputs: Sequence[Tensor]) -> Plan:
        """Find what runs tile by tile, plan the memory of the other intermediate results, move their storages there."""
        temporary = self.storages.temporary - {storage_of(tensor) for tensor in outputs}
        rows = machine.table("storages")
        lifetimes = lifetimes_of(self.instructions, temporary)
        if "gather" not in self._passes:
            self._walks = [walk_of(instruction, self.notes.geometries) for instruction in self.instructions]
        if "tiles" in self._passes:
            sums = [sum_of(instruction, self.notes.geometries) for instruction in self.instructions]
            self.groups = find_groups(self._walks, lifetimes, sums=sums if "generated" in self._passes else ())
        else:
            self.groups = []
        if "generated" in self._passes:
            runs = find_runs(self.instructions, self._walks, lifetimes)
            self._loops = Loops(self.groups, runs, self.instructions, self.storages.constants)
        else:
            runs, self._loops = [], Loops([], [], [])
        self._runs = {run.first: run for run in runs}
        for storage in {storage for group in self.groups for storage in self._loops.nowhere(group)}:
            del lifetimes[storage]
            machine.release_block(storage)
        widen_lifetimes(self.groups, lifetimes)
        plan = plan_memory(lifetimes, {storage: int(rows["bytes"][storage]) for storage in lifetimes})
        for storage in plan.places:
            machine.release_block(storage)
        if plan.size > RECORDED_BYTES:
            machine.trim()  # the recording's blocks: there will be no more eager calls of this size
        self._block = np.empty(plan.size + 64, np.uint8)
        start = (self._block.ctypes.data + 63) // 64 * 64
        rows["address"][[*plan.places]] = start + np.array([*plan.places.values()], np.int64)
        return plan

    # ---- words ----

    def _build(self, notes: Notes, arguments: Sequence[Tensor], others: Sequence[Tensor]) -> Any:
        self._state = np.zeros(1, STATE)
        self._state[0] = machine.block[0]
        self._workspace = np.empty(WORKSPACE_BYTES + 64, np.uint8)
        mine = self._state[0]
        mine["workspace"] = (self._workspace.ctypes.data + 63) // 64 * 64
        self._counts = [(name, int(mine[name])) for name in _BOOKS]
        mine["free_blocks"], mine["arena"], mine["arena_end"] = _spare.pop() if _spare else (0, 0, 0)
        weakref.finalize(self, _give_back_blocks, self._state).atexit = False
        self._blocks = Blocks()
        words = np.zeros(replay.HEAD_WORDS, np.int64)
        checks, grads = self._checks(arguments), self._gradients(notes, others)
        made = {int(machine.table("slots")["storage"][slot_of(gradient)]) for gradient in self._gradients_made}
        self._anew = self._written_anew(made)
        self._set_code(words)
        words[replay.STATE_BLOCK], words[replay.MACHINE] = self._state.ctypes.data, machine.address
        words[replay.RUN], words[replay.RUN_STEPS] = compile_one("run_program"), compile_one("run_steps")
        words[replay.CHECK_COUNT], words[replay.CHECKS] = len(checks), self._blocks.add(checks)
        words[replay.GRAD_COUNT], words[replay.GRADS] = len(grads), self._blocks.add(grads)
        written = sorted(self.storages.written | made)
        words[replay.WRITTEN_COUNT], words[replay.WRITTEN] = len(written), self._blocks.add(written)
        return words

    def _set_code(self, words: Any) -> None:
        """Write the instructions into memory, and what leads to them into the head."""
        self._code = Code(
            self.instructions, self._walks, self.groups, self._runs, self._loops, self._slots,
            patched=(*self.storages.inputs, *self._anew),
        )  # fmt: skip
        words[replay.COUNT], words[replay.CODE] = len(self._code.spans), self._code.address
        self._set_inputs_and_outputs(words)

    def generate(self) -> None:
        """Compile kernels for the groups that run tile by tile and the runs of single numbers; later runs have them."""
        if not self._loops.compile():
            return
        machine.hold_program(self.address)
        try:
            self._set_code(self._words)
            for own in self._inputs:  # the words just written are not bound to any argument
                machine.table("storages")["address"][storage_of(own)] = 0
        finally:
            machine.let_program_go(self.address)

    def _written_anew(self, gradients: set[int]) -> set[int]:
        """Return the storages of outputs that a run writes into new tensors, which nothing else shows after the call.

        Args:
            gradients: the storages of the gradients that the program makes.
        """
        slots, sizes = machine.table("slots"), machine.table("storages")["bytes"]
        storages = [int(slots["storage"][slot]) for slot in self._outputs]
        made = (self.storages.temporary | self.storages.kept) - self.storages.constants - gradients
        found = set()
        for slot, storage in zip(self._outputs, storages, strict=True):
            whole = bool(slots["flags"][slot] & CONTIGUOUS) and slots["offset"][slot] == 0
            if storage in made and whole and storages.count(storage) == 1 and sizes[storage] >= _COPIED:
                found.add(storage)
        return found

    def _set_inputs_and_outputs(self, words: Any) -> None:
        patches: list[tuple[int, int]] = []
        rows = []
        written = {storage for instruction in self.instructions for storage in instruction.writes()}
        for own, storage in zip(self._inputs, self.storages.inputs, strict=True):
            mine = self._code.patches[storage]
            rows.append([slot_of(own), storage_of(own), len(patches), len(mine), int(storage in written), 0])
            rows[-1].append(storage if storage in self._shared else -1)
            patches += mine
        words[replay.INPUT_COUNT], words[replay.INPUTS] = len(rows), self._blocks.add(rows)
        outputs, addresses = [], machine.table("storages")["address"]
        for slot in self._outputs:
            storage = int(machine.table("slots")["storage"][slot])
            anew = storage in self._anew
            mine, address = (self._code.patches[storage], int(addresses[storage])) if anew else ([], 0)
            outputs.append([slot, address, len(patches), len(mine), -1])
            patches += mine
        words[replay.OUTPUT_COUNT], words[replay.OUTPUTS] = len(outputs), self._blocks.add(outputs)
        words[replay.PATCHES] = self._blocks.add(patches)

    def _checks(self, arguments: Sequence[Tensor]) -> list[tuple[int, int]]:
        """Return the handles of the tensors from outside, each with the slot that it names now."""
        handles = machine.table("handles")
        mine = {tensor._handle for tensor in (*self._kept, *self._inputs)}
        storages = machine.table("slots")["storage"]
        outside = [slot for slot in map(slot_of, self._kept) if storages[slot] in self.storages.outside]
        found = np.flatnonzero(np.isin(handles["slot"], outside) & (handles["refs"] > 0))
        checks = [(int(handle), int(handles["slot"][handle])) for handle in found if int(handle) not in mine]
        return checks + [check for shared in self._shared.values() for check in shared]

    def _gradients(self, notes: Notes, others: Sequence[Tensor]) -> list[tuple[int, int, int]]:
        """Return, for each leaf whose gradient the program makes, changes or takes away, what to do with it.

        A leaf that had no gradient, before or after, must have none at a replay: the call might take it away or add.
        """
        rows = []
        slots, handles = machine.table("slots"), machine.table("handles")
        # what another thread does to gradients of its own meanwhile is none of this call's business
        reachable = {slot_of(tensor) for tensor in others} | {*self._slots}
        reachable |= notes.geometries.keys()
        touched = {s for instruction in self.instructions for s in (*instruction.reads(), *instruction.writes())}
        for leaf, (before, after) in notes.gradients.items():
            if leaf not in reachable:
                continue
            storage = int(slots["storage"][handles["slot"][after]]) if after >= 0 else -1
            if leaf in self._slots and (before != after or storage in touched):
                raise CaptureError(
                    "the call reads or makes the .grad of an argument, which a replay could not: use "
                    "tg.autograd.grad(...), or let the function find the tensor instead of passing it"
                )
            if slots["refs"][leaf] <= 0 or (before < 0 and after < 0):
                continue
            if after < 0 or storage in self.storages.kept:  # taken away, or made in the call
                rows.append((leaf, after, replay.ANY_GRADIENT if before >= 0 else -1))
            elif storage in touched:
                rows.append((leaf, after, after))
        rows += [(slot_of(tensor), -1, -1) for tensor in others if slot_of(tensor) not in notes.gradients]
        self._check_kept({int(handles["slot"][handle]) for _, handle, _ in rows if handle >= 0})
        self._gradients_made: list[Tensor] = []
        for leaf, handle, _ in rows:
            self._kept.append(wrap(machine.handle_of_slot(leaf)))
            if handle >= 0:
                machine.share_handle(handle)
                self._gradients_made.append(wrap(handle))
        return rows

    def _check_kept(self, gradients: set[int]) -> None:
        """Raise CaptureError where something that was made in the call, other than gradients, outlives it."""
        slots, storages = machine.table("slots"), self.storages.kept
        escaped = (
            {s for s in map(slot_of, self._kept) if slots["storage"][s] in storages} - gradients - {*self._outputs}
        )
        for instruction in self.instructions if escaped else ():
            if escaped.intersection(instruction.results):
                raise CaptureError(
                    f"a tensor made in the call ({instruction.op.name}, {instruction.line}) is kept somewhere after "
                    "it, and would not change in a replay: return it, or write into a tensor that was there before"
                )

    # ---- running ----

    def run(self, *handles: int) -> Any:
        """Run the program on the tensors with these handles; return the outputs' handles, a tuple, or a status.

        Args:
            handles: the handles, ints.
        """
        if self._loops.due:
            self._count_runs(1)
        return machine.replay(self.address, *handles)

    def expect_no_allocation(self) -> None:
        """Raise CaptureError where a run has made a tensor: its rows are in nobody's books."""
        state = self._state[0]
        if any(state[name] != value for name, value in self._counts):
            raise CaptureError("a kernel has made a tensor in a replay, which is a mistake in its op: please report it")

    def run_steps(self, handles: Sequence[int], steps: int) -> int:
        """Run the program on batch after batch; see runtime/replay.py for the words at ``steps``.

        Args:
            handles: the handles, ints.
        """
        if self._loops.due:
            self._count_runs(ctypes.c_int64.from_address(steps + 8).value)
        return machine.replay_steps(self.address, *handles, steps)

    def _count_runs(self, count: int) -> None:
        self._loops.due -= count
        if self._loops.due <= 0:
            self._loops.due = 0
            self.generate()

    def lies_in_memory(self, storage: int) -> bool:
        """Return whether a run writes an intermediate result into memory.

        Args:
            storage: the number of the result's storage in the recording.
        """
        return storage in self.plan.places and storage not in self._loops.unstored

    @property
    def spans(self) -> list[tuple[int, int]]:
        """Of each step of a run the first instruction and the one after the last."""
        return self._code.spans

    @property
    def output_slots(self) -> list[int]:
        """The slots that hold the outputs of the last run."""
        return self._outputs

    def let_go(self) -> None:
        """Have no thread hold the program."""
        self._words[replay.RUNNING] = 0

    @property
    def input_slots(self) -> list[tuple[int, bool]]:
        """The slots of the arguments, and whether a run writes into them."""
        written = {storage for instruction in self.instructions for storage in instruction.writes()}
        pairs = zip(self._inputs, self.storages.inputs, strict=True)
        return [(slot_of(tensor), storage in written) for tensor, storage in pairs]

    @property
    def words(self) -> Any:
        """The words that replay reads; see runtime/replay.py."""
        return self._words

    def slot(self, slot: int) -> int:
        """Return the program's own slot for a slot of the recording.

        Args:
            slot: the slot of the recording.
        """
        return self._slots.get(slot, slot)

    def __len__(self) -> int:
        return len(self.instructions)

    def __str__(self) -> str:
        lines = [f"program of {len(self)} instructions, {self.plan.size} bytes of intermediate results"]
        fused = {k: mark for group in self.groups for k, mark in _marks(group)}
        lines += [
            f"{k:5d} {fused.get(k, ' ')} {self._text(instruction)}" for k, instruction in enumerate(self.instructions)
        ]
        return "\n".join(lines)

    def _text(self, instruction: Instruction) -> str:
        results = ", ".join(f"%{s}" for s in instruction.results if s >= 0)
        operands = ", ".join(f"%{s} {_shape(self._slots.get(s, s))}" for s in instruction.operands if s >= 0)
        call = f"{instruction.op.name}({operands})"
        if not results:  # an update, which writes into its operands
            return f"{call}  {instruction.line}"
        row = machine.table("slots")[self.slot(instruction.first_result)]
        result = f"{DTYPE_NAMES[int(row['dtype'])]} {row['shape'][: row['ndim']].tolist()}"
        return f"{results} = {call} -> {result}  {instruction.line}"


def _marks(group: Group) -> Iterator[tuple[int, str]]:
    """Yield a bracket beside each member of a group."""
    for k in range(group.first, group.end + 1):
        yield k, "┌" if k == group.first else "└" if k == group.end else "│"


def _shape(slot: int) -> list[int]:
    row = machine.table("slots")[slot]
    return row["shape"][: row["ndim"]].tolist()


def _revive(slots: list[int], storages: list[int]) -> None:
    """Bring slots that are dead back to life, over these storages (-1 for none)."""
    rows = machine.table("slots")
    for name in ("producer", "base", "grad", "cotangent", "family"):
        rows[name][slots] = -1
    rows["storage"][slots] = storages
    rows["refs"][slots] = rows["data_refs"][slots] = 1
    rows["serial"][slots] = 0
    rows["flags"][slots] &= CONTIGUOUS | IS_VIEW
    np.add.at(machine.table("storages")["refs"], [storage for storage in storages if storage >= 0], 1)


def _give_back_blocks(state: Any) -> None:
    """Give the large blocks that kernels of a program have taken to the machine, the small ones to the next program."""
    mine, machines = state["free_blocks"][0], machine.state["free_blocks"]
    for index in np.flatnonzero(mine).tolist():
        block = int(mine[index]) if _bytes_of_class(index) > _SMALL_BLOCK else 0
        while block:
            word = ctypes.c_int64.from_address(block)
            following, word.value = word.value, int(machines[index])
            machines[index] = block
            machine.state["bytes_cached"] += _bytes_of_class(index)
            block = following
        if _bytes_of_class(index) > _SMALL_BLOCK:
            mine[index] = 0
    if state["arena"][0]:
        _spare.append((mine.copy(), int(state["arena"][0]), int(state["arena_end"][0])))


class _Rows:
    """Rows that died in a recording and are a program's now, until it lets them go."""

    def __init__(self, notes: Notes) -> None:
        self.slots, self.storages = notes.slots, notes.storages
        notes.slots, notes.storages = set(), set()

    def drop_slots_but(self, used: Iterable[int]) -> None:
        for slot in self.slots - set(used):
            machine.recycle(slot, -1)
        self.slots &= set(used)

    def drop_storages_but(self, used: Iterable[int]) -> None:
        for storage in self.storages - set(used):
            machine.recycle(-1, storage)
        self.storages &= set(used)

    def release(self) -> None:
        """Give everything back to the machine; a storage goes with the last slot over it."""
        refs = machine.table("storages")["refs"]
        unused = [storage for storage in self.storages if refs[storage] == 0]
        for slot in self.slots:
            machine.recycle(slot, -1)
        for storage in unused:
            machine.recycle(-1, storage)
        self.slots, self.storages = set(), set()
