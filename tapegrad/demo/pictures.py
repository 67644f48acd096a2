"""Draws a run: the curves of its loss and accuracy, and held-out digits with the model's predictions."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter
from numpy.typing import NDArray

from tapegrad.demo.train import Best, Epoch

_INK, _QUIET, _BLUE, _ORANGE, _RED = "#1f2933", "#8492a6", "#2563eb", "#ea8a1a", "#d92d20"
_COLUMNS, _ROWS, _CELL = 12, 6, 40  # _CELL: pixels from one digit to the next, 28 of them the digit
_DIGIT = 28


def draw_curves(rows: Sequence[Epoch], best: Best, path: Path) -> None:
    """Draw loss and held-out accuracy over the epochs into the PNG file ``path``."""
    figure = _figure(10, 4.2)
    left, right = figure.subplots(1, 2)
    epochs = [row.epoch for row in rows]
    marker = "o" if len(rows) < 15 else None
    left.plot(epochs, [row.loss for row in rows], color=_BLUE, marker=marker, ms=4, label="training (shifted images)")
    left.plot(epochs, [row.held_out_loss for row in rows], color=_ORANGE, marker=marker, ms=4, label="held out")
    left.set_yscale("log")
    left.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    left.yaxis.set_major_formatter("{x:g}")
    left.yaxis.set_minor_formatter(NullFormatter())
    left.legend(frameon=False)
    right.plot(epochs, [row.held_out_accuracy for row in rows], color=_ORANGE, marker=marker, ms=4)
    right.plot([best.epoch], [best.accuracy], "o", color=_RED, ms=7)
    _title(left, "Cross-entropy")
    _title(right, f"Held-out accuracy: best {best.accuracy:.3f} in epoch {best.epoch}")
    for axes in (left, right):
        _tidy(axes)
    figure.savefig(path, format="png")


def draw_digits(images: NDArray[np.float32], labels: NDArray[np.int64], predictions: NDArray[Any], path: Path) -> None:
    """Draw held-out ``images`` (n, 28, 28) and their ``predictions`` into the PNG file ``path``, mistakes first."""
    shown = choose(labels, predictions)
    figure = _figure(10, 0.35 + 0.83 * math.ceil(len(shown) / _COLUMNS))
    axes = figure.add_subplot()
    axes.imshow(mosaic(images[shown]), cmap="gray_r", vmin=0, vmax=1, interpolation="nearest")
    axes.set_axis_off()
    for place, index in enumerate(shown):
        _caption(axes, place, int(predictions[index]), int(labels[index]))
    _title(axes, _heading(labels, predictions))
    figure.savefig(path, format="png")


def _heading(labels: NDArray[np.int64], predictions: NDArray[Any]) -> str:
    wrong, drawn = int((predictions != labels).sum()), min(_COLUMNS * _ROWS, len(labels)) // 2
    right = f"Held-out digits: {len(labels) - wrong} of {len(labels)} right"
    if not wrong:
        return right
    which = f"{drawn} of {wrong} mistakes" if wrong > drawn else f"all {wrong} mistakes"
    return f"{right}; framed: {which} (prediction → truth)"


def choose(labels: NDArray[np.int64], predictions: NDArray[Any]) -> NDArray[np.intp]:
    """Return which images to show: mistakes for up to half of the places, then right ones from all over the set."""
    places = min(_COLUMNS * _ROWS, len(labels))
    wrong = _spread(np.flatnonzero(predictions != labels), places // 2)
    right = _spread(np.flatnonzero(predictions == labels), places - len(wrong))
    return np.concatenate([wrong, right])


def _spread(indices: NDArray[np.intp], count: int) -> NDArray[np.intp]:
    if len(indices) <= count:
        return indices
    return indices[np.linspace(0, len(indices) - 1, count).astype(np.intp)]


def mosaic(images: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return ``images`` (n, 28, 28) side by side in one picture, row by row, with room for a caption under each."""
    rows = math.ceil(len(images) / _COLUMNS)
    picture = np.zeros((rows * _CELL, _COLUMNS * _CELL), np.float32)
    for place, image in enumerate(images):
        y, x = _corner(place)
        picture[y : y + _DIGIT, x : x + _DIGIT] = image
    return picture


def _corner(place: int) -> tuple[int, int]:
    row, column = divmod(place, _COLUMNS)
    return row * _CELL + 2, column * _CELL + (_CELL - _DIGIT) // 2


def _caption(axes: Axes, place: int, prediction: int, label: int) -> None:
    y, x = _corner(place)
    middle, below = x + _DIGIT / 2 - 0.5, y + _DIGIT + 5
    if prediction == label:
        axes.text(middle, below, str(prediction), color=_QUIET, fontsize=9, ha="center", va="center")
        return
    frame = Rectangle((x - 1.5, y - 1.5), _DIGIT + 2, _DIGIT + 2, fill=False, edgecolor=_RED, linewidth=1.6)
    axes.add_patch(frame)
    text = f"{prediction} → {label}"
    axes.text(middle, below, text, color=_RED, fontsize=9, ha="center", va="center", weight="bold")


def _figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), dpi=120, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)  # draws without a display
    return figure


def _title(axes: Axes, text: str) -> None:
    axes.set_title(text, loc="left", color=_INK, fontsize=11, weight="bold")


def _tidy(axes: Axes) -> None:
    axes.set_xlabel("epoch", color=_INK)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(which="both", colors=_INK)
