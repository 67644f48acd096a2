"""What only our own process can tell: the limits of a workload, and what replay and capture cost by length."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from step_cases import CASES, scalars

import tapegrad as tg
from contest.problems import PROBLEMS
from tapegrad.capture.costs import bytes_of, flops_of
from tapegrad.capture.program import Program
from tapegrad.kernels.gemm_micro import host_tile
from tapegrad.kernels.limits import address_call, best, copy_loop, fma_peak
from tapegrad.runtime.machine import machine

SMALLEST, LARGEST = 256 << 10, 128 << 20  # bytes of a copy: less than these would measure the call

# of the loops over time, whose products are inside of one instruction: forward, both gradients of the hidden state's
# product, and the weight's gradient only of the first layer's input
LOOP_FLOPS = {
    "rnn": 2 * 8 * 100 * 64 * (2 * 16 + 3 * 64),
    "lstm": 2 * 64 * 40 * 4 * 96 * (2 * 32 + 3 * 96),
}


@cache
def peak(dtype: str, threads: int) -> float:
    """Return the FLOP/s of multiply-adds in registers, of all threads."""
    return 1e9 * threads * fma_peak(dtype)


@cache
def bandwidth(size: int, threads: int) -> float:
    """Return the bytes/s, read and written, of a copy that touches ``size`` bytes, each thread having its part."""
    size //= 2 * threads
    buffers = [[np.ones(size, np.uint8) for _ in range(2)] for _ in range(threads)]
    turns, repeats = size // (4 * host_tile().vector_bytes), max(1, (LARGEST >> 4) // size)
    copy = address_call(copy_loop(), 3)

    def part(source: Any, target: Any) -> None:
        for _ in range(repeats):
            copy(turns, source.ctypes.data, target.ctypes.data)

    def all_parts() -> None:
        others = [threading.Thread(target=part, args=pair) for pair in buffers[1:]]
        for other in others:
            other.start()
        part(*buffers[0])
        for other in others:
            other.join()

    return 2 * size * threads * repeats / best(all_parts, rounds=5)


def _program(worker: Any, key: str) -> Program:
    """Return a captured workload's program."""
    case = next(case for case in CASES if case.key == key)
    function, arguments = case.build(tg)
    step = tg.compile(function)
    for _ in range(3):
        step(*arguments)
    step.variants[0].program.generate()
    return step.variants[0].program


def limit(worker: Any, key: str) -> dict[str, float]:
    """Return a workload's FLOPs and bytes, and the seconds that they take at the machine's limits.

    FLOPs are those of products, convolutions and attention; bytes what the program's steps read and write, at the speed
    of a copy that touches as much memory as the program does.
    """
    program = _program(worker, key)
    rows = machine.table("storages")
    touched = {storage for instruction in program.instructions for _, storage in instruction.places() if storage >= 0}
    inputs = sum(array.nbytes for array in PROBLEMS[key]().inputs)
    # an argument's storage says nothing of its size, and intermediate results share one block
    outside = (touched & set(program.storages.outside)) | (touched & set(program.storages.kept))
    memory = inputs + program.plan.size + sum(int(rows["bytes"][storage]) for storage in outside)
    flops = sum(flops_of(program, instruction) for instruction in program.instructions) + LOOP_FLOPS.get(key, 0)
    moved = sum(bytes_of(program, program.instructions[first:end]) for first, end in program.spans)
    size = 1 << int(np.ceil(np.log2(min(max(memory, SMALLEST), LARGEST))))
    dtype = str(PROBLEMS[key]().inputs[0].dtype)
    speed = peak(dtype if dtype == "float64" else "float32", worker.threads)
    seconds = flops / speed + moved / bandwidth(size, worker.threads)
    return {"flops": flops, "bytes": moved, "memory": memory, "seconds": seconds}


def limits(worker: Any) -> dict[str, float]:
    """Return the machine's own limits."""
    speeds = {f"{dtype} FLOP/s": peak(dtype, worker.threads) for dtype in ("float32", "float64")}
    return speeds | {f"copy of {size >> 10} KiB, B/s": bandwidth(size, worker.threads) for size in (SMALLEST, LARGEST)}


def _seconds(run: Callable[[], Any], least: float = 0.05, rounds: int = 9) -> float:
    """Return the median time of a call."""
    run()
    start = time.perf_counter()
    run()
    turns = max(1, int(least / max(time.perf_counter() - start, 1e-7)))
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        for _ in range(turns):
            run()
        times.append((time.perf_counter() - start) / turns)
    return float(np.median(times))


def dispatch(worker: Any) -> dict[str, float]:
    """Return the nanoseconds of an instruction that multiplies eight numbers: the slope of the time over the length."""
    x, w = tg.ones(8), tg.ones(8)

    def chain(length: int) -> Callable[[], Any]:
        def product(x: Any) -> Any:
            for _ in range(length):
                x = x * w
            return x

        step = tg.compile(product)
        for _ in range(3):
            step(x)
        return lambda: step(x)

    short, long = 100, 2100
    slope = (_seconds(chain(long)) - _seconds(chain(short))) / (long - short)
    return {"replayed, ns": 1e9 * slope, "uncaptured, ns": 1e9 * _seconds(lambda: x * w)}


def scalar_entries(worker: Any, operations: int) -> dict[str, float]:
    """Return what capture, which is two calls, replay, and replay of straight-line code cost, and what that takes to
    compile, for a scalar expression with its gradient: an entry.
    """
    function = scalars(tg, [], operations // 4)
    plain, step = tg.compile(function, without="generated"), tg.compile(function)
    x = tg.tensor(0.5, dtype=tg.float64)
    start = time.perf_counter()
    step(x)
    step(x)
    captured = time.perf_counter() - start
    entries = len(step.variants[0].program)
    plain(x)
    plain(x)
    replay = _seconds(lambda: plain(x), 0.02, 7)
    start = time.perf_counter()
    step.variants[0].program.generate()
    generating = time.perf_counter() - start
    straight = _seconds(lambda: step(x), 0.02, 7)
    return {
        "operations": operations,
        "entries": entries,
        "replay ns": 1e9 * replay / entries,
        "straight ns": 1e9 * straight / entries,
        "capture us": 1e6 * captured / entries,
        "generate us": 1e6 * generating / entries,
    }
