"""Schedules that go up and down, momentum going the other way: cyclic learning rates and the one-cycle policy."""

from __future__ import annotations

import math
import types
from collections.abc import Callable
from typing import Any

from tapegrad.optim.group import Group
from tapegrad.optim.lr_scheduler.scheduler import LRScheduler, expect_optimizer, one_for_each_group, set_value
from tapegrad.optim.optimizer import Optimizer


def _uses_beta1(optimizer: Optimizer) -> bool:
    """Return whether the optimiser's momentum is its first beta; ValueError where it has none."""
    if "momentum" not in optimizer.defaults and "betas" not in optimizer.defaults:
        raise ValueError("optimizer must support momentum or beta1 with `cycle_momentum` option enabled")
    return "betas" in optimizer.defaults


def _set_momentum(group: Group, momentum: Any, use_beta1: bool) -> None:
    if use_beta1:
        group["betas"] = (momentum, *group["betas"][1:])
    else:
        group["momentum"] = momentum


def _set_momenta(optimizer: Optimizer, highest: list[Any], lowest: list[Any], use_beta1: bool) -> None:
    """Set the groups' momenta to the highest, and note the bounds in the groups."""
    for group, high, low in zip(optimizer.param_groups, highest, lowest, strict=True):
        _set_momentum(group, high, use_beta1)
        group["max_momentum"], group["base_momentum"] = high, low


class CyclicLR(LRScheduler):
    """Goes from ``base_lr`` up to ``max_lr`` and down again, over and over (Smith 2017, arXiv:1506.01186).

    Args:
        optimizer: whose groups are changed.
        base_lr: the lowest learning rate, one for all groups or a list.
        max_lr: the highest.
        step_size_up: how many steps it goes up.
        step_size_down: how many it goes down; by default as many.
        mode: ``triangular``; ``triangular2``, which halves the height of each cycle; ``exp_range``, which multiplies
            it by gamma to the number of steps.
        gamma: for ``exp_range``.
        scale_fn: a function of the number of the cycle, or of the steps, in place of ``mode``.
        scale_mode: ``cycle`` or ``iterations``: what ``scale_fn`` is a function of.
        cycle_momentum: whether momentum, or Adam's first beta, goes the opposite way.
        base_momentum: the lowest momentum, one for all groups or a list.
        max_momentum: the highest.
        last_epoch: how many steps were taken before; -1 begins anew.

    Raises:
        ValueError: an unknown mode, lists of a wrong length, or an optimiser without momentum.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        base_lr: float | list[float],
        max_lr: float | list[float],
        step_size_up: int = 2000,
        step_size_down: int | None = None,
        mode: str = "triangular",
        gamma: float = 1.0,
        scale_fn: Callable[[float], float] | None = None,
        scale_mode: str = "cycle",
        cycle_momentum: bool = True,
        base_momentum: float | list[float] = 0.8,
        max_momentum: float | list[float] = 0.9,
        last_epoch: int = -1,
    ) -> None:
        expect_optimizer(optimizer)
        if mode not in ("triangular", "triangular2", "exp_range") and scale_fn is None:
            raise ValueError("mode is invalid and scale_fn is None")
        self.optimizer = optimizer
        base_lrs = one_for_each_group("base_lr", optimizer, base_lr)
        self.max_lrs = one_for_each_group("max_lr", optimizer, max_lr)
        up = float(step_size_up)
        self.total_size = up + (float(step_size_down) if step_size_down is not None else up)
        self.step_ratio = up / self.total_size
        self.mode = mode
        self.gamma = gamma
        self._scale_fn_custom = scale_fn
        self.scale_mode = scale_mode
        if scale_fn is None:
            self.scale_mode = "iterations" if mode == "exp_range" else "cycle"
        self.cycle_momentum = cycle_momentum
        if cycle_momentum:
            self.use_beta1 = _uses_beta1(optimizer)
            self.base_momentums = one_for_each_group("base_momentum", optimizer, base_momentum)
            self.max_momentums = one_for_each_group("max_momentum", optimizer, max_momentum)
        if last_epoch == -1:
            for group, rate in zip(optimizer.param_groups, base_lrs, strict=True):
                set_value(group, "lr", rate)
            if cycle_momentum:
                _set_momenta(optimizer, self.max_momentums, self.base_momentums, self.use_beta1)
        super().__init__(optimizer, last_epoch)
        self.base_lrs = base_lrs

    def scale_fn(self, x: float) -> float:
        """Return the height of a cycle, as a share of the first one's.

        Args:
            x: the number of the cycle, or of the step.
        """
        if self._scale_fn_custom is not None:
            return self._scale_fn_custom(x)
        if self.mode == "triangular2":
            return 1 / (2.0 ** (x - 1))
        return self.gamma**x if self.mode == "exp_range" else 1.0

    def _rates(self) -> list[Any]:
        cycle = math.floor(1 + self.last_epoch / self.total_size)
        x = 1.0 + self.last_epoch / self.total_size - cycle
        share = x / self.step_ratio if x <= self.step_ratio else (x - 1) / (self.step_ratio - 1)
        scale = self.scale_fn(cycle if self.scale_mode == "cycle" else self.last_epoch)
        if self.cycle_momentum:
            for k, group in enumerate(self.optimizer.param_groups):
                high, low = self.max_momentums[k], self.base_momentums[k]
                _set_momentum(group, high - (high - low) * share * scale, self.use_beta1)
        return [low + (high - low) * share * scale for low, high in zip(self.base_lrs, self.max_lrs, strict=True)]

    def state_dict(self) -> dict[str, Any]:
        """Return all but the optimiser and ``scale_fn``; of a callable object, its attributes."""
        function = self._scale_fn_custom
        custom = None if function is None or isinstance(function, types.FunctionType) else function.__dict__.copy()
        return {**super().state_dict(), "_scale_fn_custom": custom}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over what ``state_dict`` returned."""
        super().load_state_dict({name: value for name, value in state_dict.items() if name != "_scale_fn_custom"})
        if state_dict["_scale_fn_custom"] is not None:
            self._scale_fn_custom.__dict__.update(state_dict["_scale_fn_custom"])


