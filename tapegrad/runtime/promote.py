"""torch's type promotion: which dtype an op computes in, from its operands' dtypes and their priority.

Tensors with dimensions outweigh 0-d tensors, and those outweigh Python numbers: an operand of lower priority changes
the result only if its category (bool < integer < float) is higher.
"""

from numba import types

from tapegrad.native.cache import jit
from tapegrad.native.dtypes import BOOL, FLOAT32, FLOAT64, INT32, INT64, UINT8
from tapegrad.native.pointers import float64_at, int64_at, pointer_to
from tapegrad.runtime.layout import FRAME_INPUT_COUNT, FRAME_INPUTS, WRAPPED, data_address, is_float, slot_of, state_of

float32_at, int32_at, uint8_at = pointer_to("f4"), pointer_to("i4"), pointer_to("u1")


@jit
def _combine(higher, lower):
    """Return the dtype of operands of two priorities; -1 stands for no operand."""
    if higher < 0:
        return lower
    if lower < 0 or is_float(higher):
        return higher
    if higher == BOOL or is_float(lower):
        return max(higher, lower)
    return higher


@jit
def common_dtype(st, frame, unpromoted):
    """Return the dtype to which the operands of a frame are promoted, those in the mask ``unpromoted`` left out."""
    words = int64_at(frame)
    with_dims = -1
    zero_dim = -1
    wrapped = -1
    for k in range(words[FRAME_INPUT_COUNT]):
        slot = words[FRAME_INPUTS + k]
        if slot < 0 or (unpromoted >> min(k, 15)) & 1:
            continue
        row = slot_of(st, slot)
        dtype = types.int64(row.dtype)
        if row.flags & WRAPPED:
            wrapped = max(wrapped, state_of(st).default_dtype if is_float(dtype) else dtype)
        elif row.ndim > 0:
            with_dims = max(with_dims, dtype)
        else:
            zero_dim = max(zero_dim, dtype)
    return _combine(with_dims, _combine(zero_dim, wrapped))


@jit
def retype_number(st, slot, dtype):
    """Rewrite a wrapped Python number as ``dtype``; its 8 bytes hold an int64, a float64 or what it became before."""
    row = slot_of(st, slot)
    address = data_address(st, slot)
    if row.dtype == FLOAT64:
        value = float64_at(address)[0]
        whole = types.int64(value)
    elif row.dtype == FLOAT32:
        value = types.float64(float32_at(address)[0])
        whole = types.int64(value)
    elif row.dtype == INT32:
        whole = types.int64(int32_at(address)[0])
        value = types.float64(whole)
    elif row.dtype == INT64:
        whole = int64_at(address)[0]
        value = types.float64(whole)
    else:
        whole = types.int64(uint8_at(address)[0])
        value = types.float64(whole)
    if dtype == FLOAT64:
        float64_at(address)[0] = value
    elif dtype == FLOAT32:
        float32_at(address)[0] = value
    elif dtype == INT64:
        int64_at(address)[0] = whole
    elif dtype == INT32:
        int32_at(address)[0] = whole
    elif dtype == UINT8:
        uint8_at(address)[0] = whole
    else:
        uint8_at(address)[0] = value != 0
    row.dtype = dtype
