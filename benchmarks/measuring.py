"""How the benchmarks measure: in alternating rounds, beside a control loop, with nothing compiled meanwhile.

A busy machine makes everything slower, for a while, by up to twice. So what is measured takes turns, in rounds of a
fraction of a millisecond, with a control loop, whose work never changes, and the quotient of the two counts. What one
thread does is timed by the processor's time, which does not go on while other processes run. The shortest rounds
count, in the best of some windows with pauses between: neighbours only ever add to a time. A copy's shortest round is
an exception as often as it is the rule, so beside copies it is the percentile.

Against two things no window helps, measured on two cores of a shared virtual machine:

- Something, by its pattern a guest on the core's other hardware thread (a program on this machine's other processor
  had no such effect), slows most of what is measured by 1.3 (exp), 1.5 (scatter_add, calls from Python) or 2 times,
  but the multiply-adds, which leave most of the core idle, by some 1.1. It comes for half a second or half a minute.
- In one process of some, a kernel is slower from the first to the last round: argmax and max_along 2.7 times in one of
  seven, tanh 1.7 times in one of three, but not in the next sixteen. Where its operands lay made no difference to tanh.

So ``Beside`` can be measured window by window, and ``bench_quick`` takes windows minutes apart, in several processes.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
from peak import CHAINS, address_call, copy_loop, fma_loop

import tapegrad as tg
from tapegrad.kernels.gemm_micro import host_tile
from tapegrad.native.cache import cache_counts

Call = Callable[[], Any]
Run = Callable[[int], Any]  # does what it does so many times
Clock = Callable[[], float]
WALL, PROCESSOR = time.perf_counter, time.process_time

ROUND_SECONDS = 2e-4  # a contestant's turn, where one call is shorter
SECONDS = 0.3  # of rounds
ROUNDS = 3  # at least, in each window
WINDOWS = 3  # of rounds
PAUSE = 0.4  # seconds between windows: neighbours that take the caches do so for seconds
WARMING = 4  # calls: a captured function is run twice, then replayed
COPIED_BYTES = 32 << 20  # of the control that copies: beyond the caches


class CompiledWhileTimingError(RuntimeError):
    """What was timed included the compilation of a function, or its loading from the disk."""


@contextmanager
def nothing_compiled() -> Iterator[None]:
    """Raise CompiledWhileTimingError where a function is compiled or loaded within the block."""
    before = cache_counts()
    yield
    after = cache_counts()
    if after != before:
        made = ", ".join(f"{after[key] - before[key]} {key}" for key in before)
        raise CompiledWhileTimingError(f"functions were compiled or loaded while timing: {made}; warm up first")


def repeated(call: Call) -> Run:
    """Return what calls ``call`` so many times."""

    def run(count: int) -> None:
        for _ in range(count):
            call()

    return run


def seconds(run: Run, count: int = 1, clock: Clock = WALL) -> float:
    """Return the seconds of one of ``count`` times."""
    start = clock()
    run(count)
    return (clock() - start) / count


def turns_in(run: Run, wanted: float = ROUND_SECONDS, clock: Clock = WALL) -> int:
    """Return how many times make a turn of about ``wanted`` seconds, at least one."""
    count = 1
    while (shortest := min(seconds(run, count, clock) for _ in range(3)) * count) < wanted / 2 and count < 1 << 24:
        count = max(2 * count, min(64 * count, round(count * wanted / max(shortest, 1e-9))))
    return max(1, round(count * wanted / max(shortest, 1e-9)))


def in_rounds(
    runs: Mapping[str, Run], rounds: int, turns: Mapping[str, int], clock: Clock = WALL
) -> dict[str, list[float]]:
    """Return the seconds of one time of each run, round by round; in each round every one has its turn."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            times[name].append(seconds(run, turns[name], clock))
    return times


def medians(calls: Mapping[str, Call], rounds: int, repeat: int = 1) -> dict[str, float]:
    """Return the median seconds of each call after one to warm up; in each round every contestant has its turn."""
    for call in calls.values():
        call()
    runs = {name: repeated(call) for name, call in calls.items()}
    times = in_rounds(runs, rounds, dict.fromkeys(runs, repeat))
    return {name: statistics.median(kept) for name, kept in times.items()}


def multiply_adds(dtype: str = "float32") -> Run:
    """Return the control of what computes: a turn is ``CHAINS`` vector multiply-adds from registers."""
    data = np.zeros(CHAINS * 64, dtype)
    loop = address_call(fma_loop(dtype), 2)
    return lambda count: loop(count, data.ctypes.data)


def flops_of_turn(dtype: str = "float32") -> int:
    """Return the multiplications and additions in a turn of ``multiply_adds``."""
    return 2 * CHAINS * host_tile().vector_bytes // np.dtype(dtype).itemsize