_UP = {"start_lr": "initial_lr", "end_lr": "max_lr", "start_momentum": "max_momentum", "end_momentum": "base_momentum"}
_BACK = {
    "start_lr": "max_lr",
    "end_lr": "initial_lr",
    "start_momentum": "base_momentum",
    "end_momentum": "max_momentum",
}
_OUT = {"start_lr": "initial_lr", "end_lr": "min_lr", "start_momentum": "max_momentum", "end_momentum": "max_momentum"}
_DOWN = {**_BACK, "end_lr": "min_lr"}


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
        base_momentum: the lowest momentum, one for all groups or a list.
        max_momentum: the highest momentum.
        div_factor: the first learning rate is max_lr / div_factor.
        final_div_factor: the last one is the first over this.
        three_phase: go down to the first learning rate as fast as up, and only then to the last.
        last_epoch: how many steps were taken before; -1 begins anew.

    Raises:
        ValueError: no length, an unknown strategy, or an optimiser without momentum; at a step, one too many.
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
        base_momentum: float | list[float] = 0.85,
        max_momentum: float | list[float] = 0.95,
        div_factor: float = 25.0,
        final_div_factor: float = 1e4,
        three_phase: bool = False,
        last_epoch: int = -1,
    ) -> None:
        expect_optimizer(optimizer)
        self.optimizer = optimizer
        self.total_steps = _total_steps(total_steps, epochs, steps_per_epoch)
        if pct_start < 0 or pct_start > 1 or not isinstance(pct_start, float):
            raise ValueError(f"Expected float between 0 and 1 pct_start, but got {pct_start}")
        if anneal_strategy not in ("cos", "linear"):
            raise ValueError(f"anneal_strategy must be one of 'cos' or 'linear', instead got {anneal_strategy}")
        self._schedule_phases = _phases(self.total_steps, pct_start, three_phase)
        self._anneal_func_type = anneal_strategy
        self.cycle_momentum = cycle_momentum
        highest = one_for_each_group("max_lr", optimizer, max_lr)
        if cycle_momentum:
            self.use_beta1 = _uses_beta1(optimizer)
            momenta = one_for_each_group("max_momentum", optimizer, max_momentum)
            least = one_for_each_group("base_momentum", optimizer, base_momentum)
        if last_epoch == -1:
            for group, high in zip(optimizer.param_groups, highest, strict=True):
                group["initial_lr"], group["max_lr"] = high / div_factor, high
                group["min_lr"] = group["initial_lr"] / final_div_factor
            if cycle_momentum:
                _set_momenta(optimizer, momenta, least, self.use_beta1)
        super().__init__(optimizer, last_epoch)

    def _between(self, start: Any, end: Any, share: float) -> Any:
        if self._anneal_func_type == "linear":
            return (end - start) * share + start
        return end + (start - end) / 2.0 * (math.cos(math.pi * share) + 1)

    def _rate(self, group: Group, base: Any) -> Any:
        if self.last_epoch > self.total_steps:
            raise ValueError(
                f"Tried to step {self.last_epoch} times. The specified number of total steps is {self.total_steps}"
            )
        phase, share = self._phase()
        if self.cycle_momentum:
            momentum = self._between(group[phase["start_momentum"]], group[phase["end_momentum"]], share)
            _set_momentum(group, momentum, self.use_beta1)
        return self._between(group[phase["start_lr"]], group[phase["end_lr"]], share)

    def _phase(self) -> tuple[dict[str, Any], float]:
        """Return the phase that this step is in, and how much of it is over."""
        start = 0.0
        for phase in self._schedule_phases:
            if self.last_epoch <= phase["end_step"] or phase is self._schedule_phases[-1]:
                break
            start = phase["end_step"]
        return phase, (self.last_epoch - start) / (phase["end_step"] - start)


def _total_steps(total_steps: int | None, epochs: int | None, steps_per_epoch: int | None) -> int:
    if total_steps is not None:
        return _positive("total_steps", total_steps)
    if epochs is None or steps_per_epoch is None:
        raise ValueError("You must define either total_steps OR (epochs AND steps_per_epoch)")
    return _positive("epochs", epochs) * _positive("steps_per_epoch", steps_per_epoch)


def _positive(name: str, value: int) -> int:
    if value <= 0 or not isinstance(value, int):
        raise ValueError(f"Expected positive integer {name}, but got {value}")
    return value


def _phases(total_steps: int, pct_start: float, three_phase: bool) -> list[dict[str, Any]]:
    top = float(pct_start * total_steps) - 1
    if not three_phase:
        return [{"end_step": top, **_UP}, {"end_step": total_steps - 1, **_DOWN}]
    back = float(2 * pct_start * total_steps) - 2
    return [{"end_step": top, **_UP}, {"end_step": back, **_BACK}, {"end_step": total_steps - 1, **_OUT}]
