"""One direction of one recurrent layer: the fused time loop with its backward, and the same as a chain of plain ops.

The fused loop is a custom Function. Its backward is fused too, unless the gradient itself is to be differentiated
(``create_graph``): then it differentiates the chain of plain ops, which has all derivatives.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tapegrad.autograd.engine import grad
from tapegrad.autograd.function import Function
from tapegrad.autograd.modes import is_grad_enabled
from tapegrad.kernels.recurrent import GRU, LSTM, RELU, TANH
from tapegrad.ops.calls import call, functions, shape_of
from tapegrad.ops.recurrent import LOOPS, LOOPS_BACK, PACK
from tapegrad.ops.registry import Op, registry
from tapegrad.runtime.errors import raise_status
from tapegrad.runtime.handle import Tensor
from tapegrad.runtime.machine import machine
from tapegrad.tensor.construct import tensor

GATES = {TANH: 1, RELU: 1, LSTM: 4, GRU: 3}

_LINEAR, _MM, _MM_TN, _CLONE = (registry[name] for name in ("linear", "mm", "mm_tn", "clone"))
_DONE = -1  # what emit returns for an op without a result
_WIDEST = 4096  # numbers of a row for which a task's scratch memory suffices
_ROWS_TOGETHER = 8  # of the batch: the register tile's

State = tuple[Tensor, Tensor | None]  # h, and an LSTM's c


@dataclass(frozen=True)
class Steps:
    """How the rows of a layer's input lie: which belong to which step of which sequence.

    Attributes:
        steps: how many there are.
        batch: how many sequences.
        time_stride: rows from a step to the next of the same sequence.
        batch_stride: rows from a sequence to the next at the same step.
        sizes: of packed sequences, how many are still there at each step.
        offsets: of packed sequences, the first row of each step, and their number.
    """

    steps: int
    batch: int
    time_stride: int
    batch_stride: int
    sizes: tuple[int, ...] | None = None
    offsets: Tensor | None = None

    @classmethod
    def of_array(cls, input: Tensor, batch_first: bool) -> Steps:
        """Return the steps of an array [time, batch, ...], or [batch, time, ...]."""
        first, second = shape_of(input)[:2]
        return cls(second, first, 1, second) if batch_first else cls(first, second, second, 1)

    @classmethod
    def of_packed(cls, sizes: list[int]) -> Steps:
        """Return the steps of packed sequences; their sizes do not grow, and none is below 1."""
        starts = [0]
        for size in sizes:
            starts.append(starts[-1] + size)
        return cls(len(sizes), sizes[0], 0, 1, tuple(sizes), tensor(starts))

    def rows_of(self, data: Tensor, t: int) -> Tensor:
        """Return the rows of one step."""
        if self.sizes is not None:
            return functions["narrow"](data, 0, sum(self.sizes[:t]), self.sizes[t])
        return functions["select"](data, 0 if self.batch_stride == 1 else 1, t)

    def gather(self, parts: list[Tensor]) -> Tensor:
        """Return the rows of all steps in the order of the input."""
        if self.sizes is not None:
            return functions["cat"](parts, 0)
        return functions["stack"](parts, 0 if self.batch_stride == 1 else 1)


@dataclass(frozen=True)
class Weights:
    """The parameters of one direction of a layer; the biases may be absent, and so may LSTM's projection."""

    w_ih: Tensor
    w_hh: Tensor
    b_ih: Tensor | None
    b_hh: Tensor | None
    w_hr: Tensor | None = None


# ---- plain ops ----


def cell(mode: int, gates: Tensor, state: State, weights: Weights) -> State:
    """Return the next state, given the inputs' share of the gates (with the input's bias)."""
    h, c = state
    product = functions["linear"](h, weights.w_hh, weights.b_hh)
    if mode in (TANH, RELU):
        return functions["tanh" if mode == TANH else "relu"](gates + product), None
    if mode == GRU:
        r, z, n = functions["chunk"](gates, 3, -1)
        hr, hz, hn = functions["chunk"](product, 3, -1)
        r, z = functions["sigmoid"](r + hr), functions["sigmoid"](z + hz)
        n = functions["tanh"](n + r * hn)
        return (h - n) * z + n, None
    i, f, g, o = functions["chunk"](gates + product, 4, -1)
    c = functions["sigmoid"](f) * c + functions["sigmoid"](i) * functions["tanh"](g)
    h = functions["sigmoid"](o) * functions["tanh"](c)
    return h if weights.w_hr is None else functions["linear"](h, weights.w_hr), c


