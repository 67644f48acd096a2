"""Pass: runs of operations on single numbers, cut into pieces that become straight-line code; see kernels/straight.py.

A program that was recorded from a loop repeats itself. Pieces begin at the same place of each turn where they can, so
that one of them is compiled for all of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from tapegrad.capture.fusion import Group, Walk
from tapegrad.capture.notes import Instruction
from tapegrad.native.dtypes import FLOAT32, FLOAT64

LEAST, PIECE = 32, 512  # instructions of a piece: fewer gain little, more take longer to compile than they save
_TURN, _WINDOW = 512, 2048  # instructions: the longest turn that is found, and how many must repeat themselves
_FLOATS = ({FLOAT32}, {FLOAT64})


def find_runs(
    instructions: Sequence[Instruction], walks: Sequence[Walk | None], lifetimes: dict[int, tuple[int, int]]
) -> list[Group]:
    """Return the pieces of the runs among instructions.

    Args:
        instructions: in order.
        walks: of the instructions.
        lifetimes: of storages that hold intermediate results: the first and last instruction that touches them.
    """
    found = []
    first = 0
    kind: frozenset[int] | None = None
    for k, walk in enumerate([*walks, None]):
        mine = walk.dtypes if walk is not None and walk.total == 1 and walk.dtypes in _FLOATS else None
        if mine is not None and instructions[k].op.formula is None:
            mine = None
        if mine == kind:
            continue
        if kind is not None and k - first >= LEAST:
            codes = np.array([instruction.op.code for instruction in instructions[first:k]], np.int16)
            found += [_piece(walks, lifetimes, first + a, first + b) for a, b in _pieces(codes)]
        first, kind = k, mine
    return found


def _piece(walks: Sequence[Walk | None], lifetimes: dict[int, tuple[int, int]], first: int, end: int) -> Group:
    members = [walk for walk in walks[first:end] if walk is not None]
    made = {walk.operands[0].storage for walk in members}
    over = {storage for storage in made if lifetimes.get(storage, (0, end))[1] < end}
    return Group(first, end - 1, members, unstored=over)


def _pieces(codes: np.ndarray) -> Iterator[tuple[int, int]]:
    """Yield where the pieces of a run of ops begin and end."""
    at = 0
    while at < len(codes):
        turn, end = _repeated(codes[at:])
        size = turn * max(1, PIECE // turn) if turn else PIECE
        stop = at + (end // size * size if turn else min(size, len(codes) - at))
        stop = stop if stop > at else min(at + size, len(codes))
        while at < stop:
            yield at, min(at + size, stop)
            at = min(at + size, stop)


def _repeated(codes: np.ndarray) -> tuple[int, int]:
    """Return how many ops are a turn of the loop that ``codes`` begins with, 0 for none, and where the loop ends."""
    window = codes[:_WINDOW]
    for turn in range(1, min(_TURN, len(window) // 2) + 1):
        if np.array_equal(window[turn:], window[:-turn]):
            other = np.flatnonzero(codes[turn:] != codes[:-turn])
            return turn, int(other[0]) + turn if len(other) else len(codes)
    return 0, len(codes)
