"""emit: the one way to compute. Checks an op's operands, infers its results, runs its kernel and keeps the entry.

``emit(st, op, frame, target)`` returns the slot of the first result with one reference, which the caller takes over, or
a negative status; what went wrong is then in the state's ``error_`` fields and no operand has changed. ``target`` >= 0
makes it an in-place op that writes into that slot's memory; the result is then a new slot over the same memory if the
entry was kept, else ``target`` itself.
"""

from numba import types

from tapegrad.native.cache import jit
from tapegrad.native.dtypes import BOOL, DTYPE_COUNT, INT64
from tapegrad.native.pointers import call2, call4, int64_at, stack_words
from tapegrad.runtime.blocks import class_bytes, guard_intact
from tapegrad.runtime.elementwise import infer_broadcast, run_contiguous, run_elementwise, same_shape
from tapegrad.runtime.layout import (
    BAD_ARGUMENT,
    CAST,
    CLONE,
    CONTIGUOUS,
    CUSTOM_VIEW,
    DTYPE_UNSUPPORTED,
    ELEMENTWISE,
    FLOATING,
    FRAME_ATTRIBUTE_COUNT,
    FRAME_INPUT_COUNT,
    FRAME_INPUTS,
    FROM_ATTRIBUTE,
    INFERENCE,
    INFERENCE_IN_PLACE,
    INFERENCE_SAVED,
    IS_VIEW,
    KERNEL_MISSING,
    LEAF_IN_PLACE,
    LEAF_VIEW_IN_PLACE,
    MAX_OUTPUTS,
    MAX_RULE_OPERANDS,
    NO_GRAD_VIEW,
    OUT_OF_BOUNDS,
    OVERLAPPING_WRITE,
    PARTIAL_OVERLAP,
    PYTHON,
    READ_ONLY,
    REQUIRES_GRAD,
    RESULT_DTYPE,
    SELF_SAVED,
    SHAPE_MISMATCH,
    SIZE_OVERFLOW,
    TEMPORARY,
    TO_BOOL,
    TO_INT64,
    UNVERSIONED,
    VIEW,
    WRAPPED,
    attribute,
    data_address,
    entry_row,
    is_float,
    item_bytes,
    op_row,
    shape_in,
    slot_of,
    state_of,
    storage_row,
    strides_in,
)
from tapegrad.runtime.memory import new_result, new_slot, release, retain, retain_row, share_memory
from tapegrad.runtime.promote import common_dtype, retype_number
from tapegrad.runtime.record import is_capturing, note_run
from tapegrad.runtime.strides import copy_geometry, last_offset, mark_layout, set_contiguous
from tapegrad.runtime.tables import reserve
from tapegrad.runtime.threads import resolve


@jit
def emit_one(st, op, operand, attribute_word):
    """Emit an op of one operand and one attribute."""
    frame = stack_words(7)
    words = int64_at(frame)
    words[FRAME_INPUT_COUNT] = 1
    words[FRAME_ATTRIBUTE_COUNT] = 1
    words[FRAME_INPUTS] = operand
    words[FRAME_INPUTS + 1] = attribute_word
    return call4(state_of(st).emit_function, st, op, frame, -1)


@jit
def _substitute(st, frame, k, op, attribute_word):
    """Put the result of ``op`` in the place of operand ``k``; it is released when the emission is over."""
    words = int64_at(frame)
    slot = emit_one(st, op, words[FRAME_INPUTS + k], attribute_word)
    if slot < 0:
        return slot
    slot_of(st, slot).flags |= TEMPORARY
    words[FRAME_INPUTS + k] = slot
    return 0


@jit
def release_temporaries(st, frame):
    words = int64_at(frame)
    for k in range(words[FRAME_INPUT_COUNT]):
        slot = words[FRAME_INPUTS + k]
        if slot >= 0 and slot_of(st, slot).flags & TEMPORARY:
            slot_of(st, slot).flags &= ~TEMPORARY
            release(st, slot)


