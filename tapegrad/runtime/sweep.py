"""The reverse sweep: walks the tape backwards and emits each op's gradient rule.

A rule is data: rows of ``op, operands`` that are emitted through the same emit as everything else, so the gradients are
themselves on the tape when the caller asks for it (``create_graph``) and every op with a rule has all higher orders.
Cotangents wait at their slots; ``pending`` counts the slots with one whose producer is still to come, and the walk ends
when none is left. A slot that waits holds a reference to its own row, so nothing it needs goes away meanwhile.
"""

from numba import types

from tapegrad.native.cache import jit
from tapegrad.native.dtypes import FLOAT64
from tapegrad.native.pointers import call2, call4, int64_at, stack_words
from tapegrad.runtime.elementwise import run_elementwise, same_shape
from tapegrad.runtime.emit import emit_one, kernel_of
from tapegrad.runtime.layout import (
    ADD,
    ATTRIBUTES_LITERAL,
    ATTRIBUTES_OF_ENTRY,
    ATTRIBUTES_OF_OPERAND,
    BAD_ARGUMENT,
    CALL_AFTER_ACCUMULATION,
    CALL_CHECK,
    CALL_HOOKS,
    CALL_RULE,
    CAST,
    CHECK_NAN,
    CLONE,
    CONTIGUOUS,
    DEAD,
    ELEMENTWISE,
    FRAME_ATTRIBUTE_COUNT,
    FRAME_INPUT_COUNT,
    FRAME_INPUTS,
    FREED,
    GENERAL,
    GIVE,
    GRAPH_FREED,
    HOOKED,
    IS_VIEW,
    KERNEL_MISSING,
    MAX_OUTPUTS,
    NO_DERIVATIVE,
    PYTHON,
    REF_CONSTANT,
    REF_COTANGENT,
    REF_INPUT,
    REF_OUTPUT,
    REF_TEMPORARY,
    REQUIRES_GRAD,
    SUM_TO_SHAPE,
    VERSION_MISMATCH,
    ZERO_CONSTANT,
    ZEROS_LIKE,
    entry_row,
    literal_in,
    op_row,
    result_place,
    rule_row,
    slot_of,
    state_of,
    storage_row,
)
from tapegrad.runtime.memory import (
    free_saved,
    new_handle,
    release,
    release_handle,
    release_row,
    retain,
    retain_row,
    slot_of_handle,
)
from tapegrad.runtime.record import is_capturing, note_run
from tapegrad.runtime.tables import reserve
from tapegrad.runtime.threads import ask_python

_GIVEN = -2  # stands for the result of a row that was added to a cotangent at once

_FRAME_WORDS = 80  # of a rule's row; stack_words wants it as a literal


@jit
def _emit_two(st, op, a, b, target):
    frame = stack_words(7)
    words = int64_at(frame)
    words[FRAME_INPUT_COUNT] = 2
    words[FRAME_ATTRIBUTE_COUNT] = 0
    words[FRAME_INPUTS] = a
    words[FRAME_INPUTS + 1] = b
    return call4(state_of(st).emit_function, st, op, frame, target)


@jit
def _set_results(words, slot):
    words[0] = slot
    for k in range(1, MAX_OUTPUTS):
        words[k] = -1


@jit
def _add_into(st, total, gradient):
    """Add a gradient into the memory of ``total``, which nothing else reaches: no entry, no checks."""
    frame = stack_words(7)
    words = int64_at(frame)
    words[FRAME_INPUT_COUNT] = 2
    words[FRAME_INPUTS] = total
    words[FRAME_INPUTS + 1] = gradient
    dtype = types.int64(slot_of(st, total).dtype)
    kernel = kernel_of(st, ADD, dtype, dtype, 0)
    if kernel == 0:
        return KERNEL_MISSING
    if is_capturing(state_of(st)):
        _set_results(words, total)
        words[FRAME_ATTRIBUTE_COUNT] = 0
        note_run(st, ADD, ELEMENTWISE, kernel, frame, 1)
    return run_elementwise(st, kernel, frame, total)


