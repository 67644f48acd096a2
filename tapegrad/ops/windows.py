"""Windows for signals: hann, hamming, blackman, bartlett, kaiser (Harris 1978, doi:10.1109/PROC.1978.10837)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tapegrad.ops.calls import function
from tapegrad.ops.creation import check_device, code_of, from_array
from tapegrad.runtime.dtype import DTYPES
from tapegrad.runtime.handle import Tensor


def _window(count: int, periodic: bool, shape: Callable[[Any], Any], dtype: Any, device: Any, grad: bool) -> Tensor:
    """Return samples of ``shape`` at places from -1 to 1; of a periodic window the last one is left out."""
    check_device(device)
    if count < 0:
        raise RuntimeError(f"requires non-negative window_length, got window_length={count}")
    places = np.linspace(-1, 1, count + 1)[:count] if periodic and count > 1 else np.linspace(-1, 1, count)
    values = np.ones(count) if count == 1 else shape(places)
    return from_array(np.ascontiguousarray(values.astype(DTYPES[code_of(dtype)].numpy)), grad)


def _declare(name: str, shape: Callable[[Any], Any], formula: str) -> None:
    def window(
        window_length: int,
        periodic: bool = True,
        *,
        dtype: Any = None,
        layout: Any = None,
        device: Any = None,
        requires_grad: bool = False,
    ) -> Tensor:
        return _window(window_length, periodic, shape, dtype, device, requires_grad)

    window.__name__ = window.__qualname__ = f"{name}_window"
    window.__doc__ = f"Return a window of ``window_length`` samples of {formula} for t from -1 to 1."
    function(method=False)(window)


_declare("hann", lambda t: 0.5 + 0.5 * np.cos(np.pi * t), "(1 + cos(pi t)) / 2")
_declare("bartlett", lambda t: 1 - np.abs(t), "1 - |t|")
_declare(
    "blackman",
    lambda t: 0.42 + 0.5 * np.cos(np.pi * t) + 0.08 * np.cos(2 * np.pi * t),
    "0.42 + 0.5 cos(pi t) + 0.08 cos(2 pi t)",
)


@function(method=False)
def hamming_window(
    window_length: int,
    periodic: bool = True,
    alpha: float = 0.54,
    beta: float = 0.46,
    *,
    dtype: Any = None,
    layout: Any = None,
    device: Any = None,
    requires_grad: bool = False,
) -> Tensor:
    """Return a window of ``window_length`` samples of alpha + beta cos(pi t) for t from -1 to 1."""
    shape = lambda t: alpha + beta * np.cos(np.pi * t)  # noqa: E731
    return _window(window_length, periodic, shape, dtype, device, requires_grad)


@function(method=False)
def kaiser_window(
    window_length: int,
    periodic: bool = True,
    beta: float = 12.0,
    *,
    dtype: Any = None,
    layout: Any = None,
    device: Any = None,
    requires_grad: bool = False,
) -> Tensor:
    """Return a window of ``window_length`` samples of I0(beta sqrt(1 - t**2)) / I0(beta) for t from -1 to 1."""
    shape = lambda t: np.i0(beta * np.sqrt(np.maximum(1 - t * t, 0))) / np.i0(beta)  # noqa: E731
    return _window(window_length, periodic, shape, dtype, device, requires_grad)
