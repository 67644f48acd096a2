"""The context of a call of a custom Function: what its forward saves, and the run of its backward in a sweep."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

from tapegrad.autograd.anomaly import check_gradient, note_failure
from tapegrad.ops.calls import functions, shape_of
from tapegrad.runtime.dtype import DTYPES
from tapegrad.runtime.errors import raise_status
from tapegrad.runtime.handle import Tensor, wrap
from tapegrad.runtime.machine import machine

_version_of, _dtype_of = machine.version_of, machine.dtype_of
_FREED = (
    "Trying to backward through the graph a second time (or directly access saved tensors after they have already been "
    "freed). Saved intermediate values of the graph are freed when you call .backward() or autograd.grad(). Specify "
    "retain_graph=True if you need to backward through the graph a second time or if you need to access saved tensors "
    "after calling backward."
)


@dataclass(slots=True)
class Saved:
    """A saved tensor: an operand or a result of the entry, which the machine keeps, or another tensor."""

    version: int
    result: int
    operand: int
    tensor: Tensor | None

    @classmethod
    def of(cls, tensor: Tensor, result: int, operand: int) -> Saved:
        """Return the record of a tensor, to be found at these places among the results and operands, or nowhere (-1).

        The entry owns the context, so a context that held a result would keep both alive for ever.
        """
        version = _version_of(tensor._handle)
        return cls(version, result, operand, tensor if result < 0 and operand < 0 else None)


class FunctionCtx:
    """What forward and backward of one call share; any attribute may be set on it."""

    _function: Any = None
    _dirty: tuple[Tensor, ...] = ()
    _not_differentiable: tuple[Tensor, ...] = ()
    _materialize = True
    _saved: list[Saved | None] | None = ()  # type: ignore[assignment]
    _frame: tuple[int, ...] | None = None

    def __init__(self, needs_input_grad: tuple[bool, ...]) -> None:
        self.needs_input_grad = needs_input_grad

    def save_for_backward(self, *tensors: Tensor | None) -> None:
        """Keep tensors for backward; they are freed with the graph, and a write to one of them is noticed."""
        for k, tensor in enumerate(tensors):
            if tensor is not None and not isinstance(tensor, Tensor):
                raise TypeError(
                    f"save_for_backward can only save variables, but argument {k} is of type {type(tensor).__name__}"
                )
        self._to_save = tensors

    def save_for_forward(self, *tensors: Tensor | None) -> None:
        """Accepted for torch's sake: there is no forward-mode differentiation."""

    def mark_dirty(self, *tensors: Tensor) -> None:
        """Say which arguments forward has written into; they must be among its results."""
        self._dirty = tensors

    def mark_non_differentiable(self, *tensors: Tensor) -> None:
        """Say which results have no gradient."""
        self._not_differentiable = tensors

    def set_materialize_grads(self, value: bool) -> None:
        """Choose whether backward gets zeros (the default) or None for results that no gradient has reached."""
        self._materialize = value

    @property
    def saved_tensors(self) -> tuple[Tensor | None, ...]:
        """What save_for_backward was given."""
        if self._saved is None:
            raise RuntimeError(_FREED)
        return tuple([None if saved is None else self._unpack(saved) for saved in self._saved])

    @property
    def saved_variables(self) -> tuple[Tensor | None, ...]:
        """The old name of ``saved_tensors``."""
        warnings.warn("'saved_variables' is deprecated; use 'saved_tensors'", DeprecationWarning, stacklevel=2)
        return self.saved_tensors

    def name(self) -> str:
        """Return the name of the node."""
        return type(self).__name__

    def _unpack(self, saved: Saved) -> Tensor:
        if saved.tensor is not None:
            tensor = saved.tensor
        else:
            if self._frame is None:
                raise RuntimeError(_FREED)
            place = 2 + saved.result if saved.result >= 0 else 2 + self._frame[1] + saved.operand
            tensor = wrap(machine.handle_of_slot(self._frame[place]))
        version = _version_of(tensor._handle)
        if version != saved.version:
            raise RuntimeError(
                "one of the variables needed for gradient computation has been modified by an inplace operation: a "
                f"tensor {list(shape_of(tensor))} ({tensor.dtype}), which {self.name()} needs for its gradient, is at "
                f"version {version}; expected version {saved.version} instead. Write out of place (x = x + 1), or "
                "clone() the tensor first."
            )
        return tensor

    def _describe(self, args: tuple[Any, ...], outputs: tuple[Any, ...], positions: list[int]) -> None:
        """Note what backward has to know of the arguments and results without keeping them alive."""
        self._arguments = [shape_of(arg) if isinstance(arg, Tensor) else None for arg in args]
        self._outputs = [
            (shape_of(output), _dtype_of(output._handle)) if isinstance(output, Tensor) else None for output in outputs
        ]
        self._positions = positions
        self.__dict__.pop("_dirty", None)
        self.__dict__.pop("_not_differentiable", None)

    def _forget(self) -> None:
        if self._saved:
            self._saved = None

    def _cotangents(self) -> list[Tensor | None]:
        """Return the gradient of each output, zeros or None for those that none has reached."""
        assert self._frame is not None
        found: list[Tensor | None] = [None] * len(self._outputs)
        for result, position in enumerate(self._positions):
            handle = machine.cotangent_of(self._frame[2 + result])
            if handle >= 0:
                found[position] = wrap(handle)
        if self._materialize:
            for k, described in enumerate(self._outputs):
                if found[k] is None and described is not None:
                    found[k] = functions["zeros"](described[0], dtype=DTYPES[described[1]])
        return found

    def _gradients(self) -> list[Tensor | None]:
        """Run backward on the cotangents that wait; return the checked gradient of each operand."""
        function = self._function
        rule = function.backward if function.backward is not _base_of(function).backward else function.vjp
        answer = rule(self, *self._cotangents())
        given = list(answer) if isinstance(answer, tuple | list) else [answer]
        while len(given) > len(self._arguments) and given[-1] is None:
            given.pop()
        if len(given) != len(self._arguments):
            raise RuntimeError(
                f"function {self.name()} returned an incorrect number of gradients (expected {len(self._arguments)}, "
                f"got {len(given)})"
            )
        for k, gradient in enumerate(given):
            self._check(k, gradient)
        return [gradient for gradient, shape in zip(given, self._arguments, strict=True) if shape is not None]

    def _check(self, k: int, gradient: Any) -> None:
        shape = self._arguments[k]
        if gradient is None:
            return
        if shape is None:
            raise RuntimeError(
                f"function {self.name()} returned a gradient different than None at position {k + 1}, but the "
                "corresponding forward input was not a Variable"
            )
        if not isinstance(gradient, Tensor):
            raise RuntimeError(f"expected Variable or None (got {type(gradient).__name__})")
        if not _expands(shape, shape_of(gradient)):
            raise RuntimeError(
                f"Function {self.name()} returned an invalid gradient at index {k} - got {list(shape_of(gradient))} "
                f"but expected shape compatible with {list(shape)}"
            )


