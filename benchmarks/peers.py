"""tapegrad beside torch, torch.compile, JAX, autograd, PyTensor, CasADi and tinygrad: steps, starts, memory, sizes.

Run: python benchmarks/peers.py [--quick] [--only WORKLOAD,...] [--peers NAME,...] [--python PYTHON] [--out DIR]

tapegrad runs under this interpreter; the peers under the one that ``--python`` names, so that they may have an
environment of their own (PyTensor wants another Numba):

    python -m venv peers && peers/bin/pip install torch "jax[cpu]" autograd pytensor casadi tinygrad
    python benchmarks/peers.py --python peers/bin/python

torch.compile needs g++, tinygrad clang. What is not installed is named as absent. Every contestant has a process of its
own for each number of threads, which waits for its turn blocked on a pipe. (On one thread JAX is bound to one CPU: XLA
heeds nothing else.) A contestant whose results for the first five steps differ, that raises, dies or hangs is reported
as failed, and the others go on. Caches of compiled code are kept (``--caches``): the first run takes longer.

Writes ``peers.md``, ``peers.json`` and ``peers.png`` into ``--out``; what the processes print is in ``peers.log``.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from contest import report
from contest.libraries import CONTESTANTS, OURS
from contest.plot import draw
from contest.processes import ContestantError, Process, interpreter
from contest.rounds import Effort, run_case
from contest.starts import run_starts
from step_cases import CASES

EFFORTS = {False: Effort(9, 0.06), True: Effort(5, 0.02)}
STARTED = ("policy", "digits", "wide", "cnn", "dcgan", "transformer")  # in fresh processes
EMPTIED = ("digits",)  # also with empty caches
LENGTHS = (1_000, 10_000, 100_000, 444_000)  # scalar operations; with their gradients the last has 10^6 entries
SLOW = ("torch.compile", "pytensor")  # to get ready: left out of --quick unless asked for

_start = time.monotonic()


def say(text: str) -> None:
    """Show what is going on: over the last line on a terminal."""
    line = f"[{time.monotonic() - _start:5.0f} s] {text}"
    if sys.stderr.isatty():
        print(f"\r\x1b[K{line[:110]}", end="", file=sys.stderr, flush=True)


def announce(text: str) -> None:
    clear = "\r\x1b[K" if sys.stderr.isatty() else ""
    print(f"{clear}[{time.monotonic() - _start:5.0f} s] {text}", file=sys.stderr, flush=True)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], epilog="workloads: " + ", ".join(case.key for case in CASES)
    )
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds, without what compiles for long")
    parser.add_argument("--only", default="", help="workloads, separated by commas; see below")
    parser.add_argument("--peers", default="", help="contestants, separated by commas: " + "; ".join(CONTESTANTS))
    parser.add_argument("--python", default=sys.executable, help="the interpreter that has the peers")
    parser.add_argument("--threads", default="1,2", help="numbers of threads, separated by commas")
    parser.add_argument("--out", type=Path, default=Path("runs/peers"), help="the folder for the results")
    parser.add_argument("--caches", type=Path, default=Path("~/.cache/tapegrad-peers").expanduser())
    parser.add_argument("--steps-only", action="store_true", help="no starts, no memory, no figures by length")
    options = parser.parse_args()
    options.only = [key.strip() for key in options.only.split(",") if key.strip()]
    unknown = set(options.only) - {case.key for case in CASES}
    if unknown:
        parser.error(f"there is no workload {', '.join(sorted(unknown))}")
    named = [name.strip() for name in options.peers.split(",") if name.strip()]
    if set(named) - set(CONTESTANTS):
        parser.error(f"there is no contestant {', '.join(sorted(set(named) - set(CONTESTANTS)))}")
    left_out = SLOW if options.quick else ()
    options.names = [n for n in CONTESTANTS if n in OURS or n in named or (not named and n not in left_out)]
    return options


def packages(python: str, names: list[str]) -> dict[str, Any]:
    """Return versions and sizes of the contestants' packages, None for what is not installed."""
    script, found = str(Path(__file__).parent / "contest" / "install.py"), {}
    for ours in (True, False):
        wanted = sorted({CONTESTANTS[name].package for name in names if (name in OURS) == ours})
        command = [sys.executable if ours else python, script, *wanted]
        found |= json.loads(subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout)
    return found


def machine() -> str:
    """Return a line about the machine and the day."""
    model = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), model)
    load = f", load {os.getloadavg()[0]:.1f} at the start" if hasattr(os, "getloadavg") else ""
    python = f"Python {platform.python_version()}"
    return f"{model}, {os.cpu_count()} CPUs, {platform.system()}, {python}, {datetime.date.today()}{load}"


class Team:
    """The processes of one number of threads; one that has died or hung is started anew for the next workload."""

    def __init__(self, options: argparse.Namespace, threads: int, names: list[str], caches: dict[str, str]) -> None:
        self._make = lambda name: Process(
            name, threads, interpreter(name, options.python), options.out / "peers.log", caches
        )
        self._processes = {name: self._make(name) for name in names}
        self.broken: dict[str, str] = {}

    def ready(self) -> dict[str, Process]:
        """Return the processes that can work."""
        for name, process in self._processes.items():
            if name not in self.broken and not process.alive:
                self._processes[name] = self._make(name)
            try:
                if name not in self.broken:
                    self._processes[name].ready()
            except ContestantError as failure:
                self.broken[name] = str(failure)
        return {name: process for name, process in self._processes.items() if name not in self.broken}

    def stop(self) -> None:
        for process in self._processes.values():
            process.stop()


