"""The report of a comparison as Markdown: tables of times, limits, starts, memory and sizes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from contest.libraries import OURS
from contest.rounds import best_peer

Rows = Iterable[Sequence[str]]

EXPLANATION = """\
Every contestant starts from the same weights and data and has given the same results for five steps before it is timed;
it runs in a process of its own, and they take turns. Times are medians of a step; in brackets, over ours. The last
columns: the best peer's time over ours, in bold where it reaches what is aimed at, and our time over the limit: FLOPs
at the peak of multiply-adds plus bytes at the bandwidth of a copy of as much memory, measured in the same run."""


def table(header: Sequence[str], rows: Rows) -> list[str]:
    """Return the lines of a table."""
    return [
        "| " + " | ".join(header) + " |",
        "|" + "---|" * len(header),
        *("| " + " | ".join(row) + " |" for row in rows),
        "",
    ]


def duration(seconds: float) -> str:
    """Return a time with three digits."""
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6), ("ns", 1e-9)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}" if seconds / size < 1000 else f"{seconds / size:.0f} {unit}"
    return f"{seconds * 1e9:.2g} ns"


def amount(size: float) -> str:
    return f"{size / 1e9:.2f} GB" if size >= 1e9 else f"{size / 1e6:.3g} MB" if size < 1e8 else f"{size / 1e6:.0f} MB"


def _cell(row: dict[str, Any] | None, ours: float | None) -> str:
    if row is None or "absent" in row:
        return "-"
    if "seconds" not in row:
        return "**failed**"
    ratio = f" ({row['seconds'] / ours:.2f})" if ours else ""
    return duration(row["seconds"]) + ratio


def times(found: dict[str, Any], threads: str) -> list[str]:
    """Return the table of steps on so many threads."""
    cases = found["threads"][threads]
    names = [name for name in found["contestants"] if any(name in case["results"] for case in cases.values())]
    rows = []
    for case in cases.values():
        results = case["results"]
        ours = results.get(OURS[0], {}).get("seconds")
        best = best_peer(results, OURS)
        ratio = f"{results[best]['seconds'] / ours:.2f}" if ours and best else "-"
        if best and ours:
            ratio = f"**{ratio}**" if results[best]["seconds"] / ours >= case["wanted"] else ratio
        limit = case.get("limit", {}).get("seconds")
        share = f"{ours / limit:.1f}" if ours and limit else "-"
        cells = [_cell(results.get(name), ours if name != OURS[0] else None) for name in names]
        rows.append([case["name"], *cells, f"{ratio} {best or ''}".strip(), f"{case['wanted']:g}", share])
    header = ["step", *names, "best peer / ours", "wanted", "ours / limit"]
    return table(header, rows)


def reasons(found: dict[str, Any]) -> list[str]:
    """Return what is absent or has failed, with why."""
    lines: dict[str, list[str]] = {}
    for threads, cases in found["threads"].items():
        for key, case in cases.items():
            for name, row in case["results"].items():
                if "failed" in row:
                    lines.setdefault(f"{name} **failed**: {row['failed']}", []).append(f"{key} ({threads} threads)")
                elif "absent" in row:
                    lines.setdefault(f"{name}: {row['absent']}", []).append(key)
    texts = [f"- {', '.join(dict.fromkeys(keys))}: {text}" for text, keys in lines.items()]
    return [*(f"- {name} is absent: {why}" for name, why in found["absent"].items()), *texts, ""]


def starts(found: dict[str, Any]) -> list[str]:
    """Return the tables of cold starts and of memory."""
    rows = []
    for key, contestants in found["starts"].items():
        for name, row in contestants.items():
            if "failed" in row:
                rows.append([key, name, f"**failed**: {row['failed']}", "", "", ""])
                continue
            empty = row.get("empty", {})
            emptied = f"{empty['first']:.2f} s" if "first" in empty else "**failed**" if empty else "-"
            sixth = f"{empty['sixth']:.2f} s" if "sixth" in empty else "-"
            rows.append(
                [key, name, f"{row['first']:.2f} s", f"{row['sixth']:.2f} s", emptied, sixth, amount(row["peak"])]
            )
    header = [
        "step",
        "contestant",
        "first step",
        "sixth step",
        "empty cache: first",
        "empty cache: sixth",
        "peak memory",
    ]
    return table(header, rows)


def limits(found: dict[str, Any]) -> list[str]:
    """Return what each step needs at least, and what the machine can do at most."""
    lines = []
    for threads, speeds in found["limits"].items():
        texts = [f"{name} {value / 1e9:.1f}e9" for name, value in speeds.items()]
        lines += [f"On {threads} thread{'s' if threads != '1' else ''}: {', '.join(texts)}.", ""]
    rows = []
    for key, case in next(iter(found["threads"].values())).items():
        limit = case.get("limit", {})
        if "seconds" in limit:
            by_threads = [cases[key].get("limit", {}).get("seconds") for cases in found["threads"].values()]
            texts = [duration(seconds) if seconds else "-" for seconds in by_threads]
            rows.append([case["name"], f"{limit['flops'] / 1e6:.3g}", f"{limit['bytes'] / 1e6:.3g}", *texts])
    header = ["step", "MFLOP", "MB", *(f"limit, {threads} threads" for threads in found["threads"])]
    return lines + table(header, rows)


def lengths(found: dict[str, Any]) -> list[str]:
    """Return what replay and capture cost by length."""
    figures = found["figures"]
    lines = []
    if "dispatch" in figures:
        texts = [f"{name} {value:.1f}" for name, value in figures["dispatch"].items()]
        lines += [f"An instruction that multiplies eight numbers: {'; '.join(texts)}.", ""]
    rows = [
        [
            f"{row['operations']:,}",
            f"{row['entries']:,.0f}",
            f"{row['replay ns']:.2f} ns",
            f"{row['straight ns']:.2f} ns",
            f"{row['capture us']:.1f} us",
            f"{row['generate us']:.1f} us",
            f"{row['casadi ns']:.2f} ns" if "casadi ns" in row else "-",
        ]
        for row in figures.get("scalars", [])
    ]
    header = [
        "scalar operations",
        "entries",
        "replay, an entry",
        "replay of straight-line code",
        "the two calls that capture, an entry",
        "to compile that code, an entry",
        "CasADi, an instruction",
    ]
    return lines + (table(header, rows) if rows else [])


def sizes(found: dict[str, Any]) -> list[str]:
    """Return the table of installed sizes."""
    rows = [
        [name, row["version"], amount(row["bytes"]), amount(row["with"])]
        for name, row in found["packages"].items()
        if row
    ]
    return table(["package", "version", "on disk", "with what it requires"], rows)


def markdown(found: dict[str, Any]) -> str:
    """Return the whole report."""
    lines = ["# tapegrad beside others", "", found["machine"], ""]
    lines += [f"`{found['command']}`: {found['effort']}.", ""]
    lines += [*EXPLANATION.splitlines(), ""]
    for threads in found["threads"]:
        lines += [f"## Steps, {threads} thread{'s' if threads != '1' else ''}", "", *times(found, threads)]
    lines += ["### Absent or failed", "", *reasons(found)]
    lines += ["## Limits", "", *limits(found)]
    if found["figures"]:
        lines += ["## By length", "", *lengths(found)]
    if found["starts"]:
        lines += ["## Fresh processes, one thread", "", *starts(found)]
    return "\n".join([*lines, "## Installed sizes", "", *sizes(found)])
