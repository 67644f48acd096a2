"""What all schedules have: the count of steps, the learning rates set last, their form in files."""

from __future__ import annotations

import functools
import threading
import warnings
from collections.abc import Callable
from typing import Any

from tapegrad.optim.group import Group
from tapegrad.optim.optimizer import Optimizer
from tapegrad.runtime.handle import Tensor
from tapegrad.runtime.machine import machine

EPOCH_IS_DEPRECATED = (
    "The epoch parameter in `scheduler.step()` was not necessary and is being deprecated where possible. Please use "
    "`scheduler.step()` to step the scheduler. During the deprecation, if epoch is different from None, the closed "
    "form is used instead of the new chainable form, where available."
)
_OVERRIDDEN = (
    "Seems like `optimizer.step()` has been overridden after learning rate scheduler initialization. Please, make sure "
    "to call `optimizer.step()` before `lr_scheduler.step()`."
)
_WRONG_ORDER = (
    "Detected call of `lr_scheduler.step()` before `optimizer.step()`. You should call them in the opposite order: "
    "`optimizer.step()` before `lr_scheduler.step()`. Failure to do this will result in skipping the first value of "
    "the learning rate schedule."
)


def expect_optimizer(optimizer: Any) -> None:
    """Raise TypeError for what is no optimiser."""
    if not isinstance(optimizer, Optimizer):
        raise TypeError(f"{type(optimizer).__name__} is not an Optimizer")


def one_for_each_group(name: str, optimizer: Optimizer, value: Any) -> list[Any]:
    """Return a list with one value a group; ValueError where a list of another length is given."""
    count = len(optimizer.param_groups)
    if not isinstance(value, list | tuple):
        return [_copied(value) for _ in range(count)]
    if len(value) != count:
        raise ValueError(
            f"{name} must have the same length as optimizer.param_groups. "
            f"{name} has {len(value)} values, param_groups has {count}."
        )
    return [_copied(item) for item in value]


def values_of(optimizer: Optimizer, name: str) -> list[Any]:
    """Return copies of the groups' values of an option."""
    return [_copied(group[name]) for group in optimizer.param_groups]


def set_value(group: Group, name: str, value: Any) -> None:
    """Set a group's option; where it is a tensor, its number."""
    if isinstance(group[name], Tensor):
        group[name].fill_(float(value))
    else:
        group[name] = value


def _copied(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) else value


_stepping = threading.local()


def _replayed(step: Callable[..., Any]) -> Callable[..., Any]:
    """Return a ``step`` that a captured function's replays take too, after what they compute.

    A schedule made of others steps these: only the outermost step is to be taken again.
    """

    @functools.wraps(step)
    def stepped(self: Any, *args: Any, **kwargs: Any) -> Any:
        if machine.capturing != threading.get_ident() or getattr(_stepping, "inside", False):
            return step(self, *args, **kwargs)
        machine.deferred.append((functools.partial(self.step, *args, **kwargs), int(machine.state["capture_top"])))
        _stepping.inside = True
        try:
            return step(self, *args, **kwargs)
        finally:
            _stepping.inside = False

    return stepped


class LRScheduler:
    """Sets the learning rates of an optimiser's groups at each step.

    A schedule of your own overrides ``get_lr``, which returns one learning rate for each group; the number of steps
    taken is ``last_epoch``, the first learning rates are ``base_lrs``.

    Args:
        optimizer: whose groups are changed.
        last_epoch: how many steps were taken before; -1 begins anew.

    Raises:
        TypeError: ``optimizer`` is no Optimizer.
        KeyError: ``last_epoch`` says that steps were taken, but the groups have no ``initial_lr``.
    """

    _get_lr_called_within_step = False
    _is_initial = False

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "step" in cls.__dict__:
            cls.step = _replayed(cls.__dict__["step"])  # type: ignore[method-assign]

    def __init__(self, optimizer: Optimizer, last_epoch: int = -1) -> None:
        expect_optimizer(optimizer)
        self.optimizer = optimizer
        for number, group in enumerate(optimizer.param_groups):
            if last_epoch == -1:
                group.setdefault("initial_lr", _copied(group["lr"]))
            elif "initial_lr" not in group:
                raise KeyError(
                    f"param 'initial_lr' is not specified in param_groups[{number}] when resuming scheduler with "
                    "last_epoch >= 0. Load the optimizer's state first, or leave last_epoch at -1."
                )
        self.base_lrs = values_of(optimizer, "initial_lr")
        self.last_epoch = last_epoch
        if not optimizer._scheduled:
            optimizer._scheduled = True  # from here on it counts whether step was called
            optimizer._opt_called = False
        self._initial_step()

    def _initial_step(self) -> None:
        self._step_count = 0
        self._is_initial = True
        try:
            self.step()
        finally:
            self._is_initial = False

    @_replayed
    def step(self, epoch: int | None = None) -> None:
        """Go on to the next learning rate, or, which is deprecated, to that of an epoch.

        Args:
            epoch: the epoch to go to; None for the next one.
        """
        if self._step_count == 1:
            if not hasattr(self.optimizer.step, "hooked"):
                warnings.warn(_OVERRIDDEN, UserWarning, stacklevel=2)
            elif not self.optimizer._opt_called:
                warnings.warn(_WRONG_ORDER, UserWarning, stacklevel=2)
        self._step_count += 1
        if epoch is not None:
            warnings.warn(EPOCH_IS_DEPRECATED, UserWarning, stacklevel=2)
        self._update_lr(epoch)

    def _update_lr(self, epoch: int | None = None) -> None:
        self.last_epoch = self.last_epoch + 1 if epoch is None else epoch
        closed_form = None if epoch is None else getattr(self, "_get_closed_form_lr", None)
        self._set_rates(closed_form() if closed_form is not None else self._rates_within_step())

    def _rates_within_step(self) -> list[Any]:
        self._get_lr_called_within_step = True
        try:
            return self.get_lr()
        finally:
            self._get_lr_called_within_step = False

    def _set_rates(self, rates: list[Any]) -> None:
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            set_value(group, "lr", rate)
        self._last_lr = values_of(self.optimizer, "lr")

    def get_lr(self) -> list[Any]:
        """Return the groups' next learning rates; for ``step``, which has counted the step already."""
        if not self._get_lr_called_within_step:
            warnings.warn(
                "To get the last learning rate computed by the scheduler, please use `get_last_lr()`.",
                UserWarning,
                stacklevel=2,
            )
        return self._rates()

    def _rates(self) -> list[Any]:
        groups = self.optimizer.param_groups
        return [self._rate(group, base) for group, base in zip(groups, self.base_lrs, strict=True)]

    def _rate(self, group: Group, base: Any) -> Any:
        """Return the next learning rate of a group, whose first one was ``base``."""
        raise NotImplementedError

    def get_last_lr(self) -> list[Any]:
        """Return the learning rates that were set last."""
        return self._last_lr

    def state_dict(self) -> dict[str, Any]:
        """Return all but the optimiser."""
        return {name: value for name, value in self.__dict__.items() if name != "optimizer"}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over what ``state_dict`` returned."""
        self.__dict__.update(state_dict)


class _LRScheduler(LRScheduler):
    """The name that older programs use."""
