"""Measure the vector maths: worst error in ulp and ns an element, beside torch on one thread.

Run: python benchmarks/measure_vector_math.py [--quick] [name ...]

4096 elements (in cache), one thread, best of alternating rounds, less the call of the same function on no elements;
torch writes into a preallocated out=. sin, cos, tan, fmod and remainder are measured with their repairs. Errors come
from the sweeps of tests/test_vector_math.py: every exponent, both signs, and uniform values.
"""

import argparse
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
import test_vector_math as cases

MAIN = ["exp", "log", "tanh", "sigmoid", "erf", "gelu", "sin", "cos"]
SIZE = 4096
POSITIVE = {"log", "log2", "log10", "log1p", "sqrt", "rsqrt", "lgamma", "digamma", "pow"}
UNIT = {"asin", "acos", "atanh", "erfinv"}


def samples(name: str, dtype: type) -> np.ndarray:
    """Return typical arguments: -1 .. 1, 0.1 .. 5, 1 .. 6 or -5 .. 5."""
    low, high = (-1, 1) if name in UNIT else (0.1, 5) if name in POSITIVE else (1, 6) if name == "acosh" else (-5, 5)
    return np.random.default_rng(0).uniform(low, high, SIZE).astype(dtype)


def torch_call(name: str, x: np.ndarray, z: np.ndarray) -> Callable[[], object]:
    """Return torch's function on these arguments, writing into a preallocated tensor."""
    a, b = torch.from_numpy(x), torch.from_numpy(z)
    out = torch.empty_like(a)
    aten = torch.ops.aten
    if name == "gelu":
        return lambda: aten.gelu.out(a, out=out)
    if name == "gelu_tanh":
        return lambda: aten.gelu.out(a, approximate="tanh", out=out)
    if name in ("silu", "softplus", "log_sigmoid"):
        function = getattr(aten, name).out
        return lambda: function(a, out=out)
    function = getattr(torch, name)
    return (lambda: function(a, b, out=out)) if name in cases.TWO_ARGUMENTS else (lambda: function(a, out=out))


def best(calls: list[Callable[[], object]], rounds: int) -> list[float]:
    """Return the best ns an element of each call, measured in alternating rounds of ten calls."""
    times = [[] for _ in calls]
    for _ in range(rounds):
        for call, kept in zip(calls, times, strict=True):
            start = time.perf_counter_ns()
            for _ in range(10):
                call()
            kept.append((time.perf_counter_ns() - start) / 10 / SIZE)
    return [min(kept) for kept in times]


def worst_error(name: str, dtype: type, quick: bool) -> tuple[float, float]:
    """Return the largest error in ulp and where it is, by the tests' sweeps; nan where they have no oracle."""
    x = cases.arguments(name, dtype, 5 if quick else 60)
    with np.errstate(all="ignore"):
        if name in cases.LONG_ORACLES:
            return cases.worst(name, dtype, x, cases.LONG_ORACLES[name](x.astype(np.longdouble)))
        if dtype == np.float32:
            return cases.worst(name, dtype, x, cases.SCIPY_ORACLES[name](x.astype(np.float64)))
        x, want = cases.multiprecision_case(name, 100 if quick else 1000)
        return cases.worst(name, dtype, x, want)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="the eight main functions, fewer values and rounds")
    parser.add_argument("names", nargs="*")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    names = options.names or (MAIN if options.quick else [*MAIN, *sorted({*cases.vector_math.__all__} - {*MAIN})])
    print(f"{'function':12} {'dtype':8} {'ulp':>7} {'at':>14} {'ns':>7} {'torch':>7} {'ratio':>6}")
    for name in names:
        for dtype in cases.TYPES:
            x, z = samples(name, dtype), samples(name, dtype)[::-1].copy()
            ours, theirs, our_call, their_call = best(
                [
                    call
                    for size in (SIZE, 0)
                    for call in (
                        cases.bound_call(name, dtype, x[:size], z[:size]),
                        torch_call(name, x[:size].copy(), z[:size].copy()),
                    )
                ],
                15 if options.quick else 60,
            )
            ours, theirs = ours - our_call, theirs - their_call
            error, at = (np.nan, np.nan) if name in cases.TWO_ARGUMENTS else worst_error(name, dtype, options.quick)
            label = np.dtype(dtype).name
            print(
                f"{name:12} {label:8} {error:7.2f} {at:14.6g} {ours:7.2f} {theirs:7.2f} {theirs / ours:6.1f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
