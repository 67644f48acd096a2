"""What all optimisers have: parameter groups, state, and their form in files, which is torch's."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from tapegrad.autograd.modes import enable_grad
from tapegrad.ops.calls import call
from tapegrad.ops.registry import Op, registry
from tapegrad.runtime.dtype import float32
from tapegrad.runtime.errors import raise_status
from tapegrad.runtime.handle import Tensor
from tapegrad.runtime.layout import RESULT_DTYPE
from tapegrad.runtime.machine import machine
from tapegrad.tensor.construct import tensor
from tapegrad.tensor.gradients import clear_gradients

_DONE = -1  # what emit returns for an op without a result
Group = dict[str, Any]
Row = tuple[int, ...]  # the handles of a parameter, its gradient and its state, in the order of the op's roles


class Optimizer:
    """The base of optimisers: a class of its own says in ``_update`` what a step does to a group.

    Args:
        params: the parameters, (name, parameter) pairs, or groups of them: dicts with ``params`` and options.
        defaults: the options of groups that do not give them.
    """

    def __init__(self, params: Iterable[Any], defaults: Group) -> None:
        if isinstance(params, Tensor):
            raise TypeError(
                "params argument given to the optimizer should be an iterable of Tensors or dicts, but got Tensor"
            )
        self.defaults = defaults
        self.state: defaultdict[Tensor, dict[str, Any]] = defaultdict(dict)
        self.param_groups: list[Group] = []
        groups = list(params)
        if not groups:
            raise ValueError("optimizer got an empty parameter list")
        for group in groups if isinstance(groups[0], dict) else [{"params": groups}]:
            self.add_param_group(group)

    def add_param_group(self, param_group: Group) -> None:
        """Add a group: a dict with ``params`` and the options in which it is to differ from the defaults."""
        if not isinstance(param_group, dict):
            raise TypeError(f"param_group must be a dict, but got {type(param_group)}")
        params = param_group["params"]
        group = {**self.defaults, **param_group, "params": [params] if isinstance(params, Tensor) else list(params)}
        if group["params"] and isinstance(group["params"][0], tuple):
            group["param_names"] = [name for name, _ in group["params"]]
            group["params"] = [param for _, param in group["params"]]
        self._check(group["params"])
        self.param_groups.append(group)

    def _check(self, params: list[Any]) -> None:
        for param in params:
            if not isinstance(param, Tensor):
                raise TypeError(f"optimizer can only optimize Tensors, but one of the params is {type(param).__name__}")
            if not (param.is_leaf or param.retains_grad):
                raise ValueError("can't optimize a non-leaf Tensor")
        known = {id(param) for group in self.param_groups for param in group["params"]}
        if known & {id(param) for param in params}:
            raise ValueError("some parameters appear in more than one parameter group")
        if len({id(param) for param in params}) != len(params):
            raise ValueError("some parameters appear more than once in a parameter group")

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Take the gradients away from the parameters, or set them to zero."""
        for group in self.param_groups:
            clear_gradients(group["params"], set_to_none)

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update the parameters that have gradients.

        Args:
            closure: computes the loss and its gradients anew.

        Returns:
            What the closure returned.
        """
        loss = None
        if closure is not None:
            with enable_grad():
                loss = closure()
        for group in self.param_groups:
            self._update(group)
        return loss

    def _update(self, group: Group) -> None:
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        """Return the state and the groups, parameters being named by their number: what torch's optimisers return."""
        numbers = {id(param): k for k, param in enumerate(self._params())}
        groups = [{**group, "params": [numbers[id(param)] for param in group["params"]]} for group in self.param_groups]
        for group in groups:
            group["params"] = group.pop("params")  # torch has it last
        return {"state": {numbers[id(param)]: state for param, state in self.state.items()}, "param_groups": groups}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over a copy of what ``state_dict`` returned.

        Raises:
            ValueError: the groups differ in number or in their number of parameters.
        """
        groups = state_dict["param_groups"]
        if len(groups) != len(self.param_groups):
            raise ValueError("loaded state dict has a different number of parameter groups")
        if any(len(new["params"]) != len(old["params"]) for new, old in zip(groups, self.param_groups, strict=True)):
            raise ValueError(
                "loaded state dict contains a parameter group that doesn't match the size of optimizer's group"
            )
        numbers = [number for group in groups for number in group["params"]]
        params = dict(zip(numbers, self._params(), strict=True))
        self.state = defaultdict(dict)
        for number, state in state_dict["state"].items():
            self.state[params[number]] = {name: _copy_for(params[number], name, value) for name, value in state.items()}
        self.param_groups = [
            {**old, **copy.deepcopy({**new, "params": None}), "params": old["params"]}
            for new, old in zip(groups, self.param_groups, strict=True)
        ]

    def _params(self) -> list[Tensor]:
        return [param for group in self.param_groups for param in group["params"]]

    def __repr__(self) -> str:
        lines = [f"{type(self).__name__} ("]
        for number, group in enumerate(self.param_groups):
            lines.append(f"Parameter Group {number}")
            lines += [f"    {name}: {group[name]}" for name in sorted(group) if name != "params"]
        return "\n".join([*lines, ")"])


def _copy_for(param: Tensor, name: str, value: Any) -> Any:
    """Return a copy of a parameter's state in its dtype; counts of steps are float32 tensors, as torch has them."""
    if name == "step":
        return tensor(float(value), dtype=float32)
    if not isinstance(value, Tensor):
        return copy.deepcopy(value)
    return value.detach().to(param.dtype, copy=True)


def new_step() -> Tensor:
    """Return the count of the steps that a parameter has taken: 0."""
    return tensor(0.0, dtype=float32)


def zeros_like(param: Tensor) -> Tensor:
    """Return zeros of a parameter's shape and dtype."""
    return call(registry["zeros_like"], param)


def run_update(op: Op, rows: list[Row], numbers: Sequence[float]) -> None:
    """Emit an update of the parameters in ``rows``; an emission has one dtype."""
    if not rows:
        return
    operands = [handle for row in rows for handle in row]
    status = machine.emit(op.code, len(operands), *operands, *numbers)
    if status == _DONE:
        return
    dtypes = {machine.dtype_of(row[0]) for row in rows}
    if status != RESULT_DTYPE or len(dtypes) == 1:
        raise_status(status)
    for dtype in dtypes:
        run_update(op, [row for row in rows if machine.dtype_of(row[0]) == dtype], numbers)
