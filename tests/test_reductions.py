"""Reductions against torch: dtypes, dimensions, layouts, empty and nan; accuracy; derivatives to second order."""

# ruff: noqa: B023 (the functions are called before the loop goes on)

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tapegrad as tg
from tapegrad.ops import functions as F

torch = pytest.importorskip("torch")
DTYPES = ("bool", "uint8", "int32", "int64", "float32", "float64")
SHAPES = ((), (5,), (3, 0), (7, 5, 33), (2, 3, 4, 5), (1000, 3), (3, 5000))


def sample(dtype: str, shape: tuple[int, ...]) -> np.ndarray:
    random = np.random.default_rng(len(shape))
    if dtype.startswith("float"):
        return np.asarray(random.normal(size=shape) * 3, dtype)
    return np.asarray(random.integers(0, 2 if dtype == "bool" else 5, shape), dtype)


def choices(ndim: int) -> list[Any]:
    more = [(0, 1), (-1, 0)] if ndim > 1 else []
    return [None, *range(-ndim, ndim), *more, *([(0, 2)] if ndim > 2 else [])]


def compare(ours: Any, theirs: Any) -> None:
    assert str(ours.dtype).split(".")[1] == str(theirs.dtype).split(".")[1]
    assert ours.shape == tuple(theirs.shape)
    tolerance = 1e-12 if theirs.dtype == torch.float64 else 2e-5
    np.testing.assert_allclose(ours.numpy(), theirs.numpy(), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["sum", "mean", "amax", "amin", "any", "all", "count_nonzero", "prod", "var"])
def test_over_any_dims(name: str, dtype: str, transposed: bool) -> None:
    for shape in SHAPES:
        if (name in ("mean", "var") and "f" not in dtype) or (name.startswith("am") and 0 in shape):
            continue
        x = sample(dtype, shape)
        ours, theirs = tg.tensor(x), torch.tensor(x)
        if transposed and len(shape) > 1:
            ours, theirs = ours.transpose(0, 1), theirs.transpose(0, 1)
        for dim in choices(len(shape)):
            if name == "prod" and isinstance(dim, tuple):
                continue
            for keepdim in (False, True) if name != "count_nonzero" else (False,):
                arguments = {} if dim is None else {"dim": dim, "keepdim": keepdim}
                if name == "count_nonzero":
                    arguments.pop("keepdim", None)
                if name == "var" and np.prod(shape) * (0 not in shape) < 2:
                    continue
                compare(F[name](ours, **arguments), getattr(torch, name)(theirs, **arguments))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["max", "min", "argmax", "argmin"])
def test_extrema_along_a_dim(name: str, dtype: str) -> None:
    if dtype == "bool" and name.startswith("arg"):
        with pytest.raises(RuntimeError, match="does not support bool input"):
            F[name](tg.tensor([True]))
        return
    for shape in [(), (5,), (7, 5, 33), (3, 5000), (5000, 3)]:
        x = sample(dtype, shape)
        for dim in range(-len(shape), len(shape)) or [0]:
            ours, theirs = F[name](tg.tensor(x), dim), getattr(torch, name)(torch.tensor(x), dim)
            if name.startswith("arg"):
                compare(ours, theirs)
            else:
                compare(ours.values, theirs.values)
                compare(ours.indices, theirs.indices)


@pytest.mark.parametrize("name", ["max", "min"])
@pytest.mark.parametrize("dim", [0, 1])
def test_the_first_nan_wins(name: str, dim: int) -> None:
    x = np.array([[1.0, np.nan, 3.0, np.nan], [-np.inf, -np.inf, np.inf, 0.0], [np.nan, 1.0, 1.0, 1.0]])
    ours, theirs = F[name](tg.tensor(x), dim), getattr(torch, name)(torch.tensor(x), dim)
    np.testing.assert_array_equal(ours.values.numpy(), theirs.values.numpy())
    np.testing.assert_array_equal(ours.indices.numpy(), theirs.indices.numpy())


def test_infinities_and_nan_in_sums() -> None:
    for x in ([np.inf, 1.0], [np.inf, -np.inf], [np.nan, 1.0], [-np.inf] * 5000):
        for dtype in ("float32", "float64"):
            a = np.array(x, dtype)
            np.testing.assert_array_equal(F["sum"](tg.tensor(a)).numpy(), torch.tensor(a).sum().numpy())
    assert F["nansum"](tg.tensor([np.nan, 2.0])).item() == 2
    assert F["nanmean"](tg.tensor([np.nan, 2.0, 4.0])).item() == 3


