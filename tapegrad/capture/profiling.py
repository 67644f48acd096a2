"""Profiles of captured programs: the time of each instruction, beside what its product and its bytes need at least."""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tapegrad.capture.compiled import Compiled
from tapegrad.capture.costs import bytes_of, flops_of, shape_of_slot
from tapegrad.capture.program import Program
from tapegrad.capture.stepping import Snapshot, Stepper
from tapegrad.capture.variants import Variant
from tapegrad.kernels.limits import copy_bandwidth, fma_peak
from tapegrad.native.dtypes import DTYPE_NAMES
from tapegrad.runtime.errors import raise_status
from tapegrad.runtime.handle import Tensor, wrap
from tapegrad.runtime.machine import machine

MAX_EVENTS = 1_000_000  # of a trace: some 200 MB of JSON


@dataclass(frozen=True)
class Row:
    """A step of a program: an instruction, or a group of them that runs as one.

    Attributes:
        name: of its op; of a group's ops with ``+`` between.
        line: of the program that it comes from.
        shape: of its last result.
        dtype: of its last result.
        seconds: the median time of a run.
        flops: of products, else 0.
        bytes: read and written.
    """

    name: str
    line: str
    shape: tuple[int, ...]
    dtype: str
    seconds: float
    flops: int
    bytes: int


@dataclass(frozen=True)
class Limits:
    """What the machine can do at most: FLOP/s by dtype on all threads in use, bytes/s of a copy on one thread."""

    flops: dict[str, float]
    bandwidth: float


class Profile:
    """The times of a program's steps; ``print`` shows a table.

    Attributes:
        rows: one for each step, in order.
        limits: what the machine can do at most, measured in the same process.
    """

    def __init__(self, rows: list[Row], limits: Limits) -> None:
        self.rows, self.limits = rows, limits

    @property
    def seconds(self) -> float:
        """The time of all steps."""
        return sum(row.seconds for row in self.rows)

    def by_op(self) -> list[tuple[str, int, float]]:
        """Return (op, how many, seconds) by falling time."""
        return self._by(lambda row: row.name)

    def by_line(self) -> list[tuple[str, int, float]]:
        """Return (line of the program, how many instructions, seconds) by falling time."""
        return self._by(lambda row: row.line)

    def _by(self, key: Callable[[Row], str]) -> list[tuple[str, int, float]]:
        found: dict[str, tuple[int, float]] = {}
        for row in self.rows:
            count, seconds = found.get(key(row), (0, 0.0))
            found[key(row)] = (count + 1, seconds + row.seconds)
        return sorted(((name, *pair) for name, pair in found.items()), key=lambda item: -item[2])

    def __str__(self) -> str:
        header = f"{'':4} {'us':>9} {'%':>5} {'GFLOP/s':>8} {'of peak':>8} {'GB/s':>7} {'of copy':>8}  operation"
        lines = [f"{1e6 * self.seconds:.1f} us in {len(self.rows)} steps", "", header]
        lines += [self._line(k, row) for k, row in enumerate(self.rows)]
        for title, found in (("op", self.by_op()), ("line", self.by_line())):
            lines += ["", f"{'us':>10} {'%':>5} {'count':>6}  {title}"]
            lines += [f"{1e6 * s:10.2f} {self._share(s):5.1f} {count:6d}  {name}" for name, count, s in found]
        return "\n".join(lines)

    def _share(self, seconds: float) -> float:
        return 100 * seconds / max(self.seconds, 1e-12)

    def _line(self, k: int, row: Row) -> str:
        seconds = max(row.seconds, 1e-9)
        speed, peak = row.flops / seconds, self.limits.flops[row.dtype if row.dtype == "float64" else "float32"]
        products = f"{1e-9 * speed:8.1f} {100 * speed / peak:7.1f}%" if row.flops else " " * 17
        moved = row.bytes / seconds
        memory = f"{1e-9 * moved:7.2f} {100 * moved / self.limits.bandwidth:7.1f}%"
        shape = "x".join(map(str, row.shape))
        return (
            f"{k:4d} {1e6 * row.seconds:9.2f} {self._share(row.seconds):5.1f} {products} {memory}  "
            f"{row.name} [{shape}] {row.dtype}  {row.line}"
        )

    def write_trace(self, path: str | os.PathLike[str]) -> None:
        """Write one run as a trace that chrome://tracing and ui.perfetto.dev show.

        Args:
            path: the file.
        """
        start, events = 0.0, []
        for row in self.rows:
            events.append(_event(row, start, row.seconds, 0))
            start += row.seconds
        write_trace(path, events)


def measure_limits() -> Limits:
    """Measure what the machine can do at most; takes about a second."""
    threads = machine.pool.threads
    peaks = {dtype: 1e9 * threads * fma_peak(dtype) for dtype in ("float32", "float64")}
    return Limits(peaks, 1e9 * copy_bandwidth(64 << 20))


