"""Tensors print as torch's do."""

import numpy as np
import pytest

import tapegrad as tg

RNG = np.random.default_rng(0)
CASES = [
    1.0,
    [0.5, 1.0],
    [[1, 2], [3, 4]],
    [True, False],
    [1e9, 1.0],
    [1e-5, 1.0],
    [0.0, 0.0],
    RNG.normal(size=(3, 4)).astype(np.float32),
    np.arange(2000.0, dtype=np.float32),
    RNG.normal(size=(20, 30, 4)),
    np.zeros(0),
    np.zeros((0, 3), np.float32),
    np.zeros((2, 0), np.int64),
    RNG.integers(-5, 100, (4, 30)),
    [float("nan"), 1.5, float("inf")],
    [float("nan"), 1.0, -float("inf")],
    np.arange(100, dtype=np.int32),
    [[[1.0, 2.0], [3.0, 4.0]], [[5.0, 6.0], [7.0, 8.0]]],
    np.arange(3, dtype=np.uint8),
    RNG.normal(size=1001).astype(np.float32) * 1e6,
]


def test_the_layout_of_a_matrix() -> None:
    assert repr(tg.tensor([[1.0, 2.5], [-3.0, 4.0]])) == "tensor([[ 1.0000,  2.5000],\n        [-3.0000,  4.0000]])"


def test_the_suffixes() -> None:
    assert repr(tg.tensor([1.0], requires_grad=True)) == "tensor([1.], requires_grad=True)"
    assert repr(tg.tensor([1.0], dtype=tg.float64)) == "tensor([1.], dtype=tapegrad.float64)"


@pytest.mark.parametrize("data", CASES, ids=range(len(CASES)))
def test_as_torch(data: object) -> None:
    torch = pytest.importorskip("torch")
    assert repr(tg.tensor(data)).replace("tapegrad.", "torch.") == repr(torch.tensor(data))


def test_options_change_the_precision() -> None:
    try:
        tg.set_printoptions(precision=2)
        assert repr(tg.tensor([0.123])) == "tensor([0.12])"
    finally:
        tg.set_printoptions(profile="default")
