"""RMSprop."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tapegrad.ops.updates_adaptive import RMSPROP
from tapegrad.optim.group import Group, check_implementation, check_numbers, run_update, sign_of, zeros_like
from tapegrad.optim.optimizer import Optimizer, new_scalar
from tapegrad.runtime.handle import Tensor


class RMSprop(Optimizer):
    """Divides by the root of the running mean of the gradient's square (Tieleman and Hinton 2012); centered, by the
    gradient's running deviation (Graves 2013, arXiv:1308.0850).

    Args:
        params: the parameters or groups of them.
        lr: the learning rate.
        alpha: the share that the running means keep at each step.
        eps: added to the denominator.
        weight_decay: how much of the parameter is added to its gradient.
        momentum: the share of the last step that the next one keeps.
        centered: divide by the deviation from the running mean of the gradient.
        maximize: go up the gradient instead of down.
        differentiable: only False.
        capturable, foreach: accepted for torch's sake; a step is one pass over all parameters of a group.

    Raises:
        ValueError: a negative number.
        RuntimeError: ``differentiable``.
    """

    _scalar_state = ("step",)

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0,
        momentum: float = 0,
        centered: bool = False,
        capturable: bool = False,
        foreach: bool | None = None,
        maximize: bool = False,
        differentiable: bool = False,
    ) -> None:
        check_numbers(lr=lr, eps=eps, momentum=momentum, weight_decay=weight_decay, alpha=alpha)
        check_implementation(foreach, None, differentiable)
        options = {
            "lr": lr,
            "momentum": momentum,
            "alpha": alpha,
            "eps": eps,
            "centered": centered,
            "weight_decay": weight_decay,
            "capturable": capturable,
            "foreach": foreach,
            "maximize": maximize,
            "differentiable": differentiable,
        }
        super().__init__(params, options)

    def _update(self, number: int, group: Group) -> None:
        options = (group["alpha"], group["eps"], group["weight_decay"], group["momentum"], sign_of(group))
        numbers = self._numbers_of(number, group["lr"], *options)
        names = ("square_avg", *_extra_state(group), "step")
        run_update(RMSPROP[group["momentum"] > 0, bool(group["centered"])], self._rows(group, names, numbers))

    def _new_state(self, param: Tensor, group: Group) -> dict[str, Any]:
        names = ("square_avg", *_extra_state(group))
        return {"step": new_scalar(0.0), **{name: zeros_like(param) for name in names}}


def _extra_state(group: Group) -> tuple[str, ...]:
    return ("momentum_buffer",) * (group["momentum"] > 0) + ("grad_avg",) * bool(group["centered"])
