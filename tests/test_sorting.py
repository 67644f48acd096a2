"""Sorting and what follows from it, searching and counting, against torch and NumPy: ties, nan, zeros of both signs."""

import numpy as np
import pytest

import tapegrad as tg
from tapegrad.ops import functions as F

torch = pytest.importorskip("torch")
DTYPES = ("uint8", "int32", "int64", "float32", "float64")


def sample(dtype: str, *shape: int) -> np.ndarray:
    random = np.random.default_rng(sum(shape))
    if dtype.startswith("float"):
        x = np.asarray(np.round(random.normal(size=shape) * 3, 1), dtype)
        if x.size > 4:
            x.flat[:5] = [0.0, -0.0, np.nan, -np.inf, np.inf]
        return x
    return np.asarray(random.integers(0, 7, shape) - (3 if dtype != "uint8" else 0), dtype)


def same(ours: tg.Tensor, theirs: "torch.Tensor") -> None:
    assert str(ours.dtype).split(".")[1] == str(theirs.dtype).split(".")[1]
    np.testing.assert_array_equal(ours.numpy(), theirs.numpy())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(), (1,), (7, 33), (3, 4, 50), (1, 1000), (0, 3)])
@pytest.mark.parametrize("descending", [False, True])
def test_sort_is_stable(dtype: str, shape: tuple[int, ...], descending: bool) -> None:
    x = sample(dtype, *shape)
    for dim in range(-len(shape), len(shape)) or [0]:
        ours = F["sort"](tg.tensor(x), dim, descending)
        theirs = torch.sort(torch.tensor(x), dim=dim, descending=descending, stable=True)
        same(ours.values, theirs.values)
        same(ours.indices, theirs.indices)


def test_sort_of_booleans_and_of_rows_longer_than_the_workspace() -> None:
    x = np.random.default_rng(0).integers(0, 1 << 40, 300_000)
    np.testing.assert_array_equal(F["sort"](tg.tensor(x)).values.numpy(), np.sort(x))
    np.testing.assert_array_equal(F["argsort"](tg.tensor([True, False, True])).numpy(), [1, 0, 2])


@pytest.mark.parametrize("name", ["median", "nanmedian"])
@pytest.mark.parametrize("dtype", ["int64", "float32"])
def test_medians(name: str, dtype: str) -> None:
    x = sample(dtype, 7, 34)
    same(F[name](tg.tensor(x)), getattr(torch, name)(torch.tensor(x)))
    for dim in (0, 1):
        same(F[name](tg.tensor(x), dim).values, getattr(torch, name)(torch.tensor(x), dim).values)


def test_order_statistics() -> None:
    x = sample("int64", 7, 34)
    ours, theirs = tg.tensor(x), torch.tensor(x)
    same(F["kthvalue"](ours, 5, 1).values, theirs.kthvalue(5, 1).values)
    same(F["topk"](ours, 5, 0).values, theirs.topk(5, 0).values)
    same(F["topk"](ours, 5, 1, largest=False).values, theirs.topk(5, 1, largest=False).values)
    modes = F["mode"](ours, 1)
    same(modes.values, theirs.mode(1).values)
    np.testing.assert_array_equal(x[np.arange(7), modes.indices.numpy()], modes.values.numpy())
    with pytest.raises(RuntimeError, match="selected index k out of range"):
        F["topk"](ours, 35)
    with pytest.raises(RuntimeError, match="selected number k out of range for dimension 1"):
        F["kthvalue"](ours, 35)


@pytest.mark.parametrize("how", ["linear", "lower", "higher", "midpoint", "nearest"])
def test_quantiles(how: str) -> None:
    x = np.random.default_rng(0).normal(size=(5, 8))
    for q in (0.0, 0.3, 0.5, 1.0):
        ours = F["quantile"](tg.tensor(x), q, 1, interpolation=how)
        np.testing.assert_allclose(ours.numpy(), torch.tensor(x).quantile(q, 1, interpolation=how).numpy(), rtol=1e-12)
    with pytest.raises(RuntimeError, match=r"range \[0, 1\] but got 1.5"):
        F["quantile"](tg.tensor(x), 1.5)