def test_sums_are_as_accurate_as_pairwise_ones() -> None:
    x = np.random.default_rng(0).random(1 << 20, dtype=np.float32)
    exact = x.astype(np.float64)
    assert abs(F["sum"](tg.tensor(x)).item() - exact.sum()) <= 1e-7 * exact.sum()
    columns = F["sum"](tg.tensor(x.reshape(-1, 16)), 0).numpy()
    np.testing.assert_allclose(columns, exact.reshape(-1, 16).sum(0), rtol=1e-7)
    hard = np.full(1_000_001, 1e-8)
    hard[0] = 1e8
    assert abs(F["sum"](tg.tensor(hard)).item() - (1e8 + 1e-2)) <= 5e-7  # one after the other: 5e-3


@pytest.mark.parametrize(
    ("name", "arguments", "error", "text"),
    [
        (
            "max",
            (tg.tensor([]),),
            RuntimeError,
            r"max\(\): Expected reduction dim to be specified for input.numel\(\) == 0",
        ),
        ("argmax", (tg.tensor([]),), IndexError, r"argmax\(\): Expected reduction dim to be specified"),
        ("max", (tg.tensor(np.zeros((2, 0))), 1), IndexError, r"Expected reduction dim 1 to have non-zero size"),
        ("mean", (tg.tensor([1, 2]),), RuntimeError, r"could not infer output dtype.*Got: Long"),
        ("var", (tg.tensor([1, 2]),), RuntimeError, "std and var only support floating point"),
        ("sum", (tg.tensor([1.0]), 3), IndexError, r"expected to be in range of \[-1, 0\], but got 3"),
        ("sum", (tg.tensor([1.0]), (0, 0)), RuntimeError, "dim 0 appears multiple times"),
        ("norm", (tg.tensor([1, 2]),), RuntimeError, "Expected a floating point or complex tensor as input. Got Long"),
    ],
)
def test_errors_are_torchs(name: str, arguments: tuple[Any, ...], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        F[name](*arguments)


def check_derivatives(ours: Callable[..., Any], theirs: Callable[..., Any], x: np.ndarray) -> None:
    """Compare the value and derivatives of first and second order with torch's, along random directions."""
    random = np.random.default_rng(0)
    a, b = tg.tensor(x, requires_grad=True), torch.tensor(x, requires_grad=True)
    y, z = ours(a), theirs(b)
    np.testing.assert_allclose(y.detach().numpy(), z.detach().numpy(), rtol=1e-9, atol=1e-12)
    w, v = random.normal(size=tuple(z.shape)), random.normal(size=x.shape)
    (ga,) = tg.autograd.grad((y * y * tg.tensor(w)).sum(), [a], create_graph=True)
    (gb,) = torch.autograd.grad((z * z * torch.tensor(w)).sum(), [b], create_graph=True)
    np.testing.assert_allclose(ga.detach().numpy(), gb.detach().numpy(), rtol=1e-8, atol=1e-9)
    (ha,) = tg.autograd.grad((ga * ga * tg.tensor(v)).sum(), [a])
    (hb,) = torch.autograd.grad((gb * gb * torch.tensor(v)).sum(), [b])
    np.testing.assert_allclose(ha.detach().numpy(), hb.detach().numpy(), rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("name", ["sum", "mean", "amax", "amin", "var", "std", "prod", "logsumexp"])
def test_derivatives(name: str) -> None:
    x = sample("float64", (3, 4, 5))
    for dim in (0, 1, 2, (0, 2)):
        if name != "prod" or isinstance(dim, int):
            check_derivatives(lambda a: F[name](a, dim), lambda b: getattr(torch, name)(b, dim), x)


@pytest.mark.parametrize("p", [1, 2, 3, float("inf")])
def test_derivatives_of_norms(p: float) -> None:
    check_derivatives(lambda a: F["norm"](a, p, 1), lambda b: torch.norm(b, p, 1), sample("float64", (3, 4)))


def test_derivatives_at_zeros_and_ties() -> None:
    x = sample("float64", (3, 4, 5))
    x[0, 1, 2] = x[1, 1, 2] = x[1, 2, 2] = 0
    check_derivatives(lambda a: F["prod"](a, 1), lambda b: torch.prod(b, 1), x)
    check_derivatives(F["prod"], torch.prod, x)
    check_derivatives(lambda a: F["amax"](a, 1), lambda b: torch.amax(b, 1), np.round(x))
    check_derivatives(lambda a: F["max"](a, 1).values, lambda b: torch.max(b, 1).values, x)
    zero = tg.tensor(np.zeros(3), requires_grad=True)
    (F["norm"](zero) + F["std"](zero)).backward()
    np.testing.assert_array_equal(zero.grad.numpy(), 0)
