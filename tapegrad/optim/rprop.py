"""Rprop."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tapegrad.ops.calls import functions
from tapegrad.ops.updates_sgd import RPROP
from tapegrad.optim.group import Group, check_implementation, check_numbers, run_update, sign_of, zeros_like
from tapegrad.optim.optimizer import Optimizer, new_scalar
from tapegrad.runtime.handle import Tensor


class Rprop(Optimizer):
    """Steps by the sign of the gradient alone, longer while it stays the same (Riedmiller and Braun 1993).

    Args:
        params: the parameters or groups of them.
        lr: the first step size.
        etas: the factors of a step size whose gradient turned, and of one whose gradient did not.
        step_sizes: the least and the greatest step size.
        maximize: go up the gradient instead of down.
        differentiable: only False.
        capturable, foreach: accepted for torch's sake; a step is one pass over all parameters of a group.

    Raises:
        ValueError: a negative number, or factors that are not below and above 1.
        RuntimeError: ``differentiable``.
    """

    _scalar_state = ("step",)

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-2,
        etas: tuple[float, float] = (0.5, 1.2),
        step_sizes: tuple[float, float] = (1e-6, 50),
        *,
        capturable: bool = False,
        foreach: bool | None = None,
        maximize: bool = False,
        differentiable: bool = False,
    ) -> None:
        check_numbers(lr=lr)
        if not 0.0 < etas[0] < 1.0 < etas[1]:
            raise ValueError(f"Invalid eta values: {etas[0]}, {etas[1]}")
        check_implementation(foreach, None, differentiable)
        options = {
            "lr": lr,
            "etas": etas,
            "step_sizes": step_sizes,
            "foreach": foreach,
            "maximize": maximize,
            "differentiable": differentiable,
            "capturable": capturable,
        }
        super().__init__(params, options)

    def _update(self, number: int, group: Group) -> None:
        numbers = self._numbers_of(number, *group["etas"], *group["step_sizes"], sign_of(group))
        run_update(RPROP, self._rows(group, ("prev", "step_size", "step"), numbers))

    def _new_state(self, param: Tensor, group: Group) -> dict[str, Any]:
        sizes = functions["full_like"](param.detach(), float(group["lr"]))
        return {"step": new_scalar(0.0), "prev": zeros_like(param), "step_size": sizes}