@jit
def _is_sole_owner(st, slot):
    """Return whether nothing but the caller's reference reaches a slot and its memory, so that it may be written."""
    row = slot_of(st, slot)
    if row.refs != 1 or row.data_refs != 1 or row.base >= 0 or not row.flags & CONTIGUOUS:
        return False
    storage = storage_row(state_of(st).storages, row.storage)
    return storage.refs == 1 and storage.owner < 0


@jit
def _part_from_base(st, slot):
    """Make a contiguous view that alone has its memory, and that nobody else reaches, a tensor of its own.

    A gradient that comes out of a reshape is one: it needs no copy to become a ``.grad``.
    """
    row = slot_of(st, slot)
    if row.base < 0 or row.refs != 1 or row.data_refs != 1 or row.offset != 0 or not row.flags & CONTIGUOUS:
        return
    storage = storage_row(state_of(st).storages, row.storage)
    if storage.refs != 1 or storage.owner >= 0 or row.producer >= 0:
        return
    base = types.int64(row.base)
    row.base = -1
    row.flags &= ~IS_VIEW
    release_row(st, base)


@jit
def _fit(st, slot, gradient):
    """Return the gradient in the shape and dtype of the slot, with a reference for the caller, or a status."""
    row = slot_of(st, slot)
    retain(st, gradient)
    if not same_shape(row, slot_of(st, gradient)):
        summed = _emit_two(st, SUM_TO_SHAPE, gradient, slot, -1)
        release(st, gradient)
        gradient = summed
    if gradient >= 0 and slot_of(st, gradient).dtype != row.dtype:
        cast = emit_one(st, CAST, gradient, types.int64(row.dtype))
        release(st, gradient)
        gradient = cast
    return gradient


@jit
def give(st, slot, gradient):
    """Add a gradient to a slot's cotangent, un-broadcast where the op broadcast the slot; return 0 or a status."""
    state = state_of(st)
    row = slot_of(st, slot)
    if not row.flags & REQUIRES_GRAD or (state.selective and row.needed != state.sweep_id):
        return 0
    gradient = _fit(st, slot, gradient)
    if gradient < 0:
        return gradient
    if row.cotangent < 0:
        row.cotangent = gradient
        row.refs += 1
        if row.producer >= 0:
            state.pending += 1
        else:
            row.next = state.leaf_head
            state.leaf_head = slot
        return 0
    old = types.int64(row.cotangent)
    if not state.grad_enabled and _is_sole_owner(st, old):
        status = _add_into(st, old, gradient)
        release(st, gradient)
        return status
    total = _emit_two(st, ADD, old, gradient, -1)
    release(st, gradient)
    if total < 0:
        return total
    row.cotangent = total
    release(st, old)
    return 0


@jit
def _take_cotangent(st, slot):
    """Return a slot's cotangent, with its reference, and let the slot's own row go."""
    row = slot_of(st, slot)
    gradient = types.int64(row.cotangent)
    row.cotangent = -1
    release_row(st, slot)
    return gradient


@jit
def _run_hooks(st, slot):
    """Let Python see or replace a finished cotangent; return 0 or a status."""
    row = slot_of(st, slot)
    if not row.flags & HOOKED:
        return 0
    replaced = ask_python(st, CALL_HOOKS, slot, types.int64(row.cotangent))
    if replaced < 0:
        return replaced
    if replaced != row.cotangent:
        old = types.int64(row.cotangent)
        row.cotangent = replaced
        release(st, old)
    return 0


