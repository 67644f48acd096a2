"""The ops of recurrent layers: a packed matrix, and the time loops there and back, which write into their operands.

They have no gradient rules: nn/recurrent.py calls them in a custom Function, whose backward is a composition of
differentiable ops where the gradient is to be differentiated again.
"""

from __future__ import annotations

from collections.abc import Callable

from tapegrad.kernels.gemm_packed import panel_sizes
from tapegrad.kernels.recurrent import (
    BATCH,
    BLOCK,
    GEMM,
    GRU,
    INPUT_WIDTH,
    LSTM,
    RELU,
    STEPS,
    TANH,
    block_rows,
    make_backward,
    make_forward,
)
from tapegrad.native.cache import jit
from tapegrad.native.dtypes import FLOAT32, FLOAT64, NUMPY_DTYPES
from tapegrad.native.parallel import parallel_for
from tapegrad.native.pointers import call1, int64_at, stack_words
from tapegrad.ops.addresses import need_packed_gemm, packed_gemm_address
from tapegrad.ops.recurrent_rules import holds_steps
from tapegrad.ops.registry import FLOATS, Op, declare
from tapegrad.ops.validity import Attributes, Operands, is_few, needed
from tapegrad.runtime.layout import (
    BAD_ARGUMENT,
    GENERAL,
    attribute,
    data_address,
    input_slot,
    output_slot,
    shape_in,
    slot_of,
    state_of,
    strides_in,
)

_WIDTH, _LANES = panel_sizes(NUMPY_DTYPES[FLOAT32])
Maker = Callable[[int, int], Callable[..., int]]
_TESTED = "writes into its operands: tests/test_rnn.py"

# operands of a time loop, in the order of the words of its context
_LOOP = ("*h", "*c", "*gates", "*packed", "*y", "*before", "*memory", "*bias", "*offsets", "*input")
_BACK = (*_LOOP, "*slopes", "*slopes_h")


@jit
def _depth(row, transposed):
    return shape_in(row)[1 if transposed else 0]


def pack_infer(st, frame):
    """Attribute: whether B is the transpose of the operands, of which one lies above the other."""
    w, v, y = slot_of(st, input_slot(frame, 0)), input_slot(frame, 1), slot_of(st, output_slot(frame, 0))
    transposed = attribute(frame, 0)
    k, n = _depth(w, transposed), _depth(w, 1 - transposed)
    if w.ndim != 2:
        return BAD_ARGUMENT
    if v >= 0:
        other = slot_of(st, v)
        if other.ndim != 2 or other.dtype != w.dtype or _depth(other, 1 - transposed) != n:
            return BAD_ARGUMENT
        k += _depth(other, transposed)
    wide = 2 if w.dtype == FLOAT64 else 1
    width, lanes = _WIDTH // wide, _LANES // wide
    y.ndim = 1
    shape_in(y)[0] = (n + width - 1) // width * (k + lanes) * width
    return 0


def _pack_kernel(dtype: int, result_dtype: int) -> Callable[..., int]:
    need_packed_gemm(dtype)

    def kernel(st, frame):
        words = stack_words(13)
        p = int64_at(words)
        transposed = attribute(frame, 0)
        rows, columns = (1, 0) if transposed else (0, 1)
        p[0], p[5], p[8], p[12] = -1, data_address(st, output_slot(frame, 0)), 0, 0
        for k in range(2):
            if input_slot(frame, k) >= 0:
                p[8] += _depth(slot_of(st, input_slot(frame, k)), transposed)
        for k in range(2):
            if input_slot(frame, k) >= 0:
                w = slot_of(st, input_slot(frame, k))
                p[1], p[2] = shape_in(w)[columns], shape_in(w)[rows]
                p[9], p[10], p[11] = data_address(st, input_slot(frame, k)), strides_in(w)[rows], strides_in(w)[columns]
                call1(packed_gemm_address(st, dtype), words)
                p[12] += p[2]
        return 0

    return kernel


def _makes_panels(x: Operands, a: Attributes) -> bool:
    return len(a) >= 1 and a[0] in (0, 1) and is_few(*[n + 64 for n in needed(x, 0).shape])


PACK = declare(
    Op(
        name="pack_matrix",
        valid=_makes_panels,
        inputs=("input", "other"),
        optional=("other",),
        kind=GENERAL,
        dtypes=FLOATS,
        infer=pack_infer,
        kernel=_pack_kernel,
        unpromoted=("other",),
        public=False,
        samples="its result is for the ops that take it: tests/test_rnn.py",
        math="x above w, in the order in which products read it",
    )
)


def loop_infer(st, frame):
    return 0


@jit
def _address(st, frame, k):
    slot = input_slot(frame, k)
    return data_address(st, slot) if slot >= 0 else 0


def _loop_kernel(mode: int, make: Maker, operands: int) -> Maker:
    """Attributes: steps, batch, time_stride, batch_stride, reverse, width, y_stride, input_width."""

    def maker(dtype: int, result_dtype: int) -> Callable[..., int]:
        need_packed_gemm(dtype)
        task = make(dtype, mode)

        def kernel(st, frame):
            context = stack_words(22)
            w = int64_at(context)
            for k in range(operands):
                w[k] = _address(st, frame, k)
            for k in range(INPUT_WIDTH - STEPS + 1):
                w[STEPS + k] = attribute(frame, k)
            w[BLOCK], w[GEMM] = block_rows(w[BATCH]), packed_gemm_address(st, dtype)
            return parallel_for(state_of(st).pool, task, context, (w[BATCH] + w[BLOCK] - 1) // w[BLOCK])

        return kernel

    return maker


def _declare(name: str, mode: int, back: bool) -> Op:
    roles = _BACK if back else _LOOP
    written = ("*h", "*c", "*slopes", "*slopes_h") if back else ("*gates", "*h", "*c", "*y", "*before", "*memory")
    return declare(
        Op(
            name=f"{name}_loop_backward" if back else f"{name}_loop",
            inputs=roles,
            optional=roles,
            kind=GENERAL,
            dtypes=FLOATS,
            outputs=0,
            infer=loop_infer,
            valid=holds_steps(mode, back),
            kernel=_loop_kernel(mode, make_backward if back else make_forward, len(roles)),
            unpromoted=roles,
            writes=written,
            public=False,
            samples=_TESTED,
            math=f"the {'gradient of the ' if back else ''}steps of a recurrent layer",
        )
    )


_NAMES = {TANH: "rnn_tanh", RELU: "rnn_relu", LSTM: "lstm", GRU: "gru"}
LOOPS = {mode: _declare(name, mode, False) for mode, name in _NAMES.items()}
LOOPS_BACK = {mode: _declare(name, mode, True) for mode, name in _NAMES.items()}

__all__ = ["LOOPS", "LOOPS_BACK", "PACK"]
