"""Adafactor: Adam's denominators at the price of a row and a column of each matrix."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tapegrad.ops.calls import functions
from tapegrad.ops.updates_adafactor import ADAFACTOR, ADAFACTOR_PLAIN
from tapegrad.optim.group import Group, run_update, sign_of, zeros_like
from tapegrad.optim.optimizer import Optimizer, new_scalar
from tapegrad.runtime.handle import Tensor
from tapegrad.tensor.gradients import with_gradients


class Adafactor(Optimizer):
    """Divides by the root of a mean square of the gradient that is kept by rows and columns (Shazeer and Stern 2018).

    Args:
        params: the parameters or groups of them.
        lr: the largest relative step size.
        beta2_decay: the new gradient's share in the mean squares is t to this power.
        eps: the least mean square's root (None for the dtype's own epsilon), and the least size of a parameter.
        d: steps whose root mean square is larger are scaled down to it.
        weight_decay: the share of the parameter that a step takes away is ``lr * weight_decay``.
        foreach: accepted for torch's sake; a step is one pass over all parameters of a group.
        maximize: go up the gradient instead of down.

    Raises:
        ValueError: a number out of its range.
    """

    _scalar_state = ("step",)

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-2,
        beta2_decay: float = -0.8,
        eps: tuple[float | None, float] = (None, 1e-3),
        d: float = 1.0,
        weight_decay: float = 0.0,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
    ) -> None:
        for words, value, valid in (
            ("Learning rate should be >= 0", lr, lr >= 0.0),
            ("beta2_decay should be <= 0", beta2_decay, beta2_decay <= 0.0),
            ("epsilon1 should be >= 0", eps[0], eps[0] is None or eps[0] >= 0.0),
            ("epsilon2 should be >= 0", eps[1], eps[1] >= 0.0),
            ("Clipping threshold d should be >= 1", d, d >= 1.0),
            ("weight_decay should be >= 0", weight_decay, weight_decay >= 0.0),
        ):
            if not valid:
                raise ValueError(f"{words} but is: {value}")
        options = {
            "lr": lr,
            "beta2_decay": beta2_decay,
            "eps": eps,
            "d": d,
            "weight_decay": weight_decay,
            "foreach": foreach,
            "maximize": maximize,
        }
        super().__init__(params, options)

    def _update(self, number: int, group: Group) -> None:
        eps1, eps2 = group["eps"]
        options = (group["beta2_decay"], -1.0 if eps1 is None else eps1, eps2, group["d"], group["weight_decay"])
        numbers = self._numbers_of(number, group["lr"], *options, sign_of(group))
        factored: list[tuple[int, ...]] = []
        plain: list[tuple[int, ...]] = []
        for param, grad in with_gradients(group["params"]):
            state = self.state[param]
            if not state:
                state.update(self._new_state(param, group))
            names, rows = (("variance",), plain) if "variance" in state else (("row_var", "col_var"), factored)
            rows.append((param._handle, grad, *[state[name]._handle for name in (*names, "step")], numbers))
        run_update(ADAFACTOR, factored)
        run_update(ADAFACTOR_PLAIN, plain)

    def _new_state(self, param: Tensor, group: Group) -> dict[str, Any]:
        if param.dim() < 2:
            return {"step": new_scalar(0.0), "variance": zeros_like(param)}
        shape, zeros = tuple(param.shape), functions["zeros"]
        return {
            "step": new_scalar(0.0),
            "row_var": zeros((*shape[:-1], 1), dtype=param.dtype),
            "col_var": zeros((*shape[:-2], 1, shape[-1]), dtype=param.dtype),
        }
