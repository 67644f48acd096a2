"""Variants of a captured function: one for each way in which it was called."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tapegrad.capture.compare import Form
from tapegrad.capture.guards import Guards
from tapegrad.capture.program import Program
from tapegrad.capture.storages import storage_of
from tapegrad.runtime import replay
from tapegrad.runtime.handle import Tensor

_REPLAYS_REFUSED = (replay.WRONG_INPUT, replay.WRONG_HANDLE, replay.WRONG_GRADIENT)


@dataclass(eq=False)
class Variant:
    """One way in which the function was called: its guards, and the program once two calls have been the same."""

    structure: Any
    guards: Guards
    tensors: list[tuple[Any, ...]]
    modes: int
    form: Form | None = None
    program: Program | None = None
    result: Any = None
    returned: tuple[tuple[str, int], ...] = ()
    failures: int = 0
    checks_left: int = 0
    shared: tuple[bool, ...] = ()

    def shares(self, tensors: Sequence[Tensor]) -> tuple[bool, ...]:
        """Return which arguments lie in the memory of tensors that the function finds elsewhere."""
        others = {storage_of(tensor) for tensor in self.guards.tensors}
        return tuple([storage_of(tensor) in others for tensor in tensors])

    def refresh(self) -> None:
        """Bring the numbers that the program reads from memory, such as learning rates, up to date."""
        assert self.program is not None
        for refresh in self.program.notes.refreshers:
            refresh()

    @staticmethod
    def refused(status: int) -> bool:
        """Return whether a status of a replay says that it did not run, since what it was made for has changed."""
        return status in _REPLAYS_REFUSED
