"""Drives elementwise kernels over broadcast and strided operands.

A kernel runs over two dimensions: ``kernel(args)`` with int64 words ``n1, n0`` and, for the result and each operand,
``address, stride1, stride0`` (strides in elements, 0 where broadcast). Here adjacent dimensions are merged where every
operand allows it, and what is left beyond two is walked by an odometer.
"""

from numba import types

from tapegrad.native.cache import jit
from tapegrad.native.parallel import parallel_for
from tapegrad.native.pointers import call1, int64_at, stack_words, symbol
from tapegrad.runtime.layout import (
    CONTIGUOUS,
    FRAME_INPUT_COUNT,
    FRAME_INPUTS,
    MAX_NDIM,
    SHAPE_MISMATCH,
    data_address,
    item_bytes,
    shape_in,
    slot_of,
    state_of,
    strides_in,
)

_IN_PLACE_BLOCK = 8192  # bytes
_PIECE = 1 << 15  # elements: about 10 us of work that is bound by the second-level cache
_memcpy = symbol("memcpy", types.int64, types.int64, types.int64, types.int64)


@jit
def infer_broadcast(st, frame, row):
    """Set the shape that the operands of a frame broadcast to; return 0 or SHAPE_MISMATCH."""
    words = int64_at(frame)
    row.ndim = 0
    for k in range(words[FRAME_INPUT_COUNT]):
        row.ndim = max(row.ndim, slot_of(st, words[FRAME_INPUTS + k]).ndim)
    for d in range(row.ndim):
        shape_in(row)[d] = 1
    for k in range(words[FRAME_INPUT_COUNT]):
        operand = slot_of(st, words[FRAME_INPUTS + k])
        lead = row.ndim - operand.ndim
        for d in range(operand.ndim):
            length = shape_in(operand)[d]
            if length == 1 or length == shape_in(row)[lead + d]:
                continue
            if shape_in(row)[lead + d] != 1:
                _report_mismatch(st, frame, lead + d)
                return SHAPE_MISMATCH
            shape_in(row)[lead + d] = length
    return 0


@jit
def _report_mismatch(st, frame, dim):
    state = state_of(st)
    words = int64_at(frame)
    state.error_slot0 = words[FRAME_INPUTS]
    state.error_slot1 = words[FRAME_INPUTS + 1] if words[FRAME_INPUT_COUNT] > 1 else -1
    state.error_value0 = dim


@jit
def same_shape(a, b):
    if a.ndim != b.ndim:
        return False
    for d in range(a.ndim):
        if shape_in(a)[d] != shape_in(b)[d]:
            return False
    return True


@jit
def run_elementwise(st, kernel, frame, result):
    """Run ``kernel`` on the operands of a frame into the memory of the slot ``result``."""
    words = int64_at(frame)
    count = words[FRAME_INPUT_COUNT]
    out = slot_of(st, result)
    if out.numel == 0:
        return 0
    args_address = stack_words(2 + 3 * 6)
    args = int64_at(args_address)
    args[0] = 1
    args[1] = out.numel
    args[2] = data_address(st, result)
    args[3] = 0
    args[4] = 1
    simple = (out.flags & CONTIGUOUS) != 0
    for k in range(count):
        slot = words[FRAME_INPUTS + k]
        operand = slot_of(st, slot)
        args[5 + 3 * k] = data_address(st, slot)
        args[6 + 3 * k] = 0
        if operand.numel == 1:
            args[7 + 3 * k] = 0 if out.numel > 1 else 1
        elif operand.flags & CONTIGUOUS and same_shape(operand, out):
            args[7 + 3 * k] = 1
        else:
            simple = False
    if simple:
        return run_contiguous(st, kernel, frame, result, args_address)
    return _run_strided(st, kernel, frame, result, args_address)


