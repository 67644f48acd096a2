"""Runs the same function on tapegrad and on torch and compares values, shapes, errors, first and second derivatives."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

import tapegrad as tg

torch = pytest.importorskip("torch")
Function = Callable[..., Any]


def to_torch(value: Any) -> Any:
    """Return arrays, in sequences too, as torch's tensors."""
    return _map(value, lambda array: torch.tensor(array))


def to_tapegrad(value: Any) -> Any:
    """Return arrays, in sequences too, as tapegrad's tensors."""
    return _map(value, lambda array: tg.tensor(array))


def _map(value: Any, change: Callable[[np.ndarray], Any]) -> Any:
    if isinstance(value, np.ndarray):
        return change(value)
    return type(value)(_map(item, change) for item in value) if isinstance(value, list | tuple) else value


def outputs(result: Any) -> list[Any]:
    return list(result) if isinstance(result, tuple | list) else [result]


def array(tensor: Any) -> np.ndarray:
    return np.asarray(tensor.detach().numpy())


def check_values(function: Function, arrays: Sequence[np.ndarray]) -> None:
    """Compare the results and their dtypes."""
    mine = outputs(function(tg, *[to_tapegrad(a) for a in arrays]))
    theirs = outputs(function(torch, *[to_torch(a) for a in arrays]))
    assert len(mine) == len(theirs)
    for a, b in zip(mine, theirs, strict=True):
        assert str(a.dtype).partition(".")[2] == str(b.dtype).partition(".")[2]
        np.testing.assert_allclose(array(a), array(b), rtol=1e-6, atol=1e-6)
        assert array(a).shape == array(b).shape


def _derivatives(library: Any, function: Function, tensors: list[Any]) -> list[np.ndarray]:
    """Return the gradients of a nonlinear function of the results, and those of a function of these gradients."""
    leaves = [tensor for tensor in tensors if tensor.is_floating_point()]
    for leaf in leaves:
        leaf.requires_grad_()
    parts = [part for part in outputs(function(library, *tensors)) if part.is_floating_point()]
    loss = sum((part * part * part).sum() for part in (*parts, *leaves))
    first = library.autograd.grad(loss, leaves, create_graph=True)
    second = library.autograd.grad(sum((g * g).sum() for g in first), leaves)
    return [array(g) for g in (*first, *second)]


def check_derivatives(function: Function, arrays: Sequence[np.ndarray], rtol: float = 1e-9) -> None:
    mine = _derivatives(tg, function, [to_tapegrad(a) for a in arrays])
    theirs = _derivatives(torch, function, [to_torch(a) for a in arrays])
    for a, b in zip(mine, theirs, strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=1e-12)


def check(function: Function, *arrays: np.ndarray) -> None:
    """Compare values and, for float64 operands, derivatives."""
    check_values(function, arrays)
    if any(a.dtype == np.float64 for a in arrays):
        check_derivatives(function, arrays)


def check_error(function: Function, *arrays: np.ndarray) -> None:
    """Both raise, and the classes agree; the text is compared by the tests that quote it."""
    with pytest.raises((RuntimeError, IndexError, TypeError, ValueError)) as theirs:
        function(torch, *[to_torch(a) for a in arrays])
    with pytest.raises(type(theirs.value)):
        function(tg, *[to_tapegrad(a) for a in arrays])
