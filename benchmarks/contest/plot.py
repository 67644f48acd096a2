"""The picture of a comparison: for each step how much longer than ours the others took."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from contest.libraries import OURS

MARKERS = "osD^v<>P*"


def draw(found: dict[str, Any], path: Path) -> None:
    """Draw a panel for each number of threads."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    panels = found["threads"]
    rows = max(len(cases) for cases in panels.values())
    figure, all_axes = plt.subplots(
        1,
        len(panels),
        figsize=(1.5 + 4.6 * len(panels), 1.6 + 0.36 * rows),
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    peers = [name for name in found["contestants"] if name != OURS[0]]
    for axes, (threads, cases) in zip(all_axes[0], panels.items(), strict=True):
        _panel(axes, cases, peers)
        axes.set_title(f"{threads} thread{'s' if threads != '1' else ''}")
    handles: dict[str, Any] = {}
    for axes in all_axes[0]:
        handles |= dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=3 * len(panels), frameon=False)
    figure.suptitle("Time of a step over tapegrad's (captured): to the right of 1, tapegrad is faster", fontsize=11)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _panel(axes: Any, cases: dict[str, Any], peers: list[str]) -> None:
    labels = [case["name"].split(", ")[0] for case in cases.values()]
    for k, name in enumerate(peers):
        points = []
        for place, case in enumerate(cases.values()):
            ours = case["results"].get(OURS[0], {}).get("seconds")
            other = case["results"].get(name, {}).get("seconds")
            if ours and other:
                points.append((other / ours, place))
        if points:
            axes.plot(*zip(*points, strict=True), MARKERS[k % len(MARKERS)], label=name, ms=6, alpha=0.85)
    for place, case in enumerate(cases.values()):
        axes.plot([case["wanted"]] * 2, [place - 0.35, place + 0.35], color="0.6", lw=2, zorder=0, label="aimed at")
    axes.axvline(1, color="k", lw=0.8)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.grid(axis="x", which="major", color="0.9")
    axes.set_yticks(range(len(labels)), labels, fontsize=8)
    axes.set_ylim(len(labels) - 0.5, -0.5)
