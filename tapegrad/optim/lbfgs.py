"""L-BFGS: Newton's method with an inverse Hessian that is made of the last steps."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from tapegrad.autograd.modes import enable_grad, no_grad
from tapegrad.ops.calls import call
from tapegrad.ops.updates_flat import DIRECTION, FLATTEN, HISTORY_LIMIT, WALK
from tapegrad.optim.group import Group, check_numbers, run_update, zeros_like
from tapegrad.optim.line_search import Point, StrongWolfe
from tapegrad.optim.optimizer import Optimizer
from tapegrad.runtime.errors import refuse_change
from tapegrad.runtime.handle import Tensor

_LEAST_CURVATURE = 1e-10  # steps along which the gradient changes by less say nothing of the Hessian


class LBFGS(Optimizer):
    """Limited-memory BFGS (Liu and Nocedal 1989), with a line search for the strong Wolfe conditions or none.

    ``step(closure)`` makes up to ``max_iter`` iterations; the closure clears the gradients, computes the loss, calls
    backward and returns the loss. The gradients should be of the whole loss, not of a batch.

    Args:
        params: the parameters, in one group.
        lr: the first trial step of a line search, or the length of each step.
        max_iter: iterations a step.
        max_eval: evaluations of the closure a step; by default 1.25 max_iter.
        tolerance_grad: stop where no derivative is larger.
        tolerance_change: stop where loss or parameters change by less.
        history_size: how many of the last steps the inverse Hessian is made of.
        line_search_fn: ``"strong_wolfe"`` or None.

    Raises:
        ValueError: a negative learning rate, or several groups.
        RuntimeError: at a step, a line search that is not known.

    Example:
        >>> import tapegrad as tg
        >>> w = tg.tensor([3.0, -2.0], dtype=tg.float64, requires_grad=True)
        >>> optimizer = tg.optim.LBFGS([w], line_search_fn="strong_wolfe")
        >>> def closure():
        ...     optimizer.zero_grad()
        ...     loss = ((w - tg.tensor([1.0, 2.0])) ** 4).sum()
        ...     loss.backward()
        ...     return loss
        >>> for _ in range(3):
        ...     loss = optimizer.step(closure)
        >>> [round(value, 1) for value in w.tolist()]
        [1.0, 2.0]
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1,
        max_iter: int = 20,
        max_eval: int | None = None,
        tolerance_grad: float = 1e-7,
        tolerance_change: float = 1e-9,
        history_size: int = 100,
        line_search_fn: str | None = None,
    ) -> None:
        check_numbers(lr=lr)
        if history_size > HISTORY_LIMIT:
            raise ValueError(f"history_size is at most {HISTORY_LIMIT}, got {history_size}")
        options = {
            "lr": lr,
            "max_iter": max_iter,
            "max_eval": max_iter * 5 // 4 if max_eval is None else max_eval,
            "tolerance_grad": tolerance_grad,
            "tolerance_change": tolerance_change,
            "history_size": history_size,
            "line_search_fn": line_search_fn,
        }
        super().__init__(params, options)
        if len(self.param_groups) != 1:
            raise ValueError("LBFGS doesn't support per-parameter options (parameter groups)")

    def step(self, closure: Callable[[], Any]) -> Any:
        """Make up to ``max_iter`` iterations.

        Args:
            closure: computes the loss and its gradients anew.

        Returns:
            What the closure returned first.

        Raises:
            RuntimeError: it is called in a function that is being captured: capture the closure instead.
        """
        refuse_change(
            "LBFGS.step()",
            "the loss's value decides how it goes on. Capture what costs, the closure, once, and call step outside: "
            "closure = tg.compile(closure); optimizer.step(closure)",
        )
        with no_grad():
            return self._iterate(enable_grad()(closure))

    def _iterate(self, closure: Callable[[], Any]) -> Any:
        group = self.param_groups[0]
        state = self.state[group["params"][0]]
        state.setdefault("func_evals", 0)
        state.setdefault("n_iter", 0)
        first = closure()
        loss, gradient, evaluations = float(first), self._flat_gradient(), 1
        state["func_evals"] += 1
        if _largest(gradient) <= group["tolerance_grad"]:
            return first
        direction, t = state.get("d"), float(state.get("t", 0.0))
        previous_loss = state.get("prev_loss")
        for iteration in range(1, group["max_iter"] + 1):
            state["n_iter"] += 1
            direction = self._direction(state, gradient, direction, t)
            state["prev_flat_grad"], previous_loss = gradient, loss
            t = float(group["lr"])
            if state["n_iter"] == 1:
                t *= min(1.0, 1.0 / gradient.abs().sum().item())
            slope = _dot(gradient, direction)
            if slope > -group["tolerance_change"]:
                break
            start = Point(0.0, loss, gradient, slope)
            last = iteration == group["max_iter"]
            point, count = self._advance(closure, start, direction, t, group["max_eval"] - evaluations, last)
            t, loss, gradient = point.t, point.loss, point.gradient
            evaluations += count
            state["func_evals"] += count
            if last or evaluations >= group["max_eval"] or _largest(gradient) <= group["tolerance_grad"]:
                break
            if _largest(direction) * abs(t) <= group["tolerance_change"]:
                break
            if abs(loss - previous_loss) < group["tolerance_change"]:
                break
        state.update({"d": direction, "t": t, "prev_loss": previous_loss})
        return first

    def _direction(self, state: dict[str, Any], gradient: Tensor, direction: Any, t: float) -> Tensor:
        """Take the last step into the history; return the direction of the next one."""
        if state["n_iter"] == 1:
            state.update({"old_dirs": [], "old_stps": [], "ro": [], "H_diag": 1})
            return -gradient
        change, step = gradient - state["prev_flat_grad"], direction * t
        curvature = change.dot(step)
        if curvature.item() > _LEAST_CURVATURE:
            for name, value in (("old_dirs", change), ("old_stps", step), ("ro", 1.0 / curvature)):
                if len(state[name]) == self.param_groups[0]["history_size"]:
                    state[name].pop(0)
                state[name].append(value)
            state["H_diag"] = curvature / change.dot(change)
        state.setdefault("al", [None] * self.param_groups[0]["history_size"])  # torch's scratch; here it has no use
        if not state["old_dirs"]:
            return -gradient * state["H_diag"]
        result = zeros_like(gradient)
        others = (gradient._handle, result._handle, state["H_diag"]._handle)
        history = zip(state["old_stps"], state["old_dirs"], state["ro"], strict=True)
        run_update(DIRECTION, [(*[tensor._handle for tensor in row], *others) for row in history])
        return result

    def _advance(
        self, closure: Callable[[], Any], start: Point, direction: Tensor, t: float, limit: int, last: bool
    ) -> tuple[Point, int]:
        """Move the parameters along the direction; return the point there and how often the loss was evaluated."""
        group = self.param_groups[0]
        base = call(FLATTEN, *[param.detach() for param in group["params"]])
        if group["line_search_fn"] is None:
            self._move(base, direction, t)
            if last:  # its loss would be known only to be forgotten
                return start._replace(t=t), 0
            loss = float(closure())
            return Point(t, loss, self._flat_gradient(), 0.0), 1
        if group["line_search_fn"] != "strong_wolfe":
            raise RuntimeError("only 'strong_wolfe' is supported")

        def evaluate(t: float) -> Point:
            self._move(base, direction, t)
            loss = float(closure())
            gradient = self._flat_gradient()
            return Point(t, loss, gradient, _dot(gradient, direction))

        search = StrongWolfe(evaluate, start, _largest(direction), group["tolerance_change"], limit)
        point, count = search.search(t)
        self._move(base, direction, point.t)
        return point, count

    def _move(self, base: Tensor, direction: Tensor, t: float) -> None:
        numbers = self._numbers_of("t", t)
        others = (base._handle, direction._handle, numbers)
        run_update(WALK, [(param._handle, *others) for param in self.param_groups[0]["params"]])

    def _flat_gradient(self) -> Tensor:
        params = self.param_groups[0]["params"]
        return call(FLATTEN, *[zeros_like(param) if param.grad is None else param.grad for param in params])

    def _update(self, number: int, group: Group) -> None:
        raise NotImplementedError("LBFGS needs a closure")


def _largest(x: Tensor) -> float:
    """Return the largest absolute value."""
    return x.abs().max().item()


def _dot(x: Tensor, y: Tensor) -> float:
    return x.dot(y).item()
