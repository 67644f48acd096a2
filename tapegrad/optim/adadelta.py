"""Adadelta."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tapegrad.ops.updates_adaptive import ADADELTA
from tapegrad.optim.group import Group, check_implementation, check_numbers, run_update, sign_of, zeros_like
from tapegrad.optim.optimizer import Optimizer, new_scalar
from tapegrad.runtime.handle import Tensor


class Adadelta(Optimizer):
    """Steps in proportion to the size of the steps before (Zeiler 2012, arXiv:1212.5701).

    Args:
        params: the parameters or groups of them.
        lr: the learning rate.
        rho: the share that the running means of squares keep at each step.
        eps: added under the square roots.
        weight_decay: how much of the parameter is added to its gradient.
        maximize: go up the gradient instead of down.
        differentiable: only False.
        foreach, capturable: accepted for torch's sake; a step is one pass over all parameters of a group.

    Raises:
        ValueError: a negative number, or a rho above 1.
        RuntimeError: ``differentiable``.
    """

    _scalar_state = ("step",)

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1.0,
        rho: float = 0.9,
        eps: float = 1e-6,
        weight_decay: float = 0,
        foreach: bool | None = None,
        *,
        capturable: bool = False,
        maximize: bool = False,
        differentiable: bool = False,
    ) -> None:
        check_numbers(lr=lr, rho=rho, eps=eps, weight_decay=weight_decay)
        check_implementation(foreach, None, differentiable)
        options = {
            "lr": lr,
            "rho": rho,
            "eps": eps,
            "weight_decay": weight_decay,
            "maximize": maximize,
            "capturable": capturable,
            "foreach": foreach,
            "differentiable": differentiable,
        }
        super().__init__(params, options)

    def _update(self, number: int, group: Group) -> None:
        options = (group["rho"], group["eps"], group["weight_decay"], sign_of(group))
        numbers = self._numbers_of(number, group["lr"], *options)
        run_update(ADADELTA, self._rows(group, ("square_avg", "acc_delta", "step"), numbers))

    def _new_state(self, param: Tensor, group: Group) -> dict[str, Any]:
        return {"step": new_scalar(0.0), "square_avg": zeros_like(param), "acc_delta": zeros_like(param)}
