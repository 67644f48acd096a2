"""Hooks of modules: what is called around ``forward``, and around the passage of gradients through a module."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tapegrad.autograd.function import Function
from tapegrad.autograd.hooks import RemovableHandle
from tapegrad.runtime.handle import Tensor
from tapegrad.runtime.layout import REQUIRES_GRAD
from tapegrad.runtime.machine import machine

_KINDS = ("before", "after", "gradients_out", "gradients_in", "saving", "saved", "loading", "loaded")


@dataclass(frozen=True)
class _Hook:
    """A hook on ``forward`` and how it is to be called."""

    function: Callable[..., Any]
    with_kwargs: bool = False
    always_call: bool = False


class Hooked:
    """What ``Module`` is as something that is called, with hooks around the call."""

    _hooks: dict[str, dict[int, Any]] | None = None  # by kind, then by the handle's number
    forward: Callable[..., Any]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run ``forward``, and the hooks where there are any."""
        if self._hooks is None:
            return self.forward(*args, **kwargs)
        return self._call_with_hooks(args, kwargs)

    def _hooks_of(self, kind: str) -> list[Any]:
        return list(self._hooks[kind].values()) if self._hooks is not None else []

    def _add_hook(self, kind: str, hook: Any, prepend: bool = False) -> RemovableHandle:
        if self._hooks is None:
            self.__dict__["_hooks"] = {kind: {} for kind in _KINDS}
        assert self._hooks is not None
        hooks = self._hooks[kind]
        handle = RemovableHandle(hooks)
        others = dict(hooks) if prepend else {}
        if prepend:
            hooks.clear()
        hooks[handle.id] = hook
        hooks.update(others)
        return handle

    def register_forward_pre_hook(
        self, hook: Callable[..., Any], *, prepend: bool = False, with_kwargs: bool = False
    ) -> RemovableHandle:
        """Have ``hook(module, args)`` called before ``forward``; its result, if not None, becomes the args.

        Args:
            hook: the hook.
            prepend: whether it comes before the hooks there are.
            with_kwargs: call ``hook(module, args, kwargs)``, which returns None or new args and kwargs.
        """
        return self._add_hook("before", _Hook(hook, with_kwargs), prepend)

    def register_forward_hook(
        self,
        hook: Callable[..., Any],
        *,
        prepend: bool = False,
        with_kwargs: bool = False,
        always_call: bool = False,
    ) -> RemovableHandle:
        """Have ``hook(module, args, output)`` called after ``forward``; its result, if not None, becomes the output.

        Args:
            hook: the hook.
            prepend: whether it comes before the hooks there are.
            with_kwargs: call ``hook(module, args, kwargs, output)``.
            always_call: call it where ``forward`` has raised, too, with None for the output.
        """
        return self._add_hook("after", _Hook(hook, with_kwargs, always_call), prepend)

    def register_full_backward_pre_hook(self, hook: Callable[..., Any], prepend: bool = False) -> RemovableHandle:
        """Have ``hook(module, grad_output)`` called when the outputs' gradients are known; it may return new ones."""
        return self._add_hook("gradients_out", hook, prepend)

    def register_full_backward_hook(self, hook: Callable[..., Any], prepend: bool = False) -> RemovableHandle:
        """Have ``hook(module, grad_input, grad_output)`` called when the inputs' gradients are known.

        What it returns, if not None, takes the place of ``grad_input``. Where no input requires a gradient it is
        called as soon as the outputs' gradients are known, with None for each input.
        """
        return self._add_hook("gradients_in", hook, prepend)

    def _call_with_hooks(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        called: set[int] = set()
        try:
            return self._run_hooked(args, kwargs, called)
        except Exception:
            self._call_remaining(args, kwargs, called)
            raise

    def _run_hooked(self, args: tuple[Any, ...], kwargs: dict[str, Any], called: set[int]) -> Any:
        assert self._hooks is not None
        for hook in self._hooks_of("before"):
            args, kwargs = self._run_pre_hook(hook, args, kwargs)
        gate = None
        if self._hooks["gradients_in"] or self._hooks["gradients_out"]:
            gate = _Gate(self, self._hooks_of("gradients_in"), self._hooks_of("gradients_out"))
            args = gate.watch_inputs(args)
        output = self.forward(*args, **kwargs)
        for number, hook in list(self._hooks["after"].items()):
            called.add(number)
            replaced = (
                hook.function(self, args, kwargs, output) if hook.with_kwargs else hook.function(self, args, output)
            )
            output = output if replaced is None else replaced
        return output if gate is None else gate.watch_outputs(output)

    def _run_pre_hook(self, hook: _Hook, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
        if not hook.with_kwargs:
            replaced = hook.function(self, args)
            if replaced is None:
                return args, kwargs
            return replaced if isinstance(replaced, tuple) else (replaced,), kwargs
        replaced = hook.function(self, args, kwargs)
        if replaced is None:
            return args, kwargs
        if not isinstance(replaced, tuple) or len(replaced) != 2:
            raise RuntimeError(
                f"forward pre-hook must return None or a tuple of (new_args, new_kwargs), but got {replaced}."
            )
        return replaced

    def _call_remaining(self, args: tuple[Any, ...], kwargs: dict[str, Any], called: set[int]) -> None:
        """Call, after an exception, the hooks that are to be called always and were not."""
        assert self._hooks is not None
        for number, hook in list(self._hooks["after"].items()):
            if not hook.always_call or number in called:
                continue
            try:
                if hook.with_kwargs:
                    hook.function(self, args, kwargs, None)
                else:
                    hook.function(self, args, None)
            except Exception as error:
                warnings.warn(
                    "module forward hook with ``always_call=True`` raised an exception that was silenced as another "
                    f"error was raised in forward: {error}",
                    stacklevel=4,
                )


class _Gate:
    """What watches the gradients of one call of a module: the outputs' first, the inputs' when they are all there."""

    def __init__(self, module: Any, hooks: list[Any], pre_hooks: list[Any]) -> None:
        self.module, self.hooks, self.pre_hooks = module, hooks, pre_hooks
        self.input_positions: list[int] | None = None
        self.input_count = self.output_count = 0
        self.output_positions: list[int] = []
        self.gradients_out: tuple[Any, ...] | None = None

    def watch_inputs(self, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """Return the arguments behind the inner gate, if one of them requires a gradient."""
        self.input_count = len(args)
        positions = [k for k, arg in enumerate(args) if isinstance(arg, Tensor)]
        if not _any_requires_grad(args):
            return args
        self.input_positions = positions
        return _behind(self.inputs_arrived, args, positions)

    def watch_outputs(self, output: Any) -> Any:
        """Return the outputs behind the outer gate: those of a tuple that are tensors, or the tensor."""
        outputs = (output,) if isinstance(output, Tensor) else output
        if not isinstance(outputs, tuple) or not _any_requires_grad(outputs):
            return output
        self.output_count = len(outputs)
        self.output_positions = [k for k, value in enumerate(outputs) if isinstance(value, Tensor)]
        watched = _behind(self.outputs_arrived, outputs, self.output_positions)
        return watched if isinstance(output, tuple) else watched[0]

    def outputs_arrived(self, gradients: tuple[Any, ...]) -> tuple[Any, ...]:
        """Call the hooks on the outputs' gradients; return what goes on into the module."""
        found = _spread(gradients, self.output_positions, self.output_count)
        for hook in self.pre_hooks:
            replaced = hook(self.module, found)
            if replaced is not None:
                found = _checked(replaced, found, "Backward pre")
        self.gradients_out = found
        if self.input_positions is None:
            for hook in self.hooks:
                replaced = hook(self.module, (None,) * self.input_count, found)
                if replaced is not None and any(gradient is not None for gradient in _as_tuple(replaced)):
                    raise RuntimeError(
                        "Backward hook for Modules where no input requires gradient should always return None or None "
                        "for all gradients."
                    )
        return tuple([found[k] for k in self.output_positions])

    def inputs_arrived(self, gradients: tuple[Any, ...]) -> tuple[Any, ...]:
        """Call the hooks on the inputs' gradients; return what goes on to the inputs."""
        assert self.input_positions is not None
        if self.gradients_out is None:
            return gradients  # the module's own outputs were not part of what is differentiated
        found = _spread(gradients, self.input_positions, self.input_count)
        for hook in self.hooks:
            replaced = hook(self.module, found, self.gradients_out)
            if replaced is not None:
                found = _checked(replaced, found, "Backward")
        self.gradients_out = None
        return tuple([found[k] for k in self.input_positions])


def _any_requires_grad(values: tuple[Any, ...]) -> bool:
    return any(isinstance(value, Tensor) and machine.flags_of(value._handle) & REQUIRES_GRAD for value in values)


def _spread(gradients: tuple[Any, ...], positions: list[int], count: int) -> tuple[Any, ...]:
    found = [None] * count
    for position, gradient in zip(positions, gradients, strict=True):
        found[position] = gradient
    return tuple(found)


def _as_tuple(value: Any) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else (value,)


def _checked(replaced: Any, found: tuple[Any, ...], kind: str) -> tuple[Any, ...]:
    given = _as_tuple(replaced)
    if len(given) != len(found):
        raise RuntimeError(
            f"{kind} hook returned an invalid number of grad_{'output' if 'pre' in kind else 'input'}, got "
            f"{len(given)}, but expected {len(found)}"
        )
    return given


def _behind(arrived: Callable[..., Any], values: tuple[Any, ...], positions: list[int]) -> tuple[Any, ...]:
    """Return the values with the tensors among them behind a function that lets gradients through by ``arrived``."""
    passed = _Pass.apply(arrived, *[values[k] for k in positions])
    changed = list(values)
    for position, value in zip(positions, passed, strict=True):
        changed[position] = value
    return tuple(changed)


class _Pass(Function):
    """The identity on several tensors whose gradients go through a function of all of them."""

    @staticmethod
    def forward(ctx: Any, arrived: Callable[..., Any], *tensors: Tensor) -> Any:
        """Return the tensors."""
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(*[t for t in tensors if not machine.flags_of(t._handle) & REQUIRES_GRAD])
        ctx.arrived = arrived
        return tensors

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        """Return what ``arrived`` makes of the gradients."""
        return (None, *ctx.arrived(grads))
