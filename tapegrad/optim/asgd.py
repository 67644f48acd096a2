"""Averaged SGD."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tapegrad.ops.updates_sgd import ASGD as UPDATE
from tapegrad.optim.group import Group, check_implementation, check_numbers, run_update, sign_of, zeros_like
from tapegrad.optim.optimizer import Optimizer, new_scalar
from tapegrad.runtime.handle import Tensor


class ASGD(Optimizer):
    """SGD that also keeps the mean of the parameters (Polyak and Juditsky 1992), as the state ``ax``.

    Args:
        params: the parameters or groups of them.
        lr: the learning rate.
        lambd: the share of the parameter that a step takes away is lambd times its learning rate.
        alpha: the power by which the learning rate falls.
        t0: the step after which the mean is taken.
        weight_decay: how much of the parameter is added to its gradient.
        maximize: go up the gradient instead of down.
        differentiable: only False.
        foreach, capturable: accepted for torch's sake; a step is one pass over all parameters of a group.

    Raises:
        ValueError: a negative number.
        RuntimeError: ``differentiable``.
    """

    _scalar_state = ("step", "eta", "mu")

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-2,
        lambd: float = 1e-4,
        alpha: float = 0.75,
        t0: float = 1e6,
        weight_decay: float = 0,
        foreach: bool | None = None,
        maximize: bool = False,
        differentiable: bool = False,
        capturable: bool = False,
    ) -> None:
        check_numbers(lr=lr, weight_decay=weight_decay)
        check_implementation(foreach, None, differentiable)
        options = {
            "lr": lr,
            "lambd": lambd,
            "alpha": alpha,
            "t0": t0,
            "weight_decay": weight_decay,
            "foreach": foreach,
            "maximize": maximize,
            "differentiable": differentiable,
            "capturable": capturable,
        }
        super().__init__(params, options)

    def _update(self, number: int, group: Group) -> None:
        options = (group["lambd"], group["alpha"], group["t0"], group["weight_decay"], sign_of(group))
        numbers = self._numbers_of(number, group["lr"], *options)
        run_update(UPDATE, self._rows(group, ("ax", "step", "eta", "mu"), numbers))

    def _new_state(self, param: Tensor, group: Group) -> dict[str, Any]:
        scalars = {"step": new_scalar(0.0), "eta": new_scalar(float(group["lr"])), "mu": new_scalar(1.0)}
        return {**scalars, "ax": zeros_like(param)}
