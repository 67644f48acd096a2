"""The short way to a replay: a call like the last one, of tensors alone, whose guards one compiled call compares."""

from __future__ import annotations

from typing import Any

from tapegrad.capture.variants import Variant
from tapegrad.nn.parameter import Parameter
from tapegrad.runtime.errors import raise_status
from tapegrad.runtime.handle import Tensor, wrap

_TENSORS = (Tensor, Parameter)  # exactly: a class of the user's may be more than a tensor


class QuickCall:
    """Calls the program of a variant for arguments that are tensors, without taking containers apart.

    Args:
        variant: that has a program, is checked no more, and was called with tensors alone.
    """

    def __init__(self, variant: Variant) -> None:
        assert variant.program is not None
        self._variant, self._program = variant, variant.program
        self._count = len(variant.structure[1])
        self._single = variant.result == ("tensor", 0) and variant.returned == (("output", 0),)

    @staticmethod
    def fits(variant: Variant) -> bool:
        """Return whether a variant can be called so."""
        items = variant.structure[1] if variant.structure[0] is tuple else ()
        flat = variant.structure == (tuple, tuple([("tensor", k) for k in range(len(items))]))  # and no tensor twice
        return flat and variant.program is not None and not variant.checks_left and not variant.program.notes.deferred

    def run(self, args: tuple[Any, ...]) -> Any:
        """Return what ``result`` wants, or None where the call is not as the last one was."""
        variant, program = self._variant, self._program
        if len(args) != self._count or variant.program is not program or not variant.guards.hold_in(variant.modes):
            return None
        handles = []
        for value in args:
            if type(value) not in _TENSORS:
                return None
            handles.append(value._handle)
        variant.refresh()
        found = program.run(*handles)
        if type(found) is tuple:
            return found
        if not variant.refused(found):
            raise_status(found)
        return None

    def result(self, compiled: Any, args: tuple[Any, ...], found: tuple[int, ...]) -> Any:
        """Return the function's result, of the handles that ``run`` has returned."""
        if self._single:
            return wrap(found[0])
        return compiled._assemble(self._variant, args, [wrap(handle) for handle in found])
