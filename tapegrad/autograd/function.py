"""Custom differentiable functions: Function and once_differentiable."""

from __future__ import annotations

import functools
import inspect
import warnings
from collections.abc import Callable
from typing import Any

from tapegrad.autograd.context import FunctionCtx
from tapegrad.autograd.custom_call import CustomCall
from tapegrad.native.dtypes import FLOAT32
from tapegrad.ops.calls import functions
from tapegrad.runtime.handle import Tensor
from tapegrad.runtime.layout import REQUIRES_GRAD
from tapegrad.runtime.machine import machine

_GRAD_BIT = 1
_flags_of, _modes, _set_modes = machine.flags_of, machine.modes, machine.set_modes


class Function:
    """Base of differentiable functions of one's own.

    A subclass has the static methods ``forward(ctx, *args)`` and ``backward(ctx, *grads)``, or ``forward(*args)`` and
    ``setup_context(ctx, inputs, output)``; it is called as ``Subclass.apply(*args)``.

    Example:
        >>> import tapegrad as tg
        >>> class Cube(tg.autograd.Function):
        ...     @staticmethod
        ...     def forward(ctx, x):
        ...         ctx.save_for_backward(x)
        ...         return x * x * x
        ...     @staticmethod
        ...     def backward(ctx, g):
        ...         (x,) = ctx.saved_tensors
        ...         return 3 * x * x * g
        >>> x = tg.tensor([2.0], requires_grad=True)
        >>> Cube.apply(x).backward()
        >>> x.grad
        tensor([12.])
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        warnings.warn(
            f"{type(self)} should not be instantiated. Methods on autograd functions are all static, so you should "
            "invoke them on the class itself. Instantiating an autograd function will raise an error in a future "
            "version.",
            DeprecationWarning,
            stacklevel=2,
        )

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Raise RuntimeError: functions are called through ``apply``."""
        raise RuntimeError(
            "Legacy autograd function with non-static forward method is deprecated. Please use new-style autograd "
            "function with static forward method."
        )

    @staticmethod
    def forward(*args: Any, **kwargs: Any) -> Any:
        """Compute the results; to be given by the subclass."""
        raise NotImplementedError("You must implement the forward function for custom autograd.Function.")

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> Any:
        """Note in the context what backward will need; for a forward that has no context."""
        raise NotImplementedError("setup_context is not implemented.")

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Any:
        """Return a gradient for each argument of forward, None for those without.

        Args:
            *grad_outputs: the gradient of each result of forward.
        """
        raise NotImplementedError(
            "You must implement either the backward or vjp method for your custom autograd.Function to use it with "
            "backward mode AD."
        )

    vjp = backward

    @classmethod
    def apply(cls, *args: Any, **kwargs: Any) -> Any:
        """Call the function, recording it where an argument requires a gradient."""
        has_setup = cls.setup_context is not Function.setup_context
        if has_setup:
            bound = inspect.signature(cls.forward).bind(*args, **kwargs)
            bound.apply_defaults()
            args = bound.args
        elif kwargs:
            raise TypeError(f"{cls.__name__}.apply() takes no keyword arguments")
        needs = tuple([isinstance(arg, Tensor) and _flags_of(arg._handle) & REQUIRES_GRAD != 0 for arg in args])
        ctx = _context_class(cls)(needs)
        modes = _modes()
        _set_modes(modes & ~_GRAD_BIT)
        try:
            output = _run_forward(cls, ctx, args, has_setup)
            single = not isinstance(output, tuple)
            call = CustomCall(ctx, args, (output,) if single else output)
            call.finish(bool(modes & _GRAD_BIT and any(needs)))
        finally:
            _set_modes(modes)
        for tensor in call.written:
            functions["_rebase"](tensor)
        return call.outputs[0] if single else call.outputs


def _requires_grad(tensor: Tensor) -> bool:
    return bool(machine.flags_of(tensor._handle) & REQUIRES_GRAD)


def _run_forward(cls: type[Function], ctx: FunctionCtx, args: tuple[Any, ...], has_setup: bool) -> Any:
    if not has_setup:
        return cls.forward(ctx, *args)
    output = cls.forward(*args)
    cls.setup_context(ctx, args, output)
    return output


def _context_class(cls: type[Function]) -> type[FunctionCtx]:
    """Return the class of a function's contexts, ``<name>Backward``."""
    made: type[FunctionCtx] | None = cls.__dict__.get("_context_class")
    if made is None:
        made = type(f"{cls.__name__}Backward", (FunctionCtx,), {"_function": cls, "__module__": cls.__module__})
        cls._context_class = made  # type: ignore[attr-defined]
    return made


def once_differentiable(function: Callable[..., Any]) -> Callable[..., Any]:
    """Make a backward one whose results cannot be differentiated again, so that its body may do anything."""

    @functools.wraps(function)
    def backward(ctx: Any, *args: Any) -> Any:
        modes = machine.modes()
        machine.set_modes(modes & ~_GRAD_BIT)
        try:
            outputs = function(ctx, *args)
        finally:
            machine.set_modes(modes)
        if not modes & _GRAD_BIT or not any(isinstance(arg, Tensor) and _requires_grad(arg) for arg in args):
            return outputs
        if isinstance(outputs, tuple):
            return tuple(_not_again(output) for output in outputs)
        return _not_again(outputs)

    return backward


class _Twice(Function):
    """Passes a value on; its own derivative is an error."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return functions["clone"](x)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        raise RuntimeError("trying to differentiate twice a function that was marked with @once_differentiable")


def _not_again(output: Any) -> Any:
    if not isinstance(output, Tensor) or machine.dtype_of(output._handle) < FLOAT32:
        return output
    detached: Any = output.detach()
    return _Twice.apply(detached.requires_grad_())
