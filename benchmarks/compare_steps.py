"""Whole training steps, captured and uncaptured, beside torch, on one thread and on two.

Run: python benchmarks/compare_steps.py [--quick] [--threads 1,2] [name ...]

The contestants start from the same weights; their losses after some steps are compared before they are timed. They take
turns in each round within one process; medians and their ratios are printed (ratio: torch's time over the captured
step's). float32. What matches a name, or a part of one, is run; by default everything.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from step_cases import CASES, StepCase

import tapegrad as tg

try:
    import torch
except ImportError:
    torch = None

SECONDS = {True: 0.1, False: 0.5}  # of work for each contestant in all its rounds, by --quick
ROUNDS = {True: 7, False: 21}
CHECKED_STEPS = 5


def numbers(result: Any) -> list[float]:
    """Return the sums of what a step returned."""
    return [float(t.detach().sum()) for t in (result if isinstance(result, tuple) else (result,))]


def contestants(case: StepCase) -> dict[str, Callable[[], Any]]:
    """Return the steps to time; each has run some steps, whose results were the same."""
    steps: dict[str, Callable[[], Any]] = {}
    found: dict[str, list[float]] = {}
    for name, library in (("captured", tg), ("eager", tg), ("torch", torch)):
        if library is None:
            continue
        function, arguments = case.build(library)
        function = tg.compile(function) if name == "captured" else function
        steps[name] = lambda function=function, arguments=arguments: function(*arguments)
        found[name] = [value for _ in range(CHECKED_STEPS) for value in numbers(steps[name]())]
    for name, values in found.items():
        np.testing.assert_allclose(
            values, found["captured"], rtol=case.tolerance, atol=1e-3, err_msg=f"{case.name}: {name}"
        )
    return steps


def _seconds(step: Callable[[], Any]) -> float:
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


def medians(steps: dict[str, Callable[[], Any]], quick: bool) -> dict[str, float]:
    """Return the median seconds of each; in each round every contestant has its turn."""
    turns, times = {}, {name: [] for name in steps}
    for name, step in steps.items():
        shortest = min(_seconds(step) for _ in range(5))
        turns[name] = max(1, int(SECONDS[quick] / ROUNDS[quick] / max(shortest, 1e-7)))
    for _ in range(ROUNDS[quick]):
        for name, step in steps.items():
            start = time.perf_counter()
            for _ in range(turns[name]):
                step()
            times[name].append((time.perf_counter() - start) / turns[name])
    return {name: statistics.median(kept) for name, kept in times.items()}


def run_case(case: StepCase, threads: int, quick: bool) -> None:
    for library in filter(None, (tg, torch)):
        library.set_num_threads(threads)
    found = medians(contestants(case), quick)
    text = (
        f"{case.name:50s} {threads}  captured {found['captured'] * 1e6:9.1f} us  eager {found['eager'] * 1e6:9.1f} us"
    )
    if "torch" in found:
        ratio = found["torch"] / found["captured"]
        text += f"  torch {found['torch'] * 1e6:9.1f} us  ratio {ratio:6.2f}  wanted {case.wanted:g}"
    print(text, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds")
    parser.add_argument("--threads", default="1,2", help="thread counts, separated by commas")
    parser.add_argument("names", nargs="*", help="parts of the names of the steps to run")
    options = parser.parse_args()
    if torch is None:
        print("torch is not installed: only our own times")
    for case in CASES:
        if not options.names or any(name in case.name for name in options.names):
            for threads in map(int, options.threads.split(",")):
                run_case(case, threads, options.quick)


if __name__ == "__main__":
    main()
