"""Cold starts and peaks of memory: a fresh process for each, from its start to some finished steps."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from contest.libraries import CONTESTANTS
from contest.processes import ContestantError, Process, interpreter

LIMIT = 240


def fresh(contestant: str, key: str, python: str, log: Path, environment: Mapping[str, str]) -> dict[str, Any]:
    """Return when the first and the sixth step were finished, and the peak of memory, of a new process."""
    process = Process(contestant, 1, interpreter(contestant, python), log, environment)
    try:
        return process.ask("first", LIMIT, key=key, begun=process.begun)  # type: ignore[no-any-return]
    except ContestantError as failure:
        return {"failed": str(failure)}
    finally:
        process.stop()


def run_starts(
    keys: Sequence[str],
    empty: Sequence[str],
    names: Sequence[str],
    python: str,
    log: Path,
    caches: Mapping[str, str],
    say: Callable[[str], None],
) -> dict[str, dict[str, dict[str, Any]]]:
    """Return by workload and contestant what a fresh process reaches; for some also with empty caches."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for key in keys:
        found[key] = {}
        for name in names:
            say(f"start of {key}: {name}")
            row = fresh(name, key, python, log, caches)
            if key in empty and "failed" not in row and CONTESTANTS[name].caches:
                say(f"start of {key} with empty caches: {name}")
                with tempfile.TemporaryDirectory() as folder:
                    emptied = dict(caches) | dict.fromkeys(CONTESTANTS[name].caches, folder)
                    row["empty"] = fresh(name, key, python, log, emptied)
            found[key][name] = row
    return found
