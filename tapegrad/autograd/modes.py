"""Whether operations are recorded: no_grad, enable_grad, set_grad_enabled, inference_mode."""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self, TypeVar

from tapegrad.runtime.machine import machine

F = TypeVar("F", bound=Callable[..., Any])


def is_grad_enabled() -> bool:
    """Return whether operations on tensors that require a gradient are recorded."""
    return bool(machine.state["grad_enabled"])


def is_inference_mode_enabled() -> bool:
    """Return whether inference mode is on."""
    return bool(machine.state["inference_enabled"])


class _Mode:
    """A context manager, and a decorator of functions, that sets the two modes and puts them back."""

    grad = False
    inference: bool | None = None

    def __enter__(self) -> Self:
        state = machine.state
        self._before = (int(state["grad_enabled"]), int(state["inference_enabled"]))
        state["grad_enabled"] = self.grad
        if self.inference is not None:
            state["inference_enabled"] = self.inference
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        machine.state["grad_enabled"], machine.state["inference_enabled"] = self._before

    def __call__(self, function: F) -> F:
        @functools.wraps(function)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            with self._again():
                return function(*args, **kwargs)

        return wrapped  # type: ignore[return-value]

    def _again(self) -> _Mode:
        return type(self)()


class no_grad(_Mode):  # noqa: N801 (torch's name)
    """Do not record operations: results require no gradient. A context manager and a decorator.

    Example:
        >>> import tapegrad as tg
        >>> x = tg.tensor([1.0], requires_grad=True)
        >>> with tg.no_grad():
        ...     (x * 2).requires_grad
        False
    """

    def __new__(cls, function: Any = None) -> Any:
        mode = super().__new__(cls)
        return mode if function is None else mode(function)


class enable_grad(_Mode):  # noqa: N801 (torch's name)
    """Record operations again inside of ``no_grad``. A context manager and a decorator."""

    grad = True

    def __new__(cls, function: Any = None) -> Any:
        mode = super().__new__(cls)
        return mode if function is None else mode(function)


class set_grad_enabled(_Mode):  # noqa: N801 (torch's name)
    """Record operations or not, from here on or as a context manager."""

    def __init__(self, mode: bool) -> None:
        self.grad = bool(mode)
        self._before = (int(machine.state["grad_enabled"]), int(machine.state["inference_enabled"]))
        machine.state["grad_enabled"] = self.grad

    def __enter__(self) -> Self:
        machine.state["grad_enabled"] = self.grad
        return self

    def __call__(self, function: F) -> F:
        machine.state["grad_enabled"] = self._before[0]
        return super().__call__(function)

    def _again(self) -> _Mode:
        return type(self)(self.grad)


class inference_mode(_Mode):  # noqa: N801 (torch's name)
    """Do not record operations, and make tensors that can never be part of a graph."""

    def __new__(cls, mode: Any = True) -> Any:
        made = super().__new__(cls)
        return made(mode) if callable(mode) else made

    def __init__(self, mode: Any = True) -> None:
        self.inference = True if callable(mode) else bool(mode)
        self.grad = is_grad_enabled() and not self.inference

    def _again(self) -> _Mode:
        return type(self)(self.inference)  # type: ignore[no-any-return]
