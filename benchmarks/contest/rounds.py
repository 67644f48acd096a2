"""Contestants take turns at a workload, each in its own process; their results are compared before they are timed."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from step_cases import StepCase

from contest.processes import ContestantError, Process

BUILD_LIMIT = 150  # seconds for what compiles
TURN_LIMIT = 60
REST = 0.01  # seconds between turns: the last one's threads spin for some milliseconds yet


@dataclass(frozen=True)
class Effort:
    """How much to measure: rounds, and the seconds of a contestant's turn in each."""

    rounds: int
    turn: float


def difference(found: Any, wanted: Any) -> float:
    """Return the largest difference between two contestants' results, relative to what is compared."""
    worst = 0.0
    for mine, theirs in zip(found, wanted, strict=True):
        if len(mine) != len(theirs):
            raise ContestantError(f"gives {len(mine)} results instead of {len(theirs)}")
        for (value, _), (reference, size) in zip(mine, theirs, strict=True):
            error = abs(value - reference) / max(size, 1e-30)
            worst = error if error > worst or error != error else worst
    return worst


def run_case(
    case: StepCase, processes: Mapping[str, Process], reference: str, effort: Effort, say: Callable[[str], None]
) -> dict[str, dict[str, Any]]:
    """Return what each contestant has reached: ``seconds``, or ``failed`` or ``absent`` with the reason."""
    results: dict[str, dict[str, Any]] = {}
    wanted: Any = None
    for name in sorted(processes, key=lambda name: name != reference):
        say(f"{case.key}: {name} gets ready")
        try:
            built = processes[name].ask("build", BUILD_LIMIT, key=case.key)
            if "absent" in built:
                results[name] = {"absent": built["absent"]}
                continue
            wanted = wanted or built["found"]
            error = difference(built["found"], wanted)
            results[name] = {"ready after": built["seconds"], "difference": error}
            if not error <= case.tolerance:
                results[name]["failed"] = f"other results: {error:.1e} apart, {case.tolerance:g} allowed"
        except ContestantError as failure:
            results[name] = {"failed": str(failure)}
    _time(case, processes, results, effort, say)
    return results


def _time(
    case: StepCase,
    processes: Mapping[str, Process],
    results: dict[str, dict[str, Any]],
    effort: Effort,
    say: Callable[[str], None],
) -> None:
    """Add median seconds of a step to the results of all that have not failed."""
    times: dict[str, list[float]] = {name: [] for name, row in results.items() if row.keys() <= _READY}
    steps = dict.fromkeys(times, 0)
    for turn in range(effort.rounds):
        for name in times if turn % 2 else reversed(times):
            if "failed" in results[name]:
                continue
            say(f"{case.key}: round {turn + 1} of {effort.rounds}, {name}")
            time.sleep(REST)
            try:
                answer = processes[name].ask("turn", TURN_LIMIT, seconds=effort.turn, steps=steps[name])
            except ContestantError as failure:
                results[name]["failed"] = str(failure)
                continue
            steps[name] = answer["steps"]
            times[name].append(answer["seconds"])
    for name, found in times.items():
        if "failed" not in results[name]:
            results[name] |= {"seconds": statistics.median(found), "best": min(found), "steps": steps[name]}


_READY = {"ready after", "difference"}


def best_peer(results: Mapping[str, Mapping[str, Any]], ours: Sequence[str]) -> str | None:
    """Return the fastest contestant besides ours."""
    peers = {name: row["seconds"] for name, row in results.items() if name not in ours and "seconds" in row}
    return min(peers, key=peers.__getitem__) if peers else None
