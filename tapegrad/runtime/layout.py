"""The tables of the tape machine: record layouts, status codes and typed access to them from compiled code.

One state block, reached by its address, leads to every table:

    handles   what a Python ``Tensor`` names: the slot that holds its value now (an in-place write may rebind it)
    slots     a view of a storage (dtype, shape, strides) and its place in the graph (producer entry, cotangent)
    storages  a block of memory: address, bytes, references, version
    entries   the tape: one op that was run, with its frame of words
    words     the frames: result slots, operand slots, attributes, versions seen
    ops       what emit must know of each op; ``kernels`` has the compiled function of each op and dtype

A row of ``slots`` has two counts: ``refs`` keeps the row (shape and graph), ``data_refs`` keeps the memory. An entry
holds the rows of all its operands, but the memory only of those whose values its gradient rule reads.
"""

import numpy as np

from tapegrad.native.cache import jit
from tapegrad.native.dtypes import FLOAT32
from tapegrad.native.pointers import int64_at, row_of, words_in

MAX_NDIM = 8
MAX_OUTPUTS = 3
MAX_RULE_OPERANDS = 8  # of an op that a rule emits or has, unless it is variadic
SIZE_CLASSES = 160
ROW_LIMIT = 1 << 27  # rows of a table, for which addresses are reserved
WORD_LIMIT = 1 << 31
THREAD_LIMIT = 1024  # threads whose modes are remembered, not counting those in the usual modes

# flags of a slot
REQUIRES_GRAD, IS_VIEW, WRAPPED, HOOKED, UNVERSIONED, INFERENCE, CONTIGUOUS, SELF_SAVED, LISTED, TEMPORARY = (
    1 << bit for bit in range(10)
)

# flags of an entry
DEAD, FREED = 1, 2

# ops that the machine itself emits have fixed codes; the registry gives the others theirs from FIRST_FREE_CODE up
MACHINE_OPS = ("add", "cast", "clone", "sum_to_shape", "zeros_like", "copy", "as_strided", "overlay")
ADD, CAST, CLONE, SUM_TO_SHAPE, ZEROS_LIKE, COPY, AS_STRIDED, OVERLAY = range(len(MACHINE_OPS))

# kinds of op: how emit finds the result's shape and runs the kernel
ELEMENTWISE, VIEW, GENERAL, PYTHON = range(4)

# result dtype of an op, given the dtype that its operands have after promotion
SAME, FLOATING, TO_BOOL, TO_INT64, FROM_ATTRIBUTE = range(5)

# statuses: emit and the other entry points return these where they cannot go on
(
    OUT_OF_MEMORY,
    SHAPE_MISMATCH,
    DTYPE_UNSUPPORTED,
    KERNEL_MISSING,
    TOO_MANY_DIMS,
    SIZE_OVERFLOW,
    BAD_DIM,
    BAD_INDEX,
    BAD_ARGUMENT,
    RESULT_DTYPE,
    LEAF_IN_PLACE,
    LEAF_VIEW_IN_PLACE,
    OVERLAPPING_WRITE,
    VERSION_MISMATCH,
    GRAPH_FREED,
    NO_DERIVATIVE,
    PYTHON_ERROR,
    SINGULAR,
    INFERENCE_SAVED,
    PARTIAL_OVERLAP,
    VIEW_IMPOSSIBLE,
    READ_ONLY,
    OUT_OF_BOUNDS,
    NO_GRAD_VIEW,
    CUSTOM_VIEW,
    INFERENCE_IN_PLACE,
) = range(-2, -28, -1)

STATE = np.dtype(
    [
        (name, "i8")
        for name in (
            "handles handles_capacity handles_top handles_free "
            "slots slots_capacity slots_top slots_free "
            "storages storages_capacity storages_top storages_free "
            "entries entries_capacity entries_top entries_dead "
            "words words_capacity words_top "
            "ops kernels constants addresses "
            "emit_function sweep_function resolve_callback python_callback drop_callback "
            "grad_enabled inference_enabled default_dtype thread thread_modes thread_count anomaly site visiting_op "
            "visiting_site "
            "arena arena_end bytes_live bytes_cached bytes_peak "
            "release_head draining sweeps sweep_id sweeping pending leaf_head selective "
            "sequence_next family_next serial_next workspace pool check_bounds guarded "
            "capture capture_top capture_thread capture_id slots_aside storages_aside kernel_run "
            "error_op error_slot0 error_slot1 error_value0 error_value1"
        ).split()
    ]
    + [("free_blocks", "i8", (SIZE_CLASSES,))]
)

HANDLE = np.dtype([("slot", "i4"), ("refs", "i4")])

STORAGE = np.dtype(
    [
        ("address", "i8"),
        ("bytes", "i8"),
        ("size_class", "i4"),
        ("refs", "i4"),
        ("version", "i8"),
        ("owner", "i8"),
        ("read_only", "i8"),
        ("made_in", "i8"),  # the number of the capture that it was made in, or 0
        ("computed", "i8"),  # whether it was made for an op's result
    ]
)