def _base_of(function: Any) -> Any:
    """Return ``Function`` itself, the last class before object."""
    return function.__mro__[-2]


def _expands(shape: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    """Return whether a tensor of a shape can be broadcast to another shape, so that a gradient can be summed back."""
    if len(shape) > len(wanted):
        return False
    return all(a in (1, b) for a, b in zip(reversed(shape), reversed(wanted), strict=False))


def run_backward(entry: int, retain_graph: int) -> int:
    """Run the backward of an entry's custom Function and give its gradients to the operands."""
    frame = machine.frame_of_entry(entry)
    ctx: FunctionCtx = machine.owners[frame[0]]
    ctx._frame = frame
    try:
        _give_gradients(ctx, frame)
    except BaseException:
        note_failure(ctx.name())
        raise
    finally:
        ctx._frame = None  # its slots are the entry's: not to be used when the entry may be gone
    if not retain_graph:
        ctx._forget()
    return 0


def _give_gradients(ctx: FunctionCtx, frame: tuple[int, ...]) -> None:
    gradients = ctx._gradients()
    operands = frame[2 + frame[1] :]
    for k, (slot, gradient) in enumerate(zip(operands, gradients, strict=True)):
        if gradient is None:
            continue
        check_gradient(ctx.name(), k, gradient)
        status = machine.give(slot, gradient._handle)
        if status < 0:
            raise_status(status)
