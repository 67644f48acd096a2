"""What all optimisers have: parameter groups, state, hooks, and their form in files, which is torch's."""

from __future__ import annotations

import copy
import functools
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterable
from typing import Any

from tapegrad.autograd.hooks import RemovableHandle
from tapegrad.autograd.modes import enable_grad
from tapegrad.optim.group import Group, Row, checked_group
from tapegrad.optim.numbers import Numbers
from tapegrad.runtime.dtype import float32, float64, get_default_dtype
from tapegrad.runtime.handle import Tensor
from tapegrad.runtime.machine import machine
from tapegrad.tensor.construct import tensor
from tapegrad.tensor.gradients import clear_gradients, with_gradients

_HOOKS = ("step_pre", "step_post", "state_dict_pre", "state_dict_post", "load_pre", "load_post")
Hooks = OrderedDict[int, Callable[..., Any]]
_global_hooks: dict[str, Hooks] = {"step_pre": OrderedDict(), "step_post": OrderedDict()}


def _with_hooks(step: Callable[..., Any]) -> Callable[..., Any]:
    """Return a ``step`` that runs the hooks around it and tells schedulers that it was called."""

    @functools.wraps(step)
    def hooked(*args: Any, **kwargs: Any) -> Any:
        optimizer: Optimizer = args[0]
        optimizer._opt_called = True
        before = [*_global_hooks["step_pre"].values(), *optimizer._hooks["step_pre"].values()]
        for hook in before:
            changed = hook(optimizer, args, kwargs)
            if changed is None:
                continue
            if not isinstance(changed, tuple) or len(changed) != 2:
                raise RuntimeError(f"{step} must return None or a tuple of (new_args, new_kwargs), but got {changed}.")
            args, kwargs = changed
        result = step(*args, **kwargs)
        for hook in [*optimizer._hooks["step_post"].values(), *_global_hooks["step_post"].values()]:
            hook(optimizer, args, kwargs)
        return result

    hooked.hooked = True  # type: ignore[attr-defined]  # torch's name of this mark
    return hooked


def _add_hook(hooks: Hooks, hook: Callable[..., Any], prepend: bool = False) -> RemovableHandle:
    handle = RemovableHandle(hooks)
    hooks[handle.id] = hook
    if prepend:
        hooks.move_to_end(handle.id, last=False)
    return handle


def register_optimizer_step_pre_hook(hook: Callable[..., Any]) -> RemovableHandle:
    """Call ``hook(optimizer, args, kwargs)`` before each step of every optimiser."""
    return _add_hook(_global_hooks["step_pre"], hook)


def register_optimizer_step_post_hook(hook: Callable[..., Any]) -> RemovableHandle:
    """Call ``hook(optimizer, args, kwargs)`` after each step of every optimiser."""
    return _add_hook(_global_hooks["step_post"], hook)


