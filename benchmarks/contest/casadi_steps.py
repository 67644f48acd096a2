"""The workloads in CasADi: expressions of float64 scalars, evaluated by its virtual machine."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import casadi as ca
import numpy as np

from contest.libraries import Call
from contest.problems import PROBLEMS, SCALAR_TURNS

_FLOAT64 = "CasADi knows float64 only, and no batches of data"


def _bound(f: Any, inputs: list[Any]) -> Call:
    """Return a call that reads and writes arrays where they lie, without CasADi's own matrices."""
    buffer, trigger = f.buffer()
    arrays = [np.asfortranarray(x, np.float64) for x in inputs]
    results = [np.zeros(f.nnz_out(k)) for k in range(f.n_out())]  # by columns
    for k, array in enumerate(arrays):
        buffer.set_arg(k, memoryview(array))
    for k, array in enumerate(results):
        buffer.set_res(k, memoryview(array))

    def call() -> Any:
        trigger()
        return [array.copy() for array in results]

    call.keep = buffer, arrays  # type: ignore[attr-defined]
    return call


def function() -> Call:
    x = ca.SX.sym("x", 50)
    value = ca.sumsqr(10 * (x[1:] - x[:-1] ** 2)) + ca.sumsqr(1 - x[:-1])
    f = ca.Function("f", [x], [value, ca.densify(ca.gradient(value, x))])
    return _bound(f, PROBLEMS["function"]().inputs)


def _chain(turns: int) -> Any:
    x = ca.SX.sym("x")
    y = x
    for k in range(turns):
        y = ca.sin(y * 0.999 + x) * (1.0 + 1e-3 * (k % 1000))
    return ca.Function("f", [x], [y, ca.gradient(y, x)])


def scalars() -> Call:
    return _bound(_chain(SCALAR_TURNS), [np.array([0.5])])


def _mlp(weights: list[Any], x: Any) -> Any:
    for k in range(0, len(weights), 2):
        x = ca.mtimes(weights[k], x) + ca.vec(weights[k + 1])
        x = ca.tanh(x) if k + 2 < len(weights) else x
    return x


def jacobian() -> Call:
    problem = PROBLEMS["jacobian"]()
    weights = [ca.DM(w.astype(np.float64)) for w in problem.weights]
    x = ca.SX.sym("x", 24)
    y = _mlp(weights, x)
    return _bound(ca.Function("f", [x], [ca.densify(ca.jacobian(y, x)).T]), problem.inputs)


class Casadi:
    """See ``libraries.Library``."""

    reasons: Mapping[str, str] = {key: _FLOAT64 for key in PROBLEMS if key not in ("function", "scalars", "jacobian")}

    def build(self, key: str) -> Call:
        build: dict[str, Callable[[], Call]] = {"function": function, "scalars": scalars, "jacobian": jacobian}
        return build[key]()

    def settle(self) -> None:
        """Steps are compiled when they are first run."""

    def finish(self, result: Any) -> None:
        """Steps are done when they return."""

    def arrays(self, result: Any) -> list[Any]:
        return list(result)

    @staticmethod
    def nanoseconds(operations: int) -> float:
        """Return the time of an instruction of so many scalar operations with their gradient."""
        f = _chain(operations // 4)
        call = _bound(f, [np.array([0.5])])
        times = []
        for _ in range(7):
            start = time.perf_counter()
            call()
            times.append(time.perf_counter() - start)
        return 1e9 * sorted(times)[3] / f.n_instructions()


def open_library(threads: int, mode: str) -> Casadi:
    return Casadi()