@jit
def _check_saved(st, entry):
    """Return 0 when the values that the rule reads are there and as they were, else a status."""
    state = state_of(st)
    row = entry_row(state.entries, entry)
    if op_row(state.ops, row.op).kind == PYTHON:
        return 0  # what a custom Function has saved is checked when it asks for it
    if row.flags & FREED:
        return GRAPH_FREED
    words = int64_at(state.words + 8 * row.words)
    inputs = words[FRAME_INPUT_COUNT]
    versions = FRAME_INPUTS + inputs + words[FRAME_ATTRIBUTE_COUNT]
    for k in range(inputs + MAX_OUTPUTS):
        is_input = k < inputs
        slot = words[FRAME_INPUTS + k] if is_input else words[k - inputs]
        bit = min(k, 15) if is_input else 16 + k - inputs
        if slot < 0 or not (row.saved >> bit) & 1:
            continue
        version = storage_row(state.storages, slot_of(st, slot).storage).version
        if version != words[versions + k]:
            state.error_slot0 = slot
            state.error_slot1 = entry
            state.error_value0 = version
            state.error_value1 = words[versions + k]
            return VERSION_MISMATCH
    return 0


@jit
def _wanted(st, entry):
    """Return the mask of operands of an entry that a gradient must reach."""
    state = state_of(st)
    words = int64_at(state.words + 8 * entry_row(state.entries, entry).words)
    mask = 0
    for k in range(words[FRAME_INPUT_COUNT]):
        slot = words[FRAME_INPUTS + k]
        if slot < 0:
            continue
        row = slot_of(st, slot)
        if row.flags & REQUIRES_GRAD and (not state.selective or row.needed == state.sweep_id):
            mask |= 1 << min(k, 15)
    return mask


@jit
def _any_cotangent(st, entry_words):
    words = int64_at(entry_words)
    for k in range(MAX_OUTPUTS):
        if words[k] >= 0 and slot_of(st, words[k]).cotangent >= 0:
            return types.int64(slot_of(st, words[k]).cotangent)
    return types.int64(-1)


@jit
def _constant(st, entry_words, k):
    """Return the slot of a rule's number in the dtype of the cotangents."""
    wide = slot_of(st, _any_cotangent(st, entry_words)).dtype == FLOAT64
    return int64_at(state_of(st).constants)[2 * k + (1 if wide else 0)]


@jit
def _resolve(st, reference, entry_words, operand, temporaries, used):
    """Return the slot that a reference of a rule stands for.

    A missing cotangent becomes zeros, a single one where the result itself is gone and its shape with it.
    """
    words = int64_at(entry_words)
    kept = int64_at(temporaries)
    if reference >= REF_CONSTANT:
        return _constant(st, entry_words, reference - REF_CONSTANT)
    if reference >= REF_TEMPORARY:
        return kept[reference - REF_TEMPORARY]
    if reference >= REF_COTANGENT:
        result = words[reference - REF_COTANGENT]
        if result >= 0 and slot_of(st, result).cotangent >= 0:
            return types.int64(slot_of(st, result).cotangent)
        if result < 0:
            return _constant(st, entry_words, ZERO_CONSTANT)
        zeros = used + reference - REF_COTANGENT
        if kept[zeros] < 0:
            kept[zeros] = emit_one(st, ZEROS_LIKE, result, 0)
        return kept[zeros]
    if reference >= REF_OUTPUT:
        return words[reference - REF_OUTPUT]
    return words[FRAME_INPUTS + (operand if operand >= 0 else reference)]


@jit
def _fill_attributes(frame, at, rule, entry_words, operand):
    """Write the attributes of a rule's row into its frame, behind the operands; return 0 or a status."""
    words = int64_at(frame)
    source = int64_at(entry_words)
    first = FRAME_INPUTS + source[FRAME_INPUT_COUNT]
    count = 0
    if rule.attributes == ATTRIBUTES_OF_ENTRY:
        count = source[FRAME_ATTRIBUTE_COUNT]
        if at + count > _FRAME_WORDS:
            return BAD_ARGUMENT
        for k in range(count):
            words[at + k] = source[first + k]
    elif rule.attributes == ATTRIBUTES_OF_OPERAND:
        count = 2
        words[at] = source[first]
        words[at + 1] = source[first + 1 + operand]
    elif rule.attributes == ATTRIBUTES_LITERAL:
        count = rule.attribute_count
        for k in range(count):
            words[at + k] = literal_in(rule)[k]
    words[FRAME_ATTRIBUTE_COUNT] = count
    return 0


