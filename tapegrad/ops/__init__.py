"""The ops: one file a family, each op declared once with its kernel, shape rule, gradient rule, reference and samples."""

from tapegrad.ops import (
    arithmetic,
    matmul,
    products,
    structural,
)
from tapegrad.ops.calls import functions
from tapegrad.ops.registry import finish_rules

FAMILIES = (
    arithmetic,
    matmul,
    products,
    structural,
)

finish_rules()

__all__ = ["FAMILIES", "functions"]
