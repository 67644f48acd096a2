"""Training steps with one busy process beside them: how much slower they become, ours and torch's.

Run: python benchmarks/busy_neighbour.py [--threads 2] [--rounds 7] [name ...]

Each library runs in a process of its own. Every round times each step alone and again beside a process that computes
without end and is bound to no processor; medians are printed, and how many times slower the second is. Aimed at: 2.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import multiprocessing
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from turns import Contestant, typical

NAMES = ("policy MLP", "digits MLP", "wide MLP", "LSTM", "digits CNN", "character transformer")
LIBRARIES = [name for name in ("tapegrad", "torch") if importlib.util.find_spec(name)]
SECONDS = 0.3  # of a turn, alone


def step_call(library: str, threads: int, index: int) -> Callable[[], Any]:
    """Return the step to time, captured where it is ours; this runs in the contestant's process."""
    from step_cases import CASES

    module = importlib.import_module(library)
    module.set_num_threads(threads)
    function, arguments = CASES[index].build(module)
    if library == "tapegrad":
        function = module.compile(function)
    for _ in range(3):
        function(*arguments)
    return lambda: function(*arguments)


def _spin() -> None:
    while True:
        pass


@contextmanager
def busy_process() -> Iterator[None]:
    """Have a process beside this one that computes without end."""
    process = multiprocessing.get_context("spawn").Process(target=_spin, daemon=True)
    process.start()
    time.sleep(0.3)
    try:
        yield
    finally:
        process.terminate()
        process.join()


def run_case(name: str, index: int, threads: int, rounds: int) -> None:
    alone: dict[str, list[float]] = {library: [] for library in LIBRARIES}
    beside: dict[str, list[float]] = {library: [] for library in LIBRARIES}
    contestants = {library: Contestant() for library in LIBRARIES}
    counts = {}
    for library, contestant in contestants.items():
        counts[library] = max(1, int(SECONDS / contestant.make(step_call, library, threads, index)))
    for _ in range(rounds):
        for library, contestant in contestants.items():
            alone[library].append(contestant.run(counts[library]))
        with busy_process():
            for library, contestant in contestants.items():
                count = counts[library]
                shortest = contestant.run(max(1, count // 100))  # torch's steps may be hundreds of times slower
                count = max(1, min(count, int(10 * SECONDS / shortest)))
                beside[library].append(contestant.run(count))
    for contestant in contestants.values():
        contestant.stop()
    for library in LIBRARIES:
        one, two = typical(alone[library]), typical(beside[library])
        print(
            f"{name:46s} {threads} threads  {library:9s} alone {one * 1e6:10.1f} us  beside a busy process "
            f"{two * 1e6:10.1f} us  {two / one:6.2f} times",
            flush=True,
        )


def main() -> None:
    from step_cases import CASES

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("names", nargs="*", default=NAMES, help="parts of the names of the steps to run")
    options = parser.parse_args()
    for index, case in enumerate(CASES):
        if any(name in case.name for name in options.names):
            run_case(case.name, index, options.threads, options.rounds)


if __name__ == "__main__":
    main()
