"""Schedules of the learning rate, each a formula of the number of steps taken."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from tapegrad.optim.group import Group
from tapegrad.optim.optimizer import Optimizer


class LRScheduler:
    """Sets the learning rates of an optimiser's groups; a subclass says in ``rate`` to what.

    Args:
        optimizer: whose groups are changed.
        last_epoch: how many steps were taken before; -1 begins anew.
    """

    def __init__(self, optimizer: Optimizer, last_epoch: int = -1) -> None:
        self.optimizer = optimizer
        for group in optimizer.param_groups:
            if last_epoch == -1:
                group["initial_lr"] = group["lr"]
            elif "initial_lr" not in group:
                raise KeyError("param 'initial_lr' is not specified in param_groups when resuming an optimizer")
        self.base_lrs = [group["initial_lr"] for group in optimizer.param_groups]
        self.last_epoch = last_epoch
        self.step()

    def rate(self, step: int, base: float, number: int) -> float:
        """Return the learning rate of group ``number``, whose first one was ``base``, after so many steps."""
        raise NotImplementedError

    def step(self) -> None:
        """Go on to the next learning rate."""
        self.last_epoch += 1
        for number, (group, base) in enumerate(zip(self.optimizer.param_groups, self.base_lrs, strict=True)):
            group["lr"] = self.rate(self.last_epoch, base, number)
            self.adjust(group)

    def adjust(self, group: Group) -> None:
        """Set what else changes with the learning rate."""

    def get_last_lr(self) -> list[float]:
        """Return the groups' learning rates."""
        return [group["lr"] for group in self.optimizer.param_groups]

    def state_dict(self) -> dict[str, Any]:
        """Return all but the optimiser and functions."""
        return {name: value for name, value in self.__dict__.items() if name not in ("optimizer", "lr_lambdas")}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over what ``state_dict`` returned."""
        self.__dict__.update(state_dict)


class LambdaLR(LRScheduler):
    """Multiplies the first learning rate by what a function, or one for each group, makes of the number of steps."""

    def __init__(self, optimizer: Optimizer, lr_lambda: Any, last_epoch: int = -1) -> None:
        several = isinstance(lr_lambda, list | tuple)
        self.lr_lambdas: list[Callable[[int], float]] = (
            list(lr_lambda) if several else [lr_lambda] * len(optimizer.param_groups)
        )
        if len(self.lr_lambdas) != len(optimizer.param_groups):
            raise ValueError(f"Expected {len(optimizer.param_groups)} lr_lambdas, but got {len(self.lr_lambdas)}")
        super().__init__(optimizer, last_epoch)

    def rate(self, step: int, base: float, number: int) -> float:
        """Return base * lambda(step)."""
        return base * self.lr_lambdas[number](step)


class StepLR(LRScheduler):
    """Multiplies the learning rate by ``gamma`` every ``step_size`` steps."""

    def __init__(self, optimizer: Optimizer, step_size: int, gamma: float = 0.1, last_epoch: int = -1) -> None:
        self.step_size, self.gamma = step_size, gamma
        super().__init__(optimizer, last_epoch)

    def rate(self, step: int, base: float, number: int) -> float:
        """Return base * gamma ** (step // step_size)."""
        return float(base * self.gamma ** (step // self.step_size))


class CosineAnnealingLR(LRScheduler):
    """Goes down to ``eta_min`` within ``T_max`` steps, and up again, by a cosine (Loshchilov and Hutter 2017)."""

    def __init__(self, optimizer: Optimizer, T_max: int, eta_min: float = 0.0, last_epoch: int = -1) -> None:
        self.T_max, self.eta_min = T_max, eta_min
        super().__init__(optimizer, last_epoch)

    def rate(self, step: int, base: float, number: int) -> float:
        """Return eta_min + (base - eta_min) (1 + cos(pi step / T_max)) / 2."""
        return self.eta_min + (base - self.eta_min) * (1 + math.cos(math.pi * step / self.T_max)) / 2


class OneCycleLR(LRScheduler):
    """Goes up to ``max_lr`` and then down to almost nothing (Smith and Topin 2018, arXiv:1708.07120).

    Args:
        optimizer: whose groups are changed.
        max_lr: the highest learning rate, one for all groups or a list.
        total_steps: how many steps there are; or ``epochs`` and ``steps_per_epoch``.
        epochs: how many epochs there are.
        steps_per_epoch: how many steps an epoch has.
        pct_start: the share of the steps that go up.
        anneal_strategy: ``cos`` or ``linear``.
        cycle_momentum: whether momentum, or Adam's first beta, goes the opposite way.
        base_momentum: the lowest momentum.
        max_momentum: the highest momentum.
        div_factor: the first learning rate is max_lr / div_factor.
        final_div_factor: the last one is the first over this.
        last_epoch: how many steps were taken before; -1 begins anew.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        max_lr: float | list[float],
        total_steps: int | None = None,
        epochs: int | None = None,
        steps_per_epoch: int | None = None,
        pct_start: float = 0.3,
        anneal_strategy: str = "cos",
        cycle_momentum: bool = True,
        base_momentum: float = 0.85,
        max_momentum: float = 0.95,
        div_factor: float = 25.0,
        final_div_factor: float = 1e4,
        last_epoch: int = -1,
    ) -> None:
        if total_steps is None:
            if epochs is None or steps_per_epoch is None:
                raise ValueError("You must define either total_steps OR (epochs AND steps_per_epoch)")
            total_steps = epochs * steps_per_epoch
        if anneal_strategy not in ("cos", "linear"):
            raise ValueError(f"anneal_strategy must be one of 'cos' or 'linear', instead got {anneal_strategy}")
        self.total_steps, self.turn = total_steps, float(pct_start * total_steps) - 1
        self.anneal_strategy, self.cycle_momentum = anneal_strategy, cycle_momentum
        self.momenta = (max_momentum, base_momentum)
        peaks = max_lr if isinstance(max_lr, list) else [max_lr] * len(optimizer.param_groups)
        for group, peak in zip(optimizer.param_groups, peaks, strict=True):
            if last_epoch == -1:
                group["lr"] = group["initial_lr"] = peak / div_factor
                group["max_lr"], group["min_lr"] = peak, peak / div_factor / final_div_factor
        super().__init__(optimizer, last_epoch)

    def _between(self, step: int, start: float, peak: float, end: float) -> float:
        first, last, share = start, peak, step / self.turn if self.turn else 1.0
        if step > self.turn:
            first, last, share = peak, end, (step - self.turn) / (self.total_steps - 1 - self.turn)
        if self.anneal_strategy == "linear":
            return first + (last - first) * share
        return last + (first - last) / 2 * (1 + math.cos(math.pi * share))

    def rate(self, step: int, base: float, number: int) -> float:
        """Return a value on the way up from ``base`` or on the way down."""
        if step > self.total_steps:
            raise ValueError(f"Tried to step {step} times. The total number of steps is {self.total_steps}")
        group = self.optimizer.param_groups[number]
        return self._between(step, base, group["max_lr"], group["min_lr"])

    def adjust(self, group: Group) -> None:
        """Set momentum, or Adam's first beta."""
        if not self.cycle_momentum:
            return
        high, low = self.momenta
        momentum = self._between(self.last_epoch, high, low, high)
        if "betas" in group:
            group["betas"] = (momentum, *group["betas"][1:])
        else:
            group["momentum"] = momentum
