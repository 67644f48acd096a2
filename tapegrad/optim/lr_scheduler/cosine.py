"""Schedules by a cosine (Loshchilov and Hutter 2017, arXiv:1608.03983)."""

from __future__ import annotations

import math
from typing import Any

from tapegrad.optim.group import Group
from tapegrad.optim.lr_scheduler.scheduler import LRScheduler
from tapegrad.optim.optimizer import Optimizer


def _between(low: float, high: Any, share: float) -> Any:
    """Return ``high`` at share 0, ``low`` at 1, by half a cosine."""
    return low + (high - low) * (1 + math.cos(math.pi * share)) / 2


class CosineAnnealingLR(LRScheduler):
    """Goes down to ``eta_min`` within ``T_max`` steps, and up again.

    Args:
        optimizer: whose groups are changed.
        T_max: how many steps it takes to the lowest value.
        eta_min: the lowest value.
        last_epoch: how many steps were taken before; -1 begins anew.
    """

    def __init__(self, optimizer: Optimizer, T_max: int, eta_min: float = 0.0, last_epoch: int = -1) -> None:
        self.T_max = T_max
        self.eta_min = eta_min
        super().__init__(optimizer, last_epoch)

    def _rate(self, group: Group, base: Any) -> Any:
        """From the last rate, so that what others multiplied it by stays; after a minimum, where that is 0, anew."""
        t = self.last_epoch
        if self._is_initial:
            return group["lr"]
        if self._step_count == 1 and t > 0:
            return _between(self.eta_min, base, t / self.T_max)
        if (t - 1 - self.T_max) % (2 * self.T_max) == 0:
            return group["lr"] + (base - self.eta_min) * (1 - math.cos(math.pi / self.T_max)) / 2
        now, before = (1 + math.cos(math.pi * step / self.T_max) for step in (t, t - 1))
        return now / before * (group["lr"] - self.eta_min) + self.eta_min

    def _get_closed_form_lr(self) -> list[Any]:
        return [_between(self.eta_min, base, self.last_epoch / self.T_max) for base in self.base_lrs]


class CosineAnnealingWarmRestarts(LRScheduler):
    """Goes down to ``eta_min`` by half a cosine, and begins anew, each time ``T_mult`` times as long.

    Args:
        optimizer: whose groups are changed.
        T_0: how many steps the first descent takes.
        T_mult: a whole number from 1 up.
        eta_min: the lowest value.
        last_epoch: how many steps were taken before; -1 begins anew.

    Raises:
        ValueError: lengths that are no positive whole numbers.
    """

    def __init__(
        self, optimizer: Optimizer, T_0: int, T_mult: int = 1, eta_min: float = 0.0, last_epoch: int = -1
    ) -> None:
        if T_0 <= 0 or not isinstance(T_0, int):
            raise ValueError(f"Expected positive integer T_0, but got {T_0}")
        if T_mult < 1 or not isinstance(T_mult, int):
            raise ValueError(f"Expected integer T_mult >= 1, but got {T_mult}")
        if not isinstance(eta_min, float | int):
            raise ValueError(f"Expected float or int eta_min, but got {eta_min} of type {type(eta_min)}")
        self.T_0 = T_0
        self.T_i = T_0
        self.T_mult = T_mult
        self.eta_min = eta_min
        self.T_cur: float = last_epoch
        super().__init__(optimizer, last_epoch)

    def _rate(self, group: Group, base: Any) -> Any:
        return _between(self.eta_min, base, self.T_cur / self.T_i)

    def step(self, epoch: float | None = None) -> None:
        """Go on by one step, or to an epoch, which may be a fraction.

        Args:
            epoch: the epoch to go to; None for the next one.

        Raises:
            ValueError: a negative epoch.
        """
        if epoch is None and self.last_epoch < 0:
            epoch = 0
        if epoch is None:
            epoch = self.last_epoch + 1
            self.T_cur += 1
            if self.T_cur >= self.T_i:
                self.T_cur %= self.T_i
                self.T_i *= self.T_mult
        else:
            self._go_to(epoch)
        self.last_epoch = math.floor(epoch)
        self._set_rates(self._rates_within_step())

    def _go_to(self, epoch: float) -> None:
        if epoch < 0:
            raise ValueError(f"Expected non-negative epoch, but got {epoch}")
        self.T_i, self.T_cur = self.T_0, epoch
        if epoch < self.T_0:
            return
        if self.T_mult == 1:
            self.T_cur = epoch % self.T_0
            return
        restarts = int(math.log(epoch / self.T_0 * (self.T_mult - 1) + 1, self.T_mult))
        self.T_cur = epoch - self.T_0 * (self.T_mult**restarts - 1) / (self.T_mult - 1)
        self.T_i = self.T_0 * self.T_mult**restarts
