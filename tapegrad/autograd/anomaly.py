"""Anomaly detection: which forward line an entry comes from, and gradients that are not numbers."""

from __future__ import annotations

import linecache
import sys
import warnings
from pathlib import Path
from types import FrameType, TracebackType
from typing import Self

import numpy as np

from tapegrad.autograd.names import name_of_op
from tapegrad.ops.calls import functions
from tapegrad.runtime.handle import Tensor, wrap
from tapegrad.runtime.layout import CHECK_NAN, PYTHON, RECORD_SITES
from tapegrad.runtime.machine import machine

_PACKAGE = str(Path(__file__).resolve().parents[1])
_sites: list[tuple[str, int, str]] = [("", 0, "")]  # file, line and function of each site; entries have its place here
_places: dict[tuple[str, int, str], int] = {_sites[0]: 0}
_failed: list[str] = [""]  # the custom Function whose backward has failed last


def is_anomaly_enabled() -> bool:
    """Return whether anomaly detection is on."""
    return bool(machine.state["anomaly"])


def is_anomaly_check_nan_enabled() -> bool:
    """Return whether gradients are checked for nan."""
    return bool(machine.state["anomaly"] & CHECK_NAN)


def _set(bits: int) -> None:
    """Turn the machine's two switches on or off; entries made while no lines are recorded have none."""
    machine.state["anomaly"] = bits
    if not bits & RECORD_SITES:
        machine.state["site"] = 0


class set_detect_anomaly:  # noqa: N801 (torch's name)
    """Turn anomaly detection on or off, from here on or as a context manager.

    While it is on, each entry notes the line that it comes from; an error in backward warns with that line, and a
    gradient that is nan is an error. Off, it costs nothing.

    Args:
        mode: on or off.
        check_nan: whether gradients are checked for nan.
    """

    def __init__(self, mode: bool, check_nan: bool = True) -> None:
        self._before = int(machine.state["anomaly"])
        _set((RECORD_SITES | CHECK_NAN * bool(check_nan)) if mode else 0)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _set(self._before)


class detect_anomaly(set_detect_anomaly):  # noqa: N801 (torch's name)
    """Detect anomalies inside of a ``with`` block; see set_detect_anomaly.

    Example:
        >>> import warnings
        >>> import tapegrad as tg
        >>> x = tg.tensor(-1.0, requires_grad=True)
        >>> with warnings.catch_warnings(action="ignore"), tg.autograd.set_detect_anomaly(True):
        ...     tg.sqrt(x).backward()
        Traceback (most recent call last):
        RuntimeError: Function 'SqrtBackward0' returned nan values in its 0th output.
    """

    def __init__(self, check_nan: bool = True) -> None:
        warnings.warn(
            "Anomaly Detection has been enabled. This mode will increase the runtime and should only be enabled for "
            "debugging.",
            stacklevel=2,
        )
        self._wanted = check_nan
        self._before = int(machine.state["anomaly"])

    def __enter__(self) -> Self:
        _set(RECORD_SITES | CHECK_NAN * bool(self._wanted))
        return self


def note_site() -> int:
    """Put the line of the user's program that is running into the machine's state, for the entry that is next."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code.co_filename.startswith(_PACKAGE):
        frame = frame.f_back
    if frame is not None:
        site = (frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name)
        place = _places.get(site)
        if place is None:
            place = _places[site] = len(_sites)
            _sites.append(site)
        machine.state["site"] = place
    return 0


def site_text(site: int) -> str:
    """Return where a site is, as a traceback shows it; an empty string for entries made while detection was off."""
    if site <= 0 or site >= len(_sites):
        return ""
    file, line, function = _sites[site]
    source = linecache.getline(file, line).strip()
    return f'  File "{file}", line {line}, in {function}\n' + (f"    {source}\n" if source else "")


def site_line(site: int) -> str:
    """Return where a site is as ``file.py:12``; an empty string for entries made while no lines were recorded."""
    if site <= 0 or site >= len(_sites):
        return ""
    file, line, _ = _sites[site]
    return f"{Path(file).name}:{line}"


class record_lines:  # noqa: N801 (used as a function)
    """Have each entry note the line of the program that it comes from, from here on or inside of a ``with`` block."""

    def __init__(self, mode: bool = True) -> None:
        self._before = int(machine.state["anomaly"])
        _set(self._before | RECORD_SITES if mode else self._before & ~RECORD_SITES)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _set(self._before)


def check_gradient(name: str, operand: int, gradient: Tensor) -> None:
    """Raise RuntimeError where anomaly detection looks for nan and the gradient of an operand has one."""
    if machine.state["anomaly"] & CHECK_NAN and np.isnan(functions["_array_of"](gradient)).any():
        raise RuntimeError(f"Function '{name}' returned nan values in its {operand}th output.")


def check_slot(operand: int, slot: int) -> int:
    """Check the gradient in a slot, of which the caller keeps its reference."""
    check_gradient(_name_of_visited(), operand, wrap(machine.handle_of_slot(slot)))
    return 0


def _name_of_visited() -> str:
    code = int(machine.state["visiting_op"])
    return _failed[0] if int(machine.ops[code]["kind"]) == PYTHON else name_of_op(code)


def note_failure(name: str) -> None:
    """Note which custom Function's backward has failed."""
    _failed[0] = name


def warn_of_visited() -> None:
    """Warn, after an error in backward, with the name and the forward line of the entry that was visited."""
    place = site_text(int(machine.state["visiting_site"]))
    where = f"Traceback of forward call that caused the error:\n{place}" if place else _NO_SITE
    warnings.warn(f"Error detected in {_name_of_visited()}. {where}", stacklevel=4)


_NO_SITE = "No forward pass information available. Enable detect anomaly during forward pass for more information."