@jit
def _grad_to_write(st, slot):
    """Return what a leaf has in ``.grad``, if a gradient may be added to it before it is complete, else -1."""
    row = slot_of(st, slot)
    if row.producer >= 0 or row.grad < 0 or row.flags & HOOKED or state_of(st).anomaly & CHECK_NAN:
        return types.int64(-1)
    grad = slot_of_handle(st, types.int64(row.grad))
    held = slot_of(st, grad)
    storage = storage_row(state_of(st).storages, held.storage)
    if held.flags & REQUIRES_GRAD or not held.flags & CONTIGUOUS or storage.read_only or held.dtype != row.dtype:
        return types.int64(-1)
    return grad if same_shape(held, row) else types.int64(-1)


@jit
def _cotangent_to_write(st, rule, frame, accumulate):
    """Return the cotangent of the operand that a row's result is for, if the row's kernel may add to it, else -1.

    Nothing else may reach it, and the operands must be as the kernel needs them, since emit is passed by. Where a leaf
    has no cotangent yet but a ``.grad`` to which it would be added in the end, it is that.
    """
    state = state_of(st)
    spec = op_row(state.ops, rule.op)
    words = int64_at(frame)
    last = rule.count - 1
    if not spec.accumulates or state.grad_enabled or rule.inputs[last] != REF_INPUT:
        return types.int64(-1)
    total = types.int64(slot_of(st, words[FRAME_INPUTS + last]).cotangent)
    if total < 0:
        total = _grad_to_write(st, words[FRAME_INPUTS + last]) if accumulate != 0 else total
    elif not _is_sole_owner(st, total):
        return types.int64(-1)
    if total < 0:
        return types.int64(-1)
    if slot_of(st, words[FRAME_INPUTS]).dtype != slot_of(st, total).dtype:
        return types.int64(-1)
    for k in range(last):
        if words[FRAME_INPUTS + k] < 0:
            continue
        given = slot_of(st, words[FRAME_INPUTS + k])
        if (spec.contiguous >> k) & 1 and not given.flags & CONTIGUOUS:
            return types.int64(-1)
        if given.storage == slot_of(st, total).storage:
            return types.int64(-1)
    return total


@jit
def _add_to_cotangent(st, rule, frame, total):
    """Run a row's kernel so that it adds to the cotangent ``total``; return 0 or a status."""
    words = int64_at(frame)
    _set_results(words, total)
    words[FRAME_INPUTS + rule.count - 1] = total
    dtype = types.int64(slot_of(st, total).dtype)
    kernel = kernel_of(st, types.int64(rule.op), dtype, dtype, 0)
    storage_row(state_of(st).storages, slot_of(st, total).storage).version += 1
    if kernel == 0:
        return KERNEL_MISSING
    if is_capturing(state_of(st)):
        note_run(st, types.int64(rule.op), GENERAL, kernel, frame, 1)
    return call2(kernel, st, frame)


@jit
def _run_row(st, rule, entry_words, operand, temporaries, used, accumulate):
    """Emit one row of a rule, or give its result to the operand it is for; return 0 or a status."""
    frame = stack_words(80)
    words = int64_at(frame)
    words[FRAME_INPUT_COUNT] = rule.count
    kept = int64_at(temporaries)
    if rule.op == GIVE and REF_TEMPORARY <= rule.inputs[0] < REF_CONSTANT:
        if kept[rule.inputs[0] - REF_TEMPORARY] == _GIVEN:
            return 0
    for k in range(rule.count):
        slot = _resolve(st, types.int64(rule.inputs[k]), entry_words, operand, temporaries, used)
        if slot < -1:
            return slot
        words[FRAME_INPUTS + k] = slot
    if rule.op == GIVE:
        target = operand if operand >= 0 else types.int64(rule.target)
        if state_of(st).anomaly & CHECK_NAN:
            status = ask_python(st, CALL_CHECK, target, words[FRAME_INPUTS])
            if status < 0:
                return status
        return give(st, int64_at(entry_words)[FRAME_INPUTS + target], words[FRAME_INPUTS])
    status = _fill_attributes(frame, FRAME_INPUTS + rule.count, rule, entry_words, operand)
    if status < 0:
        return status
    total = _cotangent_to_write(st, rule, frame, accumulate) if operand < 0 else types.int64(-1)
    if total >= 0:
        kept[rule.target] = _GIVEN
        return _add_to_cotangent(st, rule, frame, total)
    slot = call4(state_of(st).emit_function, st, types.int64(rule.op), frame, -1)
    if slot < 0:
        return slot
    kept[rule.target] = slot
    for k in range(1, MAX_OUTPUTS):
        if words[k] >= 0:
            kept[rule.target + k] = words[k]
    return 0