def profile(step: Compiled | Program, *arguments: Any, runs: int = 30, limits: Limits | None = None) -> Profile:
    """Measure the steps of a captured function's program for some arguments; nothing has changed afterwards.

    Args:
        step: a captured function that has a program for such a call, or a program.
        arguments: those of the call.
        runs: how often to run it; times are medians.
        limits: what ``measure_limits`` returned; measured anew by default.

    Raises:
        ValueError: there is no program for such a call: call the function twice first.
        RuntimeError: the program refuses the arguments.
    """
    if isinstance(step, Compiled):
        variant = step.ready(arguments)
        if variant is None or variant.program is None:
            raise ValueError("profile: there is no program for a call with these arguments: call the function first")
        variant.refresh()
        step = variant.program
    tensors = [argument for argument in arguments if isinstance(argument, Tensor)]
    snapshot = Snapshot(step, tensors)
    try:
        times = _times(step, tensors, runs, snapshot)
    finally:
        snapshot.restore()
        snapshot.close()
    return Profile(rows_of(step, times), limits or measure_limits())


def _times(program: Program, tensors: Sequence[Tensor], runs: int, snapshot: Snapshot) -> list[float]:
    """Return the median time of each step, less that of a call that runs nothing."""
    stepper = Stepper(program)
    found: list[list[float]] = [[] for _ in program.spans]
    empty: list[float] = []
    for _ in range(runs):
        snapshot.restore()
        _raise(stepper.bind(tensor._handle for tensor in tensors))
        for k, times in enumerate(found):
            times.append(stepper.timed(k))
        empty.append(stepper.timed(-1))
    medians: list[float] = np.maximum(np.median(found, axis=1) - np.median(empty), 0.0).tolist()
    return medians


def _raise(status: int) -> None:
    if status <= -100:
        raise RuntimeError("profile: the program does not fit the arguments, or what it reads has changed")
    if status < 0:
        raise_status(status)


_NAMED = 24  # operations of a step, in its name


def rows_of(program: Program, times: Sequence[float]) -> list[Row]:
    """Return the rows of a profile."""
    rows = []
    for (first, end), seconds in zip(program.spans, times, strict=True):
        members = program.instructions[first:end]
        last = members[-1]
        slot = program.slot(last.first_result)
        name = " + ".join(member.op.name for member in members[:_NAMED])
        name += f" + {len(members) - _NAMED} more" if len(members) > _NAMED else ""
        code = int(machine.table("slots")["dtype"][slot])
        rows.append(
            Row(
                name=name,
                line=last.line,
                shape=tuple(shape_of_slot(slot)),
                dtype=DTYPE_NAMES[code],
                seconds=seconds,
                flops=sum(flops_of(program, member) for member in members),
                bytes=bytes_of(program, members),
            )
        )
    return rows


# ---- traces ----


def _event(row: Row, start: float, seconds: float, thread: int) -> dict[str, Any]:
    details: dict[str, Any] = {"line": row.line, "shape": list(row.shape), "dtype": row.dtype, "bytes": row.bytes}
    if row.flops:
        details |= {"flops": row.flops, "GFLOP/s": round(1e-9 * row.flops / max(seconds, 1e-9), 2)}
    times = {"ts": round(1e6 * start, 3), "dur": round(1e6 * seconds, 3)}
    return {"name": row.name, "cat": "kernel", "ph": "X", **times, "pid": os.getpid(), "tid": thread, "args": details}


def write_trace(path: str | os.PathLike[str], events: list[dict[str, Any]]) -> None:
    """Write events in Chrome's format.

    Args:
        path: the file.
        events: the events: name, thread, begin and end.
    """
    Path(path).write_text(json.dumps({"traceEvents": events, "displayTimeUnit": "ns"}))


@contextlib.contextmanager
def tracing(events: list[dict[str, Any]]) -> Iterator[None]:
    """Note every step of every replay inside of the ``with`` block; outside, replays know nothing of this.

    Args:
        events: gets an event for each replay, and one for each step in it.
    """
    run, ready = Program.run, Compiled.ready
    rows: dict[int, tuple[Program, list[Row]]] = {}

    def traced(program: Program, *handles: int) -> Any:
        if len(events) >= MAX_EVENTS:
            return run(program, *handles)
        if id(program) not in rows:
            rows[id(program)] = (program, rows_of(program, [0.0] * len(program.spans)))
        return _traced_run(program, handles, rows[id(program)][1], events, run)

    def not_ready(compiled: Compiled, args: tuple[Any, ...]) -> Variant | None:
        return None  # so that epochs, too, go step by step

    Program.run, Compiled.ready = traced, not_ready  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        Program.run, Compiled.ready = run, ready  # type: ignore[method-assign]


def _traced_run(
    program: Program, handles: Sequence[int], rows: list[Row], events: list[dict[str, Any]], run: Callable[..., Any]
) -> Any:
    """Run a program step by step; return what its ``run`` returns: its outputs' handles, or a status."""
    stepper, thread = Stepper(program), threading.get_native_id()
    begin = time.perf_counter()
    status = stepper.bind(handles, run)
    for k, row in enumerate(rows):
        if status < 0:
            return status
        start = time.perf_counter()
        status = stepper.step(k)
        events.append(_event(row, start, time.perf_counter() - start, thread))
    whole = {"name": "replay", "cat": "replay", "ph": "X", "pid": os.getpid(), "tid": thread}
    events.append({**whole, "ts": round(1e6 * begin, 3), "dur": round(1e6 * (time.perf_counter() - begin), 3)})
    return status if status < 0 else tuple([_copy_of(slot) for slot in program.output_slots])


def _copy_of(slot: int) -> int:
    """Return a handle of a copy of a slot's tensor."""
    copy = wrap(machine.handle_of_slot(slot)).detach().clone()
    machine.share_handle(copy._handle)  # the caller's; the tensor gives its own back
    return copy._handle
