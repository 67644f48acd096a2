"""Running a program step by step, and putting back what a run has changed: for checks and for profiles."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from tapegrad.capture.program import Program
from tapegrad.capture.storages import storage_of
from tapegrad.runtime import replay
from tapegrad.runtime.handle import Tensor
from tapegrad.runtime.machine import machine

_RUN = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64, ctypes.c_int64)


class Snapshot:
    """The contents of everything that outlives a run of a program: arguments, tensors from outside, gradients.

    Args:
        program: the program.
        arguments: the tensors that it will be run on.
    """

    def __init__(self, program: Program, arguments: Sequence[Tensor]) -> None:
        found = program.storages
        lasting = {*found.outside, *found.written, *found.kept, *map(storage_of, arguments)}
        rows = machine.table("storages")
        self._places = [(int(rows["address"][s]), int(rows["bytes"][s])) for s in lasting if rows["refs"][s] > 0]
        self._contents = [ctypes.string_at(address, size) for address, size in self._places]
        self._gradients = []
        slots = machine.table("slots")
        for leaf in program.notes.gradients:
            handle = int(slots["grad"][leaf])
            if slots["refs"][leaf] > 0:
                self._gradients.append((machine.handle_of_slot(leaf), handle))
                if handle >= 0:
                    machine.share_handle(handle)

    def restore(self) -> None:
        """Put everything back."""
        for (address, _), content in zip(self._places, self._contents, strict=True):
            ctypes.memmove(address, content, len(content))
        for leaf, handle in self._gradients:
            machine.set_grad(leaf, handle)

    def close(self) -> None:
        """Let go of the gradients."""
        for leaf, handle in self._gradients:
            machine.release(leaf)
            if handle >= 0:
                machine.release(handle)
        self._gradients = []


class Stepper:
    """Runs the steps of a program one at a time, once its inputs are bound.

    Args:
        program: the program.
    """

    def __init__(self, program: Program) -> None:
        self._program = program
        self._run = _RUN(int(program.words[replay.RUN]))
        self._code = int(program.words[replay.CODE])
        self._heads: dict[int, Any] = {}

    def bind(self, handles: Iterable[int], run: Callable[..., Any] = Program.run) -> int:
        """Do all that a run does but for the instructions; return 0, or a status if it refuses."""
        words = self._program.words
        count = int(words[replay.COUNT])
        words[replay.COUNT] = 0
        try:
            found = run(self._program, *handles)
            if not isinstance(found, tuple):
                return int(found)
            for handle in found:  # of outputs that nothing has been written into
                machine.release(handle)
            return 0
        finally:
            words[replay.COUNT] = count

    def _head(self, k: int) -> int:
        """Return the address of a program's head with step ``k`` alone; with none if ``k`` is negative."""
        if k not in self._heads:
            head = self._heads[k] = self._program.words.copy()
            head[replay.COUNT] = int(k >= 0)
            head[replay.CODE] = self._code + 8 * replay.INSTRUCTION_WORDS * max(k, 0)
        return int(self._heads[k].ctypes.data)

    def step(self, k: int) -> int:
        """Run step ``k``; return 0 or a status."""
        return self._run(self._head(k), 0)

    def timed(self, k: int) -> float:
        """Run step ``k``, none if it is negative; return the seconds that it took."""
        head = self._head(k)
        start = time.perf_counter()
        self._run(head, 0)
        return time.perf_counter() - start