@jit
def _run_rule_once(st, entry, wanted, operand, accumulate):
    """Emit the rows of an entry's rule that the wanted operands need."""
    state = state_of(st)
    row = entry_row(state.entries, entry)
    spec = op_row(state.ops, row.op)
    entry_words = state.words + 8 * row.words
    temporaries = stack_words(64)
    kept = int64_at(temporaries)
    used = spec.temporaries + MAX_OUTPUTS  # the last ones are for missing cotangents
    for k in range(used):
        kept[k] = -1
    status = 0
    for r in range(spec.rule_rows):
        rule = rule_row(spec.rule, r)
        if rule.wanted & wanted:
            status = _run_row(st, rule, entry_words, operand, temporaries, spec.temporaries, accumulate)
            if status < 0:
                break
    for k in range(used):
        if kept[k] >= 0:
            release(st, kept[k])
    return status


@jit
def _run_rule(st, entry, retain_graph, accumulate):
    state = state_of(st)
    row = entry_row(state.entries, entry)
    spec = op_row(state.ops, row.op)
    state.error_op = row.op
    if spec.kind == PYTHON:
        return ask_python(st, CALL_RULE, entry, retain_graph)
    if spec.rule_rows == 0:
        return NO_DERIVATIVE
    wanted = _wanted(st, entry)
    if not spec.variadic:
        return _run_rule_once(st, entry, wanted, -1, accumulate)
    words = int64_at(state.words + 8 * row.words)
    for k in range(words[FRAME_INPUT_COUNT]):
        if (wanted >> min(k, 15)) & 1:
            status = _run_rule_once(st, entry, 1, k, accumulate)
            if status < 0:
                return status
    return 0


@jit
def _differentiate(st, entry, retain_graph, accumulate):
    """Run an entry's rule and let go of what it has saved; return 0 or a status."""
    state = state_of(st)
    row = entry_row(state.entries, entry)
    state.error_op = row.op
    state.visiting_op = row.op
    state.visiting_site = row.site
    state.site = row.site  # of the gradient's own entries
    status = _check_saved(st, entry)
    if status == 0:
        status = reserve(st, 4 * row.word_count)
    if status == 0:
        status = _run_rule(st, entry, retain_graph, accumulate)
    if status == 0 and not retain_graph and row.saved != 0:
        row.flags |= FREED
        free_saved(st, entry)
    return status


@jit
def _visit(st, entry, retain_graph, accumulate):
    """Take an entry's cotangents through its rule; return 0 or a status."""
    state = state_of(st)
    row = entry_row(state.entries, entry)
    words = int64_at(state.words + 8 * row.words)
    waiting = 0
    waits = -1
    for k in range(row.results):
        result = words[result_place(words, k)]
        if result >= 0 and slot_of(st, result).cotangent >= 0:
            waits = result
            waiting += 1
            status = _run_hooks(st, result)
            if status < 0:
                return status
    if waiting == 0:
        return 0
    if not state.selective or _wanted(st, entry) != 0:
        status = _differentiate(st, entry, retain_graph, accumulate)
        if status < 0:
            return status
    state.pending -= waiting
    retain_row(st, waits)  # a result keeps its entry, which must not go while it is read
    for k in range(row.results):
        result = words[result_place(words, k)]
        if result >= 0 and slot_of(st, result).cotangent >= 0:
            release(st, _take_cotangent(st, result))
    release_row(st, waits)
    return 0


