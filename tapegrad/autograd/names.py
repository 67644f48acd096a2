"""The names of entries as torch gives them to the nodes of its graph: ``MulBackward0`` for ``mul``."""

from __future__ import annotations

from typing import Any

from tapegrad.ops.registry import op_of_code
from tapegrad.runtime.layout import PYTHON
from tapegrad.runtime.machine import machine

# where torch's name is not that of the op in camel case
_NAMES = {
    "cast": "ToCopyBackward0",
    "copy": "CopyBackwards",
    "pow": "PowBackward1",
    "pow_scalar": "PowBackward0",
    "overlay": "CopySlices",
    "custom_function": "CustomFunctionBackward",
}


def name_of_op(code: int) -> str:
    """Return the node name of an op."""
    name = op_of_code(code).name
    return _NAMES.get(name) or "".join(part.capitalize() for part in name.strip("_").split("_")) + "Backward0"


def owner_of_entry(entry: int) -> Any:
    """Return the context of a custom Function's entry, None for other entries."""
    code = machine.entry_fields(entry)[0]
    if int(machine.ops[code]["kind"]) != PYTHON:
        return None
    return machine.owners[machine.frame_of_entry(entry)[0]]


def name_of_entry(entry: int) -> str:
    """Return the node name of an entry: that of its op, or of its custom Function."""
    owner = owner_of_entry(entry)
    return type(owner).__name__ if owner is not None else name_of_op(machine.entry_fields(entry)[0])
