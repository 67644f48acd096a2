"""Turns a negative status of the machine into the exception that a user of torch would get."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import NoReturn

from tapegrad.native.dtypes import DTYPE_NAMES
from tapegrad.runtime import layout
from tapegrad.runtime.layout import MAX_NDIM
from tapegrad.runtime.machine import machine

_PACKAGE = str(Path(__file__).resolve().parents[1])


class OutOfMemoryError(RuntimeError, MemoryError):
    """The machine has no memory for a tensor. (torch raises a RuntimeError here.)"""


class LinAlgError(RuntimeError):
    """A matrix is singular, not positive definite, or a decomposition did not converge (``tg.linalg.LinAlgError``)."""


op_names: dict[int, str] = {-1: "empty"}  # the registry adds the ops


def _describe(slot: int) -> str:
    """Return the shape and dtype of a slot, for a message."""
    if not 0 <= slot < int(machine.state["slots_top"]):
        return "?"
    row = machine.table("slots")[slot]
    shape = [int(length) for length in row["shape"][: row["ndim"]]]
    return f"{shape} ({DTYPE_NAMES[row['dtype']]})"


def _shape_mismatch(op: str) -> Exception:
    state = machine.state
    a, b, dim = int(state["error_slot0"]), int(state["error_slot1"]), int(state["error_value0"])
    if b < 0:
        return RuntimeError(f"{op}: the result does not have the shape {_describe(a)} of the tensor that is written to")
    return RuntimeError(
        f"{op}: the shapes {_describe(a)} and {_describe(b)} cannot be broadcast together: they differ at "
        f"dimension {dim} of the result, where neither is 1"
    )


def _version_mismatch(op: str) -> Exception:
    state = machine.state
    slot = int(state["error_slot0"])
    return RuntimeError(
        "one of the variables needed for gradient computation has been modified by an inplace operation: "
        f"a tensor {_describe(slot)}, which {op} needs for its gradient, is at version "
        f"{int(state['error_value0'])}; expected version {int(state['error_value1'])} instead. "
        "Write out of place (x = x + 1), or clone() the tensor first."
    )


_MESSAGES: dict[int, Callable[[str], Exception]] = {
    layout.OUT_OF_MEMORY: lambda op: OutOfMemoryError(
        f"{op}: can't allocate memory: you tried to allocate {int(machine.state['error_value0'])} bytes"
    ),
    layout.SHAPE_MISMATCH: _shape_mismatch,
    layout.DTYPE_UNSUPPORTED: lambda op: RuntimeError(
        f'"{op}" not implemented for {DTYPE_NAMES[int(machine.state["error_value0"])]}: cast the operands first'
    ),
    layout.TOO_MANY_DIMS: lambda op: RuntimeError(f"{op}: a tensor has at most {MAX_NDIM} dimensions"),
    layout.SIZE_OVERFLOW: lambda op: RuntimeError(f"{op}: the result's number of elements overflows 64 bits"),
    layout.BAD_DIM: lambda op: IndexError(
        f"{op}: Dimension out of range: got {int(machine.state['error_value0'])} for a tensor of "
        f"{int(machine.state['error_value1'])} dimensions"
    ),
    layout.BAD_INDEX: lambda op: IndexError(
        f"{op}: index {int(machine.state['error_value0'])} is out of bounds for dimension with size "
        f"{int(machine.state['error_value1'])}"
    ),
    layout.BAD_ARGUMENT: lambda op: RuntimeError(f"{op}: an argument has a value that the op does not accept"),
    layout.RESULT_DTYPE: lambda op: RuntimeError(
        f"{op}: result type {DTYPE_NAMES[int(machine.state['error_value0'])]} can't be cast to the dtype of the tensor "
        "that is written to"
    ),
    layout.LEAF_IN_PLACE: lambda op: RuntimeError(
        f"{op}: a leaf Variable that requires grad is being used in an in-place operation. "
        "Use it under no_grad(), or write out of place."
    ),
    layout.LEAF_VIEW_IN_PLACE: lambda op: RuntimeError(
        f"{op}: a view of a leaf Variable that requires grad is being used in an in-place operation. "
        "Use it under no_grad(), or write out of place."
    ),
    layout.NO_GRAD_VIEW: lambda op: RuntimeError(
        f"{op}: a view was created in no_grad mode and is being modified inplace with grad mode enabled. Make both the "
        "view and the write inside the no_grad block, or both outside."
    ),
    layout.INFERENCE_IN_PLACE: lambda op: RuntimeError(
        f"{op}: Inplace update to inference tensor outside InferenceMode is not allowed. You can make a clone to get a "
        "normal tensor before doing inplace update."
    ),
    layout.CUSTOM_VIEW: lambda op: RuntimeError(
        f"{op}: an output of a custom Function is a view and is being modified inplace. This view was created inside a "
        "custom Function (or because an input was returned as-is) and the write would override its backward. clone() "
        "the output of the custom Function first."
    ),
    layout.OVERLAPPING_WRITE: lambda op: RuntimeError(
        f"{op}: unsupported operation: more than one element of the written-to tensor refers to a single memory "
        "location. Please clone() the tensor before performing the operation."
    ),
    layout.PARTIAL_OVERLAP: lambda op: RuntimeError(
        f"{op}: unsupported operation: some elements of the input tensor and the written-to tensor refer to a single "
        "memory location. Please clone() the tensor before performing the operation."
    ),
    layout.READ_ONLY: lambda op: RuntimeError(
        f"{op}: the tensor shares the memory of a NumPy array that is not writable: clone() it before writing"
    ),
    layout.VERSION_MISMATCH: _version_mismatch,
    layout.GRAPH_FREED: lambda op: RuntimeError(
        "Trying to backward through the graph a second time (or directly access saved tensors after they have already "
        f"been freed): the values saved by {op} are gone after the first backward. Specify retain_graph=True if you "
        "need to backward through the graph a second time."
    ),
    layout.NO_DERIVATIVE: lambda op: RuntimeError(f"the derivative for '{op}' is not implemented"),
    layout.SINGULAR: lambda op: LinAlgError(
        f"{op}: (Batch element {max(int(machine.state['error_value0']), 0)}): the input matrix is singular, not "
        "positive definite, or the decomposition did not converge"
    ),
    layout.INFERENCE_SAVED: lambda op: RuntimeError(
        f"{op}: Inference tensors cannot be saved for backward. To work around you can make a clone to get a normal "
        "tensor and use it in autograd."
    ),
    layout.VIEW_IMPOSSIBLE: lambda op: RuntimeError(
        f"{op}: view size is not compatible with input tensor's size and stride (at least one dimension spans across "
        "two contiguous subspaces). Use .reshape(...) instead."
    ),
    layout.OUT_OF_BOUNDS: lambda op: AssertionError(f"{op}: a kernel wrote out of bounds, or was about to"),
}


def user_line() -> str:
    """Return which line of the program outside of this package is running, as ``file.py:12``."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code.co_filename.startswith(_PACKAGE):
        frame = frame.f_back
    return f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}" if frame is not None else "an unknown line"


def refuse_reading(what: str) -> None:
    """Raise RuntimeError where Python reads a value while a function is being captured: a replay would not read it."""
    if machine.capturing and machine.capturing == threading.get_ident():
        raise RuntimeError(
            f"{what} at {user_line()}: a function that is captured by tg.compile cannot read values, since its replay "
            "runs without Python. Return the tensor and read it outside, or express the choice with tg.where"
        )


def refuse_change(what: str, advice: str) -> None:
    """Raise RuntimeError where a function that is being captured changes what a replay would not change."""
    if machine.capturing and machine.capturing == threading.get_ident():
        raise RuntimeError(f"{what} at {user_line()}: a function that is captured by tg.compile cannot do it: {advice}")


def raise_status(status: int) -> NoReturn:
    """Raise the exception that a negative status of the machine stands for."""
    if machine.error is not None:
        error, machine.error = machine.error, None
        raise error
    op = op_names.get(int(machine.state["error_op"]), "?")
    message = _MESSAGES.get(status)
    raise message(op) if message else RuntimeError(f"{op}: status {status}")