@jit
def _accumulate(st, slot):
    """Add a leaf's finished cotangent to its ``.grad``; return 0 or a status."""
    state = state_of(st)
    row = slot_of(st, slot)
    gradient = types.int64(row.cotangent)
    if row.grad < 0:
        _part_from_base(st, gradient)
        if not state.grad_enabled and _is_sole_owner(st, gradient):
            retain(st, gradient)
        else:
            gradient = emit_one(st, CLONE, gradient, 0)
        if gradient < 0:
            return gradient
        row.grad = new_handle(st, gradient)
        return 0
    old = slot_of_handle(st, types.int64(row.grad))
    if not state.grad_enabled:
        total = _emit_two(st, ADD, old, gradient, old)
        if total >= 0:
            release(st, total)
        return min(total, 0)
    total = _emit_two(st, ADD, old, gradient, -1)
    if total < 0:
        return total
    release_handle(st, types.int64(row.grad))
    row.grad = new_handle(st, total)
    return 0


@jit
def _finish_leaves(st, accumulate):
    """Run the hooks of the leaves that a gradient reached and add it to their ``.grad``; return 0 or a status."""
    state = state_of(st)
    while state.leaf_head >= 0:
        slot = state.leaf_head
        row = slot_of(st, slot)
        status = reserve(st, 8)
        if status == 0:
            status = _run_hooks(st, slot)
        if status == 0 and accumulate:
            status = _accumulate(st, slot)
            if status == 0 and row.flags & HOOKED:
                status = ask_python(st, CALL_AFTER_ACCUMULATION, slot, 0)
        if status < 0:
            return status
        state.leaf_head = row.next
        release(st, _take_cotangent(st, slot))
    return 0


@jit
def abandon(st, top):
    """Drop every waiting cotangent after an error."""
    state = state_of(st)
    for step in range(top + 1):
        row = entry_row(state.entries, top - step)
        if top - step >= state.entries_top or row.flags & DEAD:
            continue
        words = int64_at(state.words + 8 * row.words)
        for k in range(row.results):
            result = words[result_place(words, k)]
            if result >= 0 and slot_of(st, result).cotangent >= 0:
                release(st, _take_cotangent(st, result))
    while state.leaf_head >= 0:
        slot = state.leaf_head
        state.leaf_head = slot_of(st, slot).next
        release(st, _take_cotangent(st, slot))
    state.pending = 0


@jit
def mark_needed(st, top):
    """Mark, for a sweep that is for some inputs only, every slot up to entry ``top`` that depends on a marked one."""
    state = state_of(st)
    for entry in range(top + 1):
        row = entry_row(state.entries, entry)
        if row.flags & DEAD:
            continue
        words = int64_at(state.words + 8 * row.words)
        needed = False
        for k in range(words[FRAME_INPUT_COUNT]):
            slot = words[FRAME_INPUTS + k]
            needed = needed or (slot >= 0 and slot_of(st, slot).needed == state.sweep_id)
        if needed:
            for k in range(row.results):
                result = words[result_place(words, k)]
                if result >= 0:
                    slot_of(st, result).needed = state.sweep_id
    return 0


def sweep(st, top, retain_graph, accumulate):
    """Walk the tape from entry ``top`` down, after the roots were given their cotangents; return 0 or a status.

    ``accumulate`` adds what reaches the leaves to their ``.grad``; without it only hooks see it.
    """
    state = state_of(st)
    status = 0
    entry = top
    while entry >= 0 and state.pending > 0 and status == 0:
        if not entry_row(state.entries, entry).flags & DEAD:
            status = _visit(st, entry, retain_graph, accumulate)
        entry -= 1
    if status == 0:
        status = _finish_leaves(st, accumulate)
    if status < 0:
        abandon(st, top)
    return status