class Optimizer:
    """The base of optimisers: those of this package say in ``_update`` what a step does to a group.

    One of your own overrides ``step``, and finds its parameters in ``param_groups`` and a dict for each in ``state``.

    Args:
        params: the parameters, (name, parameter) pairs, or groups of them: dicts with ``params`` and options.
        defaults: the options of groups that do not give them.

    Raises:
        TypeError: what is given is no tensor, or no ordered collection.
        ValueError: there are no parameters, one is given twice, or one was computed from others.
    """

    _scalar_state: tuple[str, ...] = ()  # names of state that is kept in tensors of one element
    _scheduled = False  # whether a schedule was attached
    _opt_called = False  # whether step was called since then
    _only_numbers = False  # see refresh_numbers

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        step = cls.__dict__.get("step")
        if step is not None and not hasattr(step, "hooked"):
            cls.step = _with_hooks(step)  # type: ignore[method-assign]

    def __init__(self, params: Iterable[Any], defaults: Group) -> None:
        if isinstance(params, Tensor):
            raise TypeError(
                "params argument given to the optimizer should be an iterable of Tensors or dicts, but got Tensor"
            )
        self.defaults = defaults
        self.state: defaultdict[Any, dict[str, Any]] = defaultdict(dict)
        self.param_groups: list[Group] = []
        self._prepare()
        groups = list(params)
        if not groups:
            raise ValueError("optimizer got an empty parameter list")
        for group in groups if isinstance(groups[0], dict) else [{"params": groups}]:
            self.add_param_group(group)

    def _prepare(self) -> None:
        """Make what is no part of the pickled object."""
        self._hooks: dict[str, Hooks] = {kind: OrderedDict() for kind in _HOOKS}
        self._numbers: dict[Any, Numbers] = {}
        self._refreshed: list[list[Any]] = []  # what the groups held when all numbers were brought up to date

    def __getstate__(self) -> dict[str, Any]:
        return {"defaults": self.defaults, "state": self.state, "param_groups": self.param_groups}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if "_hooks" not in self.__dict__:
            self._prepare()

    def add_param_group(self, param_group: Group) -> None:
        """Add a group: a dict with ``params`` and the options in which it is to differ from the defaults.

        Args:
            param_group: the dict.

        Raises:
            TypeError: it is no dict, or holds what is no tensor.
            ValueError: a parameter is known already, or was computed from others.
        """
        group = checked_group(param_group, self.defaults, self.param_groups)
        param_group.update(group)
        self.param_groups.append(param_group)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Take the gradients away from the parameters, or set them to zero.

        Args:
            set_to_none: whether they become None; else zeros.
        """
        for group in self.param_groups:
            clear_gradients(group["params"], set_to_none)

    @_with_hooks
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
        for number, group in enumerate(self.param_groups):
            self._update(number, group)
        return loss

    def _update(self, number: int, group: Group) -> None:
        raise NotImplementedError

    def refresh_numbers(self) -> None:
        """Bring the tensors that hold the groups' numbers up to date, as a step does, without taking one."""
        if self._refreshed == [list(group.values()) for group in self.param_groups] or not self.keeps_numbers():
            return
        self._only_numbers = True
        try:
            for number, group in enumerate(self.param_groups):
                self._update(number, group)
        finally:
            self._only_numbers = False
        if not any(numbers.from_tensor for numbers in self._numbers.values()):
            self._refreshed = [list(group.values()) for group in self.param_groups]

    @classmethod
    def keeps_numbers(cls) -> bool:
        """Return whether the groups' numbers are in tensors, which the updates read."""
        return cls._update is not Optimizer._update

    def _with_gradients(self, group: Group) -> Iterable[tuple[Tensor, int]]:
        """Return the parameters to update, each with the handle of its gradient; see refresh_numbers."""
        return () if self._only_numbers else with_gradients(group["params"])

    def _numbers_of(self, key: Any, *values: float) -> int:
        """Return the handle of the tensor that has a group's numbers; it is written where one of them has changed."""
        if machine.capturing:
            machine.refreshers[id(self)] = self.refresh_numbers
        numbers = self._numbers.get(key)
        if numbers is None or len(numbers.values) != len(values):
            numbers = self._numbers[key] = Numbers(values)
            self._refreshed = []
        elif numbers.values != values or numbers.from_tensor:
            numbers.set(values)
            self._refreshed = []
        return numbers.handle

    def _rows(self, group: Group, names: tuple[str, ...], numbers: int) -> list[Row]:
        """Return the operands of the update of each parameter that has a gradient; make its state at the first step."""
        rows: list[Row] = []
        for param, grad in self._with_gradients(group):
            state = self.state[param]
            if not state:
                state.update(self._new_state(param, group))
            rows.append((param._handle, grad, *[state[name]._handle for name in names], numbers))
        return rows

    def _new_state(self, param: Tensor, group: Group) -> dict[str, Any]:
        """Return the state of a parameter before its first step."""
        raise NotImplementedError

    # ---- files ----

    def state_dict(self) -> dict[str, Any]:
        """Return the state and the groups, parameters being named by their number: what torch's optimisers return."""
        for hook in self._hooks["state_dict_pre"].values():
            hook(self)
        numbers = {id(param): k for k, param in enumerate(self._all_params())}
        groups = [{**group, "params": [numbers[id(param)] for param in group["params"]]} for group in self.param_groups]
        for group in groups:
            group["params"] = group.pop("params")  # torch has it last
        states = {numbers[id(key)] if isinstance(key, Tensor) else key: state for key, state in self.state.items()}
        result: dict[str, Any] = {"state": states, "param_groups": groups}
        for hook in self._hooks["state_dict_post"].values():
            result = _or(hook(self, result), result)
        return result

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over a copy of what ``state_dict`` returned.

        Raises:
            ValueError: the groups differ in number or in their number of parameters.
        """
        state_dict = state_dict.copy()
        for hook in self._hooks["load_pre"].values():
            state_dict = _or(hook(self, state_dict), state_dict)
        groups = self._matching_groups(state_dict["param_groups"])
        numbers = [number for group in state_dict["param_groups"] for number in group["params"]]
        params = dict(zip(numbers, self._all_params(), strict=True))
        states: defaultdict[Any, dict[str, Any]] = defaultdict(dict)
        for number, state in state_dict["state"].items():
            param = params.get(number)
            states[number if param is None else param] = state if param is None else self._copy(param, state)
        self.__setstate__({"state": states, "param_groups": groups})
        for hook in self._hooks["load_post"].values():
            hook(self)

    def _matching_groups(self, saved: list[Group]) -> list[Group]:
        """Return copies of saved groups with the parameters of this optimiser's."""
        if len(saved) != len(self.param_groups):
            raise ValueError("loaded state dict has a different number of parameter groups")
        if any(len(new["params"]) != len(old["params"]) for new, old in zip(saved, self.param_groups, strict=True)):
            raise ValueError(
                "loaded state dict contains a parameter group that doesn't match the size of optimizer's group"
            )
        return [
            {**old, **copy.deepcopy({**new, "params": None}), "params": old["params"]}
            for new, old in zip(saved, self.param_groups, strict=True)
        ]

    def _copy(self, param: Tensor, value: Any, name: Any = None) -> Any:
        """Return a copy of a parameter's state: tensors in its dtype, but for scalars such as the count of steps."""
        if isinstance(value, dict):
            return {key: self._copy(param, item, key) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return type(value)(self._copy(param, item) for item in value)
        if isinstance(value, Tensor):
            keeps = name in ("step", *self._scalar_state) or not param.is_floating_point()
            return value.detach().to(value.dtype if keeps else param.dtype, copy=True)
        if name in self._scalar_state:
            return new_scalar(float(value))
        return copy.deepcopy(value)

    def _all_params(self) -> list[Tensor]:
        return [param for group in self.param_groups for param in group["params"]]

    def __repr__(self) -> str:
        parts = []
        for number, group in enumerate(self.param_groups):
            lines = [f"    {name}: {group[name]}\n" for name in sorted(group) if name != "params"]
            parts.append(f"\nParameter Group {number}\n{''.join(lines)}")
        return f"{type(self).__name__} ({''.join(parts)})"

    # ---- hooks ----

    def register_step_pre_hook(self, hook: Callable[..., Any]) -> RemovableHandle:
        """Call ``hook(optimizer, args, kwargs)`` before each step; it may return other (args, kwargs)."""
        return _add_hook(self._hooks["step_pre"], hook)

    def register_step_post_hook(self, hook: Callable[..., Any]) -> RemovableHandle:
        """Call ``hook(optimizer, args, kwargs)`` after each step."""
        return _add_hook(self._hooks["step_post"], hook)

    def register_state_dict_pre_hook(self, hook: Callable[..., Any], prepend: bool = False) -> RemovableHandle:
        """Call ``hook(optimizer)`` before a state_dict is made.

        Args:
            prepend: whether it is called before the hooks that are there.
        """
        return _add_hook(self._hooks["state_dict_pre"], hook, prepend)

    def register_state_dict_post_hook(self, hook: Callable[..., Any], prepend: bool = False) -> RemovableHandle:
        """Call ``hook(optimizer, state_dict)`` on each state_dict made; it may return another.

        Args:
            prepend: whether it is called before the hooks that are there.
        """
        return _add_hook(self._hooks["state_dict_post"], hook, prepend)

    def register_load_state_dict_pre_hook(self, hook: Callable[..., Any], prepend: bool = False) -> RemovableHandle:
        """Call ``hook(optimizer, state_dict)`` before one is loaded; it may return another.

        Args:
            prepend: whether it is called before the hooks that are there.
        """
        return _add_hook(self._hooks["load_pre"], hook, prepend)

    def register_load_state_dict_post_hook(self, hook: Callable[..., Any], prepend: bool = False) -> RemovableHandle:
        """Call ``hook(optimizer)`` after a state_dict was loaded.

        Args:
            prepend: whether it is called before the hooks that are there.
        """
        return _add_hook(self._hooks["load_post"], hook, prepend)


def _or(value: Any, otherwise: Any) -> Any:
    return otherwise if value is None else value


def new_scalar(value: float) -> Tensor:
    """Return a number of an optimiser's state, such as the count of steps, in the dtype that torch has it in."""
    return tensor(value, dtype=float64 if get_default_dtype() is float64 else float32)
