"""Draws entries of the tape: as a graph for Graphviz, or straight to SVG in layers, without any other program."""

from __future__ import annotations

from html import escape
from typing import Any

_WIDTH, _HEIGHT, _GAP_X, _GAP_Y, _MARGIN = 132, 38, 20, 36, 16
_OP, _LEAF, _LINE, _TEXT = "#dbe9f6", "#fdf0d5", "#7a8793", "#1b2733"


def _shape(row: Any) -> str:
    return "x".join(str(int(length)) for length in row["shape"][: row["ndim"]]) or "scalar"


def _edges(rows: Any) -> tuple[list[tuple[int, int]], dict[int, int]]:
    """Return the edges between nodes, and the node of each operand that no entry made: entries first, then leaves."""
    made = {int(slot): k for k, row in enumerate(rows) for slot in row["outputs"] if slot >= 0}
    leaves: dict[int, int] = {}
    edges = []
    for k, row in enumerate(rows):
        for slot in (int(slot) for slot in row["inputs"] if slot >= 0):
            if slot not in made:
                leaves.setdefault(slot, len(rows) + len(leaves))
            edges.append((made.get(slot, leaves.get(slot, -1)), k))
    return edges, leaves


def dot_of(rows: Any) -> str:
    """Return the entries as a graph in Graphviz's language."""
    edges, leaves = _edges(rows)
    lines = [
        "digraph tape {",
        '  node [shape=box, style="rounded,filled", fillcolor="#dbe9f6", fontname="sans-serif"];',
    ]
    lines += [f'  n{k} [label="{row["op"]}\\n{_shape(row)} {row["dtype"]}"];' for k, row in enumerate(rows)]
    lines += [f'  n{k} [label="%{slot}", fillcolor="#fdf0d5"];' for slot, k in leaves.items()]
    lines += [f"  n{source} -> n{target};" for source, target in edges]
    return "\n".join([*lines, "}"])


def _layers(count: int, edges: list[tuple[int, int]]) -> list[int]:
    """Return each node's layer: one below the lowest of what it reads. Edges come in the order of their targets."""
    layers = [0] * count
    for source, target in edges:
        layers[target] = max(layers[target], layers[source] + 1)
    return layers


def _places(layers: list[int], edges: list[tuple[int, int]]) -> list[tuple[float, float]]:
    """Return each node's corner: layers from the top, in a layer ordered by where the node's operands are."""
    places = [(0.0, 0.0)] * len(layers)
    rows: dict[int, list[int]] = {}
    for node, layer in enumerate(layers):
        rows.setdefault(layer, []).append(node)
    for layer in sorted(rows):
        wanted = {
            node: [places[source][0] for source, target in edges if target == node] or [float(position)]
            for position, node in enumerate(rows[layer])
        }
        ordered = sorted(rows[layer], key=lambda node: sum(wanted[node]) / len(wanted[node]))
        for position, node in enumerate(ordered):
            places[node] = (_MARGIN + position * (_WIDTH + _GAP_X), _MARGIN + layer * (_HEIGHT + _GAP_Y))
    return places


def svg_of(rows: Any) -> str:
    """Return the entries as an SVG drawing, operands above results."""
    edges, leaves = _edges(rows)
    labels = [(str(row["op"]), f"{_shape(row)} {row['dtype']}", _OP) for row in rows]
    labels += [(f"%{slot}", "input", _LEAF) for slot in leaves]
    places = _places(_layers(len(labels), edges), edges)
    width = max((x for x, _ in places), default=0.0) + _WIDTH + _MARGIN
    height = max((y for _, y in places), default=0.0) + _HEIGHT + _MARGIN
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}" '
        f'viewBox="0 0 {width:.0f} {height:.0f}" font-family="sans-serif" font-size="12">',
        '<defs><marker id="arrow" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        f'<path d="M0,0 L8,4 L0,8 z" fill="{_LINE}"/></marker></defs>',
    ]
    parts += [_arrow(places[source], places[target]) for source, target in edges]
    parts += [_box(place, *label) for place, label in zip(places, labels, strict=True)]
    return "\n".join([*parts, "</svg>"])


def _arrow(source: tuple[float, float], target: tuple[float, float]) -> str:
    x0, y0 = source[0] + _WIDTH / 2, source[1] + _HEIGHT
    x1, y1 = target[0] + _WIDTH / 2, target[1]
    middle = (y0 + y1) / 2
    return (
        f'<path d="M{x0:.0f},{y0:.0f} C{x0:.0f},{middle:.0f} {x1:.0f},{middle:.0f} {x1:.0f},{y1:.0f}" fill="none" '
        f'stroke="{_LINE}" marker-end="url(#arrow)"/>'
    )


def _box(place: tuple[float, float], title: str, detail: str, colour: str) -> str:
    x, y = place
    middle = x + _WIDTH / 2
    return (
        f'<rect x="{x:.0f}" y="{y:.0f}" width="{_WIDTH}" height="{_HEIGHT}" rx="6" fill="{colour}" stroke="{_LINE}"/>'
        f'<text x="{middle:.0f}" y="{y + 16:.0f}" text-anchor="middle" font-weight="600" fill="{_TEXT}">'
        f"{escape(title)}</text>"
        f'<text x="{middle:.0f}" y="{y + 31:.0f}" text-anchor="middle" fill="{_TEXT}">{escape(detail)}</text>'
    )