@jit
def _promote(st, spec, frame):
    """Bring the operands to the dtype the op computes in; return that dtype, -1 for no operands, or a status."""
    words = int64_at(frame)
    dtype = common_dtype(st, frame, spec.unpromoted)
    if dtype < 0:
        return dtype
    if spec.result_dtype == FLOATING and not is_float(dtype):
        dtype = state_of(st).default_dtype
    for k in range(words[FRAME_INPUT_COUNT]):
        slot = words[FRAME_INPUTS + k]
        if slot < 0 or (spec.unpromoted >> min(k, 15)) & 1:
            continue
        row = slot_of(st, slot)
        if row.dtype == dtype:
            continue
        if row.flags & WRAPPED:
            retype_number(st, slot, dtype)
            continue
        status = _substitute(st, frame, k, CAST, dtype)
        if status < 0:
            return status
    return dtype


@jit
def _has_role(spec, roles, k):
    """Return whether operand ``k`` is in a mask of roles: the operands of a variadic op take its roles in turn."""
    return (roles >> (k % spec.variadic if spec.variadic else k)) & 1


@jit
def _make_contiguous(st, spec, frame):
    words = int64_at(frame)
    for k in range(words[FRAME_INPUT_COUNT]):
        slot = words[FRAME_INPUTS + k]
        if slot >= 0 and _has_role(spec, spec.contiguous, k) and not slot_of(st, slot).flags & CONTIGUOUS:
            status = _substitute(st, frame, k, CLONE, 0)
            if status < 0:
                return status
    return 0


@jit
def _result_dtype(spec, frame, dtype):
    if spec.result_dtype == TO_BOOL:
        return BOOL
    if spec.result_dtype == TO_INT64:
        return INT64
    if spec.result_dtype == FROM_ATTRIBUTE:
        return attribute(frame, 0)
    return dtype


@jit
def _ask_for_code(st, op, dtype, result_dtype, frame):
    """Return the address of a function that Python compiles or loads, or 0.

    Another thread may run meanwhile and let go of the operands: the frame (if not 0) gets references of its own, which
    go when the emission is over. Room is made again for what the emission will add.
    """
    words = int64_at(frame)
    inputs = words[FRAME_INPUT_COUNT] if frame != 0 else 0
    for k in range(inputs):
        if words[FRAME_INPUTS + k] >= 0:
            retain(st, words[FRAME_INPUTS + k])
    address = resolve(st, op, dtype, result_dtype)
    if reserve(st, 4 * inputs + 16) < 0:
        address = types.int64(0)
    for k in range(inputs):
        slot = words[FRAME_INPUTS + k]
        if slot >= 0 and slot_of(st, slot).flags & TEMPORARY:
            release(st, slot)
        elif slot >= 0:
            slot_of(st, slot).flags |= TEMPORARY
    return address


@jit
def kernel_of(st, op, dtype, result_dtype, frame):
    """Return the address of the compiled kernel, from Python's resolver when it is needed for the first time.

    ``frame`` is that of the emission; 0 where the caller holds the operands.
    """
    state = state_of(st)
    index = (op * DTYPE_COUNT + dtype) * DTYPE_COUNT + result_dtype
    kernels = int64_at(state.kernels)
    if kernels[index] == 0:
        kernels[index] = _ask_for_code(st, op, dtype, result_dtype, frame)
    return kernels[index]


@jit
def _infer(st, op, spec, frame):
    """Run the op's shape rule, compiled when it is first needed; return 0 or a status."""
    if spec.infer == 0:
        spec.infer = _ask_for_code(st, op, -1, -1, frame)
    if spec.infer == 0:
        return KERNEL_MISSING
    return call2(spec.infer, st, frame)


@jit
def _allocate(st, slot):
    row = slot_of(st, slot)
    if not set_contiguous(row):
        return SIZE_OVERFLOW
    storage = new_result(st, row.numel * item_bytes(row.dtype))
    if storage < 0:
        return storage
    row.storage = storage
    return 0


@jit
def _drop_results(st, frame):
    """Release the results of a failed emission."""
    words = int64_at(frame)
    for k in range(MAX_OUTPUTS):
        if words[k] >= 0:
            release(st, words[k])
            words[k] = -1


