"""Muon: momentum whose directions are made orthogonal matrices."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tapegrad.autograd.modes import no_grad
from tapegrad.ops.calls import functions
from tapegrad.ops.updates_sgd import MUON, MUON_MOMENTUM
from tapegrad.optim.group import Group, Row, run_update, zeros_like
from tapegrad.optim.optimizer import Optimizer
from tapegrad.runtime.handle import Tensor

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)


class Muon(Optimizer):
    """Steps along the nearest semi-orthogonal matrix of the momentum (Jordan et al. 2024).

    Meant for the matrices inside a network; embeddings, the last layer and vectors are for AdamW.

    Args:
        params: the parameters, all of two dimensions, or groups of them.
        lr: the learning rate.
        weight_decay: the share of the parameter that a step takes away is ``lr * weight_decay``.
        momentum: the share that the running mean of the gradient keeps at each step.
        nesterov: look ahead along the momentum.
        ns_coefficients: the polynomial a x + b x^3 + c x^5 that is iterated on the singular values.
        eps: the least norm that a direction is divided by.
        ns_steps: how often the polynomial is applied.
        adjust_lr_fn: how the rate depends on a matrix's [n, m] shape: ``"original"`` (also None) multiplies it by
            sqrt(max(1, n / m)), ``"match_rms_adamw"`` by 0.2 sqrt(max(n, m)) (Liu et al. 2025, arXiv:2502.16982).

    Raises:
        ValueError: a negative number, a parameter that is no matrix, or an ``adjust_lr_fn`` that is not known.

    Differs from torch: the iteration is computed in the parameter's dtype; torch's is in bfloat16.

    Example:
        >>> import tapegrad as tg
        >>> w = tg.eye(2, requires_grad=True)
        >>> optimizer = tg.optim.Muon([w], lr=0.5, weight_decay=0.0)
        >>> (w * w).sum().backward()
        >>> optimizer.step()
        >>> bool(w[0, 0] < 0.7)
        True
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        weight_decay: float = 0.1,
        momentum: float = 0.95,
        nesterov: bool = True,
        ns_coefficients: tuple[float, float, float] = _COEFFICIENTS,
        eps: float = 1e-7,
        ns_steps: int = 5,
        adjust_lr_fn: str | None = None,
    ) -> None:
        for name, value in (("Learning rate", lr), ("momentum", momentum), ("weight decay", weight_decay)):
            if not value >= 0.0:
                raise ValueError(f"{name} should be >= 0 but is: {value}")
        if adjust_lr_fn not in (None, "original", "match_rms_adamw"):
            raise ValueError(f"Adjust learning rate function {adjust_lr_fn} is not supported")
        if len(ns_coefficients) != 3:
            raise ValueError("Coefficients must be a tuple of exactly 3 values")
        if ns_steps >= 100:
            raise ValueError("Number of steps must be less than 100 for computational efficiency")
        options = {
            "lr": lr,
            "weight_decay": weight_decay,
            "momentum": momentum,
            "nesterov": nesterov,
            "ns_coefficients": ns_coefficients,
            "eps": eps,
            "ns_steps": ns_steps,
            "adjust_lr_fn": adjust_lr_fn,
        }
        super().__init__(params, options)

    def add_param_group(self, param_group: Group) -> None:
        """Add a group; see ``Optimizer.add_param_group``."""
        super().add_param_group(param_group)
        for param in param_group["params"]:
            if param.dim() != 2:
                self.param_groups.pop()
                raise ValueError(
                    f"Muon only supports 2D parameters whereas we found a parameter with size: {param.shape}"
                )

    def _update(self, number: int, group: Group) -> None:
        momentum = self._numbers_of((number, "momentum"), group["momentum"], group["nesterov"])
        by_shape = float(group["adjust_lr_fn"] == "match_rms_adamw")
        numbers = self._numbers_of(number, group["lr"], group["weight_decay"], by_shape)
        params: list[int] = []
        directions: list[Tensor] = []
        rows: list[Row] = []
        for param, grad in self._with_gradients(group):
            state = self.state[param]
            if "momentum_buffer" not in state:
                state["momentum_buffer"] = zeros_like(param)
            params.append(param._handle)
            directions.append(zeros_like(param))
            rows.append((state["momentum_buffer"]._handle, grad, directions[-1]._handle, momentum))
        run_update(MUON_MOMENTUM, rows)
        coefficients, steps, eps = group["ns_coefficients"], group["ns_steps"], group["eps"]
        with no_grad():
            directions = [orthogonal(direction, coefficients, steps, eps) for direction in directions]
        run_update(MUON, [(param, new._handle, numbers) for param, new in zip(params, directions, strict=True)])


def orthogonal(x: Tensor, coefficients: tuple[float, float, float], steps: int, eps: float) -> Tensor:
    """Return about U V^T of a matrix's U S V^T, by Newton and Schulz's iteration: singular values of 0.7 to 1.2.

    Args:
        x: a matrix [n, m].
        coefficients: a, b, c of the polynomial a x + b (x x^T) x + c (x x^T)^2 x.
        steps: how often it is applied.
        eps: the least norm to divide by.

    Returns:
        A matrix [n, m].
    """
    a, b, c = coefficients
    rows, columns = x.shape
    y = x.t() if rows > columns else x
    y = y / functions["norm"](y).clamp(min=eps)
    for _ in range(steps):
        gram = y.mm(y.t())
        y = functions["addmm"](y, functions["addmm"](gram, gram, gram, beta=b, alpha=c), y, beta=a)
    return y.t() if rows > columns else y
