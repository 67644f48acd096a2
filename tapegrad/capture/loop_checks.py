"""What the time loops of recurrent layers trust their callers with, checked where a program comes from a file."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tapegrad.kernels.gemm_packed import panel_sizes
from tapegrad.kernels.recurrent import GRU, LSTM
from tapegrad.native.dtypes import FLOAT32, FLOAT64, NUMPY_DTYPES
from tapegrad.ops.recurrent import LOOPS, LOOPS_BACK
from tapegrad.ops.registry import Op

_WIDEST = 4096  # numbers of a row for which a task's scratch memory suffices
_MOST = 1 << 31
_NAMES = ("h", "c", "gates", "packed", "y", "before", "memory", "bias", "offsets", "input", "slopes", "slopes_h")
_MODES = {op.name: (mode, back) for back, ops in enumerate((LOOPS, LOOPS_BACK)) for mode, op in ops.items()}


@dataclass(frozen=True)
class Array:
    """An operand: dtype, number of elements, and whether they lie in order without gaps."""

    dtype: int
    numel: int
    contiguous: bool


def problem_of_loop(op: Op, operands: Sequence[Array | None], attributes: Sequence[int]) -> str:
    """Return what is wrong with a time loop, or nothing; see kernels/recurrent.py for what its operands are."""
    mode, back = _MODES[op.name]
    if len(attributes) != 8 or not all(0 <= n < _MOST for n in attributes):
        return "attributes that are no sizes"
    steps, batch, time_stride, batch_stride, _, width, y_stride, input_width = attributes
    found = dict(zip(_NAMES, operands, strict=False))
    if found["offsets"] is not None:
        return "packed sequences, which files do not hold"
    h = found["h"]
    if h is None or width < 1 or width + input_width > _WIDEST or y_stride < width:
        return "a width that does not fit"
    if any(array is not None and (array.dtype != h.dtype or not array.contiguous) for array in operands):
        return "operands of other dtypes or layouts"
    rows = (steps - 1) * time_stride + (batch - 1) * batch_stride + 1 if steps and batch else 0
    needed = _needed(mode, bool(back), found, rows, attributes, h.dtype)
    for name, size in needed.items():
        array = found.get(name)
        if array is None or array.numel < size:
            return f"an operand {name} that is absent or too small"
    return ""


def _needed(
    mode: int, back: bool, found: dict[str, Array | None], rows: int, attributes: Sequence[int], dtype: int
) -> dict[str, int]:
    """Return how many elements the loop touches of each operand; those that are absent, and may be, are left out."""
    _, batch, _, _, _, width, y_stride, input_width = attributes
    gates = {LSTM: 4, GRU: 3}.get(mode, 1) * width
    inputs = input_width if found["input"] is not None else 0
    if found["input"] is not None and (back or mode == GRU or inputs == 0):
        return {"input": _MOST}
    sizes = {
        "h": batch * width,
        "c": batch * width,
        "gates": rows * gates,
        "packed": _packed(width, gates, dtype) if back else _packed(gates, width + inputs, dtype),
        "y": (rows - 1) * y_stride + width if rows else 0,
        "before": rows * width,
        "memory": rows * width,
        "bias": gates,
        "input": rows * inputs,
        "slopes": rows * gates,
        "slopes_h": rows * gates,
    }
    required = {"h", "packed"} | ({"c"} if mode == LSTM else set())
    if back:
        required |= {"gates", "slopes"} | ({"memory"} if mode in (LSTM, GRU) else set())
        required |= {"before", "slopes_h"} if mode == GRU else set()
    else:
        required |= {"y"} if inputs else {"y", "gates"}
    return {name: size for name, size in sizes.items() if name in required or found.get(name) is not None}


def _packed(columns: int, depth: int, dtype: int) -> int:
    """Return how many elements a packed matrix has; see ops/recurrent.py."""
    width, lanes = panel_sizes(NUMPY_DTYPES[FLOAT32])
    if dtype == FLOAT64:
        width, lanes = width // 2, lanes // 2
    return math.ceil(columns / width) * (depth + lanes) * width
