"""Numbers of optimisers for the steps to come: schedules that step in a captured function are asked ahead of it."""

from __future__ import annotations

from typing import Any

import numpy as np

from tapegrad.capture.variants import Variant
from tapegrad.optim.lr_scheduler import LRScheduler
from tapegrad.optim.optimizer import Optimizer


class Ahead:
    """The numbers that the next replays read, as the schedules give them, which step while this is filled.

    Args:
        variant: whose program steps schedules.

    Attributes:
        count: for how many replays there are numbers.
    """

    def __init__(self, variant: Variant) -> None:
        assert variant.program is not None
        self._variant, self._calls = variant, variant.program.notes.deferred
        self._optimizers = [call.__self__ for call in variant.program.notes.refreshers]  # type: ignore[attr-defined]
        schedules = [call.func.__self__ for call in self._calls]  # type: ignore[attr-defined]
        self._before = [state for schedule in schedules for state in _states_of(schedule)]
        self._groups = [(group, dict(group)) for optimizer in self._optimizers for group in optimizer.param_groups]
        self._arrays = _arrays_of(self._optimizers)
        self._tables: list[Any] = []
        self.count = 0

    def fill(self, count: int) -> None:
        """Step the schedules ``count`` times, or until a number becomes 0, or is 0 no more."""
        rows: list[list[Any]] = []
        while len(rows) < count and self._variant.guards.numbers_hold():
            self._variant.refresh()
            rows.append([array.copy() for array in self._arrays])
            for call in self._calls:
                call()
        self._tables = [np.array(table) for table in zip(*rows, strict=True)]
        self.count = len(rows)

    def words(self) -> list[int]:
        """Return what replay wants to know of the tables; see run_steps."""
        found = [len(self._tables)]
        for table, array in zip(self._tables, self._arrays, strict=False):
            found += [table.ctypes.data, array.ctypes.data, array.nbytes]
        return found

    def take_back(self, done: int) -> None:
        """Have the schedules be where they are after ``done`` replays."""
        for holder, state in [*self._before, *self._groups]:
            holder.clear()
            holder.update({name: _copied(value) for name, value in state.items()})
        for _ in range(done):
            for call in self._calls:
                call()


def _states_of(schedule: LRScheduler) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Return the attributes of a schedule, and of those that it is made of, each with a copy of them."""
    own = vars(schedule)
    found = [(own, {name: _copied(value) for name, value in own.items()})]
    for value in own.values():
        for inner in value if isinstance(value, list | tuple) else (value,):
            if isinstance(inner, LRScheduler):
                found += _states_of(inner)
    return found


def _copied(value: Any) -> Any:
    return value.copy() if type(value) in (list, dict) else value


def _arrays_of(optimizers: list[Optimizer]) -> list[Any]:
    """Return the memory in which the optimisers' numbers are."""
    return [numbers.array for optimizer in optimizers for numbers in optimizer._numbers.values()]
