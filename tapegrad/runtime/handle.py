"""The Python side of a tensor: an object that holds a handle and gives it back when it dies."""

from __future__ import annotations

from tapegrad.runtime.machine import machine

_release = machine.release
_new = object.__new__


class Tensor:
    """A multi-dimensional array of numbers of one dtype, and its place in the graph of derivatives.

    What a tensor can do is added by the files that define it: ``tapegrad.ops`` the operations, ``tapegrad.tensor`` the
    properties and conversions, ``tapegrad.autograd`` the derivatives.
    """

    __slots__ = ("__dict__", "__weakref__", "_grad", "_handle")

    _handle: int

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
