"""Adagrad."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tapegrad.ops.calls import functions
from tapegrad.ops.updates_adaptive import ADAGRAD
from tapegrad.optim.group import Group, check_implementation, check_numbers, run_update, sign_of
from tapegrad.optim.optimizer import Optimizer, new_scalar
from tapegrad.runtime.handle import Tensor


class Adagrad(Optimizer):
    """Divides by the root of the sum of all squares of the gradient (Duchi, Hazan and Singer 2011).

    Args:
        params: the parameters or groups of them.
        lr: the learning rate.
        lr_decay: the learning rate of step t is lr / (1 + (t - 1) lr_decay).
        weight_decay: how much of the parameter is added to its gradient.
        initial_accumulator_value: what the sums of squares begin with.
        eps: added to the denominator.
        maximize: go up the gradient instead of down.
        differentiable: only False.
        foreach, fused: accepted for torch's sake; a step is one pass over all parameters of a group.

    Raises:
        ValueError: a negative number.
        RuntimeError: ``differentiable``.
    """

    _scalar_state = ("step",)

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-2,
        lr_decay: float = 0,
        weight_decay: float = 0,
        initial_accumulator_value: float = 0,
        eps: float = 1e-10,
        foreach: bool | None = None,
        *,
        maximize: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
    ) -> None:
        check_numbers(lr=lr, lr_decay=lr_decay, weight_decay=weight_decay)
        check_numbers(initial_accumulator_value=initial_accumulator_value, eps=eps)
        check_implementation(foreach, fused, differentiable)
        options = {
            "lr": lr,
            "lr_decay": lr_decay,
            "eps": eps,
            "weight_decay": weight_decay,
            "initial_accumulator_value": initial_accumulator_value,
            "foreach": foreach,
            "maximize": maximize,
            "differentiable": differentiable,
            "fused": fused,
        }
        super().__init__(params, options)
        for group in self.param_groups:
            for param in group["params"]:
                self.state[param].update(self._new_state(param, group))

    def _update(self, number: int, group: Group) -> None:
        options = (group["lr_decay"], group["eps"], group["weight_decay"], sign_of(group))
        numbers = self._numbers_of(number, group["lr"], *options)
        run_update(ADAGRAD, self._rows(group, ("sum", "step"), numbers))

    def _new_state(self, param: Tensor, group: Group) -> dict[str, Any]:
        total = functions["full_like"](param.detach(), group["initial_accumulator_value"])
        return {"step": new_scalar(0.0), "sum": total}
