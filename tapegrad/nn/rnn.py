"""Recurrent layers: RNN, LSTM and GRU, over padded or packed sequences."""

from __future__ import annotations

import math
import warnings
from typing import Any

from tapegrad.kernels.recurrent import GRU as GRU_MODE
from tapegrad.kernels.recurrent import LSTM as LSTM_MODE
from tapegrad.kernels.recurrent import RELU, TANH
from tapegrad.nn import init
from tapegrad.nn.linear import new_parameter
from tapegrad.nn.module import Module
from tapegrad.nn.recurrent import GATES, State, Steps, Weights, run
from tapegrad.nn.utils.rnn import PackedSequence
from tapegrad.ops.calls import functions, shape_of
from tapegrad.runtime.handle import Tensor

_MODES = {TANH: "RNN_TANH", RELU: "RNN_RELU", LSTM_MODE: "LSTM", GRU_MODE: "GRU"}


class RNNBase(Module):
    """What recurrent layers have in common: parameters, checks, the way through layers and directions.

    Args:
        input_size: the number of features of the input.
        hidden_size: the number of features of the state.
        num_layers: how many layers lie on top of one another.
        bias: whether there are biases.
        batch_first: whether the input is [batch, time, features] instead of [time, batch, features].
        dropout: the probability of dropout between layers, in training.
        bidirectional: whether a second direction runs backwards in time.
        proj_size: the size that the state of an LSTM is projected to; 0 for none.
    """

    _mode = TANH

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        _check_sizes(input_size, hidden_size, num_layers, proj_size)
        _check_options(bias, batch_first, dropout, num_layers)
        self.mode = _MODES[self._mode]
        self.input_size, self.hidden_size, self.num_layers = input_size, hidden_size, num_layers
        self.bias, self.batch_first, self.dropout = bias, batch_first, float(dropout)
        self.bidirectional, self.proj_size = bidirectional, proj_size
        self._names: list[list[str]] = []
        for layer in range(num_layers):
            for suffix in ("", "_reverse")[: 1 + bidirectional]:
                self._names.append(self._add_weights(layer, suffix, device, dtype))
        self.reset_parameters()

    def _add_weights(self, layer: int, suffix: str, device: Any, dtype: Any) -> list[str]:
        """Make the parameters of one direction of a layer; return their names."""
        gates = GATES[self._mode] * self.hidden_size
        state = self.proj_size or self.hidden_size
        width = self.input_size if layer == 0 else state * (1 + self.bidirectional)
        shapes: dict[str, tuple[int, ...]] = {"weight_ih": (gates, width), "weight_hh": (gates, state)}
        if self.bias:
            shapes |= {"bias_ih": (gates,), "bias_hh": (gates,)}
        if self.proj_size:
            shapes |= {"weight_hr": (self.proj_size, self.hidden_size)}
        for name, shape in shapes.items():
            setattr(self, f"{name}_l{layer}{suffix}", new_parameter(shape, device, dtype))
        return [f"{name}_l{layer}{suffix}" for name in shapes]

    def reset_parameters(self) -> None:
        """Draw the parameters anew: uniform within ``1 / sqrt(hidden_size)``."""
        bound = 1.0 / math.sqrt(self.hidden_size)
        for param in self.parameters():
            init.uniform_(param, -bound, bound)

    @property
    def all_weights(self) -> list[list[Tensor]]:
        """The parameters of each direction of each layer."""
        return [[getattr(self, name) for name in names] for names in self._names]

    def flatten_parameters(self) -> None:
        """Do nothing: the parameters need no order in memory."""

    def _weights(self, index: int) -> Weights:
        found = dict(
            zip((name.rpartition("_l")[0] for name in self._names[index]), self.all_weights[index], strict=True)
        )
        return Weights(
            found["weight_ih"], found["weight_hh"], found.get("bias_ih"), found.get("bias_hh"), found.get("weight_hr")
        )

    # ---- what comes in ----

    def _check_input(self, input: Tensor, dims: int) -> None:
        weight = getattr(self, self._names[0][0])
        if input.dtype is not weight.dtype:
            raise ValueError(
                f"RNN input dtype ({input.dtype}) does not match weight dtype ({weight.dtype}). Convert input: "
                f"input.to({weight.dtype}), or convert model: model.to({input.dtype})"
            )
        shape = shape_of(input)
        if len(shape) != dims:
            raise RuntimeError(f"input must have {dims} dimensions, got {len(shape)}")
        if shape[-1] != self.input_size:
            raise RuntimeError(
                f"input.size(-1) must be equal to input_size. Expected {self.input_size}, got {shape[-1]}"
            )

    def _check_state(self, given: Tensor, batch: int, width: int, message: str, input: Tensor) -> None:
        expected = (self.num_layers * (1 + self.bidirectional), batch, width)
        if shape_of(given) != expected:
            raise RuntimeError(message.format(expected, list(shape_of(given))))
        if given.dtype is not input.dtype:
            raise RuntimeError(f"hx must have the input's dtype {input.dtype}, got {given.dtype}")

    def _states(self, hx: Any, input: Tensor, batch: int) -> tuple[Tensor, Tensor | None]:
        """Return the checked first states of all layers and directions; zeros where none are given."""
        rows = self.num_layers * (1 + self.bidirectional)
        width = self.proj_size or self.hidden_size
        if self._mode != LSTM_MODE:
            if hx is None:
                return functions["zeros"]((rows, batch, width), dtype=input.dtype), None
            self._check_state(hx, batch, width, "Expected hidden size {}, got {}", input)
            return hx, None
        if hx is None:
            h = functions["zeros"]((rows, batch, width), dtype=input.dtype)
            return h, functions["zeros"]((rows, batch, self.hidden_size), dtype=input.dtype)
        h, c = hx
        self._check_state(h, batch, width, "Expected hidden[0] size {}, got {}", input)
        self._check_state(c, batch, self.hidden_size, "Expected hidden[1] size {}, got {}", input)
        return h, c

    # ---- the way through ----

    def _layers(self, input: Tensor, steps: Steps, h: Tensor, c: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return the last layer's outputs, and the last states of all layers and directions."""
        last: list[State] = []
        directions = 1 + self.bidirectional
        for layer in range(self.num_layers):
            outputs = []
            for k in range(layer * directions, (layer + 1) * directions):
                state = h[k], None if c is None else c[k]
                y, state = run(self._mode, steps, k % directions == 1, input, self._weights(k), state)
                outputs.append(y)
                last.append(state)
            input = outputs[0] if directions == 1 else functions["cat"](outputs, -1)
            if self.dropout and self.training and layer < self.num_layers - 1:
                input = functions["dropout"](input, self.dropout, True)
        stacked = functions["stack"]([part[0] for part in last])
        return input, stacked, None if c is None else functions["stack"]([part[1] for part in last])

    def forward(self, input: Any, hx: Any = None) -> tuple[Any, Any]:
        """Return the last layer's outputs and the last states.

        Args:
            input: [time, input_size], [time, batch, input_size], [batch, time, input_size] with ``batch_first``, or
                a PackedSequence.
            hx: the first states, [layers * directions, batch, hidden_size], without the batch where the input has
                none; for an LSTM a pair of them. Zeros by default.

        Raises:
            RuntimeError, ValueError: dimensions, sizes or dtypes do not fit.
        """
        if isinstance(input, PackedSequence):
            return self._forward_packed(input, hx)
        dims = len(shape_of(input))
        if dims not in (2, 3):
            kind = type(self).__name__
            raise ValueError(
                f"{kind}: Expected input to be 2D or 3D, got {dims}D {'tensor ' if kind == 'RNN' else ''}instead"
            )
        self._check_dims(hx, dims)
        lone = dims == 2
        if lone:
            input = functions["unsqueeze"](input, 0 if self.batch_first else 1)
            hx = _each(hx, lambda state: functions["unsqueeze"](state, 1))
        self._check_input(input, 3)
        steps = Steps.of_array(input, self.batch_first)
        if steps.steps == 0:
            raise RuntimeError("Expected sequence length to be larger than 0 in RNN")
        output, *states = self._layers(input, steps, *self._states(hx, input, steps.batch))
        last = self._last(states)
        if lone:
            output = functions["squeeze"](output, 0 if self.batch_first else 1)
            last = _each(last, lambda state: functions["squeeze"](state, 1))
        return output, last

    def _check_dims(self, hx: Any, dims: int) -> None:
        if hx is None:
            return
        given = [len(shape_of(state)) for state in (hx if isinstance(hx, tuple | list) else (hx,))]
        if all(d == dims for d in given):
            return
        kind = "batched 3-D" if dims == 3 else "unbatched 2-D"
        if self._mode != LSTM_MODE:
            raise RuntimeError(f"For {kind} input, hx should also be {dims}-D but got {given[0]}-D tensor")
        text = ", ".join(f"{d}-D" for d in given)
        raise RuntimeError(f"For {kind} input, hx and cx should also be {dims}-D but got ({text}) tensors")

    def _last(self, states: list[Tensor | None]) -> Any:
        return tuple(states) if self._mode == LSTM_MODE else states[0]

    def _forward_packed(self, input: PackedSequence, hx: Any) -> tuple[PackedSequence, Any]:
        data, sizes, order, back = input
        self._check_input(data, 2)
        counts = sizes.tolist()
        if not counts or counts[-1] < 1 or sum(counts) != shape_of(data)[0] or sorted(counts, reverse=True) != counts:
            raise RuntimeError(f"batch_sizes must not grow and must add up to {shape_of(data)[0]} rows, got {counts}")
        steps = Steps.of_packed(counts)
        if order is not None:
            hx = _each(hx, lambda state: functions["index_select"](state, 1, order))
        output, *states = self._layers(data, steps, *self._states(hx, data, steps.batch))
        last = self._last(states)
        if back is not None:
            last = _each(last, lambda state: functions["index_select"](state, 1, back))
        return PackedSequence(output, sizes, order, back), last

    def extra_repr(self) -> str:
        """Return the sizes, and the options that are not the usual ones."""
        usual = {"proj_size": 0, "num_layers": 1, "bias": True, "batch_first": False, "dropout": 0.0}
        usual |= {"bidirectional": False}
        shown = [f"{name}={getattr(self, name)}" for name, value in usual.items() if getattr(self, name) != value]
        return ", ".join([str(self.input_size), str(self.hidden_size), *shown])


def _each(states: Any, change: Any) -> Any:
    if states is None:
        return None
    return tuple(change(state) for state in states) if isinstance(states, tuple | list) else change(states)


def _check_sizes(input_size: Any, hidden_size: Any, num_layers: int, proj_size: int) -> None:
    for name, value in (("input_size", input_size), ("hidden_size", hidden_size)):
        if not isinstance(value, int):
            raise TypeError(f"{name} should be of type int, got: {type(value).__name__}")
        if value <= 0:
            raise ValueError(f"{name} must be greater than zero")
    if num_layers <= 0:
        raise ValueError("num_layers must be greater than zero")
    if proj_size < 0:
        raise ValueError("proj_size should be a positive integer or zero to disable projections")
    if proj_size >= hidden_size:
        raise ValueError("proj_size has to be smaller than hidden_size")


def _check_options(bias: Any, batch_first: Any, dropout: Any, num_layers: int) -> None:
    if isinstance(dropout, bool) or not isinstance(dropout, int | float) or not 0 <= dropout <= 1:
        raise ValueError(
            "dropout should be a number in range [0, 1] representing the probability of an element being zeroed"
        )
    if dropout > 0 and num_layers == 1:
        warnings.warn(
            "dropout option adds dropout after all but last recurrent layer, so non-zero dropout expects num_layers "
            f"greater than 1, but got dropout={dropout} and num_layers={num_layers}",
            stacklevel=4,
        )
    for name, value in (("bias", bias), ("batch_first", batch_first)):
        if not isinstance(value, bool):
            raise TypeError(f"{name} should be of type bool, got: {type(value).__name__}")


class RNN(RNNBase):
    """Layers of ``h = tanh(W_ih x + b_ih + W_hh h_before + b_hh)``, or of relu (Elman 1990).

    Args:
        input_size: length of an input.
        hidden_size: length of a state.
        num_layers: how many layers, each taking the outputs of the one below.
        nonlinearity: ``tanh`` or ``relu``.
        bias: whether there are biases.
        batch_first: whether inputs and outputs are [batch, time, ...] instead of [time, batch, ...].
        dropout: the share of a layer's outputs that is zeroed while training, but for the last layer's.
        bidirectional: whether each layer also goes from the last step to the first.
        device: only ``"cpu"``.
        dtype: the parameters' dtype.

    Example:
        >>> import tapegrad as tg
        >>> output, last = tg.nn.RNN(3, 4)(tg.ones(5, 2, 3))
        >>> output.shape, last.shape
        (tapegrad.Size([5, 2, 4]), tapegrad.Size([1, 2, 4]))
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        nonlinearity: str = "tanh",
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        device: Any = None,
        dtype: Any = None,
        **unknown: Any,
    ) -> None:
        _refuse(unknown)
        if nonlinearity not in ("tanh", "relu"):
            raise ValueError(f"Unknown nonlinearity '{nonlinearity}'. Select from 'tanh' or 'relu'.")
        self._set_mode(TANH if nonlinearity == "tanh" else RELU)
        super().__init__(
            input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, device=device, dtype=dtype
        )
        self.nonlinearity = nonlinearity

    def _set_mode(self, mode: int) -> None:
        self.__dict__["_mode"] = mode


class LSTM(RNNBase):
    """Layers of long short-term memory (Hochreiter and Schmidhuber 1997, doi:10.1162/neco.1997.9.8.1735).

    ``i, f, o = sigmoid(...)`` and ``g = tanh(...)`` of ``W_ih x + b_ih + W_hh h + b_hh``, ``c = f c + i g``,
    ``h = o tanh(c)``; with ``proj_size`` a matrix makes h shorter (Sak et al. 2014, arXiv:1402.1128).

    Args:
        input_size: length of an input.
        hidden_size: length of c.
        num_layers: how many layers, each taking the outputs of the one below.
        bias: whether there are biases.
        batch_first: whether inputs and outputs are [batch, time, ...] instead of [time, batch, ...].
        dropout: the share of a layer's outputs that is zeroed while training, but for the last layer's.
        bidirectional: whether each layer also goes from the last step to the first.
        proj_size: length of h, if it is to be less than ``hidden_size``.
        device: only ``"cpu"``.
        dtype: the parameters' dtype.

    Example:
        >>> import tapegrad as tg
        >>> output, (h, c) = tg.nn.LSTM(3, 4, num_layers=2)(tg.ones(5, 2, 3))
        >>> output.shape, h.shape, c.shape
        (tapegrad.Size([5, 2, 4]), tapegrad.Size([2, 2, 4]), tapegrad.Size([2, 2, 4]))
    """

    _mode = LSTM_MODE


class GRU(RNNBase):
    """Layers of gated recurrent units (Cho et al. 2014, arXiv:1406.1078).

    ``r, z = sigmoid(W_ih x + b_ih + W_hh h + b_hh)``, ``n = tanh(W_in x + b_in + r (W_hn h + b_hn))``,
    ``h = (1 - z) n + z h``.

    Args:
        input_size: length of an input.
        hidden_size: length of a state.
        num_layers: how many layers, each taking the outputs of the one below.
        bias: whether there are biases.
        batch_first: whether inputs and outputs are [batch, time, ...] instead of [time, batch, ...].
        dropout: the share of a layer's outputs that is zeroed while training, but for the last layer's.
        bidirectional: whether each layer also goes from the last step to the first.
        device: only ``"cpu"``.
        dtype: the parameters' dtype.

    Example:
        >>> import tapegrad as tg
        >>> output, last = tg.nn.GRU(3, 4, batch_first=True)(tg.ones(2, 5, 3))
        >>> output.shape, last.shape
        (tapegrad.Size([2, 5, 4]), tapegrad.Size([1, 2, 4]))
    """

    _mode = GRU_MODE

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        device: Any = None,
        dtype: Any = None,
        **unknown: Any,
    ) -> None:
        _refuse(unknown)
        super().__init__(
            input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, device=device, dtype=dtype
        )


def _refuse(unknown: dict[str, Any]) -> None:
    if "proj_size" in unknown:
        raise ValueError("proj_size argument is only supported for LSTM, not RNN or GRU")
    if unknown:
        raise TypeError(f"__init__() got an unexpected keyword argument '{next(iter(unknown))}'")
