"""Stochastic gradient descent, with momentum."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tapegrad.ops.updates_sgd import SGD as UPDATE
from tapegrad.ops.updates_sgd import SGD_MOMENTUM as MOMENTUM_UPDATE
from tapegrad.optim.group import Group, Row, check_implementation, check_numbers, run_update, sign_of, zeros_like
from tapegrad.optim.optimizer import Optimizer


class SGD(Optimizer):
    """Stochastic gradient descent.

    Args:
        params: the parameters or groups of them.
        lr: the learning rate.
        momentum: the share of the last direction that the next one keeps.
        dampening: the share of the gradient that momentum leaves out.
        weight_decay: how much of the parameter is added to its gradient.
        nesterov: look ahead along the momentum (Sutskever et al. 2013).
        maximize: go up the gradient instead of down.
        foreach, fused: accepted for torch's sake; a step is always one pass over all parameters of a group.
        differentiable: only False.

    Raises:
        ValueError: a negative number, or ``nesterov`` without momentum or with dampening.
        RuntimeError: ``differentiable``.

    Example:
        >>> import tapegrad as tg
        >>> w = tg.tensor([1.0, 2.0], requires_grad=True)
        >>> optimizer = tg.optim.SGD([w], lr=0.5)
        >>> (w * w).sum().backward()
        >>> optimizer.step()
        >>> w.tolist()
        [0.0, 0.0]
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        momentum: float = 0,
        dampening: float = 0,
        weight_decay: float = 0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        differentiable: bool = False,
        fused: bool | None = None,
    ) -> None:
        check_numbers(lr=lr, momentum=momentum, weight_decay=weight_decay)
        if nesterov and (momentum <= 0 or dampening != 0):
            raise ValueError("Nesterov momentum requires a momentum and zero dampening")
        check_implementation(foreach, fused, differentiable)
        options = {
            "lr": lr,
            "momentum": momentum,
            "dampening": dampening,
            "weight_decay": weight_decay,
            "nesterov": nesterov,
            "maximize": maximize,
            "foreach": foreach,
            "differentiable": differentiable,
            "fused": fused,
        }
        super().__init__(params, options)

    def _update(self, number: int, group: Group) -> None:
        options = (group["lr"], group["weight_decay"], sign_of(group), group["momentum"])
        numbers = self._numbers_of(number, *options, group["dampening"], group["nesterov"])
        if group["momentum"] == 0:
            run_update(UPDATE, [(param._handle, grad, numbers) for param, grad in self._with_gradients(group)])
            return
        started, starting = self._rows_with_momentum(group, numbers)
        run_update(MOMENTUM_UPDATE, started)
        if starting:  # the first direction is the gradient, whatever the dampening
            numbers = self._numbers_of((number, "starting"), *options, 0.0, group["nesterov"])
            run_update(MOMENTUM_UPDATE, [(*row, numbers) for row in starting])

    def _rows_with_momentum(self, group: Group, numbers: int) -> tuple[list[Row], list[Row]]:
        """Return the rows of parameters that have moved before, and of those that have not, whose momentum is made."""
        started: list[Row] = []
        starting: list[Row] = []
        for param, grad in self._with_gradients(group):
            state = self.state[param]
            if state.get("momentum_buffer") is None:
                state["momentum_buffer"] = zeros_like(param)
                starting.append((param._handle, grad, state["momentum_buffer"]._handle))
            else:
                started.append((param._handle, grad, state["momentum_buffer"]._handle, numbers))
        return started, starting