SLOT = np.dtype(
    [
        ("storage", "i4"),
        ("dtype", "i2"),
        ("ndim", "i2"),
        ("offset", "i8"),
        ("numel", "i8"),
        ("refs", "i4"),
        ("data_refs", "i4"),
        ("producer", "i4"),
        ("flags", "i4"),
        ("cotangent", "i4"),
        ("marked", "i4"),  # while one entry point looks through the graph; see reach.py
        ("needed", "i4"),
        ("base", "i4"),
        ("grad", "i4"),
        ("next", "i4"),
        ("family", "i8"),
        ("serial", "i8"),
        ("shape", "i8", (MAX_NDIM,)),
        ("strides", "i8", (MAX_NDIM,)),
    ]
)

ENTRY = np.dtype(
    [
        ("op", "i4"),
        ("flags", "i4"),
        ("words", "i8"),
        ("word_count", "i4"),
        ("results", "i4"),  # how many there are; see result_place
        ("saved", "i8"),  # bit k: the value of operand k; bit 16 + k: of result k
        ("site", "i8"),
        ("sequence", "i8"),
    ]
)

OP = np.dtype(
    [
        ("kind", "i4"),
        ("result_dtype", "i4"),
        ("dtypes", "i4"),
        ("outputs", "i4"),
        ("variadic", "i4"),
        ("differentiable", "i4"),  # bit k: the result depends on operand k
        ("writes", "i4"),
        ("unpromoted", "i4"),
        ("contiguous", "i4"),
        ("accumulates", "i4"),  # the kernel can add to what its last operand holds; see sweep._accumulates
        ("temporaries", "i4"),  # results of the rule's emissions
        ("saves", "i4", (MAX_RULE_OPERANDS,)),
        ("rule_rows", "i4"),
        ("infer", "i8"),
        ("rule", "i8"),
    ]
)

HANDLE_BYTES, STORAGE_BYTES, SLOT_BYTES, ENTRY_BYTES = (t.itemsize for t in (HANDLE, STORAGE, SLOT, ENTRY))

# one row of a gradient rule: emit `op` on the references, for the operands in the mask `wanted`; op -1 gives the
# result of `inputs[0]` to the operand `target`
RULE_ROW = np.dtype(
    [
        ("op", "i4"),
        ("wanted", "i4"),
        ("attributes", "i4"),
        ("attribute_count", "i4"),
        ("count", "i4"),
        ("target", "i4"),
        ("inputs", "i4", (MAX_RULE_OPERANDS,)),
        ("literal", "i8", (4,)),
    ]
)
ATTRIBUTES_NONE, ATTRIBUTES_OF_ENTRY, ATTRIBUTES_LITERAL, ATTRIBUTES_OF_OPERAND = range(4)
GIVE = -1
MAX_TEMPORARIES = 64
REF_INPUT, REF_OUTPUT, REF_COTANGENT, REF_TEMPORARY, REF_CONSTANT = 0, 16, 20, 24, 128
ZERO_CONSTANT = 0  # the number of the constant 0

# what compiled code asks of Python
CALL_HOOKS, CALL_RULE, CALL_AFTER_ACCUMULATION, CALL_SITE, CALL_CHECK = range(5)

# bits of the state's anomaly mode
RECORD_SITES, CHECK_NAN = 1, 2

# a frame: results, counts, operands, attributes
FRAME_OUTPUTS, FRAME_INPUT_COUNT, FRAME_ATTRIBUTE_COUNT, FRAME_INPUTS = 0, 3, 4, 5

state_row, handle_row, storage_row = row_of(STATE), row_of(HANDLE), row_of(STORAGE)
slot_row, entry_row, op_row, rule_row = row_of(SLOT), row_of(ENTRY), row_of(OP), row_of(RULE_ROW)

literal_in, free_blocks = words_in("literal"), words_in("free_blocks")
shape_in, strides_in = words_in("shape"), words_in("strides")


@jit
def state_of(st):
    return state_row(st, 0)


@jit
def slot_of(st, slot):
    """Return the record of a slot; the tables never move while compiled code runs (see memory.reserve)."""
    return slot_row(state_row(st, 0).slots, slot)


@jit
def storage_of(st, slot):
    return storage_row(state_row(st, 0).storages, slot_of(st, slot).storage)


@jit
def data_address(st, slot):
    """Return the address of a slot's first element."""
    row = slot_of(st, slot)
    return storage_row(state_row(st, 0).storages, row.storage).address + row.offset * item_bytes(row.dtype)


@jit
def item_bytes(dtype):
    """Return the bytes of an element: 1, 1, 4, 8, 4, 8 by dtype code."""
    return (0x848411 >> (4 * dtype)) & 15


@jit
def is_float(dtype):
    return dtype >= FLOAT32


@jit
def input_count(frame):
    return int64_at(frame)[3]


@jit
def input_slot(frame, k):
    return int64_at(frame)[5 + k]


@jit
def output_slot(frame, k):
    return int64_at(frame)[k]


@jit
def result_place(words, k):
    """Return which word of an entry names its result ``k``: a Python entry has the fourth and on behind its owner."""
    return k if k < MAX_OUTPUTS else FRAME_INPUTS + words[FRAME_INPUT_COUNT] + 1 + k - MAX_OUTPUTS


@jit
def attribute_count(frame):
    return int64_at(frame)[4]


@jit
def attribute(frame, k):
    """Return attribute ``k`` of a frame as int64; a float attribute holds the bits of a float64."""
    words = int64_at(frame)
    return words[5 + words[3] + k]