@jit
def _wants_recording(st, spec, frame, target):
    """Return whether the result depends on something that requires a gradient; a written target does so by itself."""
    state = state_of(st)
    if not state.grad_enabled or not spec.differentiable:
        return False
    words = int64_at(frame)
    mask = 0xFFFF if target >= 0 else types.int64(spec.differentiable)
    for k in range(words[FRAME_INPUT_COUNT]):
        slot = words[FRAME_INPUTS + k]
        if slot >= 0 and (mask >> min(k, 15)) & 1 and slot_of(st, slot).flags & REQUIRES_GRAD:
            return True
    return False


@jit
def _saved_mask(st, spec, frame):
    """Return which values the gradient rule will read, given which operands require a gradient."""
    words = int64_at(frame)
    mask = 0
    for k in range(words[FRAME_INPUT_COUNT]):
        slot = words[FRAME_INPUTS + k]
        if slot >= 0 and slot_of(st, slot).flags & REQUIRES_GRAD:
            mask |= types.int64(spec.saves[min(k, MAX_RULE_OPERANDS - 1)])
    return mask


@jit
def _record(st, op, frame, mask, written):
    """Append an entry for the op that was just run; return its index. ``written`` is the storage of an in-place target,
    whose version was counted up after its operands' values had been read.
    """
    state = state_of(st)
    words = int64_at(frame)
    inputs = words[FRAME_INPUT_COUNT]
    count = FRAME_INPUTS + inputs + words[FRAME_ATTRIBUTE_COUNT]
    entry = state.entries_top
    row = entry_row(state.entries, entry)
    row.op = op
    row.flags = 0
    row.words = state.words_top
    row.word_count = count + inputs + MAX_OUTPUTS
    row.results = op_row(state.ops, op).outputs
    row.saved = mask
    row.site = state.site
    row.sequence = state.sequence_next
    kept = int64_at(state.words + 8 * state.words_top)
    for k in range(count):
        kept[k] = words[k]
    for k in range(inputs):
        kept[count + k] = 0
        slot = words[FRAME_INPUTS + k]
        if slot < 0:
            continue
        operand = slot_of(st, slot)
        operand.refs += 1
        if mask & (1 << min(k, 15)):
            operand.data_refs += 1
            version = storage_row(state.storages, operand.storage).version
            kept[count + k] = version - (1 if operand.storage == written else 0)
    for k in range(MAX_OUTPUTS):
        kept[count + inputs + k] = 0
        if words[k] < 0:
            continue
        result = slot_of(st, words[k])
        result.producer = entry
        if is_float(result.dtype):
            result.flags |= REQUIRES_GRAD
        if mask & (1 << (16 + k)):
            result.refs += 1
            result.data_refs += 1
            result.flags |= SELF_SAVED
            kept[count + inputs + k] = storage_row(state.storages, result.storage).version
    state.sequence_next += 1
    state.entries_top += 1
    state.words_top += row.word_count
    return entry


@jit
def _saves_inference_tensor(st, frame, mask):
    words = int64_at(frame)
    for k in range(words[FRAME_INPUT_COUNT]):
        slot = words[FRAME_INPUTS + k]
        if slot >= 0 and mask & (1 << min(k, 15)) and slot_of(st, slot).flags & INFERENCE:
            return True
    return False


@jit
def _check_target(st, target):
    """Return 0 where an in-place write into the slot is allowed by autograd's rules and its memory, else a status."""
    state = state_of(st)
    row = slot_of(st, target)
    if storage_row(state.storages, row.storage).read_only:
        return READ_ONLY
    if row.flags & INFERENCE and not state.inference_enabled:
        return INFERENCE_IN_PLACE
    if state.grad_enabled:
        if row.flags & REQUIRES_GRAD and row.producer < 0:
            return LEAF_IN_PLACE
        if row.flags & IS_VIEW and row.base >= 0:
            base = slot_of(st, row.base)
            if base.flags & REQUIRES_GRAD and base.producer < 0:
                return LEAF_VIEW_IN_PLACE
            if base.flags & REQUIRES_GRAD and not row.flags & REQUIRES_GRAD:
                return NO_GRAD_VIEW
        if row.flags & IS_VIEW and row.producer >= 0:
            maker = entry_row(state.entries, row.producer)
            if op_row(state.ops, maker.op).kind == PYTHON:
                return CUSTOM_VIEW
    for d in range(row.ndim):
        if strides_in(row)[d] == 0 and shape_in(row)[d] > 1:
            return OVERLAPPING_WRITE
    return 0


