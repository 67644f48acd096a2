"""Layers beside torch, forward alone and forward with backward, on one thread and on two.

Run: python benchmarks/compare_layers.py [--quick] [--threads 1,2] [family ...]

A family is a file ``layers_<family>.py``. Contestants take turns in each round within one process; medians and their
ratios are printed (ratio: torch's time over ours). float32.
"""

from __future__ import annotations

import argparse
import importlib
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from layer_cases import Case
from peak import fma_peak

import tapegrad as tg

try:
    import torch
except ImportError:
    torch = None

HERE = Path(__file__).parent
SECONDS = {True: 0.05, False: 0.2}  # of work for each contestant in a round, by --quick
ROUNDS = {True: 5, False: 11}


def forward_call(case: Case, library: Any) -> Callable[[], Any]:
    compute, _ = case.build(library, np.random.default_rng(0))

    def forward() -> None:
        with library.no_grad():
            compute()

    return forward


def step_call(case: Case, library: Any) -> Callable[[], Any]:
    compute, leaves = case.build(library, np.random.default_rng(0))
    cotangent = None

    def step() -> None:
        nonlocal cotangent
        for leaf in leaves:
            leaf.grad = None
        output = compute()
        cotangent = library.ones_like(output) if cotangent is None else cotangent
        output.backward(cotangent)

    return step


def medians(calls: list[Callable[[], Any]], quick: bool) -> list[float]:
    """Return the median seconds of each call; in each round every contestant has its turn."""
    turns = []
    for call in calls:
        call()
        start = time.perf_counter()
        call()
        turns.append(max(1, int(SECONDS[quick] / max(1e-7, time.perf_counter() - start) / ROUNDS[quick])))
    times: list[list[float]] = [[] for _ in calls]
    for _ in range(ROUNDS[quick]):
        for call, count, kept in zip(calls, turns, times, strict=True):
            start = time.perf_counter()
            for _ in range(count):
                call()
            kept.append((time.perf_counter() - start) / count)
    return [statistics.median(kept) for kept in times]


def run_case(case: Case, threads: int, peak: float, quick: bool) -> None:
    for what, make, factor in (("forward", forward_call, 1), ("with backward", step_call, 3)):
        found = medians([make(case, library) for library in (tg, torch) if library], quick)
        text = f"{case.name:44s} {threads} {what:14s} {found[0] * 1e6:10.1f} us"
        if len(found) > 1:
            text += f"  torch {found[1] * 1e6:10.1f} us  ratio {found[1] / found[0]:6.2f}  wanted {case.wanted:g}"
        if case.flops:
            text += f"  {factor * case.flops / found[0] / 1e9 / (peak * threads):5.2f} of FMA peak"
        print(text, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds")
    parser.add_argument("--threads", default="1,2", help="thread counts, separated by commas")
    families = sorted(path.stem.removeprefix("layers_") for path in HERE.glob("layers_*.py"))
    parser.add_argument("families", nargs="*", default=families, metavar="family", help=", ".join(families))
    options = parser.parse_args()
    if torch is None:
        print("torch is not installed: only our own times")
    for family in options.families:
        cases = importlib.import_module(f"layers_{family}").CASES
        for threads in map(int, options.threads.split(",")):
            for library in filter(None, (tg, torch)):
                library.set_num_threads(threads)
            for case in cases:
                run_case(case, threads, fma_peak(), options.quick)


if __name__ == "__main__":
    main()
