"""Whether operations are recorded, in each thread: no_grad, enable_grad, set_grad_enabled, inference_mode."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Generator
from types import TracebackType
from typing import Any, Self, TypeVar

from tapegrad.runtime.machine import machine

F = TypeVar("F", bound=Callable[..., Any])
_GRAD, _INFERENCE = 1, 2  # bits of the modes that the machine keeps for each thread


def is_grad_enabled() -> bool:
    """Return whether operations on tensors that require a gradient are recorded in this thread."""
    return bool(machine.modes() & _GRAD)


def is_inference_mode_enabled() -> bool:
    """Return whether inference mode is on in this thread."""
    return bool(machine.modes() & _INFERENCE)


class _Mode:
    """A context manager, and a decorator of functions and generators, that sets the two modes and puts them back."""

    grad = False
    inference: bool | None = None

    def __enter__(self) -> Self:
        self._before = self._set()
        return self

    def _set(self) -> int:
        """Set the modes; return those before."""
        before: int = machine.modes()
        inference = before & _INFERENCE if self.inference is None else _INFERENCE * self.inference
        machine.set_modes(_GRAD * bool(self.grad) | inference)
        return before

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        machine.set_modes(self._before)

    def __call__(self, function: F) -> F:
        if inspect.isgeneratorfunction(function):
            return _in_mode_between_yields(self, function)  # type: ignore[return-value]

        @functools.wraps(function)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            with self._again():
                return function(*args, **kwargs)

        return wrapped  # type: ignore[return-value]

    def _again(self) -> _Mode:
        return type(self)()


def _in_mode_between_yields(mode: _Mode, function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a generator function whose body runs in the mode, and its caller, between two values, in the caller's."""

    @functools.wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
        body = function(*args, **kwargs)
        step, given = body.send, None
        while True:
            try:
                with mode._again():
                    value = step(given)
            except StopIteration as end:
                return end.value
            try:
                step, given = body.send, (yield value)
            except GeneratorExit:
                body.close()
                raise
            except BaseException as error:
                step, given = body.throw, error

    return wrapped


class no_grad(_Mode):  # noqa: N801 (torch's name)
    """Do not record operations: results require no gradient. A context manager and a decorator.

    Args:
        function: the function that the decorator was applied to without brackets.

    Example:
        >>> import tapegrad as tg
        >>> x = tg.tensor([1.0], requires_grad=True)
        >>> with tg.no_grad():
        ...     (x * 2).requires_grad
        False
    """

    def __new__(cls, function: Any = None) -> Any:
        """Return a mode, or, given a function, the function in the mode."""
        mode = super().__new__(cls)
        return mode if function is None else mode(function)


class enable_grad(_Mode):  # noqa: N801 (torch's name)
    """Record operations again inside of ``no_grad``. A context manager and a decorator.

    Args:
        function: the function that the decorator was applied to without brackets.
    """

    grad = True

    def __new__(cls, function: Any = None) -> Any:
        """Return a mode, or, given a function, the function in the mode."""
        mode = super().__new__(cls)
        return mode if function is None else mode(function)


class set_grad_enabled(_Mode):  # noqa: N801 (torch's name)
    """Record operations or not, from here on or as a context manager.

    Args:
        mode: whether operations are recorded.
    """

    def __init__(self, mode: bool) -> None:
        self.grad = bool(mode)
        self._before = self._set()

    def __enter__(self) -> Self:
        self._set()
        return self

    def __call__(self, function: F) -> F:
        """Return the function in the mode; the mode is not set from here on then."""
        machine.set_modes(self._before)
        return super().__call__(function)

    def _again(self) -> _Mode:
        return type(self)(self.grad)


class inference_mode(_Mode):  # noqa: N801 (torch's name)
    """Do not record operations, and make tensors that can never be part of a graph.

    Args:
        mode: whether the mode is on; or the function that the decorator was applied to without brackets.
    """

    def __new__(cls, mode: Any = True) -> Any:
        """Return a mode, or, given a function, the function in the mode."""
        made = super().__new__(cls)
        return made(mode) if callable(mode) else made

    def __init__(self, mode: Any = True) -> None:
        self.inference = True if callable(mode) else bool(mode)
        self.grad = is_grad_enabled() and not self.inference

    def _again(self) -> _Mode:
        return type(self)(self.inference)
