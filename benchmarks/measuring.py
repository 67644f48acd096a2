"""How the benchmarks measure: in alternating rounds, beside a control loop, with nothing compiled meanwhile.

A busy machine makes everything slower, for a while, by up to twice. So what is measured takes turns, in rounds of a
fraction of a millisecond, with a control loop, whose work never changes, and the quotient of the two counts. What one
thread does is timed by the processor's time, which does not go on while other processes run. The shortest rounds
count, in the best of some windows with pauses between: neighbours only ever add to a time. On two cores with fifteen
processes running, the quotient of the shortest rounds came back within 3 % in most processes; that of the rounds'
tenth percentiles was off by 20 to 50 % in one of five. A copy's shortest round is an exception as often as it is the
rule, so beside copies it is the percentile.
"""

from __future__ import annotations

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
ROUNDS = 5  # at least, in each window
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


def quotient(run: Run, control: Run, wanted: float = SECONDS, clock: Clock = PROCESSOR, quantile: float = 0.0) -> float:
    """Return the time of one run in turns of a control that runs beside it, from that quantile of the rounds' times.

    It takes about ``wanted`` seconds of the clock, in windows; the smallest of their quotients counts.

    Raises:
        CompiledWhileTimingError: something was compiled after the first runs, which warm up.
    """
    run(WARMING)
    control(WARMING)
    runs = {"run": run, "control": control}
    with nothing_compiled():
        turns = {name: turns_in(each, clock=clock) for name, each in runs.items()}
        round_seconds = sum(seconds(each, turns[name], clock) * turns[name] for name, each in runs.items())
        rounds = max(ROUNDS, int(wanted / WINDOWS / round_seconds))
        return min(_quotient_in_rounds(runs, rounds, turns, clock, quantile, wait=k > 0) for k in range(WINDOWS))


def _quotient_in_rounds(
    runs: Mapping[str, Run], rounds: int, turns: Mapping[str, int], clock: Clock, quantile: float, wait: bool
) -> float:
    if wait:
        time.sleep(PAUSE)
    times = in_rounds(runs, rounds, turns, clock)
    return float(np.quantile(times["run"], quantile) / np.quantile(times["control"], quantile))


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


def relative_time(call: Call, wanted: float = SECONDS) -> float:
    """Return the time of a call in turns of the control loop ``multiply_adds``: in units of some 6 cycles."""
    return four_digits(quotient(repeated(call), multiply_adds(), wanted))


def time_over_peak(call: Call, flops: float, dtype: str = "float32", wanted: float = SECONDS) -> float:
    """Return how many times as long as at the peak of multiply-adds a call takes: 1 over its fraction of the peak."""
    return four_digits(quotient(repeated(call), multiply_adds(dtype), wanted) * flops_of_turn(dtype) / flops)


def time_over_copy(call: Call, moved: float, wanted: float = 5 * SECONDS) -> float:
    """Return how many times as long as copying the bytes that it has to move a call takes."""
    return four_digits(quotient(repeated(call), copies(), wanted, quantile=0.1) * 2 * COPIED_BYTES / moved)


def captured(function: Callable[..., Any], *arguments: Any) -> Callable[..., Any]:
    """Return the function captured and replayed, with the kernels that it would else compile after many replays."""
    compiled = tg.compile(function)
    for _ in range(WARMING):
        compiled(*arguments)
    for variant in compiled.variants:
        if variant.program:
            variant.program.generate()
    return compiled
