"""Parameter and Buffer: tensors that a module counts among what is trained, and among its state."""

from __future__ import annotations

from typing import Any

from tapegrad.ops.calls import call
from tapegrad.ops.registry import registry
from tapegrad.runtime.dtype import get_default_dtype
from tapegrad.runtime.handle import Tensor
from tapegrad.runtime.machine import machine
from tapegrad.tensor.construct import empty, require_grad


class Parameter(Tensor):
    """A leaf tensor over the memory of ``data``; operations on it give plain tensors.

    Args:
        data: the numbers; none by default.
        requires_grad: whether operations on it are recorded.

    Example:
        >>> import tapegrad as tg
        >>> weight = tg.nn.Parameter(tg.tensor([1.0, 2.0]))
        >>> weight.requires_grad, isinstance(weight * 2, tg.nn.Parameter)
        (True, False)
    """

    __slots__ = ()

    def __new__(cls, data: Any = None, requires_grad: bool = True) -> Parameter:
        """Make the parameter."""
        if data is None:
            data = empty((0,), get_default_dtype())
        if not isinstance(data, Tensor):
            raise TypeError(f"Parameter(): argument 'data' must be Tensor, not {type(data).__name__}")
        parameter: Parameter = object.__new__(cls)
        parameter._handle = machine.detach_slot(data._handle, 0)
        if requires_grad:
            require_grad(parameter)
        return parameter

    def __init__(self, data: Any = None, requires_grad: bool = True) -> None:
        """Do nothing: all is done when it is made."""

    def __deepcopy__(self, memo: dict[int, Any]) -> Parameter:
        copied = memo.get(id(self))
        if copied is None:
            numbers = call(registry["clone"], self.detach())
            copied = memo[id(self)] = type(self)(numbers, self.requires_grad)
        return copied

    def __repr__(self) -> str:
        return "Parameter containing:\n" + super().__repr__()


class Buffer(Tensor):
    """A tensor over the memory of ``data`` that, as a module's attribute, becomes one of its buffers.

    Args:
        data: the numbers; none by default.
        persistent: whether it is in the module's ``state_dict``.
    """

    __slots__ = ()

    persistent: bool

    def __new__(cls, data: Any = None, *, persistent: bool = True) -> Buffer:
        """Make the buffer."""
        if data is None:
            data = empty((0,), get_default_dtype())
        if not isinstance(data, Tensor):
            raise TypeError(f"Buffer(): argument 'data' must be Tensor, not {type(data).__name__}")
        buffer: Buffer = object.__new__(cls)
        buffer._handle = machine.detach_slot(data._handle, 0)
        buffer.persistent = persistent
        return buffer

    def __init__(self, data: Any = None, *, persistent: bool = True) -> None:
        """Do nothing: all is done when it is made."""
