"""Draws a memory plan: instructions from left to right, offsets upwards, a box for each storage."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

_WIDTH, _HEIGHT, _LEFT, _TOP, _BOTTOM, _RIGHT = 960, 480, 84, 40, 48, 24
_COLOURS = ("#8fb8de", "#f4c27a", "#9fd3a8", "#e5a3a3", "#c3b1e1", "#f0e08a", "#8fd0d0", "#d9b99b")
_LINE, _TEXT = "#5b6570", "#1b2733"
_CHARACTER = 6.6  # about the width of one at 11 pixels


@dataclass(frozen=True)
class Box:
    """A storage: first and last instruction that touches it, where it lies, and what to call it."""

    first: int
    last: int
    offset: int
    size: int
    label: str


def size_text(size: float) -> str:
    """Return a number of bytes for people: ``1.5 MiB``."""
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" or size == int(size) else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"


def svg_of_plan(boxes: Sequence[Box], total: int, instructions: int) -> str:
    """Return the plan of ``total`` bytes for a number of instructions as an SVG drawing."""
    across = (_WIDTH - _LEFT - _RIGHT) / max(instructions, 1)
    up = (_HEIGHT - _TOP - _BOTTOM) / max(total, 1)
    floor = _HEIGHT - _BOTTOM
    apart = sum(box.size for box in boxes)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{_HEIGHT}" viewBox="0 0 {_WIDTH} {_HEIGHT}" '
        'font-family="sans-serif" font-size="11">',
        f'<rect x="0" y="0" width="{_WIDTH}" height="{_HEIGHT}" fill="#ffffff"/>',
        _text(
            _LEFT,
            22,
            f"intermediate results: {len(boxes)} of {size_text(apart)} in all, in {size_text(total)}",
            size=14,
        ),
    ]
    parts += _axes(across, up, floor, total, instructions)
    for k, box in enumerate(boxes):
        x, width = _LEFT + box.first * across, (box.last - box.first + 1) * across
        height = box.size * up
        y = floor - box.offset * up - height
        parts.append(_box(x, y, width, height, _COLOURS[k % len(_COLOURS)], box))
    return "\n".join([*parts, "</svg>"])


def _axes(across: float, up: float, floor: float, total: int, instructions: int) -> list[str]:
    parts = []
    for k in range(5):
        y = floor - total * up * k / 4
        parts.append(f'<path d="M{_LEFT},{y:.1f} H{_WIDTH - _RIGHT}" stroke="#d5dade" fill="none"/>')
        parts.append(_text(_LEFT - 8, y + 4, size_text(total * k / 4), anchor="end"))
    step = max(1, -(-instructions // 12))
    for k in range(0, instructions, step):
        parts.append(_text(_LEFT + (k + 0.5) * across, floor + 16, str(k), anchor="middle"))
    return [*parts, _text((_LEFT + _WIDTH - _RIGHT) / 2, floor + 36, "instruction", anchor="middle")]


def _box(x: float, y: float, width: float, height: float, colour: str, box: Box) -> str:
    described = f"{box.label}: {size_text(box.size)} at {box.offset}, instructions {box.first} to {box.last}"
    rect = (
        f'<rect x="{x:.2f}" y="{y:.2f}" width="{width:.2f}" height="{height:.2f}" fill="{colour}" '
        f'stroke="{_LINE}" stroke-width="0.5"><title>{escape(described)}</title></rect>'
    )
    room = int((width - 6) / _CHARACTER)
    name = box.label.split()[0]
    if height < 13 or room < len(name):
        return rect
    label = box.label if len(box.label) <= room else name
    return rect + _text(x + width / 2, y + height / 2 + 4, label, anchor="middle")


def _text(x: float, y: float, text: str, anchor: str = "start", size: int = 11) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}" fill="{_TEXT}">{escape(text)}</text>'
    )
