"""Stochastic gradient descent, with momentum."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tapegrad.ops.updates import SGD as UPDATE
from tapegrad.ops.updates import SGD_MOMENTUM as MOMENTUM_UPDATE
from tapegrad.optim.optimizer import Group, Optimizer, Row, run_update, zeros_like
from tapegrad.tensor.gradients import with_gradients


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
        foreach, differentiable, fused: accepted for torch's sake; a step is always one pass over each parameter.

    Raises:
        ValueError: a negative number, or ``nesterov`` without momentum or with dampening.

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
        if lr < 0:
            raise ValueError(f"Invalid learning rate: {lr}")
        if momentum < 0:
            raise ValueError(f"Invalid momentum value: {momentum}")
        if weight_decay < 0:
            raise ValueError(f"Invalid weight_decay value: {weight_decay}")
        if nesterov and (momentum <= 0 or dampening != 0):
            raise ValueError("Nesterov momentum requires a momentum and zero dampening")
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

    def _update(self, group: Group) -> None:
        sign = -1.0 if group["maximize"] else 1.0
        numbers = (float(group["lr"]), float(group["weight_decay"]), sign)
        momentum = float(group["momentum"])
        if momentum == 0:
            rows: list[Row] = [(param._handle, grad) for param, grad in with_gradients(group["params"])]
            run_update(UPDATE, rows, (*numbers, 0.0, 1.0, 0.0))
            return
        started, starting = self._rows_with_momentum(group)
        nesterov = float(group["nesterov"])
        # the first direction is the gradient, whatever the dampening
        run_update(MOMENTUM_UPDATE, starting, (*numbers, momentum, 1.0, nesterov))
        run_update(MOMENTUM_UPDATE, started, (*numbers, momentum, 1.0 - group["dampening"], nesterov))

    def _rows_with_momentum(self, group: Group) -> tuple[list[Row], list[Row]]:
        """Return the rows of parameters that have moved before, and of those that have not, whose momentum is made."""
        started: list[Row] = []
        starting: list[Row] = []
        for param, grad in with_gradients(group["params"]):
            state = self.state[param]
            rows = started
            if state.get("momentum_buffer") is None:
                state["momentum_buffer"] = zeros_like(param)
                rows = starting
            rows.append((param._handle, grad, state["momentum_buffer"]._handle))
        return started, starting
