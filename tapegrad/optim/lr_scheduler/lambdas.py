"""Schedules that a function of the number of steps gives."""

from __future__ import annotations

import types
from collections.abc import Callable, Sequence
from typing import Any

from tapegrad.optim.group import Group
from tapegrad.optim.lr_scheduler.scheduler import LRScheduler
from tapegrad.optim.optimizer import Optimizer

Factor = Callable[[int], float]


class _FunctionLR(LRScheduler):
    """A schedule with a function for each group."""

    def __init__(self, optimizer: Optimizer, lr_lambda: Factor | Sequence[Factor], last_epoch: int = -1) -> None:
        count = len(optimizer.param_groups)
        self.lr_lambdas: list[Any] = list(lr_lambda) if isinstance(lr_lambda, list | tuple) else [lr_lambda] * count
        if len(self.lr_lambdas) != count:
            raise ValueError(f"Expected {count} lr_lambdas, but got {len(self.lr_lambdas)}")
        self.optimizer = optimizer
        super().__init__(optimizer, last_epoch)

    def _factor(self, group: Group) -> float:
        number = next(k for k, other in enumerate(self.optimizer.param_groups) if other is group)
        return self.lr_lambdas[number](self.last_epoch)

    def state_dict(self) -> dict[str, Any]:
        """Return all but the optimiser and functions; of callable objects, their attributes."""
        states = [None if isinstance(f, types.FunctionType) else f.__dict__.copy() for f in self.lr_lambdas]
        return {**super().state_dict(), "lr_lambdas": states}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over what ``state_dict`` returned."""
        super().load_state_dict({name: value for name, value in state_dict.items() if name != "lr_lambdas"})
        for function, state in zip(self.lr_lambdas, state_dict["lr_lambdas"], strict=False):
            if state is not None:
                function.__dict__.update(state)


class LambdaLR(_FunctionLR):
    """Multiplies the first learning rate by what a function makes of the number of steps.

    Args:
        optimizer: whose groups are changed.
        lr_lambda: the function, or a list of one for each group.
        last_epoch: how many steps were taken before; -1 begins anew.

    Raises:
        ValueError: there are not as many functions as groups.
    """

    def _rate(self, group: Group, base: Any) -> Any:
        return base * self._factor(group)


class MultiplicativeLR(_FunctionLR):
    """Multiplies the last learning rate by what a function makes of the number of steps.

    Args:
        optimizer: whose groups are changed.
        lr_lambda: the function, or a list of one for each group.
        last_epoch: how many steps were taken before; -1 begins anew.

    Raises:
        ValueError: there are not as many functions as groups.
        TypeError: one is no function.
    """

    def __init__(self, optimizer: Optimizer, lr_lambda: Factor | Sequence[Factor], last_epoch: int = -1) -> None:
        for function in lr_lambda if isinstance(lr_lambda, list | tuple) else [lr_lambda]:
            if not callable(function):
                raise TypeError(f"lr_lambda should be a function, but got {type(function).__name__}")
        super().__init__(optimizer, lr_lambda, last_epoch)

    def _rate(self, group: Group, base: Any) -> Any:
        return group["lr"] if self._is_initial else group["lr"] * self._factor(group)
