"""``.njit`` of what has no effects and so can be captured by calling it: modules and gradient functions."""

from __future__ import annotations

import functools
from collections.abc import Callable
from functools import partial
from typing import Any

from tapegrad.capture.compiled import Compiled
from tapegrad.capture.native import NativeFunction
from tapegrad.capture.slots import native_slot
from tapegrad.nn.module import Module

_PROGRAMS = 8  # for as many combinations of shapes and dtypes


def _module_njit(self: Module) -> NativeFunction:
    """The module for ``@njit`` code, C and SciPy, without gradients; see ``NativeFunction``."""
    slot = native_slot(self)
    if slot.native is None:
        slot.native = NativeFunction(partial(Compiled, self.__call__, _PROGRAMS), type(self).__name__, pure=True)
    native: NativeFunction = slot.native
    native.renew()
    return native


setattr(Module, "njit", property(_module_njit))  # noqa: B010  (nn does not know of captures)


def with_njit(transform: Callable[..., Callable[..., Any]]) -> Callable[..., Any]:
    """Return a transformation of functions whose results have ``.njit``; see ``NativeFunction``.

    Args:
        transform: a transformation such as ``grad``.
    """

    @functools.wraps(transform)
    def transformed(*args: Any, **kwargs: Any) -> Any:
        function = transform(*args, **kwargs)
        # made when it is first used: to make it now would take ten times as long as all the rest
        native = NativeFunction(partial(Compiled, function, _PROGRAMS), function.__name__, pure=True)
        function.njit = native  # type: ignore[attr-defined]
        return function

    return transformed
