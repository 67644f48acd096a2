"""The ops of recurrent layers: a packed matrix, and the time loops there and back, which write into their operands.

They have no gradient rules: nn/recurrent.py calls them in a custom Function, whose backward is a composition of
differentiable ops where the gradient is to be differentiated again.
"""

from __future__ import annotations

from collections.abc import Callable

from tapegrad.kernels.gemm_packed import panel_sizes
from tapegrad.kernels.recurrent import (
    BATCH,
    BATCH_STRIDE,
    BLOCK,
    GEMM,
    GRU,
    LSTM,
    OFFSETS,
    RELU,
    REVERSE,
    SLOPES,
    SLOPES_H,
    STEPS,
    TANH,
    TIME_STRIDE,
    WIDTH,
    Y_STRIDE,
    block_rows,
    make_backward,
    make_forward,
)
from tapegrad.native.cache import jit
from tapegrad.native.dtypes import FLOAT32, FLOAT64, NUMPY_DTYPES
from tapegrad.native.parallel import parallel_for
from tapegrad.native.pointers import call1, int64_at, stack_words
from tapegrad.ops.addresses import need_packed_gemm, packed_gemm_address
from tapegrad.ops.registry import FLOATS, Op, declare
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
_LOOP = ("*gates", "*packed", "*h", "*c", "*y", "*before", "*memory", "*bias", "*offsets")
_BACK = (*_LOOP, "*slopes", "*slopes_h")


def pack_infer(st, frame):
    """Attribute: whether B is the transpose of the operand."""
    w, y = slot_of(st, input_slot(frame, 0)), slot_of(st, output_slot(frame, 0))
    if w.ndim != 2:
        return BAD_ARGUMENT
    transposed = attribute(frame, 0)
    k, n = shape_in(w)[1 if transposed else 0], shape_in(w)[0 if transposed else 1]
    wide = 2 if w.dtype == FLOAT64 else 1
    width, lanes = _WIDTH // wide, _LANES // wide
    y.ndim = 1
    shape_in(y)[0] = ((n + width - 1) // width * (k + 1) + lanes) * width
    return 0


def _pack_kernel(dtype: int, result_dtype: int) -> Callable[..., int]:
    need_packed_gemm(dtype)

    def kernel(st, frame):
        w = slot_of(st, input_slot(frame, 0))
        transposed = attribute(frame, 0)
        words = stack_words(12)
        p = int64_at(words)
        rows, columns = (1, 0) if transposed else (0, 1)
        p[0], p[1], p[2] = -1, shape_in(w)[columns], shape_in(w)[rows]
        p[5], p[9] = data_address(st, output_slot(frame, 0)), data_address(st, input_slot(frame, 0))
        p[10], p[11] = strides_in(w)[rows], strides_in(w)[columns]
        call1(packed_gemm_address(st, dtype), words)
        return 0

    return kernel


PACK = declare(
    Op(
        name="pack_matrix",
        inputs=("input",),
        kind=GENERAL,
        dtypes=FLOATS,
        infer=pack_infer,
        kernel=_pack_kernel,
        public=False,
        samples="its result is for the ops that take it: tests/test_rnn.py",
        math="x in the order in which products read it",
    )
)


def loop_infer(st, frame):
    return 0


@jit
def _address(st, frame, k):
    slot = input_slot(frame, k)
    return data_address(st, slot) if slot >= 0 else 0


@jit
def _fill_context(st, frame, context, operands):
    """Write the words of a context; attributes: steps, batch, time_stride, batch_stride, reverse, width, y_stride."""
    w = int64_at(context)
    for k in range(min(operands, OFFSETS + 1)):
        w[k] = _address(st, frame, k)
    w[SLOPES] = _address(st, frame, 9) if operands > 9 else 0
    w[SLOPES_H] = _address(st, frame, 10) if operands > 9 else 0
    w[STEPS], w[BATCH], w[TIME_STRIDE] = attribute(frame, 0), attribute(frame, 1), attribute(frame, 2)
    w[BATCH_STRIDE], w[REVERSE], w[WIDTH] = attribute(frame, 3), attribute(frame, 4), attribute(frame, 5)
    w[Y_STRIDE], w[BLOCK] = attribute(frame, 6), block_rows(attribute(frame, 1))
    return 0


def _loop_kernel(mode: int, make: Maker, operands: int) -> Maker:
    def maker(dtype: int, result_dtype: int) -> Callable[..., int]:
        need_packed_gemm(dtype)
        task = make(dtype, mode)

        def kernel(st, frame):
            context = stack_words(20)
            _fill_context(st, frame, context, operands)
            w = int64_at(context)
            w[GEMM] = packed_gemm_address(st, dtype)
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
            kind=GENERAL,
            dtypes=FLOATS,
            outputs=0,
            infer=loop_infer,
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