def copies() -> Run:
    """Return the control of what moves memory: a turn copies COPIED_BYTES that no cache holds."""
    source, target = np.ones(COPIED_BYTES, np.uint8), np.ones(COPIED_BYTES, np.uint8)
    loop, vectors = address_call(copy_loop(), 3), COPIED_BYTES // (4 * host_tile().vector_bytes)

    def run(count: int) -> None:
        for _ in range(count):
            loop(vectors, source.ctypes.data, target.ctypes.data)

    return run


class Beside:
    """What is measured, and a control that runs beside it.

    Args:
        run: what is measured.
        control: what it is measured in.
        scale: what the quotient is multiplied by.
        wanted: about how many seconds of the clock it takes, in windows, once it is warm.
        clock: that both are timed by.
        quantile: of the rounds' times that counts.
    """

    def __init__(
        self,
        run: Run,
        control: Run,
        scale: float = 1.0,
        wanted: float = SECONDS,
        clock: Clock = PROCESSOR,
        quantile: float = 0.0,
    ) -> None:
        self._runs = {"run": run, "control": control}
        self._scale, self._wanted, self._clock, self._quantile = scale, wanted, clock, quantile

    def prepare(self) -> None:
        """Warm up, and find out how many runs make a turn.

        Raises:
            CompiledWhileTimingError: something was compiled after the first runs.
        """
        for run in self._runs.values():
            run(WARMING)
        with nothing_compiled():
            self._turns = {name: turns_in(run, clock=self._clock) for name, run in self._runs.items()}
            times = in_rounds(self._runs, 1, self._turns, self._clock)
        self._round_seconds = sum(times[name][0] * self._turns[name] for name in times)

    def window(self, share: float = 1 / WINDOWS) -> float:
        """Return the time of a run in turns of the control, times the scale, from a share of the seconds wanted.

        Raises:
            CompiledWhileTimingError: something was compiled meanwhile.
        """
        rounds = max(ROUNDS, int(self._wanted * share / self._round_seconds))
        with nothing_compiled():
            times = in_rounds(self._runs, rounds, self._turns, self._clock)
        run, control = (float(np.quantile(times[name], self._quantile)) for name in ("run", "control"))
        return self._scale * run / control

    def measured(self) -> float:
        """Return the least of some windows with pauses between; within ``put_off`` nan, and it is measured later."""
        if _put_off is not None:
            _put_off.append(self)
            return math.nan
        self.prepare()
        windows = [self.window()]
        for _ in range(WINDOWS - 1):
            time.sleep(PAUSE)
            windows.append(self.window())
        return four_digits(min(windows))


_put_off: list[Beside] | None = None


@contextmanager
def put_off() -> Iterator[list[Beside]]:
    """Measure nothing within the block; what would have been is in the list, for who measures much in turns."""
    global _put_off
    _put_off = found = []
    try:
        yield found
    finally:
        _put_off = None


def shortest(call: Call, wanted: float = SECONDS) -> float:
    """Return the processor's time of a call, the shortest of three turns at least; compiling in them is an error."""
    run = repeated(call)
    run(WARMING)
    with nothing_compiled():
        turns = turns_in(run, clock=PROCESSOR)
        rounds = max(3, int(wanted / (seconds(run, turns, PROCESSOR) * turns)))
        return min(seconds(run, turns, PROCESSOR) for _ in range(rounds))


def four_digits(value: float) -> float:
    """Return the value as asv's tables are to show it; asv itself does not round."""
    return float(f"{value:.4g}")


def relative_time(call: Call, operations: int = 1, wanted: float = SECONDS) -> float:
    """Return the time of each operation in a call in turns of the control loop ``multiply_adds``, some 6 cycles."""
    return Beside(repeated(call), multiply_adds(), 1 / operations, wanted).measured()


def time_over_peak(call: Call, flops: float, dtype: str = "float32") -> float:
    """Return how many times as long as at the peak of multiply-adds a call takes: 1 over its fraction of the peak."""
    return Beside(repeated(call), multiply_adds(dtype), flops_of_turn(dtype) / flops).measured()


def time_over_copy(call: Call, moved: float) -> float:
    """Return how many times as long as copying the bytes that it has to move a call takes."""
    return Beside(repeated(call), copies(), 2 * COPIED_BYTES / moved, 5 * SECONDS, quantile=0.1).measured()


def captured(function: Callable[..., Any], *arguments: Any) -> Callable[..., Any]:
    """Return the function captured and replayed, with the kernels that it would else compile after many replays."""
    compiled = tg.compile(function)
    for _ in range(WARMING):
        compiled(*arguments)
    for variant in compiled.variants:
        if variant.program:
            variant.program.generate()
    return compiled
