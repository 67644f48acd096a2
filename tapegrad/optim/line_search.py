"""A line search for the strong Wolfe conditions (Nocedal and Wright 2006, algorithms 3.5 and 3.6)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np


class Point(NamedTuple):
    """A point on the line: how far, the loss there, its gradient as a flat tensor, its slope along the line."""

    t: float
    loss: float
    gradient: Any
    slope: float


def cubic_minimum(a: Point, b: Point, bounds: tuple[float, float] | None = None) -> float:
    """Return where the cubic through two points, with their slopes, is least within the bounds; else their middle.

    The formula is Nocedal and Wright's (3.59). Divisions by zero give infinities, which the bounds cut.
    """
    low, high = bounds if bounds is not None else (min(a.t, b.t), max(a.t, b.t))
    with np.errstate(all="ignore"):
        near, far = (a, b) if a.t <= b.t else (b, a)
        slope = np.float64(a.slope + b.slope) - 3 * (np.float64(a.loss) - b.loss) / (a.t - b.t)
        square = slope**2 - np.float64(a.slope) * b.slope
        if not square >= 0:
            return (low + high) / 2.0
        root = np.sqrt(square)
        t = far.t - (far.t - near.t) * ((far.slope + root - slope) / (far.slope - near.slope + 2 * root))
    return float(min(max(t, low), high))


class StrongWolfe:
    """Finds a step at which the loss has fallen enough (c1) and its slope has become small enough (c2).

    Args:
        evaluate: returns the point at a distance along the direction.
        start: the point at distance 0.
        size: the largest absolute value of the direction: brackets below ``tolerance / size`` are not divided.
        tolerance: see ``size``.
        limit: how many evaluations there may be after the first.
    """

    def __init__(
        self,
        evaluate: Callable[[float], Point],
        start: Point,
        size: float,
        tolerance: float,
        limit: int,
        c1: float = 1e-4,
        c2: float = 0.9,
    ) -> None:
        self.evaluate, self.start, self.limit = evaluate, start, limit
        self.size, self.tolerance, self.c1, self.c2 = size, tolerance, c1, c2
        self.turns = 0

    def search(self, t: float) -> tuple[Point, int]:
        """Return the best point found, beginning with a step of ``t``, and how often the loss was evaluated."""
        ends = self._bracket(t)
        if len(ends) == 2:
            self._zoom(ends)
        best = ends[0] if len(ends) == 1 or ends[0].loss <= ends[1].loss else ends[1]
        return best, self.turns + 1

    def _falls(self, point: Point) -> bool:
        return not point.loss > self.start.loss + self.c1 * point.t * self.start.slope

    def _is_flat(self, point: Point) -> bool:
        return abs(point.slope) <= -self.c2 * self.start.slope

    def _bracket(self, t: float) -> list[Point]:
        """Return one point that is good enough, or two between which there is one."""
        before, point = self.start, self.evaluate(t)
        while self.turns < self.limit:
            if not self._falls(point) or (self.turns > 1 and point.loss >= before.loss):
                return [before, point]
            if self._is_flat(point):
                return [point]
            if point.slope >= 0:
                return [before, point]
            bounds = (point.t + 0.01 * (point.t - before.t), point.t * 10)
            t = cubic_minimum(before, point, bounds)
            before, point = point, self.evaluate(t)
            self.turns += 1
        return [self.start, point]

    def _zoom(self, ends: list[Point]) -> None:
        """Divide the bracket until one end is good enough; its lower end is always the best point so far."""
        stuck = False
        low, high = (0, 1) if ends[0].loss <= ends[1].loss else (1, 0)
        while self.turns < self.limit and not abs(ends[1].t - ends[0].t) * self.size < self.tolerance:
            t, stuck = _kept_inside(cubic_minimum(ends[0], ends[1]), ends, stuck)
            point = self.evaluate(t)
            self.turns += 1
            if not self._falls(point) or point.loss >= ends[low].loss:
                ends[high] = point
                low, high = (0, 1) if ends[0].loss <= ends[1].loss else (1, 0)
                continue
            done = self._is_flat(point)
            if not done and point.slope * (ends[high].t - ends[low].t) >= 0:
                ends[high] = ends[low]
            ends[low] = point
            if done:
                ends[:] = [point]
                return
        ends[:] = [ends[low]]


def _kept_inside(t: float, ends: list[Point], stuck: bool) -> tuple[float, bool]:
    """Return a step that is not twice in a row within a tenth of the bracket's end, and whether this one is."""
    first, last = min(ends[0].t, ends[1].t), max(ends[0].t, ends[1].t)
    margin = 0.1 * (last - first)
    if min(last - t, t - first) >= margin:
        return t, False
    if stuck or t >= last or t <= first:
        return (last - margin if abs(t - last) < abs(t - first) else first + margin), False
    return t, True
