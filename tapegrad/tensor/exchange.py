"""Tensors in other hands: DLPack both ways, pickling, copy and deepcopy."""

from __future__ import annotations

from typing import Any

import numpy as np

from tapegrad.ops.calls import call, tensor_method
from tapegrad.ops.registry import registry
from tapegrad.runtime.errors import refuse_reading
from tapegrad.runtime.handle import Tensor
from tapegrad.runtime.layout import REQUIRES_GRAD
from tapegrad.runtime.machine import machine
from tapegrad.tensor.construct import copy_of_array, from_numpy, require_grad
from tapegrad.tensor.convert import array_of

_CPU = (1, 0)  # DLPack's device type kDLCPU, and its number


@tensor_method("__dlpack__")
def _to_dlpack(self: Tensor, *, stream: Any = None, **options: Any) -> Any:
    if machine.flags_of(self._handle) & REQUIRES_GRAD:
        raise BufferError("Can't export tensors that require gradient, use tensor.detach()")
    refuse_reading("__dlpack__")
    return array_of(self).__dlpack__(stream=stream, **options)


@tensor_method("__dlpack_device__")
def _dlpack_device(self: Tensor) -> tuple[int, int]:
    return _CPU


def from_dlpack(ext_tensor: Any) -> Tensor:
    """Return a tensor over the memory of another library's array, which must lie in the CPU's memory.

    Args:
        ext_tensor: an object with ``__dlpack__`` and ``__dlpack_device__``, such as a NumPy, torch or JAX array.

    Raises:
        TypeError: the object does not speak DLPack, or its dtype has no counterpart.
        BufferError: the memory is on another device.
    """
    if not hasattr(ext_tensor, "__dlpack__"):
        raise TypeError(f"from_dlpack: expected an object with __dlpack__, got {type(ext_tensor).__name__}")
    return from_numpy(np.from_dlpack(ext_tensor))


def _restore(
    array: np.ndarray[Any, Any], requires_grad: bool, attributes: dict[str, Any], kind: type[Tensor]
) -> Tensor:
    """Return the tensor that was pickled."""
    tensor = copy_of_array(array)
    if requires_grad:
        require_grad(tensor)
    if kind is not Tensor:
        tensor.__class__ = kind
    tensor.__dict__.update(attributes)
    return tensor


@tensor_method("__reduce_ex__")
def _reduce(self: Tensor, protocol: Any) -> tuple[Any, ...]:
    wanted = bool(machine.flags_of(self._handle) & REQUIRES_GRAD)
    if wanted and not self.is_leaf:
        raise RuntimeError(
            "Only Tensors created explicitly by the user (graph leaves) support the pickle protocol at the moment. "
            "Call detach() first."
        )
    return _restore, (np.ascontiguousarray(array_of(self)), wanted, dict(self.__dict__), type(self))


@tensor_method("__deepcopy__")
def _deepcopy(self: Tensor, memo: dict[int, Any]) -> Tensor:
    if not self.is_leaf:
        raise RuntimeError(
            "Only Tensors created explicitly by the user (graph leaves) support the deepcopy protocol at the moment. "
            "Call detach() or clone() first."
        )
    wanted = bool(machine.flags_of(self._handle) & REQUIRES_GRAD)
    copied = _restore(array_of(self).copy(), wanted, dict(self.__dict__), type(self))
    memo[id(self)] = copied
    gradient = self.grad
    if gradient is not None:
        copied.grad = call(registry["clone"], gradient).detach()
    return copied


@tensor_method("__copy__")
def _copy(self: Tensor) -> Tensor:
    """Return another tensor over the same memory, a leaf like this one."""
    if not self.is_leaf:
        raise RuntimeError("only leaf tensors can be copied with copy.copy(): call clone()")
    copied = self.detach()
    if machine.flags_of(self._handle) & REQUIRES_GRAD:
        require_grad(copied)
    if type(self) is not Tensor:
        copied.__class__ = type(self)
    copied.__dict__.update(self.__dict__)
    return copied