def run_threads(
    options: argparse.Namespace, threads: int, names: list[str], caches: dict[str, str], found: Any
) -> None:
    """Run all workloads on so many threads."""
    team = Team(options, threads, names, caches)
    cases = found["threads"][str(threads)] = {}
    try:
        for case in CASES:
            if options.only and case.key not in options.only:
                continue
            processes = team.ready()
            results = run_case(case, processes, OURS[0], EFFORTS[options.quick], say)
            results |= {name: {"failed": why} for name, why in team.broken.items()}
            row = cases[case.key] = {"name": case.name, "wanted": case.wanted, "results": results}
            row["limit"] = ask(processes, "limit", key=case.key)
            texts = [f"{name} {report._cell(result, None)}" for name, result in results.items()]
            announce(f"{threads} threads, {case.key}: {', '.join(texts)}")
        found["limits"][str(threads)] = ask(team.ready(), "limits")
    finally:
        team.stop()


def ask(processes: dict[str, Process], name: str, **options: Any) -> dict[str, Any]:
    """Return what our process measures, {} if it cannot."""
    try:
        return processes[OURS[0]].ask("measure", 240, name=name, **options)  # type: ignore[no-any-return]
    except (ContestantError, KeyError) as failure:
        announce(f"{name} {options}: {failure}")
        return {}


def run_figures(options: argparse.Namespace, names: list[str], caches: dict[str, str]) -> dict[str, Any]:
    """Return what replay and capture cost by length, in processes of their own."""
    team = Team(options, 1, [name for name in names if name in (OURS[0], "casadi")], caches)
    rows = []
    try:
        for operations in LENGTHS[:2] if options.quick else LENGTHS:
            say(f"replay and capture of {operations} scalar operations")
            processes = team.ready()
            row = ask(processes, "scalar_entries", operations=operations)
            if row and "casadi" in processes:
                try:
                    row["casadi ns"] = processes["casadi"].ask("length", 120, operations=operations)["ns"]
                except ContestantError as failure:
                    announce(f"casadi, {operations} operations: {failure}")
            rows += [row] if row else []
        return {"scalars": rows, "dispatch": ask(team.ready(), "dispatch")}
    finally:
        team.stop()


def check_ours(options: argparse.Namespace, caches: dict[str, str]) -> None:
    """Exit where tapegrad itself does not start: there is nothing to compare."""
    team = Team(options, 1, [OURS[0]], caches)
    try:
        team.ready()
    finally:
        team.stop()
    if team.broken:
        sys.exit(f"tapegrad does not start ({team.broken[OURS[0]]}): install it with 'pip install .' from the checkout")


def write(found: dict[str, Any], folder: Path) -> None:
    """Write the three files; called after each part, so that what there is survives whatever comes."""
    (folder / "peers.json").write_text(json.dumps(found, indent=1))
    (folder / "peers.md").write_text(report.markdown(found) + "\n")
    try:
        draw(found, folder / "peers.png")
    except ImportError:
        announce("matplotlib is not installed: no picture")


def main() -> None:
    options = parse()
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "peers.log").write_text("")
    caches = {name: str(options.caches / name.lower()) for c in CONTESTANTS.values() for name in c.caches}
    caches.pop("TAPEGRAD_CACHE_DIR")  # ours has a place of its own
    installed = packages(options.python, options.names)
    absent = {
        n: f"{CONTESTANTS[n].package} is not installed" for n in options.names if not installed[CONTESTANTS[n].package]
    }
    names = [name for name in options.names if name not in absent]
    effort = EFFORTS[options.quick]
    found: dict[str, Any] = {
        "machine": machine(),
        "command": "python benchmarks/peers.py " + " ".join(sys.argv[1:]),
        "effort": f"medians of {effort.rounds} rounds, in each {effort.turn:g} s or one step for each contestant",
        "contestants": names, "absent": absent, "packages": installed,
        "threads": {}, "limits": {}, "figures": {}, "starts": {},
    }  # fmt: skip
    check_ours(options, caches)
    announce(f"contestants: {', '.join(names)}; absent: {', '.join(absent) or 'none'}")
    for threads in map(int, options.threads.split(",")):
        run_threads(options, threads, names, caches, found)
        write(found, options.out)
    if not options.steps_only:
        found["figures"] = run_figures(options, names, caches)
        write(found, options.out)
        keys = [key for key in STARTED[: 2 if options.quick else None] if not options.only or key in options.only]
        started = [name for name in names if name in (OURS[0], "torch", "torch.compile", "jax")]
        found["starts"] = run_starts(keys, EMPTIED, started, options.python, options.out / "peers.log", caches, say)
        write(found, options.out)
    announce(f"done: {options.out / 'peers.md'}")
    print((options.out / "peers.md").read_text())


if __name__ == "__main__":
    main()
