"""Layers beside torch, forward alone and forward with backward, on one thread and on two.

Run: python benchmarks/compare_layers.py [--quick] [--quietest] [--threads 1,2] [--only text] [family ...]

A family is a file ``layers_<family>.py``. Each library runs in a process of its own; they take turns in each round, and
medians and their ratios are printed (ratio: torch's time over ours), or with --quietest those of the shortest rounds.
float32.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from layer_cases import Case
from peak import fma_peak
from turns import Contestant, take_turns, typical

HERE = Path(__file__).parent
LIBRARIES = [name for name in ("tapegrad", "torch") if importlib.util.find_spec(name)]
SECONDS = {True: 0.15, False: 0.6}  # of work for each contestant in all its rounds, by --quick
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


KINDS = {"forward": (forward_call, 1), "with backward": (step_call, 3)}  # and how much work, in forward passes


def layer_call(library: str, threads: int, family: str, index: int, kind: str) -> Callable[[], Any]:
    """Return the call to time; this runs in the contestant's process."""
    module = importlib.import_module(library)
    module.set_num_threads(threads)
    return KINDS[kind][0](importlib.import_module(f"layers_{family}").CASES[index], module)


def run_case(contestants: list[Contestant], family: str, index: int, threads: int, options: argparse.Namespace) -> None:
    case: Case = importlib.import_module(f"layers_{family}").CASES[index]
    for kind in options.kinds.split(","):
        shortest = [
            contestant.make(layer_call, library, threads, family, index, kind)
            for contestant, library in zip(contestants, LIBRARIES, strict=True)
        ]
        rounds = ROUNDS[options.quick]
        times = take_turns(contestants, shortest, rounds, SECONDS[options.quick])
        found = [typical(each, options.quietest) for each in times]
        text = f"{case.name:44s} {threads} {kind:14s} {found[0] * 1e6:10.1f} us"
        if len(found) > 1:
            text += f"  torch {found[1] * 1e6:10.1f} us  ratio {found[1] / found[0]:6.2f}  wanted {case.wanted:g}"
        if case.flops:
            peak = fma_peak(turns=40_000) * threads
            text += f"  {KINDS[kind][1] * case.flops / found[0] / 1e9 / peak:5.2f} of FMA peak"
        print(text, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds")
    parser.add_argument("--threads", default="1,2", help="thread counts, separated by commas")
    parser.add_argument("--kinds", default=",".join(KINDS), help="what is timed, separated by commas")
    parser.add_argument("--quietest", action="store_true", help="compare the shortest rounds: the machine is busy")
    parser.add_argument("--only", default="", help="run the cases with this in their names")
    families = sorted(path.stem.removeprefix("layers_") for path in HERE.glob("layers_*.py"))
    parser.add_argument("families", nargs="*", default=families, metavar="family", help=", ".join(families))
    options = parser.parse_args()
    if "torch" not in LIBRARIES:
        print("torch is not installed: only our own times")
    contestants = [Contestant() for _ in LIBRARIES]
    for family in options.families:
        cases = importlib.import_module(f"layers_{family}").CASES
        for threads in map(int, options.threads.split(",")):
            for index, case in enumerate(cases):
                if options.only in case.name:
                    run_case(contestants, family, index, threads, options)
    for contestant in contestants:
        contestant.stop()


if __name__ == "__main__":
    main()