@jit
def _same_geometry(a, b):
    if a.offset != b.offset or a.ndim != b.ndim or a.dtype != b.dtype:
        return False
    for d in range(a.ndim):
        if shape_in(a)[d] != shape_in(b)[d] or (strides_in(a)[d] != strides_in(b)[d] and shape_in(a)[d] > 1):
            return False
    return True


@jit
def _is_dense(row):
    """Return whether the elements fill the range from the first to the last without gaps (in any order)."""
    return last_offset(row) - row.offset + 1 == row.numel


@jit
def _separate_operands(st, frame, target, saved):
    """Clone operands that the write into ``target`` would change under the kernel or under the gradient rule."""
    words = int64_at(frame)
    row = slot_of(st, target)
    for k in range(words[FRAME_INPUT_COUNT]):
        slot = words[FRAME_INPUTS + k]
        if slot < 0:
            continue
        operand = slot_of(st, slot)
        if operand.storage != row.storage or operand.numel == 0 or row.numel == 0:
            continue
        if _same_geometry(operand, row):
            if slot == target and (saved >> min(k, 15)) & 1:
                status = _substitute(st, frame, k, CLONE, 0)
                if status < 0:
                    return status
            continue
        if operand.offset > last_offset(row) or row.offset > last_offset(operand):
            continue
        if _is_dense(operand) and _is_dense(row):
            return PARTIAL_OVERLAP
        status = _substitute(st, frame, k, CLONE, 0)
        if status < 0:
            return status
    return 0


@jit
def _in_bounds(st, slot):
    """Return whether a slot's elements lie inside its storage and nothing was written beyond it."""
    row = slot_of(st, slot)
    if row.numel == 0 or row.storage < 0:
        return True
    storage = storage_row(state_of(st).storages, row.storage)
    if row.offset < 0 or (last_offset(row) + 1) * item_bytes(row.dtype) > storage.bytes:
        return False
    if storage.size_class < 0:
        return True
    return guard_intact(storage.address, storage.bytes, class_bytes(storage.size_class))


@jit
def _verify(st, frame):
    words = int64_at(frame)
    for k in range(words[FRAME_INPUT_COUNT]):
        if words[FRAME_INPUTS + k] >= 0 and not _in_bounds(st, words[FRAME_INPUTS + k]):
            return OUT_OF_BOUNDS
    for k in range(MAX_OUTPUTS):
        if words[k] >= 0 and not _in_bounds(st, words[k]):
            return OUT_OF_BOUNDS
    return 0


@jit
def _start_view(st, frame):
    """Make the result of a view op: a slot over the operand's storage, whose geometry the op's infer will set."""
    words = int64_at(frame)
    source = words[FRAME_INPUTS]
    slot = new_slot(st)
    row = slot_of(st, slot)
    operand = slot_of(st, source)
    row.storage = operand.storage
    row.dtype = operand.dtype
    row.offset = operand.offset
    row.flags = IS_VIEW | (operand.flags & (UNVERSIONED | INFERENCE))
    state = state_of(st)
    if operand.family < 0:
        operand.family = state.family_next
        state.family_next += 1
    row.family = operand.family
    row.base = operand.base if operand.base >= 0 else source
    retain_row(st, row.base)
    storage_row(state.storages, row.storage).refs += 1
    words[0] = slot


