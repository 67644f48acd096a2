"""The optimisers that are measured, with what a step of each has to read and write."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

# optimiser, options, arrays that a step reads and writes: of 4 bytes an element each
CASES = [
    ("SGD", {}, 3),
    ("SGD", {"momentum": 0.9}, 5),
    ("Adam", {}, 7),
    ("AdamW", {}, 7),
    ("Adam", {"amsgrad": True}, 9),
    ("NAdam", {}, 7),
    ("RAdam", {}, 7),
    ("Adamax", {}, 7),
    ("Adadelta", {}, 7),
    ("Adagrad", {}, 5),
    ("RMSprop", {}, 5),
    ("RMSprop", {"momentum": 0.9, "centered": True}, 9),
    ("Rprop", {}, 7),
    ("ASGD", {}, 5),
    ("Lion", {}, 5),
]
COUNT = 10_000_000
SMALL = ((100, 64), (100,), (100, 100), (100,), (10, 100), (10,))


def step_of(library: Any, name: str, shapes: Any, options: dict[str, Any]) -> Callable[[], Any]:
    params = [library.zeros(*shape, requires_grad=True) for shape in shapes]
    for param in params:
        param.grad = library.ones(*param.shape)
    return getattr(library.optim, name)(params, lr=1e-3, **options).step


def title(name: str, options: dict[str, Any]) -> str:
    return " ".join([name, *[f"{key}={value}" for key, value in options.items()]])