@jit
def run_contiguous(st, kernel, frame, result, args_address):
    """Run a kernel on contiguous (or single) elements: at once where they are few, else in pieces on the threads."""
    args = int64_at(args_address)
    total, count = args[1], int64_at(frame)[FRAME_INPUT_COUNT]
    in_place = total > _IN_PLACE_BLOCK // 64 and _writes_into_operand(args, count)
    if total < 2 * _PIECE and not in_place:
        return call1(kernel, args_address)
    context = stack_words(9)
    words = int64_at(context)
    words[0] = kernel
    words[1] = args_address
    words[2] = count + 1
    words[3] = item_bytes(slot_of(st, result).dtype)
    for k in range(count):
        words[4 + k] = item_bytes(slot_of(st, int64_at(frame)[FRAME_INPUTS + k]).dtype)
    if total < 2 * _PIECE:
        return _run_piece(context, 0, state_of(st).workspace)
    return parallel_for(state_of(st).pool, _run_piece, context, total // _PIECE)


@jit
def _run_piece(context, k, scratch):
    """Run the kernel on piece ``k``; the last piece is the longest."""
    words = int64_at(context)
    kernel, whole, operands = words[0], int64_at(words[1]), words[2]
    args_address = stack_words(20)
    args = int64_at(args_address)
    start = k * _PIECE
    args[0] = 1
    args[1] = _PIECE if start + 2 * _PIECE <= whole[1] else whole[1] - start
    for i in range(operands):
        args[2 + 3 * i] = whole[2 + 3 * i] + start * whole[4 + 3 * i] * words[3 + i]
        args[3 + 3 * i] = 0
        args[4 + 3 * i] = whole[4 + 3 * i]
    if _writes_into_operand(args, operands - 1):
        return _run_in_blocks(kernel, args_address, operands, context + 24, scratch)
    return call1(kernel, args_address)


@jit
def _writes_into_operand(args, count):
    """Return whether the result is to lie where a contiguous operand lies."""
    for k in range(count):
        if args[5 + 3 * k] == args[2] and args[7 + 3 * k] == 1:
            return True
    return False


@jit
def _run_in_blocks(kernel, args_address, operands, items_address, scratch):
    """Run an in-place op on contiguous operands, with a copy of a block of the operand that is written to.

    A loop that reads where it writes is not vectorised (tanh: 3.2 ns an element against 0.32); a block that is copied
    stays in the first-level cache.
    """
    args, items = int64_at(args_address), int64_at(items_address)
    total, result = args[1], args[2]
    step = _IN_PLACE_BLOCK // items[0]
    done = 0
    while done < total:
        n = min(step, total - done)
        _memcpy(scratch, result, n * items[0])
        args[1] = n
        args[2] = result
        for k in range(1, operands):
            if args[2 + 3 * k] == result:
                args[2 + 3 * k] = scratch
        call1(kernel, args_address)
        result += n * items[0]
        for k in range(1, operands):
            if args[2 + 3 * k] == scratch:
                args[2 + 3 * k] = result
            elif args[4 + 3 * k] == 1:
                args[2 + 3 * k] += n * items[k]
        done += n
    return 0


@jit
def _run_strided(st, kernel, frame, result, args_address):
    """Merge dimensions, then call the kernel on the inner two for each index of the others."""
    words = int64_at(frame)
    operands = words[FRAME_INPUT_COUNT] + 1
    shape = int64_at(stack_words(8))
    strides = int64_at(stack_words(6 * 8))
    out = slot_of(st, result)
    for k in range(operands):
        slot = result if k == 0 else words[FRAME_INPUTS + k - 1]
        _aligned_strides(slot_of(st, slot), out, strides, k * MAX_NDIM)
    ndim = _merge_dims(out, shape, strides, operands)
    args = int64_at(args_address)
    args[0] = shape[1] if ndim > 1 else 1
    args[1] = shape[0]
    itemsizes = int64_at(stack_words(6))
    for k in range(operands):
        slot = result if k == 0 else words[FRAME_INPUTS + k - 1]
        itemsizes[k] = item_bytes(slot_of(st, slot).dtype)
        args[3 + 3 * k] = strides[k * MAX_NDIM + 1] if ndim > 1 else 0
        args[4 + 3 * k] = strides[k * MAX_NDIM]
    index = int64_at(stack_words(8))
    for d in range(ndim):
        index[d] = 0
    while True:
        call1(kernel, args_address)
        d = 2
        while d < ndim:
            index[d] += 1
            step = 1 if index[d] < shape[d] else 1 - shape[d]
            for k in range(operands):
                args[2 + 3 * k] += step * strides[k * MAX_NDIM + d] * itemsizes[k]
            if index[d] < shape[d]:
                break
            index[d] = 0
            d += 1
        if d >= ndim:
            return 0


@jit
def _aligned_strides(operand, out, strides, start):
    """Write the operand's strides along the result's dimensions, innermost first; 0 where it is broadcast."""
    lead = out.ndim - operand.ndim
    for d in range(out.ndim):
        stride = 0
        if d >= lead and shape_in(operand)[d - lead] != 1:
            stride = strides_in(operand)[d - lead]
        strides[start + out.ndim - 1 - d] = stride


@jit
def _merge_dims(out, shape, strides, operands):
    """Merge dimensions that every operand walks as one; return how many are left, innermost first in ``shape``."""
    ndim = 0
    for source in range(out.ndim):
        length = shape_in(out)[out.ndim - 1 - source]
        if length == 1:
            continue
        mergeable = ndim > 0
        if mergeable:
            for k in range(operands):
                inner = strides[k * MAX_NDIM + ndim - 1]
                if strides[k * MAX_NDIM + source] != inner * shape[ndim - 1]:
                    mergeable = False
                    break
        if mergeable:
            shape[ndim - 1] *= length
            continue
        shape[ndim] = length
        for k in range(operands):
            strides[k * MAX_NDIM + ndim] = strides[k * MAX_NDIM + source]
        ndim += 1
    if ndim == 0:
        shape[0] = 1
        for k in range(operands):
            strides[k * MAX_NDIM] = 1
        ndim = 1
    return ndim
