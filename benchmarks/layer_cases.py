"""What a benchmark of a layer is: one builder that runs with tapegrad and with torch, whose names are the same."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Build = Callable[[Any, Any], tuple[Any, list[Any]]]


@dataclass(frozen=True)
class Case:
    """A layer on one input.

    Args:
        name: what it is and on which sizes.
        build: gets a library (``tapegrad`` or ``torch``) and a NumPy generator for its data; returns a function without
            arguments that computes the layer's output, and the tensors that get gradients.
        wanted: the ratio, torch's time over ours, that is aimed at.
        flops: multiplications and additions of one forward pass; where given, the share of the FMA peak is printed
            (forward and backward together count three times as many).
    """

    name: str
    build: Build
    wanted: float
    flops: float | None = None
