"""Draws the floors of the package and the imports between them, counted in the source, as an SVG in the page's colours.

The floors are those that tests/test_imports.py holds the package to.
"""

import sys
from collections import Counter
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))
from floors import FLOORS, import_graph, part_of

import tapegrad

WIDTH, HEIGHT, GAP, LEFT, BOX = 720, 80, 20, 4, 520
SAYS = {
    "cli": "the command line",
    "tapegrad": "what is public",
    "nn": "what users build with",
    "autograd": "modes, backward, hooks, checks",
    "tensor": "the handle that users hold",
    "ops": "one file for each family of ops",
    "runtime": "tables, memory, emit, the sweep",
    "kernels": "loops over numbers",
    "native": "compiling, disk cache, threads",
}


def height_of(part: str) -> int:
    return next(k for k, floor in enumerate(FLOORS) if part in floor)


def counts(package: Path) -> tuple[Counter[int], Counter[int], Counter[tuple[int, int]]]:
    """Return how many modules and lines each floor has, and how many imports go from one floor to another."""
    modules, lines, arrows = Counter[int](), Counter[int](), Counter[tuple[int, int]]()
    for module, targets in import_graph(package).items():
        floor = height_of(part_of(module))
        path = package.parent / Path(*module.split("."))
        path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        modules[floor] += 1
        lines[floor] += path.read_text().count("\n")
        arrows.update((floor, below) for t in targets if (below := height_of(part_of(t))) != floor)
    return modules, lines, arrows


def top(floor: int) -> int:
    return 6 + floor * (HEIGHT + GAP)


def box(floor: int, modules: int, lines: int) -> str:
    """Return a floor: its parts, what it is, its size."""
    named = next(part for part in SAYS if part in FLOORS[floor])
    parts = sorted(FLOORS[floor] - {"__main__", "version"}, key=lambda part: (part != named, part))
    names = ", ".join(parts) if len(parts) < 4 else ", ".join(parts[:3]) + ", …"
    y = top(floor)
    return (
        f'<rect x="{LEFT}" y="{y}" width="{BOX}" height="{HEIGHT}" rx="8"/>'
        f'<text x="{LEFT + 14}" y="{y + 32}" class="name">{names}</text>'
        f'<text x="{LEFT + BOX - 14}" y="{y + 32}" text-anchor="end">{modules} files, {lines:,} lines</text>'
        f'<text x="{LEFT + 14}" y="{y + 63}">{SAYS[named]}</text>'
    )


def arrow(high: int, low: int, count: int, out: float, into: float) -> str:
    """Return an arc on the right from a floor down to another, as wide as the imports are many."""
    x, y1, y2 = LEFT + BOX, top(high) + out * HEIGHT, top(low) + into * HEIGHT
    bulge = x + 36 + 42 * (low - high) ** 0.75
    width = 1 + min(count, 200) ** 0.5 / 2
    title = f"{count} imports"
    return (
        f'<path d="M{x},{y1:.0f} C{bulge:.0f},{y1:.0f} {bulge:.0f},{y2:.0f} {x + 8 + width:.0f},{y2:.0f}" '
        f'stroke-width="{width:.1f}" marker-end="url(#tip)"><title>{title}</title></path>'
    )


def drawing() -> str:
    """Return the SVG; its text and lines have the colour of the text around it, in light and in dark mode."""
    modules, lines, arrows = counts(Path(tapegrad.__file__).parent)
    boxes = [box(floor, modules[floor], lines[floor]) for floor in range(len(FLOORS))]
    arcs = []
    for (high, low), count in sorted(arrows.items()):
        outgoing = sorted(below for above, below in arrows if above == high)
        incoming = sorted((above for above, below in arrows if below == low), reverse=True)
        out = (outgoing.index(low) + 1) / (len(outgoing) + 1)
        into = (incoming.index(high) + 1) / (len(incoming) + 1)
        arcs.append(arrow(high, low, count, 1 - out, into))
    total = top(len(FLOORS))
    return f"""<svg class="floors" viewBox="0 0 {WIDTH} {total}" role="img" xmlns="http://www.w3.org/2000/svg"
 aria-label="The floors of the package, from the command line down to the compiler, and the imports between them">
<style>
.floors {{ width: 100%; max-width: {WIDTH}px; height: auto; font: 22px sans-serif; fill: currentColor; }}
.floors .name {{ font-weight: bold; font-size: 24px; }}
.floors rect {{ fill: none; stroke: currentColor; stroke-width: 1.5; }}
.floors path {{ fill: none; stroke: var(--pst-color-primary, #0a7d91); opacity: 0.55; }}
.floors path:hover {{ opacity: 1; }}
.floors marker path {{ fill: var(--pst-color-primary, #0a7d91); stroke: none; opacity: 1; }}
</style>
<defs><marker id="tip" viewBox="0 0 8 8" refX="4" refY="4" markerUnits="userSpaceOnUse" markerWidth="13"
 markerHeight="13" orient="auto"><path d="M0,0 L8,4 L0,8 z"/></marker></defs>
{"".join(boxes)}
{"".join(arcs)}
</svg>
"""


def setup(app: Any) -> dict[str, bool]:
    """Draw before Sphinx reads the page."""

    def write(app: Any) -> None:
        folder = Path(app.srcdir) / "api"
        folder.mkdir(exist_ok=True)
        (folder / "_floors.html").write_text(drawing())

    app.connect("builder-inited", write)
    return {"parallel_read_safe": True}
