"""Creation functions against torch: values, dtypes, shapes, errors."""

import numpy as np
import pytest

import tapegrad as tg

torch = pytest.importorskip("torch")
DTYPES = ("bool", "uint8", "int32", "int64", "float32", "float64")

SAME = [
    "zeros(2, 3)",
    "zeros((2, 3))",
    "zeros([2, 0])",
    "zeros(())",
    "zeros(1)",
    "ones(2, 3)",
    "ones(2, dtype=torch.bool)",
    "full((2, 2), 3)",
    "full((2,), 2.5)",
    "full((), True)",
    "full((2,), 2, dtype=torch.float64)",
    "full((2,), 2.9, dtype=torch.int64)",
    "arange(5)",
    "arange(5.0)",
    "arange(0)",
    "arange(2, 5)",
    "arange(1, 2.5, 0.5)",
    "arange(5, 1, -2)",
    "arange(1, 6, 2, dtype=torch.float32)",
    "arange(0, 1, 0.1, dtype=torch.float64)",
    "arange(3, dtype=torch.uint8)",
    "arange(2**40, 2**40 + 3)",
    "linspace(0, 1, 5)",
    "linspace(3, -10, 5, dtype=torch.float64)",
    "linspace(1, 2, 1)",
    "linspace(1, 2, 0)",
    "linspace(0, 10, 6, dtype=torch.int64)",
    "logspace(-2, 2, 5)",
    "logspace(0, 4, 5, base=2.0, dtype=torch.float64)",
    "eye(3)",
    "eye(2, 4)",
    "eye(4, 2, dtype=torch.int32)",
    "eye(0)",
    "tril_indices(3, 4)",
    "tril_indices(4, 3, 1)",
    "triu_indices(3, 3, -1)",
    "triu_indices(3, 3, dtype=torch.int32)",
    "zeros_like(torch.ones(2, 3, dtype=torch.float64))",
    "ones_like(torch.zeros(2, dtype=torch.int32))",
    "ones_like(torch.zeros(2), dtype=torch.bool)",
    "full_like(torch.zeros(2, 2), 3)",
    "ones(2, dtype=torch.float64).new_zeros(3)",
    "ones(2, dtype=torch.int32).new_full((2,), 7)",
    "ones(2).new_ones((2, 2), dtype=torch.int64)",
]


@pytest.mark.parametrize("code", SAME)
def test_same_as_torch(code):
    got, want = (eval(f"torch.{code}", {"torch": module}) for module in (tg, torch))
    assert str(got.dtype).split(".")[-1].rstrip("_") == str(want.dtype).split(".")[-1]
    assert tuple(got.shape) == tuple(want.shape)
    np.testing.assert_allclose(got.numpy(), want.numpy(), rtol=1e-6)


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype(dtype):
    wanted = getattr(tg, dtype)
    for make, number in ((tg.zeros, 0), (tg.ones, 1)):
        x = make(3, 2, dtype=wanted)
        assert x.dtype is wanted
        np.testing.assert_array_equal(x.numpy(), np.full((3, 2), number, dtype))
    assert tg.empty(2, dtype=wanted).dtype is wanted


def test_empty_has_the_shape():
    assert tuple(tg.empty(2, 0, 3).shape) == (2, 0, 3)
    assert tuple(tg.empty_like(tg.ones(2, 3)).shape) == (2, 3)
    assert tuple(tg.ones(1).new_empty(4).shape) == (4,)


def test_default_dtype():
    tg.set_default_dtype(tg.float64)
    try:
        assert (
            tg.zeros(1).dtype is tg.float64
            and tg.arange(1.0).dtype is tg.float64
            and tg.full((1,), 0.5).dtype is tg.float64
        )
    finally:
        tg.set_default_dtype(tg.float32)


def test_requires_grad():
    x = tg.ones(3, requires_grad=True)
    assert x.requires_grad and x.is_leaf
    (x * x).sum().backward()
    assert x.grad.tolist() == [2, 2, 2]
    assert tg.zeros_like(x).requires_grad is False
    for make in (tg.zeros, tg.eye, tg.empty):
        with pytest.raises(
            RuntimeError, match="Only Tensors of floating point and complex dtype can require gradients"
        ):
            make(2, dtype=tg.int64, requires_grad=True)


@pytest.mark.parametrize(
    "code",
    [
        "empty(-1)",
        "ones(2, -1)",
        "arange(1, 0)",
        "arange(0, 1, 0)",
        "linspace(0, 1, -1)",
        "arange(0, float('inf'))",
    ],
)
def test_errors_in_torchs_words(code):
    messages = []
    for module in (tg, torch):
        with pytest.raises(RuntimeError) as error:
            eval(f"torch.{code}", {"torch": module})
        messages.append(str(error.value))
    assert messages[0][:40] == messages[1][:40]


def test_device():
    assert tg.zeros(1, device="cpu").tolist() == [0]
    assert tg.zeros(1, device=tg.device("cpu")).tolist() == [0]
    with pytest.raises(RuntimeError, match="CPU only"):
        tg.zeros(1, device="cuda")


def test_views_are_left_alone():
    a = tg.ones(4)
    b = tg.zeros_like(a)
    b += 1
    assert a.tolist() == [1] * 4


@pytest.mark.parametrize(
    ("make", "wanted"),
    [
        (lambda out: tg.zeros(2, out=out), [0, 0]),
        (lambda out: tg.ones(2, out=out), [1, 1]),
        (lambda out: tg.full((2,), 2.5, out=out), [2.5, 2.5]),
        (lambda out: tg.arange(2, out=out), [0, 1]),
        (lambda out: tg.linspace(0, 3, 2, out=out), [0, 3]),
        (lambda out: tg.logspace(0, 1, 2, out=out), [1, 10]),
    ],
)
def test_out_is_written_and_gives_the_dtype(make, wanted):
    base = tg.full((4,), 7.0, dtype=tg.float64)
    out = base[1:3]
    assert make(out) is out
    assert base.tolist() == [7.0, *wanted, 7.0]
    assert make(tg.empty(0)).tolist() == wanted


def test_out_of_random_and_square_tensors():
    out = tg.empty(2, 2, dtype=tg.int32)
    assert tg.eye(2, out=out) is out and out.tolist() == [[1, 0], [0, 1]]
    out = tg.full((3,), 2.0)
    assert tg.rand(3, out=out) is out and bool((out < 1).all())
    assert tg.randint(5, 6, (3,), out=out) is out and out.tolist() == [5, 5, 5]
    with pytest.raises(RuntimeError, match=r"dtype Long does not match dtype of out parameter \(Float\)"):
        tg.zeros(3, dtype=tg.int64, out=out)


def test_an_empty_out_of_another_dtype_takes_the_converted_result():
    out = tg.empty(0, dtype=tg.float64)
    tg.add(tg.tensor([1.5]), tg.tensor([2.0]), out=out)
    tg.full((8,), 9.0, dtype=tg.float64)
    assert out.dtype == tg.float64 and out.tolist() == [3.5]
