"""Scans against torch: every dtype and dimension, ties and nan, derivatives at zeros."""

# ruff: noqa: B023 (the functions are called before the loop goes on)

import numpy as np
import pytest
from test_reductions import check_derivatives, compare, sample

import tapegrad as tg
from tapegrad.ops import functions as F

torch = pytest.importorskip("torch")


@pytest.mark.parametrize("dtype", ["bool", "uint8", "int32", "int64", "float32", "float64"])
@pytest.mark.parametrize("name", ["cumsum", "cumprod", "cummax", "cummin", "logcumsumexp"])
def test_values(name: str, dtype: str) -> None:
    if name == "logcumsumexp" and "f" not in dtype:
        return
    for shape in ((), (5,), (0, 3), (4, 3, 600)):
        x = sample(dtype, shape)
        for dim in range(-len(shape), len(shape)) or [0]:
            if name == "cumprod" and shape and shape[dim] > 100:
                continue
            ours, theirs = F[name](tg.tensor(x), dim), getattr(torch, name)(torch.tensor(x), dim)
            pairs = zip(ours, theirs, strict=True) if name in ("cummax", "cummin") else [(ours, theirs)]
            for a, b in pairs:
                compare(a, b)


@pytest.mark.parametrize("name", ["cummax", "cummin"])
def test_the_last_of_equal_elements_and_the_first_nan(name: str) -> None:
    x = np.array([1.0, 3, 0, 3, np.nan, 5, 0, np.nan])
    ours, theirs = F[name](tg.tensor(x), 0), getattr(torch, name)(torch.tensor(x), 0)
    np.testing.assert_array_equal(ours.values.numpy(), theirs.values.numpy())


@pytest.mark.parametrize("dim", [0, 1, 2])
def test_derivatives(dim: int) -> None:
    x = sample("float64", (3, 4, 5))
    for name in ("cumsum", "cumprod", "logcumsumexp"):
        check_derivatives(lambda a: F[name](a, dim), lambda b: getattr(torch, name)(b, dim), x)
    for name in ("cummax", "cummin"):
        check_derivatives(lambda a: F[name](a, dim)[0], lambda b: getattr(torch, name)(b, dim)[0], x)


def test_derivatives_of_running_products_with_zeros() -> None:
    x = sample("float64", (3, 6))
    x[0, 1] = x[0, 4] = x[1, 0] = x[2, 5] = 0
    check_derivatives(lambda a: F["cumprod"](a, 1), lambda b: torch.cumprod(b, 1), x)


def test_logcumsumexp_of_nothing_yet() -> None:
    x = np.array([-np.inf, -np.inf, 1.0, 2.0, np.inf])
    np.testing.assert_allclose(
        F["logcumsumexp"](tg.tensor(x), 0).numpy(), torch.logcumsumexp(torch.tensor(x), 0).numpy()
    )


def test_differences_and_trapezoids() -> None:
    x, y = sample("float64", (6,)), sample("float64", (4, 6))
    ours, theirs = tg.tensor(y), torch.tensor(y)
    compare(F["diff"](ours, 2, 1), torch.diff(theirs, 2, 1))
    compare(F["diff"](ours, dim=0), torch.diff(theirs, dim=0))
    compare(F["trapezoid"](ours, dx=0.5), torch.trapezoid(theirs, dx=0.5))
    compare(F["trapezoid"](ours, tg.tensor(x)), torch.trapezoid(theirs, torch.tensor(x)))
