"""How a call of a custom Function becomes an entry on the tape: its outputs, what was written into, what is saved."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tapegrad.autograd.context import FunctionCtx, Saved
from tapegrad.native.dtypes import FLOAT32
from tapegrad.ops.registry import Op, declare
from tapegrad.runtime.errors import raise_status
from tapegrad.runtime.handle import Tensor
from tapegrad.runtime.layout import INFERENCE, INFERENCE_SAVED, PYTHON, REQUIRES_GRAD
from tapegrad.runtime.machine import machine

_OP = declare(
    Op(
        name="custom_function",
        inputs=("*tensors",),
        kind=PYTHON,
        public=False,
        samples="calls Python: tests/test_function.py",
        math="a custom Function",
    )
)


_append_python, _dtype_of, _flags_of = machine.append_python, machine.dtype_of, machine.flags_of


def _requires_grad(tensor: Tensor) -> bool:
    return bool(machine.flags_of(tensor._handle) & REQUIRES_GRAD)


def _position(tensor: Any, among: Sequence[Any]) -> int:
    """Return the place of an object among others, by identity; -1 if it is not there."""
    for k, other in enumerate(among):
        if other is tensor:
            return k
    return -1


class CustomCall:
    """One call of a custom function, after its forward: what became of its arguments and results."""

    def __init__(self, ctx: FunctionCtx, args: tuple[Any, ...], outputs: tuple[Any, ...]) -> None:
        self.ctx = ctx
        self.args = args
        self.operands = [arg for arg in args if isinstance(arg, Tensor)]
        self.written = ctx._dirty
        if self.written:
            self._check_written(outputs)
        self.outputs = tuple([self._as_output(output) for output in outputs])

    def _check_written(self, outputs: tuple[Any, ...]) -> None:
        places = [_position(tensor, self.operands) for tensor in self.written]
        if -1 in places:
            raise RuntimeError(f"mark_dirty only accepts input tensors, but argument {places.index(-1)} isn't one")
        if any(_position(tensor, outputs) < 0 for tensor in self.written):
            raise RuntimeError(
                "Some elements marked as dirty during the forward method were not returned as output. The inputs that "
                "are modified inplace must all be outputs of the Function."
            )

    def _is_dirty(self, output: Any) -> bool:
        return _position(output, self.written) >= 0

    def _as_output(self, output: Any) -> Any:
        """Return an output; an argument that is returned as it is becomes a view of itself."""
        if isinstance(output, Tensor) and _position(output, self.operands) >= 0 and not self._is_dirty(output):
            return output.view_as(output)
        return output

    def finish(self, record: bool) -> None:
        """Append the entry if the call is to be recorded."""
        for tensor in self.written:
            machine.bump_version(tensor._handle)
        if record:
            self._check_dirty()
            positions = self._differentiable()
            if positions:
                self._append(positions)

    def _check_dirty(self) -> None:
        for tensor in self.written:
            if _requires_grad(tensor) and tensor.is_leaf:
                raise RuntimeError("a leaf Variable that requires grad has been used in an in-place operation.")

    def _differentiable(self) -> list[int]:
        """Return the positions of the outputs that are results of the entry; of one returned twice, the last."""
        fixed = self.ctx._not_differentiable
        found = {
            id(output): k
            for k, output in enumerate(self.outputs)
            if isinstance(output, Tensor) and _dtype_of(output._handle) >= FLOAT32 and _position(output, fixed) < 0
        }
        return sorted(found.values())

    def _append(self, positions: list[int]) -> None:
        ctx = self.ctx
        ctx._describe(self.args, self.outputs, positions)
        results = [self.outputs[k] for k in positions]
        mask = self._save(results)
        words = [operand._handle for operand in self.operands]
        for result in results:
            words += (result._handle, int(self._is_dirty(result)))
        status = _append_python(_OP.code, machine.keep(ctx), mask, len(self.operands), len(results), *words)
        if status < 0:
            raise_status(status)

    def _save(self, results: list[Any]) -> int:
        """Note in the context where what it saves is to be found; return the mask of what the entry is to keep."""
        mask = 0
        saved: list[Saved | None] = []
        for tensor in self.ctx.__dict__.pop("_to_save", ()):
            if tensor is None:
                saved.append(None)
                continue
            if _flags_of(tensor._handle) & INFERENCE:
                machine.state["error_op"] = _OP.code
                raise_status(INFERENCE_SAVED)
            result, operand = _position(tensor, results), _position(tensor, self.operands)
            saved.append(Saved.of(tensor, result, operand))
            if result >= 0:
                mask |= 1 << (16 + min(result, 14))
            elif operand >= 0:
                mask |= 1 << min(operand, 15)
        self.ctx._saved = saved
        return mask
