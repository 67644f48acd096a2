"""Sizes of operands that some ops trust their callers with, checked where a program comes from a file."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

Shape = tuple[int, ...]
Shapes = Sequence[Shape | None]  # of the operands, None for an absent one


def problem_of_operands(name: str, shapes: Shapes, attributes: Sequence[int]) -> str:
    """Return what is wrong with the operands of an op, or nothing; ops that are not known here check their own."""
    rule = _RULES.get(name)
    return "" if rule is None or rule(shapes, attributes) else "operands whose sizes do not fit each other"


def _linear(shapes: Shapes, attributes: Sequence[int]) -> bool:
    weight, bias = shapes[1], shapes[2] if len(shapes) > 2 else None
    return weight is not None and bool(weight) and bias in (None, weight[:1])


def _convolution(shapes: Shapes, attributes: Sequence[int]) -> bool:
    weight, bias = shapes[1], shapes[2] if len(shapes) > 2 else None
    return weight is not None and len(weight) > 2 and bias in (None, weight[:1])


def _norm_channels(first: int, of_channels: Sequence[int]) -> Callable[[Shapes, Sequence[int]], bool]:
    """The operand ``first`` is [N, C, ...]; some others have C elements."""

    def rule(shapes: Shapes, attributes: Sequence[int]) -> bool:
        x = shapes[first]
        if x is None or len(x) < 2:
            return False
        return all((shape := shapes[k]) is None or math.prod(shape) == x[1] for k in of_channels)

    return rule


_RULES = {
    "linear": _linear,
    "convolution_nd": _convolution,
    "norm_channels": _norm_channels(0, (1, 2, 3, 4)),
    "norm_channels_backward": _norm_channels(1, (2, 3, 4)),
}
