"""Ops in words and formulas: the gradient rules printed as expressions, the dtypes by name."""

from __future__ import annotations

from collections.abc import Sequence

from tapegrad.native.dtypes import DTYPE_NAMES
from tapegrad.ops.registry import Op, constant_of
from tapegrad.runtime.layout import REF_CONSTANT, REF_COTANGENT, REF_INPUT, REF_OUTPUT, REF_TEMPORARY

_INFIX = {"add": "+", "sub": "-", "mul": "*", "div": "/"}


def gradients(op: Op) -> dict[str, str]:
    """Return, for each operand that has a gradient, the expression of its gradient rule.

    ``g`` is the gradient of the result, ``y`` the result; with several results they are numbered from 0.

    Example:
        >>> from tapegrad.ops.registry import registry
        >>> gradients(registry["mul"])
        {'input': 'g * other', 'other': 'g * input'}
    """
    made: dict[int, str] = {}
    found = {}
    for row in op.rule:
        operands = [_name(op, reference, made) for reference in row.inputs]
        if row.op is None:
            found[op.inputs[row.target].lstrip("*")] = _stripped(operands[0])
        else:
            made[REF_TEMPORARY + row.target] = _expression(row.op, operands)
    return found


def _name(op: Op, reference: int, made: dict[int, str]) -> str:
    if reference in made:
        return made[reference]
    if reference >= REF_CONSTANT:
        return f"{constant_of(reference):.6g}"
    many = op.outputs > 1
    if reference >= REF_COTANGENT:
        return f"g{reference - REF_COTANGENT}" if many else "g"
    if reference >= REF_OUTPUT:
        return f"y{reference - REF_OUTPUT}" if many else "y"
    return op.inputs[reference - REF_INPUT].lstrip("*")


def _expression(name: str, operands: Sequence[str]) -> str:
    if name in _INFIX and len(operands) == 2:
        return f"({operands[0]} {_INFIX[name]} {operands[1]})"
    if name == "neg":
        return f"-{operands[0]}"
    return f"{name}({', '.join(_stripped(operand) for operand in operands)})"


def _stripped(text: str) -> str:
    """Return an expression without the brackets around the whole of it."""
    if not (text.startswith("(") and text.endswith(")")):
        return text
    depth = 0
    for k, character in enumerate(text):
        depth += (character == "(") - (character == ")")
        if depth == 0 and k < len(text) - 1:
            return text
    return text[1:-1]


def dtypes_of(op: Op) -> str:
    """Return the names of the dtypes that an op computes in."""
    names = [name for code, name in enumerate(DTYPE_NAMES) if op.dtypes >> code & 1]
    return "all" if len(names) == len(DTYPE_NAMES) else ", ".join(names)
