"""One step of a recurrent layer as a module: RNNCell, LSTMCell, GRUCell."""

from __future__ import annotations

import math
from typing import Any

from tapegrad.kernels.recurrent import GRU, LSTM, RELU, TANH
from tapegrad.nn import init
from tapegrad.nn.linear import new_parameter
from tapegrad.nn.module import Module
from tapegrad.nn.recurrent import GATES, Weights, cell
from tapegrad.ops.calls import functions, shape_of
from tapegrad.runtime.handle import Tensor


class RNNCellBase(Module):
    """What cells have in common: parameters and checks.

    Args:
        input_size: the number of features of the input.
        hidden_size: the number of features of the state.
    """

    _mode = TANH

    def __init__(
        self, input_size: int, hidden_size: int, bias: bool = True, device: Any = None, dtype: Any = None
    ) -> None:
        super().__init__()
        self.input_size, self.hidden_size, self.bias = input_size, hidden_size, bias
        rows = GATES[self._mode] * hidden_size
        self.weight_ih = new_parameter((rows, input_size), device, dtype)
        self.weight_hh = new_parameter((rows, hidden_size), device, dtype)
        self.bias_ih = new_parameter((rows,), device, dtype) if bias else None
        self.bias_hh = new_parameter((rows,), device, dtype) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the parameters anew: uniform within ``1 / sqrt(hidden_size)``."""
        bound = 1.0 / math.sqrt(self.hidden_size) if self.hidden_size > 0 else 0
        for param in self.parameters():
            init.uniform_(param, -bound, bound)

    def extra_repr(self) -> str:
        """Return the sizes, and the options that are not the usual ones."""
        return f"{self.input_size}, {self.hidden_size}" + ("" if self.bias else f", bias={self.bias}")

    def _check(self, tensor: Tensor, name: str) -> None:
        if len(shape_of(tensor)) not in (1, 2):
            raise ValueError(
                f"{type(self).__name__}: Expected {name} to be 1D or 2D, got {len(shape_of(tensor))}D instead"
            )

    def _check_sizes(self, input: Tensor, states: list[Tensor]) -> None:
        rows, width = shape_of(input)
        if width != self.input_size:
            raise RuntimeError(f"input has inconsistent input_size: got {width} expected {self.input_size}")
        for k, state in enumerate(states):
            batch, length = shape_of(state)
            if batch != rows:
                raise RuntimeError(f"Input batch size {rows} doesn't match hidden{k} batch size {batch}")
            if length != self.hidden_size:
                raise RuntimeError(f"hidden{k} has inconsistent hidden_size: got {length}, expected {self.hidden_size}")

    def _step(self, input: Tensor, states: list[Tensor] | None) -> list[Tensor]:
        """Return the next states of a batch or of one sequence; absent ones begin as zeros."""
        lone = len(shape_of(input)) == 1
        if lone:
            input = functions["unsqueeze"](input, 0)
        if states is None:
            zeros = functions["zeros"]((shape_of(input)[0], self.hidden_size), dtype=input.dtype)
            states = [zeros, zeros] if self._mode == LSTM else [zeros]
        else:
            states = [functions["unsqueeze"](state, 0) if len(shape_of(state)) == 1 else state for state in states]
        self._check_sizes(input, states)
        weights = Weights(self.weight_ih, self.weight_hh, self.bias_ih, self.bias_hh)
        gates = functions["linear"](input, self.weight_ih, self.bias_ih)
        found = cell(self._mode, gates, (states[0], states[1] if len(states) > 1 else None), weights)
        return [functions["squeeze"](state, 0) if lone else state for state in found if state is not None]

    def _single(self, input: Tensor, hx: Tensor | None) -> Tensor:
        self._check(input, "input")
        if hx is not None:
            self._check(hx, "hidden")
        return self._step(input, None if hx is None else [hx])[0]


class RNNCell(RNNCellBase):
    """One step of RNN.

    Args:
        input_size: length of an input.
        hidden_size: length of a state.
        bias: whether there are biases.
        nonlinearity: ``tanh`` or ``relu``.
        device: only ``"cpu"``.
        dtype: the parameters' dtype.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        nonlinearity: str = "tanh",
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(input_size, hidden_size, bias, device, dtype)
        self.nonlinearity = nonlinearity

    def forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor:
        """Return the next state for inputs [batch, input_size] or [input_size]."""
        if self.nonlinearity not in ("tanh", "relu"):
            raise RuntimeError(f"Unknown nonlinearity: {self.nonlinearity}")
        self.__dict__["_mode"] = TANH if self.nonlinearity == "tanh" else RELU
        return self._single(input, hx)

    def extra_repr(self) -> str:
        """Return the sizes, and the options that are not the usual ones."""
        return super().extra_repr() + ("" if self.nonlinearity == "tanh" else f", nonlinearity={self.nonlinearity}")


class LSTMCell(RNNCellBase):
    """One step of LSTM.

    Args:
        input_size: length of an input.
        hidden_size: length of h and c.
        bias: whether there are biases.
        device: only ``"cpu"``.
        dtype: the parameters' dtype.
    """

    _mode = LSTM

    def forward(self, input: Tensor, hx: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, Tensor]:
        """Return the next (h, c) for inputs [batch, input_size] or [input_size]."""
        self._check(input, "input")
        for k, state in enumerate(hx or ()):
            self._check(state, f"hx[{k}]")
        h, c = self._step(input, None if hx is None else list(hx))
        return h, c


class GRUCell(RNNCellBase):
    """One step of GRU.

    Args:
        input_size: length of an input.
        hidden_size: length of a state.
        bias: whether there are biases.
        device: only ``"cpu"``.
        dtype: the parameters' dtype.
    """

    _mode = GRU

    def forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor:
        """Return the next state for inputs [batch, input_size] or [input_size]."""
        return self._single(input, hx)
