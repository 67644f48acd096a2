"""A contestant's process: reads commands as lines of JSON, one at a time, and answers each with a line.

It is blocked on its input while others have their turns: threads of one library that spin for work after their turn
would slow down whoever comes next within one process.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np

from contest.libraries import CONTESTANTS, Call, Library

CHECKED_STEPS = 5
LONGEST = 1 << 20  # steps of a turn


def fingerprint(array: Any) -> tuple[float, float]:
    """Return a number that depends on all elements and their places, and the size that its errors are measured by."""
    values = np.asarray(array, np.float64).ravel()
    if values.size == 1:
        return float(values[0]), abs(float(values[0]))
    return float(values @ np.cos(np.arange(values.size))), float(np.linalg.norm(values))


class Worker:
    """What a process can be told to do; each method takes and returns plain values."""

    def __init__(self, contestant: str, threads: int) -> None:
        self.library: Library = CONTESTANTS[contestant].open(threads)
        self.threads = threads
        self.step: Call = lambda: None

    def build(self, key: str) -> dict[str, Any]:
        """Make a workload and run its first steps, whose results are returned as fingerprints."""
        if key in self.library.reasons:
            return {"absent": self.library.reasons[key]}
        self.step = lambda: None  # the last workload's memory can go
        start = time.perf_counter()
        self.step = self.library.build(key)
        found = []
        for _ in range(CHECKED_STEPS):
            found.append([fingerprint(array) for array in self.library.arrays(self.step())])
        self.library.settle()
        return {"found": found, "seconds": time.perf_counter() - start}

    def turn(self, seconds: float, steps: int) -> dict[str, float]:
        """Run steps, as many as given or else as fill the seconds; return the time of one."""
        self.library.finish(self.step())  # wakes the threads, fills the caches
        if not steps:
            steps = self._steps_in(seconds)
        step = self.step
        start = time.perf_counter()
        for _ in range(steps):
            result = step()
        self.library.finish(result)
        return {"seconds": (time.perf_counter() - start) / steps, "steps": steps}

    def _steps_in(self, seconds: float) -> int:
        steps = 1
        while steps < LONGEST:
            start = time.perf_counter()
            for _ in range(steps):
                result = self.step()
            self.library.finish(result)
            spent = time.perf_counter() - start
            if spent > seconds / 4:
                return max(1, round(steps * seconds / spent))
            steps *= 4
        return steps

    def first(self, key: str, begun: float) -> dict[str, Any]:
        """Return when, since ``begun``, the first and the sixth step were done, and the process's peak of memory."""
        step = self.library.build(key)
        self.library.finish(step())
        first = time.time() - begun
        for _ in range(CHECKED_STEPS):
            self.library.finish(step())
        return {"first": first, "sixth": time.time() - begun, "peak": peak_memory()}

    def length(self, operations: int) -> dict[str, float]:
        """Return the nanoseconds an instruction of a long scalar expression, in CasADi's process only."""
        return {"ns": self.library.nanoseconds(operations)}  # type: ignore[attr-defined]

    def measure(self, name: str, **options: Any) -> Any:
        """Return what a function of ``figures.py`` finds; in our own process only."""
        from contest import figures

        return getattr(figures, name)(self, **options)


def peak_memory() -> int:
    """Return the most memory, in bytes, that the process has had resident."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _answer(worker: Worker, line: str) -> dict[str, Any]:
    request = json.loads(line)
    try:
        method: Callable[..., Any] = getattr(worker, request.pop("do"))
        return {"answer": method(**request)}
    except Exception as error:
        traceback.print_exc()
        text = str(error).strip().splitlines() or [""]
        return {"error": f"{type(error).__name__}: {text[0][:200]}"}


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is not an answer
    try:
        worker = Worker(sys.argv[1], int(sys.argv[2]))
    except Exception as error:
        traceback.print_exc()
        print(json.dumps({"error": f"{type(error).__name__}: {error}"[:300]}), file=answers, flush=True)
        return
    print(json.dumps({"answer": "ready"}), file=answers, flush=True)
    for line in sys.stdin:
        print(json.dumps(_answer(worker, line)), file=answers, flush=True)


if __name__ == "__main__":
    main()
