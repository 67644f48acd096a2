"""The Python side of a tensor: an object that holds a handle and gives it back when it dies."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from tapegrad.runtime.machine import machine

_release = machine.release
_new = object.__new__


class Tensor:
    """A multi-dimensional array of numbers of one dtype, and its place in the graph of derivatives.

    What a tensor can do is added by the files that define it: ``tapegrad.ops`` the operations, ``tapegrad.tensor`` the
    properties and conversions, ``tapegrad.autograd`` the derivatives.

    Args:
        *args: as of ``FloatTensor``, in the default float dtype; ``tapegrad.tensor`` is what programs should use.
    """

    __slots__ = ("__dict__", "__weakref__", "_grad", "_handle")

    _handle: int

    if TYPE_CHECKING:  # for type checkers: what other files add, special methods by name

        def __getattr__(self, name: str) -> Any: ...
        def __setattr__(self, name: str, value: Any) -> None: ...
        def __getitem__(self, index: Any) -> Tensor: ...
        def __setitem__(self, index: Any, value: Any) -> None: ...
        def __iter__(self) -> Iterator[Tensor]: ...
        def __len__(self) -> int: ...
        def __bool__(self) -> bool: ...
        def __int__(self) -> int: ...
        def __index__(self) -> int: ...
        def __float__(self) -> float: ...
        def __neg__(self) -> Tensor: ...
        def __abs__(self) -> Tensor: ...
        def __invert__(self) -> Tensor: ...
        def _binary(self, other: Any) -> Tensor: ...

        __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __truediv__ = __rtruediv__ = _binary
        __floordiv__ = __rfloordiv__ = __mod__ = __rmod__ = __pow__ = __rpow__ = __matmul__ = __rmatmul__ = _binary
        __and__ = __rand__ = __or__ = __ror__ = __xor__ = __rxor__ = _binary
        __lshift__ = __rlshift__ = __rshift__ = __rrshift__ = __lt__ = __le__ = __gt__ = __ge__ = _binary
        __eq__ = __ne__ = _binary  # type: ignore[assignment]  # object's give a bool

    def __del__(self) -> None:
        try:
            _release(self._handle)
        except AttributeError:  # its making failed
            pass


def wrap(handle: int) -> Tensor:
    """Return a tensor that takes over a handle."""
    tensor: Tensor = _new(Tensor)
    tensor._handle = handle
    return tensor