@jit
def _run_view(st, op, spec, frame):
    status = _make_contiguous(st, spec, frame)
    if status < 0:
        return status
    _start_view(st, frame)
    words = int64_at(frame)
    status = _infer(st, op, spec, frame)
    if status < 0:
        return status
    mark_layout(slot_of(st, words[0]))
    state_of(st).kernel_run = 0
    return 0


@jit
def _is_plain(st, spec, frame):
    """Return whether the operands are float tensors of one dtype and shape, all contiguous: the fast case."""
    words = int64_at(frame)
    first = slot_of(st, words[FRAME_INPUTS])
    if spec.result_dtype > FLOATING or spec.unpromoted or not is_float(first.dtype) or first.numel == 0:
        return False
    if not (spec.dtypes >> first.dtype) & 1:
        return False
    for k in range(words[FRAME_INPUT_COUNT]):
        row = slot_of(st, words[FRAME_INPUTS + k])
        if not row.flags & CONTIGUOUS or row.flags & WRAPPED or row.dtype != first.dtype or not same_shape(row, first):
            return False
    return True


@jit
def _run_plain(st, op, spec, frame):
    """Run an elementwise op in the fast case: no promotion, no broadcasting, one call of the kernel."""
    words = int64_at(frame)
    first = slot_of(st, words[FRAME_INPUTS])
    dtype = types.int64(first.dtype)
    kernel = kernel_of(st, op, dtype, dtype, frame)
    if kernel == 0:
        return KERNEL_MISSING
    slot = new_slot(st)
    words[0] = slot
    row = slot_of(st, slot)
    row.dtype = dtype
    copy_geometry(row, first)
    row.flags = CONTIGUOUS
    storage = new_result(st, row.numel * item_bytes(dtype))
    if storage < 0:
        return storage
    row.storage = storage
    args_address = stack_words(20)
    args = int64_at(args_address)
    args[0] = 1
    args[1] = row.numel
    args[2] = data_address(st, slot)
    args[4] = 1
    for k in range(words[FRAME_INPUT_COUNT]):
        args[5 + 3 * k] = data_address(st, words[FRAME_INPUTS + k])
        args[7 + 3 * k] = 1
    state_of(st).kernel_run = kernel
    run_contiguous(st, kernel, frame, slot, args_address)
    return 0


@jit
def _run_elementwise(st, op, spec, frame, target):
    for k in range(int64_at(frame)[FRAME_INPUT_COUNT]):
        if int64_at(frame)[FRAME_INPUTS + k] < 0:
            return BAD_ARGUMENT
    if target < 0 and _is_plain(st, spec, frame):
        return _run_plain(st, op, spec, frame)
    words = int64_at(frame)
    dtype = _promote(st, spec, frame)
    if dtype < 0:
        return dtype
    if not (spec.dtypes >> dtype) & 1:
        state_of(st).error_value0 = dtype
        return DTYPE_UNSUPPORTED
    result_dtype = _result_dtype(spec, frame, dtype)
    kernel = kernel_of(st, op, dtype, result_dtype, frame)
    if kernel == 0:
        return KERNEL_MISSING
    slot = new_slot(st)
    row = slot_of(st, slot)
    row.dtype = result_dtype
    words[0] = slot
    status = infer_broadcast(st, frame, row)
    if status == 0:
        if target < 0:
            status = _allocate(st, slot)
        else:
            status = _alias_target(st, slot, target)
    if status < 0:
        return status
    state_of(st).kernel_run = kernel
    run_elementwise(st, kernel, frame, slot)
    return 0


@jit
def _alias_target(st, slot, target):
    """Give the result of an in-place op the memory and geometry of its target."""
    row = slot_of(st, slot)
    goal = slot_of(st, target)
    if row.dtype != goal.dtype:
        state_of(st).error_value0 = row.dtype
        return RESULT_DTYPE
    if not same_shape(row, goal):
        state_of(st).error_slot0 = target
        return SHAPE_MISMATCH
    share_memory(st, row, goal)
    row.flags = goal.flags & (IS_VIEW | UNVERSIONED | INFERENCE | CONTIGUOUS)
    row.family = goal.family
    row.base = goal.base
    if row.base >= 0:
        retain_row(st, row.base)
    return 0


