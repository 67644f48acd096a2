"""Properties of tensors: shape, strides, dtype, their place in the graph, their gradient."""

from __future__ import annotations

import warnings
from typing import Any

from tapegrad.ops.calls import normal_dim
from tapegrad.runtime.dtype import DTYPES
from tapegrad.runtime.dtype import dtype as DType
from tapegrad.runtime.entry_points import FIELDS
from tapegrad.runtime.errors import refuse_change
from tapegrad.runtime.handle import Tensor, wrap
from tapegrad.runtime.layout import CONTIGUOUS, INFERENCE, IS_VIEW, REQUIRES_GRAD, UNVERSIONED
from tapegrad.runtime.machine import machine
from tapegrad.tensor.construct import require_grad

_shape_of, _numel_of = machine.shape_of, machine.numel_of
_FIELD = {name: position for position, name in enumerate(FIELDS)}


class Size(tuple[int, ...]):
    """A tensor's shape: a tuple that can count its elements.

    Args:
        iterable: the lengths.
    """

    __slots__ = ()

    def numel(self) -> int:
        """Return the product of the lengths."""
        count = 1
        for length in self:
            count *= length
        return count

    def __repr__(self) -> str:
        return f"tapegrad.Size({list(self)})"


class device:  # noqa: N801 (torch's name)
    """Where a tensor's memory is: always the CPU.

    Args:
        type: ``cpu``.
        index: None or 0.
    """

    __slots__ = ("index", "type")

    def __init__(self, type: Any = "cpu", index: int | None = None) -> None:
        name = str(type).split(":")[0]
        if name != "cpu":
            raise RuntimeError(f"tapegrad computes on the CPU only, got device {str(type)!r}")
        self.type = name
        self.index = index

    def __repr__(self) -> str:
        return f"device(type='{self.type}')"

    def __str__(self) -> str:
        return self.type

    def __eq__(self, other: object) -> bool:
        return isinstance(other, device) and self.type == other.type

    def __hash__(self) -> int:
        return hash(self.type)


_CPU = device()
_NOT_A_LEAF = (
    "The .grad attribute of a Tensor that is not a leaf Tensor is being accessed. Its .grad attribute won't be "
    "populated during autograd.backward(). If you indeed want the .grad field to be populated for a non-leaf Tensor, "
    "use .retain_grad() on the non-leaf Tensor. If you access the non-leaf Tensor by mistake, make sure you access the "
    "leaf Tensor instead."
)


def field(tensor: Tensor, name: str) -> int:
    """Return one of the machine's numbers about a tensor; their names are entry_points.FIELDS."""
    return machine.fields_of(tensor._handle)[_FIELD[name]]


def _shape(self: Tensor) -> Size:
    return Size(_shape_of(self._handle))


def _size(self: Tensor, dim: int | None = None) -> Any:
    """Return the shape, or the length along one dimension.

    Args:
        dim: the dimension; None for the whole shape.
    """
    shape = _shape_of(self._handle)
    if dim is None:
        return Size(shape)
    return shape[dim] if 0 <= dim < len(shape) else shape[normal_dim(dim, len(shape))]


def _stride(self: Tensor, dim: int | None = None) -> Any:
    """Return the strides in elements, or the stride along one dimension.

    Args:
        dim: the dimension; None for all strides.
    """
    strides = machine.strides_of(self._handle)
    return strides if dim is None else strides[normal_dim(dim, len(strides))]


def _dim(self: Tensor) -> int:
    """Return the number of dimensions."""
    return len(_shape_of(self._handle))


def _numel(self: Tensor) -> int:
    """Return the number of elements."""
    return _numel_of(self._handle)


def _dtype(self: Tensor) -> DType:
    return DTYPES[machine.dtype_of(self._handle)]


def _has(flag: int) -> Any:
    return lambda self: bool(machine.flags_of(self._handle) & flag)


def _set_requires_grad(self: Tensor, wanted: bool) -> None:
    if wanted:
        require_grad(self)
        return
    if field(self, "producer") >= 0:
        raise RuntimeError(
            "you can only change requires_grad flags of leaf variables. If you want to use a computed variable in a "
            "subgraph that doesn't require differentiation use var_no_grad = var.detach()."
        )
    machine.set_flags(self._handle, 0, REQUIRES_GRAD)


def _requires_grad_(self: Tensor, requires_grad: bool = True) -> Tensor:
    """Set whether operations on this tensor are recorded; return the tensor.

    Args:
        requires_grad: whether they are.
    """
    _set_requires_grad(self, requires_grad)
    return self


def _is_leaf(self: Tensor) -> bool:
    return field(self, "producer") < 0


def _grad(self: Tensor) -> Tensor | None:
    handle = machine.grad_of(self._handle)
    if handle < 0:
        if not self.is_leaf and not self.retains_grad:
            warnings.warn(_NOT_A_LEAF, UserWarning, stacklevel=2)
        return None
    cached: Tensor | None = getattr(self, "_grad", None)
    if cached is None or cached._handle != handle:
        machine.share_handle(handle)
        cached = self._grad = wrap(handle)
    return cached


