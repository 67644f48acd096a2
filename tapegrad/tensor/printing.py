"""How tensors print: torch's layout, precision and summary, with dtype, requires_grad or grad_fn at the end."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tapegrad.native.dtypes import BOOL, INT64
from tapegrad.runtime.dtype import DTYPES, get_default_dtype
from tapegrad.runtime.errors import refuse_reading
from tapegrad.runtime.handle import Tensor
from tapegrad.runtime.layout import REQUIRES_GRAD
from tapegrad.runtime.machine import machine
from tapegrad.tensor.convert import array_of

Array = npt.NDArray[Any]


@dataclass
class _Options:
    precision: int = 4
    threshold: float = 1000
    edgeitems: int = 3
    linewidth: int = 80
    sci_mode: bool | None = None


_options = _Options()
_PROFILES = {
    "default": _Options(),
    "short": _Options(precision=2, edgeitems=2),
    "full": _Options(threshold=math.inf),
}


def set_printoptions(
    precision: int | None = None,
    threshold: float | None = None,
    edgeitems: int | None = None,
    linewidth: int | None = None,
    profile: str | None = None,
    sci_mode: bool | None = None,
) -> None:
    """Set how tensors print.

    Args:
        precision: digits behind the point (4).
        threshold: number of elements from which only the edges are shown (1000).
        edgeitems: how many elements an edge has (3).
        linewidth: characters in a line (80).
        profile: ``"default"``, ``"short"`` or ``"full"``, which sets the four above.
        sci_mode: always (True) or never (False) use the scientific notation; None decides by the values.
    """
    given = {"precision": precision, "threshold": threshold, "edgeitems": edgeitems, "linewidth": linewidth}
    if profile is not None:
        if profile not in _PROFILES:
            raise ValueError(f"profile must be one of {sorted(_PROFILES)}, got {profile!r}")
        for name in given:
            setattr(_options, name, getattr(_PROFILES[profile], name))
    for name, value in given.items():
        if value is not None:
            setattr(_options, name, value)
    _options.sci_mode = sci_mode


def _formatter(values: Array) -> Callable[[Any], str]:
    """Return a function that writes a number as wide as the widest of the values that will be shown."""
    if values.dtype == bool:
        write: Callable[[Any], str] = lambda value: str(bool(value))  # noqa: E731
    elif values.dtype.kind in "iu":
        write = lambda value: str(int(value))  # noqa: E731
    else:
        values = values[np.isfinite(values) & (values != 0)].astype(np.float64)  # torch's width does not count nan
        write = _float_style(values)
    width = max((len(write(value)) for value in values.ravel()), default=0)
    return lambda value: write(value).rjust(width)


def _float_style(values: Array) -> Callable[[Any], str]:
    """Return whole numbers as ``2.``, a wide range of magnitudes as ``1.0e+09``, all else with fixed digits."""
    sizes = np.abs(values)
    largest, smallest = sizes.max(initial=0.0), sizes.min(initial=math.inf)
    whole = bool(np.all(values == np.ceil(values)))
    wide = largest > 1e8 or largest / smallest > 1000.0 or (not whole and smallest < 1e-4)
    if whole:
        wide = largest > 1e8 or largest / smallest > 1000.0
    if _options.sci_mode is not None:
        wide = _options.sci_mode
    if wide:
        return lambda value: f"{value:.{_options.precision}e}"
    if whole:
        return lambda value: f"{value:.0f}" + ("." if math.isfinite(value) else "")
    return lambda value: f"{value:.{_options.precision}f}"


def _shown(array: Array) -> Array:
    """Return the elements that a summary shows, or all where it is not summarised."""
    if array.size <= _options.threshold or array.ndim == 0:
        return array.ravel()
    edge = _options.edgeitems
    for axis, length in enumerate(array.shape):
        if length > 2 * edge:
            array = np.take(array, [*range(edge), *range(length - edge, length)], axis=axis)
    return array.ravel()


def _body(array: Array, indent: int, write: Callable[[Any], str], summarise: bool) -> str:
    """Return nested brackets around the numbers, broken into lines."""
    if array.ndim == 0:
        return write(array[()])
    edge = _options.edgeitems
    cut = summarise and len(array) > 2 * edge
    rows = [*array[:edge], *array[-edge:]] if cut else list(array)
    if array.ndim == 1:
        return _row([write(value) for value in rows], indent, edge if cut else None)
    parts = [_body(row, indent + 1, write, summarise) for row in rows]
    if cut:
        parts.insert(edge, "...")
    return "[" + ("," + "\n" * (array.ndim - 1) + " " * (indent + 1)).join(parts) + "]"


def _row(numbers: list[str], indent: int, gap: int | None) -> str:
    width = max((len(number) for number in numbers), default=0) + 2
    per_line = max(1, (_options.linewidth - indent) // width)
    if gap is not None:
        numbers = [*numbers[:gap], " ...", *numbers[gap:]]
    lines = [numbers[k : k + per_line] for k in range(0, len(numbers), per_line)]
    return "[" + (",\n" + " " * (indent + 1)).join(", ".join(part) for part in lines) + "]"


def _suffixes(tensor: Tensor, array: Array) -> list[str]:
    dtype = DTYPES[machine.dtype_of(tensor._handle)]
    found = []
    if array.size == 0 and array.ndim != 1:
        found.append(f"size={tuple(array.shape)}")
    usual = {get_default_dtype().code, INT64, BOOL}
    if dtype.code not in usual or (array.size == 0 and dtype.code != get_default_dtype().code):
        found.append(f"dtype={dtype!r}")
    node = getattr(tensor, "grad_fn", None)
    if node is not None:
        found.append(f"grad_fn=<{node.name()}>")
    elif machine.flags_of(tensor._handle) & REQUIRES_GRAD:
        found.append("requires_grad=True")
    return found


def describe(tensor: Tensor, prefix: str = "tensor(") -> str:
    """Return the text of a tensor as ``print`` shows it."""
    refuse_reading("printing a tensor")
    array = array_of(tensor)
    if array.size == 0:
        text = "[]"
    else:
        write = _formatter(_shown(array))
        text = _body(array, len(prefix), write, array.size > _options.threshold)
        if array.ndim == 0:
            text = text.strip()
    parts = [prefix + text, *_suffixes(tensor, array)]
    result = ", ".join(parts) + ")"
    if len(result.splitlines()[-1]) <= _options.linewidth or len(parts) == 1:
        return result
    return (",\n" + " " * len(prefix)).join([parts[0], ", ".join(parts[1:])]) + ")"


Tensor.__repr__ = lambda self: describe(self)  # type: ignore[method-assign, arg-type]
Tensor.__str__ = Tensor.__repr__  # type: ignore[method-assign]
