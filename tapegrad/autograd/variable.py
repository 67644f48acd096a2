"""``Variable``: the old name of a tensor that operations on which are recorded."""

from __future__ import annotations

import warnings
from typing import Any

from tapegrad.runtime.handle import Tensor


class _VariableType(type):
    """Makes every tensor an instance of Variable."""

    def __instancecheck__(cls, value: Any) -> bool:
        return isinstance(value, Tensor)


class Variable(metaclass=_VariableType):
    """A tensor over the same memory; since torch 0.4 tensors do by themselves what Variables did.

    Args:
        data: a tensor.
        requires_grad: whether operations on the result are recorded.
        volatile: left unread.
    """

    def __new__(cls, data: Tensor, requires_grad: bool = False, volatile: bool = False) -> Any:
        """Return a tensor over the memory of ``data``.

        Args:
            data: a tensor.
            requires_grad: whether operations on the result are to be recorded.
            volatile: has no effect.
        """
        if not isinstance(data, Tensor):
            raise TypeError(f"Variable data has to be a tensor, but got {type(data).__name__}")
        if volatile:
            warnings.warn(
                "volatile was removed and now has no effect. Use `with tapegrad.no_grad():` instead.",
                UserWarning,
                stacklevel=2,
            )
        variable: Any = data.detach()
        return variable.requires_grad_() if requires_grad else variable