@pytest.mark.parametrize("right", [False, True])
def test_searching(right: bool) -> None:
    x = np.array([1.0, 2.0, 2.0, 3.0])
    values = np.array([[np.nan, 2.0, 0.0], [3.0, 2.5, 9.0]])
    same(
        F["searchsorted"](tg.tensor(x), tg.tensor(values), right=right),
        torch.searchsorted(torch.tensor(x), torch.tensor(values), right=right),
    )
    same(
        F["bucketize"](tg.tensor(values), tg.tensor(x), right=right),
        torch.bucketize(torch.tensor(values), torch.tensor(x), right=right),
    )


def test_counting() -> None:
    x = np.array([1, 5, 1, 0, 3])
    w = np.array([0.5, 1.0, 2.0, 3.0, 4.0])
    same(F["bincount"](tg.tensor(x)), torch.bincount(torch.tensor(x)))
    same(F["bincount"](tg.tensor(x), tg.tensor(w), 8), torch.bincount(torch.tensor(x), torch.tensor(w), 8))
    same(F["histc"](tg.tensor(w), 4), torch.histc(torch.tensor(w), 4))
    same(F["histc"](tg.tensor(w), 4, 1, 3), torch.histc(torch.tensor(w), 4, 1, 3))
    with pytest.raises(RuntimeError, match="1-d non-negative"):
        F["bincount"](tg.tensor([-1]))


@pytest.mark.parametrize("name", ["unique", "unique_consecutive"])
@pytest.mark.parametrize("x", [[3, 1, 1, 2, 2, 1], [np.nan, 1.0, np.nan, 1.0], [[2, 2], [1, 2]], []])
def test_unique(name: str, x: list) -> None:
    ours = F[name](tg.tensor(np.array(x)), return_inverse=True, return_counts=True)
    theirs = getattr(torch, name)(torch.tensor(np.array(x)), return_inverse=True, return_counts=True)
    for a, b in zip(ours, theirs, strict=True):
        same(a, b)


def test_gradients_go_to_where_the_elements_were() -> None:
    x = tg.tensor([[3.0, 1.0, 2.0], [0.0, 5.0, 4.0]], requires_grad=True)
    F["sum"](F["sort"](x, 1).values * tg.tensor([1.0, 10.0, 100.0])).backward()
    np.testing.assert_array_equal(x.grad.numpy(), [[100, 1, 10], [1, 100, 10]])
    x.grad = None
    F["sum"](F["topk"](x, 1).values).backward()
    np.testing.assert_array_equal(x.grad.numpy(), [[1, 0, 0], [0, 1, 0]])


@pytest.mark.parametrize("shape", [(6, 2), (3, 5, 2), (7,), (0, 2), (1, 3)])
@pytest.mark.parametrize("name", ["unique", "unique_consecutive"])
def test_the_different_slices_are_torchs(name, shape):
    x = np.random.default_rng(0).integers(0, 2, shape).astype(np.float32)
    for dim in (None, *range(len(shape))):
        if shape == (0, 2) and dim == 1:
            continue
        results = [
            getattr(t, name)(t.from_numpy(x), return_inverse=True, return_counts=True, dim=dim) for t in (tg, torch)
        ]
        for a, b in zip(*results, strict=True):
            assert a.shape == b.shape
            np.testing.assert_array_equal(a.numpy(), b.numpy())


def test_unique_rows():
    x = tg.tensor([[1, 0], [0, 2], [1, 0]])
    values, inverse, counts = tg.unique(x, return_inverse=True, return_counts=True, dim=0)
    assert (values.tolist(), inverse.tolist(), counts.tolist()) == ([[0, 2], [1, 0]], [1, 0, 1], [1, 2])
    with pytest.raises(RuntimeError, match="0 sized dimensions"):
        tg.unique(tg.zeros(0, 2), dim=1)
    with pytest.raises(IndexError, match="has no dimensions"):
        tg.unique(tg.tensor(1.0), dim=0)
