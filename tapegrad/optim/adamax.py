"""Adamax."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tapegrad.ops.updates_adam import ADAMAX
from tapegrad.optim.group import Group, check_implementation, check_numbers, run_update, sign_of, zeros_like
from tapegrad.optim.optimizer import Optimizer, new_scalar
from tapegrad.runtime.handle import Tensor


class Adamax(Optimizer):
    """Adam with the largest gradient of late in the place of the mean square (Kingma and Ba 2015, arXiv:1412.6980).

    Args:
        params: the parameters or groups of them.
        lr: the learning rate.
        betas: the shares that the running mean and the running maximum keep at each step.
        eps: added to the gradient's size.
        weight_decay: how much of the parameter is added to its gradient.
        maximize: go up the gradient instead of down.
        differentiable: only False.
        foreach, capturable: accepted for torch's sake; a step is one pass over all parameters of a group.

    Raises:
        ValueError: a negative number, or a beta that is not below 1.
        RuntimeError: ``differentiable``.
    """

    _scalar_state = ("step",)

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 2e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        foreach: bool | None = None,
        *,
        maximize: bool = False,
        differentiable: bool = False,
        capturable: bool = False,
    ) -> None:
        check_numbers(lr=lr, eps=eps, betas=betas, weight_decay=weight_decay)
        check_implementation(foreach, None, differentiable)
        options = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "foreach": foreach,
            "maximize": maximize,
            "differentiable": differentiable,
            "capturable": capturable,
        }
        super().__init__(params, options)

    def _update(self, number: int, group: Group) -> None:
        options = (*group["betas"], group["eps"], group["weight_decay"], sign_of(group), 0.0)
        numbers = self._numbers_of(number, group["lr"], *options)
        run_update(ADAMAX, self._rows(group, ("exp_avg", "exp_inf", "step"), numbers))

    def _new_state(self, param: Tensor, group: Group) -> dict[str, Any]:
        return {"step": new_scalar(0.0), "exp_avg": zeros_like(param), "exp_inf": zeros_like(param)}
