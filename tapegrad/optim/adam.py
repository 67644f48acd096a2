"""Adam and AdamW."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tapegrad.ops.updates_adam import ADAM, ADAM_AMSGRAD
from tapegrad.optim.group import Group, check_implementation, check_numbers, run_update, sign_of, zeros_like
from tapegrad.optim.optimizer import Optimizer, new_scalar
from tapegrad.runtime.handle import Tensor

_STATE = ("exp_avg", "exp_avg_sq", "step")
_STATE_AMSGRAD = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq", "step")


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
        foreach, capturable, fused: accepted for torch's sake; a step is always one pass over all parameters of a group.
        differentiable: only False.
        decoupled_weight_decay: take weight decay off the parameter itself, as AdamW does.

    Raises:
        ValueError: a negative number, or a beta that is not below 1.
        RuntimeError: ``differentiable``.

    Example:
        >>> import tapegrad as tg
        >>> w = tg.tensor([1.0, 2.0], requires_grad=True)
        >>> optimizer = tg.optim.Adam([w], lr=0.25)
        >>> (w * w).sum().backward()
        >>> optimizer.step()
        >>> w.tolist()
        [0.75, 1.75]
    """

    _scalar_state = ("step",)

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
        check_numbers(lr=lr, eps=eps, betas=betas, weight_decay=weight_decay)
        check_implementation(foreach, fused, differentiable)
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

    def _update(self, number: int, group: Group) -> None:
        options = (
            *group["betas"],
            group["eps"],
            group["weight_decay"],
            sign_of(group),
            group["decoupled_weight_decay"],
        )
        numbers = self._numbers_of(number, group["lr"], *options)
        if group["amsgrad"]:
            run_update(ADAM_AMSGRAD, self._rows(group, _STATE_AMSGRAD, numbers))
        else:
            run_update(ADAM, self._rows(group, _STATE, numbers))

    def _new_state(self, param: Tensor, group: Group) -> dict[str, Any]:
        state = {"step": new_scalar(0.0), "exp_avg": zeros_like(param), "exp_avg_sq": zeros_like(param)}
        if group["amsgrad"]:
            state["max_exp_avg_sq"] = zeros_like(param)
        return state


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
        foreach, capturable, fused: accepted for torch's sake.
        differentiable: only False.

    Raises:
        ValueError: a negative number, or a beta that is not below 1.
        RuntimeError: ``differentiable``.
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
