"""Softmax and the losses against torch: values, derivatives of first and second order, arguments, errors."""

# ruff: noqa: B023 (the functions are called before the loop goes on)

import warnings
from typing import Any

import numpy as np
import pytest
from test_reductions import check_derivatives, compare, sample

import tapegrad as tg
from tapegrad.ops import functions as F

torch = pytest.importorskip("torch")
TF = torch.nn.functional


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", ["softmax", "log_softmax", "softmin", "logsumexp"])
def test_values(name: str, dtype: str) -> None:
    for shape in ((), (5,), (64, 10), (2, 3, 300), (3, 5000), (2, 0, 3), (0, 3)):
        x = sample(dtype, shape)
        for dim in range(-len(shape), len(shape)) or [0]:
            theirs = getattr(torch if name == "logsumexp" else TF, name)(torch.tensor(x), dim)
            compare(F[name](tg.tensor(x), dim), theirs)


@pytest.mark.parametrize("dim", [0, 1, 2])
@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
def test_derivatives(name: str, dim: int) -> None:
    check_derivatives(lambda a: F[name](a, dim), lambda b: getattr(torch, name)(b, dim), sample("float64", (3, 4, 5)))


def test_infinities() -> None:
    x = np.array([[-np.inf, -np.inf], [np.inf, 0.0], [-np.inf, 0.0], [1e30, -1e30]])
    for name in ("softmax", "log_softmax", "logsumexp"):
        ours, theirs = F[name](tg.tensor(x), 1), getattr(torch, name)(torch.tensor(x), 1)
        np.testing.assert_allclose(ours.numpy(), theirs.numpy())


CASES = [((64, 10), (64,)), ((5,), ()), ((3, 4, 5), (3, 5)), ((2, 3000), (2,))]


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("name", "smoothing"), [("cross_entropy", 0.0), ("cross_entropy", 0.2), ("nll_loss", None)])
def test_losses_of_classes(name: str, smoothing: float | None, weighted: bool, reduction: str) -> None:
    random = np.random.default_rng(0)
    for shape, target_shape in CASES:
        classes = shape[1] if len(shape) > 1 else shape[0]
        target, weight = np.asarray(random.integers(0, classes, target_shape)), random.random(classes) + 0.1
        for ignored in (-100, 1):
            more: dict[str, Any] = {"reduction": reduction, "ignore_index": ignored}
            more |= {} if smoothing is None else {"label_smoothing": smoothing}
            check_derivatives(
                lambda a: F[name](a, tg.tensor(target), tg.tensor(weight) if weighted else None, **more),
                lambda b: getattr(TF, name)(
                    b,
                    torch.tensor(target),
                    torch.tensor(weight) if weighted else None,
                    **more,
                ),
                sample("float64", shape),
            )


P = np.random.default_rng(1).random((6, 4))


@pytest.mark.parametrize(
    ("name", "x", "target", "more"),
    [
        ("mse_loss", P, 1 - P, {}),
        ("l1_loss", P, 1 - P, {}),
        ("smooth_l1_loss", P, 1 - P, {"beta": 0.3}),
        ("smooth_l1_loss", P, 1 - P, {"beta": 0}),
        ("huber_loss", P, 1 - P, {"delta": 0.4}),
        ("binary_cross_entropy", P, 1 - P, {}),
        ("binary_cross_entropy", P, 1 - P, {"weight": P + 1}),
        ("binary_cross_entropy_with_logits", 9 * P - 4, P, {}),
        ("binary_cross_entropy_with_logits", 9 * P - 4, P, {"weight": P + 1, "pos_weight": P[0]}),
        ("kl_div", np.log(P), 1 - P, {}),
        ("kl_div", np.log(P), np.log(1 - P), {"log_target": True}),
        ("cross_entropy", P, 1 - P, {"label_smoothing": 0.1, "weight": P[0]}),
    ],
)
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_losses(name: str, x: np.ndarray, target: np.ndarray, more: dict[str, Any], reduction: str) -> None:
    def of(make: Any) -> dict[str, Any]:
        return {k: make(v) if isinstance(v, np.ndarray) else v for k, v in more.items()} | {"reduction": reduction}

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        check_derivatives(
            lambda a: F[name](a, tg.tensor(target), **of(tg.tensor)),
            lambda b: getattr(TF, name)(b, torch.tensor(target), **of(torch.tensor)),
            x,
        )


def test_certain_probabilities() -> None:
    p, t = np.array([0.0, 1.0, 0.0, 1.0]), np.array([0.0, 0.0, 1.0, 1.0])
    a, b = tg.tensor(p, requires_grad=True), torch.tensor(p, requires_grad=True)
    F["binary_cross_entropy"](a, tg.tensor(t)).backward()
    TF.binary_cross_entropy(b, torch.tensor(t)).backward()
    np.testing.assert_allclose(a.grad.numpy(), b.grad.numpy())


ZEROS = tg.tensor(np.zeros((2, 3)))


@pytest.mark.parametrize(
    ("name", "arguments", "error", "text"),
    [
        ("cross_entropy", (ZEROS, tg.tensor([0, 3])), IndexError, "3 is out of bounds"),
        ("cross_entropy", (ZEROS, tg.tensor([0])), ValueError, r"batch_size \(2\) to match target batch_size \(1\)"),
        ("nll_loss", (ZEROS, tg.tensor([0.0, 1.0])), RuntimeError, "to be Long or Byte, but got Float"),
        ("mse_loss", (ZEROS, ZEROS, None, None, "x"), ValueError, "x is not a valid value for reduction"),
        ("binary_cross_entropy", (ZEROS + 2, ZEROS), RuntimeError, "should be between 0 and 1"),
        ("softmax", (tg.tensor([1, 2]), 0), NotImplementedError, "not implemented for 'Long'"),
        ("softmax", (ZEROS, 2), IndexError, r"range of \[-2, 1\], but got 2"),
    ],
)
def test_errors_are_torchs(name: str, arguments: tuple[Any, ...], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        F[name](*arguments)
