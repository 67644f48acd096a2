"""What the time loops of recurrent layers trust their callers with; see kernels/recurrent.py for their operands."""

from __future__ import annotations

import math

from tapegrad.kernels.gemm_packed import panel_sizes
from tapegrad.kernels.recurrent import GRU, LSTM
from tapegrad.native.dtypes import FLOAT32, FLOAT64, NUMPY_DTYPES
from tapegrad.ops.validity import Attributes, Operand, Operands, Rule

_WIDEST = 4096  # numbers of a row for which a task's scratch memory suffices
_MOST = 1 << 31
_NAMES = ("h", "c", "gates", "packed", "y", "before", "memory", "bias", "offsets", "input", "slopes", "slopes_h")


def holds_steps(mode: int, back: bool) -> Rule:
    """The operands that a time loop touches are there and large enough, for the sizes that the attributes are."""

    def rule(x: Operands, a: Attributes) -> bool:
        if len(x) != (len(_NAMES) if back else len(_NAMES) - 2):
            return False
        if len(a) != 8 or not all(0 <= n < _MOST for n in a):
            return False
        steps, batch, time_stride, batch_stride, _, width, y_stride, input_width = a
        found = dict(zip(_NAMES, x, strict=False))
        h = found["h"]
        if h is None or found["offsets"] is not None:  # files do not hold packed sequences
            return False
        if width < 1 or width + input_width > _WIDEST or y_stride < width:
            return False
        if any(operand is not None and (operand.dtype != h.dtype or not operand.contiguous) for operand in x):
            return False
        rows = (steps - 1) * time_stride + (batch - 1) * batch_stride + 1 if steps and batch else 0
        sizes = _needed(mode, back, found, rows, a, h.dtype)
        operands = [(found.get(name), size) for name, size in sizes.items()]
        return all(operand is not None and operand.numel >= size for operand, size in operands)

    return rule


def _needed(
    mode: int, back: bool, found: dict[str, Operand | None], rows: int, attributes: Attributes, dtype: int
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
