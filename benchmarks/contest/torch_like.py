"""The workloads in tapegrad, captured and uncaptured, and in torch, eager and compiled: ``step_cases`` in either."""

from __future__ import annotations

import importlib
from typing import Any

from step_cases import CASES, rosenbrock

from contest.libraries import Call
from contest.problems import PROBLEMS

_CASES = {case.key: case for case in CASES}
_TWICE = "RuntimeError: does not support double backward"
_CANNOT = {"scalars": "not run: it unrolls the 1,250 turns", "pinn": _TWICE, "hvp": _TWICE}


def _in_numba(captured: Any, point: Any) -> Call:
    """Return a call through a compiled function, what ``.njit`` is for: called from Python it is 20 times slower."""
    import numba

    captured(point)
    call = numba.njit(lambda x: captured(x))
    return lambda: call(point)


class TorchLike:
    """See ``libraries.Library``."""

    def __init__(self, threads: int, mode: str) -> None:
        self.library = importlib.import_module("torch" if mode.startswith("torch") else "tapegrad")
        self.library.set_num_threads(threads)
        self.mode = mode
        self.reasons = _CANNOT if mode == "torch.compile" else {}
        self._captured: Any = None

    def build(self, key: str) -> Call:
        self._captured = None
        if key == "function":
            return self._function()
        step, arguments = _CASES[key].build(self.library)
        if self.mode in ("captured", "torch.compile"):
            step = self.library.compile(step)
            self._captured = step if self.mode == "captured" else None
        return lambda: step(*arguments)

    def _function(self) -> Call:
        """A function that is called with an array and gives a number and an array, as SciPy's optimisers want it."""
        (point,) = PROBLEMS["function"]().inputs
        if self.mode == "captured":
            return _in_numba(self.library.func.value_and_grad(rosenbrock).njit, point)
        step = _CASES["function"].make(self.library, [])
        step = self.library.compile(step) if self.mode == "torch.compile" else step

        def run() -> Any:
            value, gradient = step(self.library.from_numpy(point))
            return value.item(), gradient.numpy()

        return run

    def settle(self) -> None:
        """Compile the loops of captured steps, which is done after some runs otherwise."""
        for variant in self._captured.variants if self._captured is not None else ():
            if variant.program is not None:
                variant.program.generate()

    def finish(self, result: Any) -> None:
        """Steps are done when they return."""

    def arrays(self, result: Any) -> list[Any]:
        results = result if isinstance(result, tuple | list) else (result,)
        return [value.detach().numpy() if hasattr(value, "detach") else value for value in results]


def open_library(threads: int, mode: str) -> TorchLike:
    return TorchLike(threads, mode)
