"""view(dtype): the same memory read as elements of another dtype; like torch's, no part of the graph."""

from __future__ import annotations

from tapegrad.native.dtypes import NUMPY_DTYPES
from tapegrad.ops.calls import TORCH_NAMES, call
from tapegrad.ops.registry import Op, declare
from tapegrad.runtime.dtype import dtype as DType
from tapegrad.runtime.handle import Tensor
from tapegrad.runtime.layout import (
    IS_VIEW,
    VIEW,
    attribute,
    input_slot,
    item_bytes,
    output_slot,
    shape_in,
    slot_of,
    strides_in,
)
from tapegrad.runtime.machine import machine


def view_dtype_infer(st, frame):
    """Attribute: the dtype. The result is in no family: autograd does not follow writes through another dtype."""
    source = slot_of(st, input_slot(frame, 0))
    result = slot_of(st, output_slot(frame, 0))
    have = item_bytes(source.dtype)
    want = item_bytes(attribute(frame, 0))
    last = source.ndim - 1
    result.ndim = source.ndim
    for d in range(source.ndim):
        step = strides_in(source)[d]
        strides_in(result)[d] = step if d == last else step * have // want
        shape_in(result)[d] = shape_in(source)[d] * have // want if d == last else shape_in(source)[d]
    result.dtype = attribute(frame, 0)
    result.offset = source.offset * have // want
    result.flags &= ~IS_VIEW
    slot_of(st, result.base).refs -= 1
    result.base = -1
    result.family = -1
    return 0


VIEW_DTYPE = declare(
    Op(
        name="view_dtype",
        inputs=("input",),
        kind=VIEW,
        infer=view_dtype_infer,
        public=False,
        samples="tests/test_strided_views.py: its shape depends on the dtypes",
        math="the memory of x as elements of another dtype",
    )
)


def _check(self: Tensor, have: int, want: int, names: str) -> None:
    """Raise torch's RuntimeError where elements of ``have`` bytes cannot be read as elements of ``want`` bytes."""
    shape, strides = machine.shape_of(self._handle), machine.strides_of(self._handle)
    offset = machine.fields_of(self._handle)[4]
    how = f"to view {names} (different element sizes), but got"
    if not shape:
        raise RuntimeError(f"self.dim() cannot be 0 to view {names} (different element sizes)")
    if strides[-1] != 1:
        raise RuntimeError(f"self.stride(-1) must be 1 {how} {strides[-1]}")
    if have > want:
        return
    ratio = want // have
    if shape[-1] % ratio:
        raise RuntimeError(f"self.size(-1) must be divisible by {ratio} {how} {shape[-1]}")
    if offset % ratio:
        raise RuntimeError(f"self.storage_offset() must be divisible by {ratio} {how} {offset}")
    for d, stride in enumerate(strides[:-1]):
        if stride % ratio:
            raise RuntimeError(f"self.stride({d}) must be divisible by {ratio} {how} {stride}")


def view_as_dtype(self: Tensor, dtype: DType) -> Tensor:
    """Return the tensor's memory as elements of another dtype; see Tensor.view."""
    code = machine.dtype_of(self._handle)
    if dtype.code == code:
        return self[...]
    have, want = NUMPY_DTYPES[code].itemsize, NUMPY_DTYPES[dtype.code].itemsize
    if have != want:
        _check(self, have, want, f"{TORCH_NAMES[code]} as {TORCH_NAMES[dtype.code]}")
    return call(VIEW_DTYPE, self, attributes=(dtype.code,))
