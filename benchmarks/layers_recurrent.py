"""Recurrent layers: see layer_cases.py."""

from __future__ import annotations

from typing import Any

from layer_cases import Build, Case


def recurrent(kind: str, hidden: int, steps: int, batch: int) -> Build:
    """Return the builder of a layer whose inputs are as long as its states."""

    def build(library: Any, random: Any) -> tuple[Any, list[Any]]:
        layer = getattr(library.nn, kind)(hidden, hidden)
        for param in layer.parameters():
            values = random.uniform(-1, 1, tuple(param.shape)).astype("float32") / hidden**0.5
            param.data.copy_(library.tensor(values))
        x = library.tensor(random.standard_normal((steps, batch, hidden)).astype("float32"), requires_grad=True)
        return lambda: layer(x)[0], [x, *layer.parameters()]

    return build


def case(kind: str, hidden: int, steps: int, batch: int) -> Case:
    gates = {"RNN": 1, "GRU": 3, "LSTM": 4}[kind]
    flops = 2.0 * steps * batch * 2 * hidden * gates * hidden
    name = f"{kind} {hidden}, {steps} steps, batch {batch}"
    return Case(name, recurrent(kind, hidden, steps, batch), 1.2, flops)


CASES = [
    case("LSTM", 96, 40, 64),
    case("RNN", 64, 100, 8),
    case("GRU", 128, 50, 32),
    case("LSTM", 256, 50, 32),
]
