"""RAdam."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tapegrad.ops.updates_adam import RADAM
from tapegrad.optim.group import Group, check_implementation, check_numbers, run_update, sign_of, zeros_like
from tapegrad.optim.optimizer import Optimizer, new_scalar
from tapegrad.runtime.handle import Tensor


class RAdam(Optimizer):
    """Adam whose first steps, while the variance of the gradient is not known, are momentum's (Liu et al. 2020,
    arXiv:1908.03265).

    Args:
        params: the parameters or groups of them.
        lr: the learning rate.
        betas: the shares that the running means of the gradient and of its square keep at each step.
        eps: added to the denominator.
        weight_decay: how much of the parameter is added to its gradient.
        decoupled_weight_decay: take weight decay off the parameter itself, as AdamW does.
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
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        decoupled_weight_decay: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
    ) -> None:
        check_numbers(lr=lr, eps=eps, betas=betas, weight_decay=weight_decay)
        check_implementation(foreach, None, differentiable)
        options = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "maximize": maximize,
            "foreach": foreach,
            "capturable": capturable,
            "decoupled_weight_decay": decoupled_weight_decay,
            "differentiable": differentiable,
        }
        super().__init__(params, options)

    def _update(self, number: int, group: Group) -> None:
        options = (
            *group["betas"],
            group["eps"],
            group["weight_decay"],
            sign_of(group),
            group["decoupled_weight_decay"],
        )
        numbers = self._numbers_of(number, group["lr"], *options)
        run_update(RADAM, self._rows(group, ("exp_avg", "exp_avg_sq", "step"), numbers))

    def _new_state(self, param: Tensor, group: Group) -> dict[str, Any]:
        return {"step": new_scalar(0.0), "exp_avg": zeros_like(param), "exp_avg_sq": zeros_like(param)}
