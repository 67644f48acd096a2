"""Adam and AdamW."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tapegrad.ops.updates import ADAM, ADAM_AMSGRAD
from tapegrad.optim.optimizer import Group, Optimizer, Row, new_step, run_update, zeros_like
from tapegrad.runtime.handle import Tensor
from tapegrad.tensor.gradients import with_gradients


class Adam(Optimizer):
    """Adam (Kingma and Ba 2015, arXiv:1412.6980).

    Args:
        params: the parameters or groups of them.
        lr: the learning rate.
        betas: the shares that the running means of the gradient and of its square keep at each step.
        eps: added to the denominator.
        weight_decay: how much of the parameter is added to its gradient.
        amsgrad: divide by the largest mean square so far (Reddi et al. 2018, arXiv:1904.09237).
        maximize: go up the gradient instead of down.
        foreach, capturable, differentiable, fused: accepted for torch's sake; a step is always one pass over each
            parameter.
        decoupled_weight_decay: take weight decay off the parameter itself, as AdamW does.

    Raises:
        ValueError: a negative number, or a beta that is not below 1.

    Example:
        >>> import tapegrad as tg
        >>> w = tg.tensor([1.0, 2.0], requires_grad=True)
        >>> optimizer = tg.optim.Adam([w], lr=0.25)
        >>> (w * w).sum().backward()
        >>> optimizer.step()
        >>> w.tolist()
        [0.75, 1.75]
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        amsgrad: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        decoupled_weight_decay: bool = False,
    ) -> None:
        if lr < 0:
            raise ValueError(f"Invalid learning rate: {lr}")
        if eps < 0:
            raise ValueError(f"Invalid epsilon value: {eps}")
        for k, beta in enumerate(betas):
            if not 0 <= beta < 1:
                raise ValueError(f"Invalid beta parameter at index {k}: {beta}")
        if weight_decay < 0:
            raise ValueError(f"Invalid weight_decay value: {weight_decay}")
        options = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "amsgrad": amsgrad,
            "maximize": maximize,
            "foreach": foreach,
            "capturable": capturable,
            "differentiable": differentiable,
            "fused": fused,
            "decoupled_weight_decay": decoupled_weight_decay,
        }
        super().__init__(params, options)

    def _update(self, group: Group) -> None:
        beta1, beta2 = group["betas"]
        sign = -1.0 if group["maximize"] else 1.0
        options = (
            group["lr"],
            beta1,
            beta2,
            group["eps"],
            group["weight_decay"],
            sign,
            group["decoupled_weight_decay"],
        )
        numbers = [float(option) for option in options]
        amsgrad = group["amsgrad"]
        rows = [self._row(param, grad, amsgrad) for param, grad in with_gradients(group["params"])]
        run_update(ADAM_AMSGRAD if amsgrad else ADAM, rows, numbers)

    def _row(self, param: Tensor, grad: int, amsgrad: bool) -> Row:
        state = self.state[param]
        if not state:
            state["step"] = new_step()
            state["exp_avg"] = zeros_like(param)
            state["exp_avg_sq"] = zeros_like(param)
            if amsgrad:
                state["max_exp_avg_sq"] = zeros_like(param)
        step, average, square = state["step"]._handle, state["exp_avg"]._handle, state["exp_avg_sq"]._handle
        if amsgrad:
            return (param._handle, grad, average, square, state["max_exp_avg_sq"]._handle, step)
        return (param._handle, grad, average, square, step)


class AdamW(Adam):
    """Adam with weight decay that the gradient does not see (Loshchilov and Hutter 2019, arXiv:1711.05101).

    Args:
        params: the parameters or groups of them.
        lr: the learning rate.
        betas: the shares that the running means of the gradient and of its square keep at each step.
        eps: added to the denominator.
        weight_decay: the share of the parameter that a step takes away is ``lr * weight_decay``.
        amsgrad: divide by the largest mean square so far.
        maximize: go up the gradient instead of down.
        foreach, capturable, differentiable, fused: accepted for torch's sake.

    Raises:
        ValueError: a negative number, or a beta that is not below 1.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
    ) -> None:
        super().__init__(
            params,
            lr,
            betas,
            eps,
            weight_decay,
            amsgrad,
            foreach=foreach,
            maximize=maximize,
            capturable=capturable,
            differentiable=differentiable,
            fused=fused,
            decoupled_weight_decay=True,
        )
