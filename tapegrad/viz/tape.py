"""``tg.tape``: the entries that are kept for derivatives, to be counted, sliced, printed and drawn."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import numpy.typing as npt

from tapegrad.autograd.anomaly import record_lines, site_line
from tapegrad.native.dtypes import DTYPE_NAMES
from tapegrad.ops.registry import op_of_code
from tapegrad.runtime.layout import (
    DEAD,
    FRAME_ATTRIBUTE_COUNT,
    FRAME_INPUT_COUNT,
    FRAME_INPUTS,
    MAX_NDIM,
    MAX_OUTPUTS,
)
from tapegrad.runtime.machine import machine
from tapegrad.viz.drawing import dot_of, svg_of

MAX_INPUTS = 6

ROW = np.dtype(
    [
        ("sequence", "i8"),
        ("op", "U32"),
        ("inputs", "i4", (MAX_INPUTS,)),
        ("outputs", "i4", (MAX_OUTPUTS,)),
        ("input_count", "i4"),
        ("attribute_count", "i4"),
        ("dtype", "U8"),
        ("ndim", "i4"),
        ("shape", "i8", (MAX_NDIM,)),
        ("site", "i8"),
    ]
)


class Tape:
    """A view of the machine's tape as it is now.

    ``len(tape)`` counts the entries that are alive; a slice is a copy of them as a NumPy structured array with the
    fields ``sequence`` (when it was run), ``op``, ``inputs`` and ``outputs`` (slots, -1 for none; the first 6 inputs),
    ``input_count``, ``attribute_count``, ``dtype``, ``ndim`` and ``shape`` (of the first result), ``site`` (the line
    that ran it, if lines are recorded).

    Example:
        >>> import tapegrad as tg
        >>> x = tg.tensor([1.0, 2.0], requires_grad=True)
        >>> y = (x * x).exp()
        >>> tg.tape[-2:]["op"].tolist()
        ['mul', 'exp']
    """

    def __len__(self) -> int:
        return int(machine.state["entries_top"] - machine.state["entries_dead"])

    def _entries(self) -> npt.NDArray[Any]:
        entries = machine.table("entries")
        return entries[(entries["flags"] & DEAD) == 0]

    def __getitem__(self, index: int | slice) -> Any:
        chosen = self._entries()[index]
        if isinstance(index, slice):
            rows = np.zeros(len(chosen), ROW)
            for row, entry in zip(rows, chosen, strict=True):
                _fill(row, entry)
            return rows
        single = np.zeros((), ROW)
        _fill(single, chosen)
        return single[()]

    def counts(self) -> Counter[str]:
        """Return how often each op is on the tape."""
        codes, numbers = np.unique(self._entries()["op"], return_counts=True)
        return Counter({op_of_code(int(code)).name: int(n) for code, n in zip(codes, numbers, strict=True)})

    def __str__(self) -> str:
        shown = self[:] if len(self) <= 2 * _EDGE else np.concatenate([self[:_EDGE], self[-_EDGE:]])
        lines = [line_of(row) for row in shown]
        if len(self) > len(shown):
            lines.insert(_EDGE, f"... {len(self) - len(shown)} more ...")
        return "\n".join([repr(self), *lines])

    def __repr__(self) -> str:
        return f"<tape of {len(self)} entries>"

    def record_lines(self, mode: bool = True) -> record_lines:
        """Have each entry note its line of the program, which printing then shows; also as a ``with`` block.

        Args:
            mode: whether they do.
        """
        return record_lines(mode)

    def to_dot(self, first: int = 0, last: int | None = None) -> str:
        """Return the entries from ``first`` to ``last`` as a graph in Graphviz's language."""
        return dot_of(self[first:last])

    def to_svg(self, path: str | None = None, first: int = 0, last: int | None = None) -> str:
        """Return the entries from ``first`` to ``last`` as an SVG drawing; write it to ``path`` if given."""
        drawing = svg_of(self[first:last])
        if path is not None:
            with open(path, "w", encoding="utf-8") as file:
                file.write(drawing)
        return drawing

    def _repr_svg_(self) -> str:
        return self.to_svg(last=200)


_EDGE = 50  # entries printed at either end of a long tape


def _fill(row: Any, entry: Any) -> None:
    """Copy what users want to know of an entry into a row."""
    words = machine.table("words")[entry["words"] :]
    inputs = words[FRAME_INPUTS : FRAME_INPUTS + words[FRAME_INPUT_COUNT]][:MAX_INPUTS]
    row["op"] = op_of_code(int(entry["op"])).name
    row["sequence"], row["site"] = entry["sequence"], entry["site"]
    row["inputs"], row["outputs"] = -1, words[:MAX_OUTPUTS]
    row["inputs"][: len(inputs)] = inputs
    row["input_count"], row["attribute_count"] = words[FRAME_INPUT_COUNT], words[FRAME_ATTRIBUTE_COUNT]
    result = machine.table("slots")[next(int(slot) for slot in words[:MAX_OUTPUTS] if slot >= 0)]
    row["dtype"], row["ndim"], row["shape"] = DTYPE_NAMES[result["dtype"]], result["ndim"], 0
    row["shape"][: row["ndim"]] = result["shape"][: row["ndim"]]


def _typed(slot: int) -> str:
    """Return a slot with its shape, as ``%3 [2, 4]``."""
    row = machine.table("slots")[slot]
    return f"%{slot} {[int(length) for length in row['shape'][: row['ndim']]]}"


def line_of(row: Any) -> str:
    """Return an entry as a line: results, op, operands with their shapes, dtype, and the program's line if recorded."""
    outputs = ", ".join(f"%{slot}" for slot in row["outputs"] if slot >= 0)
    inputs = ", ".join(_typed(int(slot)) for slot in row["inputs"] if slot >= 0)
    more = ", ..." if row["input_count"] > MAX_INPUTS else ""
    shape = [int(length) for length in row["shape"][: row["ndim"]]]
    text = f"{row['sequence']:6d}  {outputs} = {row['op']}({inputs}{more}) -> {row['dtype']} {shape}"
    line = site_line(int(row["site"]))
    return f"{text}  {line}" if line else text


tape = Tape()
