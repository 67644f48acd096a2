"""Hooks on tensors: functions that see, or replace, a gradient as it passes; and retain_grad."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tapegrad.ops.calls import call, shape_of, tensor_method
from tapegrad.ops.registry import registry
from tapegrad.runtime.handle import Tensor, wrap
from tapegrad.runtime.layout import HOOKED, REQUIRES_GRAD
from tapegrad.runtime.machine import machine

_SLOT, _PRODUCER, _SERIAL = 0, 6, 13


@dataclass
class _Hooks:
    """What is to happen at a slot; ``serial`` tells the slot from a later one of the same number."""

    serial: int
    before: dict[int, Callable[[Tensor], Any]] = field(default_factory=dict)
    after: dict[int, Callable[[Tensor], Any]] = field(default_factory=dict)
    retain: bool = False
    tensor: Any = None  # a weak reference


_hooks: dict[int, _Hooks] = {}
_prune_at = 64


class RemovableHandle:
    """Takes a hook off again; also a context manager."""

    _next_id = 0

    def __init__(self, hooks: dict[int, Any]) -> None:
        self._hooks = hooks
        self.id = RemovableHandle._next_id
        RemovableHandle._next_id += 1

    def remove(self) -> None:
        """Take the hook off; a second call does nothing."""
        self._hooks.pop(self.id, None)

    def __enter__(self) -> RemovableHandle:
        return self

    def __exit__(self, *args: object) -> None:
        self.remove()


def _hooks_of(tensor: Tensor) -> _Hooks:
    """Return the hooks of a tensor's slot, made when there are none yet."""
    global _prune_at
    fields = machine.fields_of(tensor._handle)
    found = _hooks.get(fields[_SLOT])
    if found is None or found.serial != fields[_SERIAL]:
        found = _hooks[fields[_SLOT]] = _Hooks(fields[_SERIAL])
    if len(_hooks) > _prune_at:
        _prune()
        _prune_at = max(64, 2 * len(_hooks))
    machine.set_flags(tensor._handle, HOOKED, 0)
    return found


def _prune() -> None:
    serials = machine.table("slots")["serial"]
    for slot, entry in list(_hooks.items()):  # other threads may add hooks meanwhile
        if serials[slot] != entry.serial:
            _hooks.pop(slot, None)


def _live(slot: int) -> _Hooks | None:
    found = _hooks.get(slot)
    if found is None or found.serial != machine.table("slots")["serial"][slot]:
        return None
    return found


def update_flag(tensor: Tensor) -> None:
    """Clear the mark that a sweep has set on a tensor without hooks."""
    if _live(machine.fields_of(tensor._handle)[_SLOT]) is None:
        machine.set_flags(tensor._handle, 0, HOOKED)


def _add(hooks: dict[int, Any], hook: Callable[[Tensor], Any]) -> RemovableHandle:
    handle = RemovableHandle(hooks)
    hooks[handle.id] = hook
    return handle


def hooks_of(tensor: Tensor) -> tuple[dict[int, Callable[..., Any]], ...]:
    """Return the hooks of a tensor, by their handles' numbers: before accumulation and after it; () if it has none."""
    if not machine.flags_of(tensor._handle) & HOOKED:
        return ()
    found = _live(int(machine.table("handles")["slot"][tensor._handle]))
    return () if found is None else (found.before, found.after)


def run_hooks(slot: int, gradient: Tensor) -> Tensor:
    """Run the hooks of a slot on a gradient; return the gradient, or what the last hook put in its place."""
    found = _live(slot)
    if found is None:
        return gradient
    for hook in list(found.before.values()):
        replaced = hook(gradient)
        if replaced is None:
            continue
        if not isinstance(replaced, Tensor):
            raise TypeError(f"expected Tensor, but hook returned '{type(replaced).__name__}'")
        if shape_of(replaced) != shape_of(gradient):
            raise RuntimeError(
                f"hook '{getattr(hook, '__name__', hook)}' has changed the size of value: got "
                f"{list(shape_of(replaced))}, expected {list(shape_of(gradient))}"
            )
        if replaced.dtype is not gradient.dtype:
            raise RuntimeError(
                f"hook '{getattr(hook, '__name__', hook)}' has changed the type of value: got {replaced.dtype}, "
                f"expected {gradient.dtype}"
            )
        gradient = replaced
    if found.retain:
        add_to_grad(wrap(machine.handle_of_slot(slot)), gradient)
    return gradient


def add_to_grad(tensor: Tensor, gradient: Tensor) -> None:
    """Add a gradient to a tensor's ``.grad``."""
    known: Any = tensor
    if machine.grad_of(tensor._handle) < 0:
        known.grad = call(registry["clone"], gradient)
    else:
        known.grad = known.grad + gradient


def run_after_accumulation(slot: int) -> None:
    """Run a leaf's post-accumulation hooks on the tensor itself."""
    found = _live(slot)
    if found is None or not found.after:
        return
    tensor = found.tensor()
    if tensor is None:
        tensor = wrap(machine.handle_of_slot(slot))
    for hook in list(found.after.values()):
        hook(tensor)


def _check(tensor: Tensor, name: str) -> None:
    if not machine.flags_of(tensor._handle) & REQUIRES_GRAD:
        raise RuntimeError(f"cannot {name} a tensor that doesn't require gradient")


@tensor_method("register_hook")
def register_hook(self: Tensor, hook: Callable[[Tensor], Any]) -> RemovableHandle:
    """Have ``hook(grad)`` called with this tensor's gradient whenever it is computed.

    Args:
        hook: returns None, or a tensor of the same shape that takes the gradient's place.

    Returns:
        A handle whose ``remove()`` takes the hook off.
    """
    _check(self, "register a hook on")
    return _add(_hooks_of(self).before, hook)


@tensor_method("register_post_accumulate_grad_hook")
def register_post_accumulate_grad_hook(self: Tensor, hook: Callable[[Tensor], Any]) -> RemovableHandle:
    """Have ``hook(tensor)`` called after a gradient was added to this leaf's ``.grad``."""
    _check(self, "register a hook on")
    if machine.fields_of(self._handle)[_PRODUCER] >= 0:
        raise RuntimeError("post accumulate grad hooks cannot be registered on non-leaf tensors")
    found = _hooks_of(self)
    found.tensor = weakref.ref(self)
    return _add(found.after, hook)


@tensor_method("retain_grad")
def retain_grad(self: Tensor) -> None:
    """Have backward() keep the gradient of this tensor in its ``.grad`` though it is no leaf."""
    if not machine.flags_of(self._handle) & REQUIRES_GRAD:
        raise RuntimeError("can't retain_grad on Tensor that has requires_grad=False")
    if machine.fields_of(self._handle)[_PRODUCER] >= 0:
        _hooks_of(self).retain = True


def _retains_grad(self: Tensor) -> bool:
    found = _live(machine.fields_of(self._handle)[_SLOT])
    return found is not None and found.retain


Tensor.retains_grad = property(_retains_grad, doc="Whether ``grad`` is filled though this is no leaf.")  # type: ignore[attr-defined]