def _set_grad(self: Tensor, value: Tensor | None) -> None:
    if value is None:
        machine.set_grad(self._handle, -1)
        self._grad = None
        return
    if not isinstance(value, Tensor):
        raise TypeError(f"assigned grad expected to be a Tensor or None but got grad of type {type(value).__name__}")
    if value.shape != self.shape:
        raise RuntimeError(
            f"attempting to assign a gradient of size '{list(value.shape)}' to a tensor of size '{list(self.shape)}'. "
            "Please ensure that the gradient and the tensor are the same size"
        )
    if value.dtype is not self.dtype:
        raise RuntimeError(
            f"attempting to assign a gradient with dtype '{value.dtype}' to a tensor with dtype '{self.dtype}'. The "
            "gradient must match the tensor's dtype."
        )
    machine.set_grad(self._handle, value._handle)
    self._grad = value


def _detach(self: Tensor) -> Tensor:
    """Return a tensor over the same memory that is no part of the graph; writes to it are seen by version checks."""
    return wrap(machine.detach_slot(self._handle, 0))


def _detach_(self: Tensor) -> Tensor:
    """Take this tensor out of the graph: it becomes a leaf that requires no gradient."""
    if machine.flags_of(self._handle) & IS_VIEW:
        raise RuntimeError("Can't detach views in-place. Use detach() instead.")
    detached = wrap(machine.detach_slot(self._handle, 0))
    machine.rebind(self._handle, detached._handle)
    return self


def _data(self: Tensor) -> Tensor:
    return wrap(machine.detach_slot(self._handle, UNVERSIONED))


def _set_data(self: Tensor, value: Tensor) -> None:
    if not isinstance(value, Tensor):
        raise TypeError(f"data: expected a Tensor, got {type(value).__name__}")
    if machine.capturing:
        refuse_change("assigning .data", "its replay writes into the same memory: use .data.copy_(...)")
    wanted = machine.flags_of(self._handle) & REQUIRES_GRAD
    grad = self.grad
    replacement = wrap(machine.detach_slot(value._handle, 0))
    machine.rebind(self._handle, replacement._handle)
    machine.set_flags(self._handle, wanted, 0)
    if grad is not None:
        machine.set_grad(self._handle, grad._handle)


def _is_contiguous(self: Tensor) -> bool:
    """Return whether the elements lie in memory in row-major order without gaps."""
    return bool(machine.flags_of(self._handle) & CONTIGUOUS)


_PROPERTIES = {
    "shape": property(_shape, doc="The lengths of the dimensions."),
    "dtype": property(_dtype, doc="The type of the elements."),
    "device": property(lambda self: _CPU, doc="Where the memory is: the CPU."),
    "ndim": property(_dim, doc="The number of dimensions."),
    "requires_grad": property(_has(REQUIRES_GRAD), _set_requires_grad, doc="Whether operations are recorded."),
    "is_leaf": property(_is_leaf, doc="Whether no recorded operation made this tensor."),
    "grad": property(_grad, _set_grad, doc="What backward() has added up for this tensor, or None."),
    "data": property(_data, _set_data, doc="The same memory, outside of the graph and of version checks."),
    "_version": property(lambda self: field(self, "version"), doc="How many in-place writes the memory has seen."),
    "itemsize": property(lambda self: self.dtype.itemsize, doc="Bytes of an element."),
    "nbytes": property(lambda self: self.numel() * self.dtype.itemsize, doc="Bytes of all elements."),
    "is_cuda": property(lambda self: False, doc="False: the memory is the CPU's."),
    "is_sparse": property(lambda self: False, doc="False: tensors are dense."),
}
_DOCSTRINGS = {
    "data_ptr": "Return the address of the first element, an int.",
    "storage_offset": "Return the first element's place in the storage, counted in elements.",
    "element_size": "Return the number of bytes of an element.",
    "is_floating_point": "Return whether the dtype is float32 or float64.",
    "is_complex": "Return False: there are no complex tensors.",
    "is_inference": "Return whether the tensor was made in ``inference_mode``, and can never be part of a graph.",
    "get_device": "Return -1, as torch does for the CPU.",
}
_METHODS = {
    "size": _size,
    "stride": _stride,
    "dim": _dim,
    "ndimension": _dim,
    "numel": _numel,
    "nelement": _numel,
    "requires_grad_": _requires_grad_,
    "detach": _detach,
    "detach_": _detach_,
    "is_contiguous": _is_contiguous,
    "data_ptr": lambda self: field(self, "address"),
    "storage_offset": lambda self: field(self, "offset"),
    "element_size": lambda self: self.dtype.itemsize,
    "is_floating_point": lambda self: self.dtype.is_floating_point,
    "is_complex": lambda self: False,
    "is_inference": _has(INFERENCE),
    "_is_view": _has(IS_VIEW),
    "get_device": lambda self: -1,
    "__hash__": object.__hash__,  # a function in Python takes 60 ns longer, for each parameter at each step
}
for _name, _member in (_PROPERTIES | _METHODS).items():
    setattr(Tensor, _name, _member)
for _name, _docstring in _DOCSTRINGS.items():
    _METHODS[_name].__doc__ = _docstring
