"""In-place forms of functions whose ops make new tensors, and of the views, which give a tensor another shape."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tapegrad.ops.calls import functions, shape_of, tensor_method
from tapegrad.ops.writing import in_dtype_of, write
from tapegrad.runtime.handle import Tensor
from tapegrad.runtime.layout import REQUIRES_GRAD
from tapegrad.runtime.machine import machine

_PRODUCER = 6  # position among fields_of

COPIED = (
    "eq",
    "ne",
    "lt",
    "le",
    "gt",
    "ge",
    "logical_and",
    "logical_or",
    "logical_xor",
    "logical_not",
    "addmm",
    "addmv",
    "addr",
    "baddbmm",
    "cumsum",
    "cumprod",
    "renorm",
)
RESHAPED = ("squeeze", "unsqueeze", "t", "transpose", "swapaxes", "swapdims")


def _named(body: Callable[..., Tensor], name: str, doc: str) -> None:
    body.__name__ = body.__qualname__ = name
    body.__doc__ = doc
    tensor_method(name)(body)


def _copied(name: str) -> None:
    def in_place(self: Tensor, *args: Any, **named: Any) -> Tensor:
        result = getattr(Tensor, name)(self, *args, **named)
        if shape_of(result) != shape_of(self):
            raise RuntimeError(
                f"output with shape {list(shape_of(self))} doesn't match the broadcast shape {list(shape_of(result))}"
            )
        return write(self, in_dtype_of(self, result))

    _named(
        in_place,
        f"{name}_",
        f"Write what ``{name}`` returns, cast to this dtype, into the tensor; return it. ``*args`` are its arguments.",
    )


def _reshaped(name: str) -> None:
    def in_place(self: Tensor, *args: Any, **named: Any) -> Tensor:
        leaf = machine.fields_of(self._handle)[_PRODUCER] < 0
        if leaf and machine.flags_of(self._handle) & REQUIRES_GRAD and machine.modes() & 1:
            raise RuntimeError("a leaf Variable that requires grad is being used in an in-place operation.")
        view = getattr(Tensor, name)(self, *args, **named)
        machine.rebind(self._handle, view._handle)
        return self

    _named(in_place, f"{name}_", f"Make this tensor the view that ``{name}`` returns. ``*args`` are its arguments.")


for _name in COPIED:
    _copied(_name)
for _name in RESHAPED:
    _reshaped(_name)


@tensor_method("fill_diagonal_")
def fill_diagonal_(self: Tensor, fill_value: Any, wrap: bool = False) -> Tensor:
    """Write a number into the diagonal of a matrix, or of a tensor whose dimensions are all equal; return the tensor.

    Args:
        fill_value: the number.
        wrap: whether a tall matrix gets further diagonals, each after a row that is left out.

    Raises:
        RuntimeError: fewer than two dimensions, or more than two of different lengths.
    """
    shape = shape_of(self)
    if len(shape) < 2:
        raise RuntimeError("dimensions must larger than 1")
    if len(shape) > 2 and len(set(shape)) > 1:
        raise RuntimeError("all dimensions of input must be of equal length")
    strides = machine.strides_of(self._handle)
    columns = min(shape)
    places = [(columns, 0)]
    if wrap and len(shape) == 2 and shape[0] > shape[1] + 1:
        starts = range(0, shape[0], shape[1] + 1)
        places = [(min(columns, shape[0] - start), start) for start in starts]
    for count, start in places:
        offset = machine.fields_of(self._handle)[4] + start * strides[0]
        functions["fill_"](functions["as_strided"](self, (count,), (sum(strides),), offset), fill_value)
    return self
