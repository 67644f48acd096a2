"""The ops: one file a family, each op declared once with its kernel, shape rule, gradient rule, reference and samples."""

from tapegrad.ops import (
    arithmetic,
    matmul,
    products,
    joining,
    parts,
    reshaping,
    reshaping_ops,
    view_ops,
    views,
    writing,
    structural,
    updates,
)
from tapegrad.ops.calls import functions
from tapegrad.ops.registry import finish_rules

FAMILIES = (
    arithmetic,
    matmul,
    products,
    joining,
    parts,
    reshaping,
    reshaping_ops,
    view_ops,
    views,
    writing,
    structural,
    updates,
)

finish_rules()

__all__ = ["FAMILIES", "functions"]
