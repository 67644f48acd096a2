"""Lion."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tapegrad.ops.updates_sgd import LION
from tapegrad.optim.group import Group, check_implementation, check_numbers, run_update, sign_of, zeros_like
from tapegrad.optim.optimizer import Optimizer
from tapegrad.runtime.handle import Tensor


class Lion(Optimizer):
    """Steps by the sign of a mean of momentum and gradient (Chen et al. 2023, arXiv:2302.06675). Torch has none.

    Args:
        params: the parameters or groups of them.
        lr: the learning rate; a tenth to a third of Adam's.
        betas: the share of the momentum in the direction of a step, and the share of itself that it keeps.
        weight_decay: the share of the parameter that a step takes away is ``lr * weight_decay``.
        maximize: go up the gradient instead of down.
        differentiable: only False.
        foreach, capturable: accepted for torch's sake; a step is one pass over all parameters of a group.

    Raises:
        ValueError: a negative number, or a beta that is not below 1.
        RuntimeError: ``differentiable``.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-4,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
    ) -> None:
        check_numbers(lr=lr, betas=betas, weight_decay=weight_decay)
        check_implementation(foreach, None, differentiable)
        options = {
            "lr": lr,
            "betas": betas,
            "weight_decay": weight_decay,
            "maximize": maximize,
            "foreach": foreach,
            "capturable": capturable,
            "differentiable": differentiable,
        }
        super().__init__(params, options)

    def _update(self, number: int, group: Group) -> None:
        numbers = self._numbers_of(number, group["lr"], *group["betas"], group["weight_decay"], sign_of(group))
        run_update(LION, self._rows(group, ("exp_avg",), numbers))

    def _new_state(self, param: Tensor, group: Group) -> dict[str, Any]:
        return {"exp_avg": zeros_like(param)}