@jit
def _run_general(st, op, spec, frame, target):
    """With a target, the first result is the target's memory, into which the kernel writes."""
    words = int64_at(frame)
    dtype = _promote(st, spec, frame)
    if dtype < -1:
        return dtype
    status = _make_contiguous(st, spec, frame)
    if status < 0:
        return status
    if dtype < 0:
        dtype = types.int64(slot_of(st, words[FRAME_INPUTS]).dtype) if words[FRAME_INPUT_COUNT] > 0 else BOOL
    result_dtype = _result_dtype(spec, frame, dtype)
    if not (spec.dtypes >> dtype) & 1:
        state_of(st).error_value0 = dtype
        return DTYPE_UNSUPPORTED
    for k in range(spec.outputs):
        words[k] = new_slot(st)
        slot_of(st, words[k]).dtype = result_dtype
    status = _infer(st, op, spec, frame)
    for k in range(spec.outputs):
        if status >= 0:
            status = _alias_target(st, words[k], target) if target >= 0 and k == 0 else _allocate(st, words[k])
    kernel = 0
    if status >= 0:
        kernel = kernel_of(st, op, dtype, result_dtype, frame)
        status = call2(kernel, st, frame) if kernel != 0 else KERNEL_MISSING
        state_of(st).kernel_run = kernel
    return min(status, 0)


@jit
def _finish_in_place(st, frame, target, recorded):
    """Count the write; hand out the new slot where the entry was kept, else the target itself."""
    words = int64_at(frame)
    row = slot_of(st, target)
    written = types.int64(row.storage)
    if row.flags & UNVERSIONED:
        written = -1
    else:
        storage_row(state_of(st).storages, written).version += 1
    if not recorded:
        release(st, words[0])
        retain(st, target)
        words[0] = target
    return written


@jit
def _bump_written(st, spec, frame):
    words = int64_at(frame)
    for k in range(words[FRAME_INPUT_COUNT]):
        if _has_role(spec, spec.writes, k) and words[FRAME_INPUTS + k] >= 0:
            storage_row(state_of(st).storages, slot_of(st, words[FRAME_INPUTS + k]).storage).version += 1


@jit
def _run(st, op, spec, frame, target):
    if spec.kind == ELEMENTWISE:
        return _run_elementwise(st, op, spec, frame, target)
    if spec.kind == VIEW:
        return _run_view(st, op, spec, frame)
    return _run_general(st, op, spec, frame, target)


def emit(st, op, frame, target):
    """Run an op; see the head of this file."""
    state = state_of(st)
    spec = op_row(state.ops, op)
    words = int64_at(frame)
    for k in range(MAX_OUTPUTS):
        words[k] = -1
    state.error_op = op
    recording = _wants_recording(st, spec, frame, target)
    mask = _saved_mask(st, spec, frame) if recording else 0
    status = 0
    if recording and _saves_inference_tensor(st, frame, mask):
        status = INFERENCE_SAVED
    if status == 0 and target >= 0:
        status = _check_target(st, target)
        if status == 0:
            status = _separate_operands(st, frame, target, mask)
    if status == 0:
        status = _run(st, op, spec, frame, target)
    if status == 0 and state.check_bounds:
        status = _verify(st, frame)
    if status == 0 and is_capturing(state):
        note_run(st, op, types.int64(spec.kind), state.kernel_run, frame, target >= 0)
    if status < 0:
        state.error_op = op  # a copy made on the way has put itself there
        _drop_results(st, frame)
        release_temporaries(st, frame)
        return status
    written = -1
    if target >= 0:
        written = _finish_in_place(st, frame, target, recording)
    elif spec.writes:
        _bump_written(st, spec, frame)
    if recording:
        _record(st, op, frame, mask, written)
    if state.inference_enabled and target < 0:
        for k in range(MAX_OUTPUTS):
            if words[k] >= 0:
                slot_of(st, words[k]).flags |= INFERENCE
    release_temporaries(st, frame)
    return words[0]