def run_plain(
    mode: int, steps: Steps, reverse: bool, input: Tensor, weights: Weights, state: State
) -> tuple[Tensor, State]:
    """Return all outputs and the last state, by ops that have all derivatives."""
    gates = functions["linear"](input, weights.w_ih, weights.b_ih)
    outputs: list[Any] = [None] * steps.steps
    for t in reversed(range(steps.steps)) if reverse else range(steps.steps):
        count = steps.batch if steps.sizes is None else steps.sizes[t]
        rest = [None if part is None else functions["narrow"](part, 0, count, steps.batch - count) for part in state]
        now = tuple(None if part is None else functions["narrow"](part, 0, 0, count) for part in state)
        h, c = cell(mode, steps.rows_of(gates, t), now, weights)  # type: ignore[arg-type]
        outputs[t] = h
        if count < steps.batch:
            h = functions["cat"]([h, rest[0]], 0)
            c = None if c is None else functions["cat"]([c, rest[1]], 0)
        state = h, c
    return steps.gather(outputs), state


# ---- the fused loop ----


def _emit(op: Op, operands: list[Tensor | None], attributes: tuple[int, ...]) -> None:
    handles = [None if operand is None else operand._handle for operand in operands]
    status = machine.emit(op.code, len(handles), *handles, *attributes)
    if status != _DONE:
        raise_status(status)


def _pack(matrix: Tensor, transposed: bool, other: Tensor | None = None) -> Tensor:
    return call(PACK, matrix, other, attributes=(int(transposed),))


def _rows(like: Tensor, width: int) -> Tensor:
    return functions["empty"]((*shape_of(like)[:-1], width), dtype=like.dtype)


def _contiguous(tensor: Tensor) -> Tensor:
    return tensor if tensor.is_contiguous() else call(_CLONE, tensor)


def _start(like: Tensor, given: Tensor | None) -> Tensor:
    """Return a new contiguous tensor with the numbers that were given, or zeros."""
    if given is None:
        return functions["zeros"](shape_of(like), dtype=like.dtype)
    return call(_CLONE, given) if given.is_contiguous() else given.contiguous()


def _attributes(steps: Steps, reverse: bool, width: int, input_width: int = 0) -> tuple[int, ...]:
    strides = (steps.time_stride, steps.batch_stride)
    return steps.steps, steps.batch, *strides, int(reverse), width, width, input_width


def _forward(
    mode: int, steps: Steps, reverse: bool, input: Tensor, weights: Weights, state: State, save: bool
) -> tuple[Tensor, State, tuple[Tensor | None, ...]]:
    """Return outputs, last state, and what the backward reads: gates, h before each step, c before each step.

    The inputs' share of the gates is computed at once, or, where each task has rows enough for a good product, step by
    step together with that of the states.
    """
    inputs, width = shape_of(input)[-1], shape_of(weights.w_hh)[1]
    bias = weights.b_ih
    if mode != GRU and bias is not None:
        bias = bias + weights.b_hh
    together = mode != GRU and steps.batch >= _ROWS_TOGETHER and inputs + width <= _WIDEST
    gates: Tensor | None = None
    if not together:
        gates = call(_LINEAR, input, weights.w_ih, bias) if bias is not None else call(_LINEAR, input, weights.w_ih)
    elif save:
        gates = _rows(input, GATES[mode] * width)
    packed = _pack(weights.w_ih, True, weights.w_hh) if together else _pack(weights.w_hh, True)
    if mode == GRU:
        bias = weights.b_hh
    elif not together:
        bias = None
    h = _start(state[0], state[0])
    c = None if state[1] is None else _start(state[1], state[1])
    y = _rows(input, width)
    before = _rows(input, width) if save else None
    memory = _rows(input, width) if save and mode in (LSTM, GRU) else None
    operands = [h, c, gates, packed, y, before, memory, bias, steps.offsets, input if together else None]
    _emit(LOOPS[mode], operands, _attributes(steps, reverse, width, inputs))
    return y, (h, c), (gates, before, memory)


class _Loop(Function):
    """The fused loop; arguments: mode, steps, reverse, input, w_ih, w_hh, b_ih, b_hh, h, c."""

    @staticmethod
    def forward(ctx: Any, mode: int, steps: Steps, reverse: bool, *tensors: Any) -> Any:
        input, *weights, h, c = tensors
        y, (h_last, c_last), saved = _forward(mode, steps, reverse, input, Weights(*weights), (h, c), save=True)
        ctx.set_materialize_grads(False)
        ctx.options = mode, steps, reverse
        ctx.save_for_backward(*tensors, *saved)
        return (y, h_last) if c_last is None else (y, h_last, c_last)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        if is_grad_enabled():
            return None, None, None, *_differentiable_gradients(ctx, gradients)
        return None, None, None, *_fused_gradients(ctx, gradients)


