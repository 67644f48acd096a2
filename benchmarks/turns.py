"""Contestants of a benchmark, each in a process of its own, that take turns: while one works, the others sleep.

Within one process two libraries disturb each other: threads of one that wait in a loop for more work hold processors
that the other's want (torch's wait so for milliseconds after each operation). Here each has a process, is asked by its
pipe, and the next is asked some time after the answer. How a library's threads wait is left as the library has it.
"""

from __future__ import annotations

import multiprocessing
import multiprocessing.spawn
import os
import statistics
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from typing import Any

_REST = 0.02  # seconds after a turn, in which the threads that took part fall asleep
Make = Callable[..., Callable[[], Any]]


def _seconds(call: Callable[[], Any], count: int) -> float:
    start = time.perf_counter()
    for _ in range(count):
        call()
    return (time.perf_counter() - start) / count


def _serve(pipe: Connection) -> None:
    """Make calls and time them as the pipe says; answer with a number, or with the error as text."""
    calls: dict[int, Callable[[], Any]] = {}
    while True:
        try:
            what, key, *rest = pipe.recv()
        except EOFError:
            return
        try:
            if what == "make":
                make, arguments = rest
                calls = {key: make(*arguments)}  # what was made before is given up
                calls[key]()
                pipe.send(min(_seconds(calls[key], 1) for _ in range(3)))
            else:
                pipe.send(_seconds(calls[key], rest[0]))
        except Exception as error:
            pipe.send(f"{type(error).__name__}: {error}")


class Contestant:
    """A process that makes calls and times them when it is asked to.

    Args:
        environment: variables that the process has besides this one's.
        python: another interpreter that it runs under.
    """

    def __init__(self, environment: dict[str, str] | None = None, python: str | None = None) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, other = context.Pipe()
        self._process = context.Process(target=_serve, args=(other,), daemon=True)
        before, executable = dict(os.environ), multiprocessing.spawn.get_executable()
        os.environ.update(environment or {})
        if python:
            context.set_executable(python)
        try:
            self._process.start()
        finally:
            os.environ.clear()
            os.environ.update(before)
            context.set_executable(executable)
        other.close()

    def make(self, make: Make, *arguments: Any) -> float:
        """Have ``make(*arguments)`` return the call to time; return its shortest seconds of three."""
        return self._ask("make", 0, make, arguments)

    def run(self, count: int) -> float:
        """Return the mean seconds of ``count`` calls."""
        return self._ask("run", 0, count)

    def stop(self) -> None:
        """End the process."""
        self._pipe.close()
        self._process.join(5)
        if self._process.is_alive():
            self._process.terminate()

    def _ask(self, *question: Any) -> float:
        self._pipe.send(question)
        answer = self._pipe.recv()
        time.sleep(_REST)
        if isinstance(answer, str):
            raise RuntimeError(f"a contestant failed: {answer}")
        return float(answer)


def take_turns(contestants: Sequence[Contestant], shortest: Sequence[float], rounds: int, seconds: float) -> list[Any]:
    """Return each contestant's mean seconds of a call in each round; in a round every one has its turn.

    Args:
        contestants: they have made their calls.
        shortest: what ``make`` returned.
        rounds: how often each has its turn.
        seconds: of work for each in all rounds.
    """
    counts = [max(1, int(seconds / rounds / max(1e-7, each))) for each in shortest]
    found: list[list[float]] = [[] for _ in contestants]
    for _ in range(rounds):
        for contestant, count, times in zip(contestants, counts, found, strict=True):
            times.append(contestant.run(count))
    return found


def typical(times: Sequence[float], quietest: bool = False) -> float:
    """Return the median of the rounds; or the shortest, where other programs run on the machine."""
    return min(times) if quietest else statistics.median(times)