def _differentiable_gradients(ctx: Any, gradients: tuple[Any, ...]) -> list[Any]:
    tensors = ctx.saved_tensors[:7]
    input, *weights, h, c = tensors
    mode, steps, reverse = ctx.options
    y, state = run_plain(mode, steps, reverse, input, Weights(*weights), (h, c))
    results = [(r, g) for r, g in zip((y, *state), gradients, strict=False) if g is not None]
    wanted = [t for t, needed in zip(tensors, ctx.needs_input_grad[3:], strict=True) if needed]
    found = iter(grad([r for r, _ in results], wanted, [g for _, g in results], create_graph=True, allow_unused=True))
    return [next(found) if needed else None for needed in ctx.needs_input_grad[3:]]


def _fused_gradients(ctx: Any, gradients: tuple[Any, ...]) -> list[Any]:
    mode, steps, reverse = ctx.options
    input, w_ih, w_hh, _, _, h, c, gates, before, memory = ctx.saved_tensors
    gy, gh, gc = (*gradients, None)[:3]
    gy = None if gy is None else _contiguous(gy)
    gh = _start(h, gh)
    gc = None if c is None else _start(c, gc)
    slopes = functions["empty_like"](gates)
    slopes_h = functions["empty_like"](gates) if mode == GRU else slopes
    apart = slopes_h if mode == GRU else None
    operands = [gh, gc, gates, _pack(w_hh, False), gy, before, memory, None, steps.offsets, None, slopes, apart]
    _emit(LOOPS_BACK[mode], operands, _attributes(steps, reverse, shape_of(w_hh)[1]))
    needs = ctx.needs_input_grad[3:]
    lead = tuple(range(slopes.ndim - 1))
    sums = functions["sum"](slopes, lead) if needs[3] or (needs[4] and mode != GRU) else None
    sums_h = functions["sum"](slopes_h, lead) if needs[4] and mode == GRU else sums
    return [
        call(_MM, slopes, w_ih) if needs[0] else None,
        call(_MM_TN, slopes, input) if needs[1] else None,
        call(_MM_TN, slopes_h, before) if needs[2] else None,
        sums if needs[3] else None,
        sums_h if needs[4] else None,
        gh if needs[5] else None,
        gc if needs[6] else None,
    ]


def _check_weights(mode: int, input: Tensor, weights: Weights) -> None:
    """Raise RuntimeError where shapes or dtypes of parameters do not fit: the loops trust them."""
    state = shape_of(weights.w_hh)[-1] if weights.w_hr is None else shape_of(weights.w_hr)[-1]
    rows, inputs, dtype = GATES[mode] * state, shape_of(input)[-1], input.dtype
    width = state if weights.w_hr is None else shape_of(weights.w_hr)[0]
    expected = {"w_ih": (rows, inputs), "w_hh": (rows, width), "b_ih": (rows,), "b_hh": (rows,)}
    for name, shape in expected.items():
        given = getattr(weights, name)
        if given is not None and (shape_of(given) != shape or given.dtype is not dtype):
            full = {"w": "weight", "b": "bias"}[name[0]] + name[1:]
            raise RuntimeError(
                f"{full} of a recurrent layer: expected shape {list(shape)} and {dtype}, got {list(shape_of(given))} "
                f"and {given.dtype}"
            )


def run(mode: int, steps: Steps, reverse: bool, input: Tensor, weights: Weights, state: State) -> tuple[Tensor, State]:
    """Return the outputs of all steps, in the input's order of rows, and the last state.

    Args:
        mode: which layer.
        steps: how the input's rows lie.
        reverse: whether the last step is taken first.
        input: [..., input_size].
        weights: the layer's parameters.
        state: h [batch, hidden_size], and c for an LSTM, before the first step.
    """
    _check_weights(mode, input, weights)
    if weights.w_hr is not None or shape_of(weights.w_hh)[1] > _WIDEST or steps.steps == 0:
        return run_plain(mode, steps, reverse, input, weights, state)
    input = input.contiguous()
    tensors = (input, weights.w_ih, weights.w_hh, weights.b_ih, weights.b_hh, *state)
    if is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors):
        y, h, *c = _Loop.apply(mode, steps, reverse, *tensors)
        return y, (h, c[0] if c else None)
    y, last, _ = _forward(mode, steps, reverse, input, weights, state, save=False)
    return y, last
