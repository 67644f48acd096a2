"""Losses: their formulas in NumPy, derivatives, reductions, errors; the same beside torch."""

import math

import numpy as np
import pytest

import tapegrad as tg
from tapegrad import nn
from tapegrad.nn import functional as F


def draw(*shape, low=-2.0, high=2.0, seed=0):
    return np.random.default_rng(seed + len(shape)).uniform(low, high, shape)


def signs(*shape):
    return np.where(np.random.default_rng(7).random(shape) < 0.5, -1.0, 1.0)


def log_sigmoid(x):
    return -np.log1p(np.exp(-x))


def log_softmax(x, axis=1):
    return x - np.log(np.exp(x).sum(axis, keepdims=True))


def huber(x, t, delta):
    d = np.abs(x - t)
    return np.where(d <= delta, d * d / 2, delta * (d - delta / 2))


def stirling(t):
    return np.where(t > 1, t * np.log(t) - t + np.log(2 * np.pi * t) / 2, 0)


def cosine(x, y, t, margin=0.0):
    c = (x * y).sum(-1) / np.sqrt((x * x).sum(-1) * (y * y).sum(-1))
    return np.where(t == 1, 1 - c, np.maximum(0, c - margin))


def triplet(a, p, n, margin=1.0, order=2.0, swap=False):
    far = np.linalg.norm(a - n + 1e-6, order, -1)
    if swap:
        far = np.minimum(far, np.linalg.norm(p - n + 1e-6, order, -1))
    return np.maximum(0, margin + np.linalg.norm(a - p + 1e-6, order, -1) - far)


def multi_margin(x, t, p=1, margin=1.0, weight=None):
    rows = []
    for row, right in zip(x, t, strict=True):
        terms = [max(0, margin - row[right] + row[c]) ** p for c in range(len(row)) if c != right]
        rows.append(sum(terms) / len(row) * (1 if weight is None else weight[right]))
    return np.array(rows)


def multilabel_margin(x, t):
    rows = []
    for row, labels in zip(x, t.tolist(), strict=True):
        right = [*labels, -1][: [*labels, -1].index(-1)]
        others = [c for c in range(len(row)) if c not in right]
        rows.append(sum(max(0, 1 - row[i] + row[c]) for i in right for c in others) / len(row))
    return np.array(rows)


def cross_entropy(x, t, weight=None, label_smoothing=0.0):
    classes = x.shape[1]
    w = np.ones(classes) if weight is None else weight
    shares = (1 - label_smoothing) * np.moveaxis(np.eye(classes)[t], -1, 1) + label_smoothing / classes
    shape = (1, -1) + (1,) * (x.ndim - 2)
    q = np.where(np.moveaxis(np.eye(classes)[t], -1, 1) > 0, w[t][:, None] * (1 - label_smoothing), 0)
    q = q + label_smoothing / classes * w.reshape(shape)
    assert shares.shape == q.shape
    return -(q * log_softmax(x)).sum(1)


X, T, P, Q = draw(4, 5), draw(4, 5, seed=1), draw(4, 5, low=0.05, high=0.95), draw(4, 5, low=0.05, high=0.95, seed=3)
CLASSES = np.array([1, 0, 4, 2])
LABELS = np.array([[1, 3, -1, 0, 0], [0, -1, 2, 2, 2], [-1, 0, 0, 0, 0], [4, 2, 1, 0, 3]])
WEIGHT = np.array([0.5, 1.0, 2.0, 1.5, 0.7])
PICTURE, PLACES = draw(2, 5, 3, 2), np.array([[[0, 1], [4, 2], [3, 3]], [[1, 1], [0, 2], [4, 0]]])

# function, its class, tensors, options, the losses of the elements
CASES = [
    ("mse_loss", "MSELoss", (X, T), {}, lambda x, t: (x - t) ** 2),
    ("l1_loss", "L1Loss", (X, T), {}, lambda x, t: np.abs(x - t)),
    ("smooth_l1_loss", "SmoothL1Loss", (X, T), {"beta": 0.7}, lambda x, t: huber(x, t, 0.7) / 0.7),
    ("smooth_l1_loss", "SmoothL1Loss", (X, T), {"beta": 0.0}, lambda x, t: np.abs(x - t)),
    ("huber_loss", "HuberLoss", (X, T), {"delta": 0.6}, lambda x, t: huber(x, t, 0.6)),
    ("poisson_nll_loss", "PoissonNLLLoss", (X, 3 * P), {}, lambda x, t: np.exp(x) - t * x),
    (
        "poisson_nll_loss",
        "PoissonNLLLoss",
        (P, 5 * Q),
        {"log_input": False, "full": True},
        lambda x, t: x - t * np.log(x + 1e-8) + stirling(t),
    ),
    (
        "gaussian_nll_loss",
        "GaussianNLLLoss",
        (X, T, P),
        {"full": True},
        lambda x, t, v: (np.log(v) + (x - t) ** 2 / v + math.log(2 * np.pi)) / 2,
    ),
    (
        "gaussian_nll_loss",
        "GaussianNLLLoss",
        (X, T, P[:, 0]),
        {},
        lambda x, t, v: (np.log(v[:, None]) + (x - t) ** 2 / v[:, None]) / 2,
    ),
    (
        "binary_cross_entropy",
        "BCELoss",
        (P, Q),
        {"weight": WEIGHT},
        lambda p, t: -WEIGHT * (t * np.log(p) + (1 - t) * np.log1p(-p)),
    ),
    (
        "binary_cross_entropy_with_logits",
        "BCEWithLogitsLoss",
        (X, Q),
        {"weight": WEIGHT, "pos_weight": 2 * WEIGHT},
        lambda x, t: -WEIGHT * (2 * WEIGHT * t * log_sigmoid(x) + (1 - t) * log_sigmoid(-x)),
    ),
    ("soft_margin_loss", "SoftMarginLoss", (X, signs(4, 5)), {}, lambda x, t: -log_sigmoid(t * x)),
    (
        "multilabel_soft_margin_loss",
        "MultiLabelSoftMarginLoss",
        (X, Q),
        {"weight": WEIGHT},
        lambda x, t: -(WEIGHT * (t * log_sigmoid(x) + (1 - t) * log_sigmoid(-x))).mean(-1),
    ),
    ("kl_div", "KLDivLoss", (X, P), {}, lambda x, t: t * (np.log(t) - x)),
    ("kl_div", "KLDivLoss", (X, T), {"log_target": True}, lambda x, t: np.exp(t) * (t - x)),
    (
        "hinge_embedding_loss",
        "HingeEmbeddingLoss",
        (X, signs(4, 5)),
        {"margin": 0.8},
        lambda x, t: np.where(t == 1, x, np.maximum(0, 0.8 - x)),
    ),
    (
        "margin_ranking_loss",
        "MarginRankingLoss",
        (X, T, signs(4, 5)),
        {"margin": 0.3},
        lambda x, y, t: np.maximum(0, 0.3 - t * (x - y)),
    ),
    ("cosine_embedding_loss", "CosineEmbeddingLoss", (X, T, signs(4)), {"margin": 0.1}, lambda *a: cosine(*a, 0.1)),
    ("triplet_margin_loss", "TripletMarginLoss", (X, T, P), {"swap": True}, lambda *a: triplet(*a, swap=True)),
    ("triplet_margin_loss", "TripletMarginLoss", (X, T, P), {"p": 3.0}, lambda *a: triplet(*a, order=3.0)),
    ("triplet_margin_with_distance_loss", "TripletMarginWithDistanceLoss", (X, T, P), {"margin": 2.0}, None),
    ("multi_margin_loss", "MultiMarginLoss", (X, CLASSES), {}, multi_margin),
    (
        "multi_margin_loss",
        "MultiMarginLoss",
        (X, CLASSES),
        {"p": 2, "margin": 0.5, "weight": WEIGHT},
        lambda x, t: multi_margin(x, t, 2, 0.5, WEIGHT),
    ),
    ("multilabel_margin_loss", "MultiLabelMarginLoss", (X, LABELS), {}, multilabel_margin),
    ("cross_entropy", "CrossEntropyLoss", (PICTURE, PLACES), {}, cross_entropy),
    (
        "cross_entropy",
        "CrossEntropyLoss",
        (X, P),
        {"weight": WEIGHT},
        lambda x, t: -(WEIGHT * t * log_softmax(x)).sum(1),
    ),
    ("nll_loss", "NLLLoss", (X, CLASSES), {}, lambda x, t: -x[np.arange(4), t]),
]
NAMES = [f"{name}-{k}" for k, (name, *_) in enumerate(CASES)]
pytestmark = pytest.mark.filterwarnings("ignore:reduction. 'mean' divides")


def tensors_of(arrays, library=tg):
    return [library.tensor(array, requires_grad=array.dtype == np.float64) for array in arrays]


def options_of(options, library=tg):
    return {name: library.tensor(v) if isinstance(v, np.ndarray) else v for name, v in options.items()}


@pytest.mark.parametrize(("name", "layer", "arrays", "options", "formula"), CASES, ids=NAMES)
def test_a_loss_is_its_formula(name, layer, arrays, options, formula):
    given = [tensor.detach() for tensor in tensors_of(arrays)]
    settings = options_of(options)
    losses = getattr(F, name)(*given, **settings, reduction="none")
    if formula is None:
        formula = lambda *a: triplet(*a, margin=2.0)  # noqa: E731
    np.testing.assert_allclose(losses.numpy(), formula(*arrays), rtol=1e-10)
    module = getattr(nn, layer)(**settings, reduction="sum")
    np.testing.assert_allclose(module(*given).item(), losses.sum().item(), rtol=1e-12)
    if "weight" not in options or layer in ("BCELoss", "BCEWithLogitsLoss", "MultiMarginLoss"):
        assert getattr(F, name)(*given, **settings).item() == pytest.approx(losses.mean().item(), rel=1e-12)


@pytest.mark.parametrize(("name", "layer", "arrays", "options", "formula"), CASES, ids=NAMES)
def test_derivatives_of_first_and_second_order(name, layer, arrays, options, formula):
    small = [array[:2, :3] if array.ndim == 2 and array.dtype == np.float64 else array[:2] for array in arrays]
    if any(array.dtype != np.float64 for array in arrays):
        small = [array[:2] for array in arrays]
    settings = {
        key: value[: small[0].shape[1]] if isinstance(value, np.ndarray) else value for key, value in options.items()
    }
    given = tensors_of(small)
    leaves = [tensor for tensor in given if tensor.requires_grad]

    def loss(*changed):
        rest = iter(changed)
        tensors = [next(rest) if tensor.requires_grad else tensor for tensor in given]
        return getattr(F, name)(*tensors, **options_of(settings), reduction="none")

    if name in ("binary_cross_entropy", "soft_margin_loss", "margin_ranking_loss", "hinge_embedding_loss"):
        leaves = leaves[:1]  # of the targets' derivatives the test in torch's company tells
        tail = [tensor.detach() for tensor in given[1:]]
        assert tg.autograd.gradcheck(lambda x: getattr(F, name)(x, *tail, **options_of(settings)), leaves)
        return
    if name == "cosine_embedding_loss":
        leaves = leaves[:2]
        inner = loss
        loss = lambda x, y: inner(x, y, given[2])  # noqa: E731
    assert tg.autograd.gradcheck(loss, leaves)
    assert tg.autograd.gradgradcheck(loss, leaves)


@pytest.mark.parametrize(("name", "layer", "arrays", "options", "formula"), CASES, ids=NAMES)
def test_losses_and_their_derivatives_are_torch_s(name, layer, arrays, options, formula):
    torch = pytest.importorskip("torch")
    for reduction in ("none", "mean", "sum"):
        found = []
        for library in (tg, torch):
            given = tensors_of(arrays, library)
            if name in ("cosine_embedding_loss", "hinge_embedding_loss", "soft_margin_loss", "margin_ranking_loss"):
                given[-1] = given[-1].detach()
            loss = getattr(library.nn, layer)(**options_of(options, library), reduction=reduction)(*given)
            leaves = [tensor for tensor in given if tensor.requires_grad]
            first = library.autograd.grad((loss * loss).sum(), leaves, create_graph=True)
            second = []
            if name not in ("multi_margin_loss", "multilabel_margin_loss"):  # torch has none
                squares = sum((g * g).sum() for g in first)
                second = library.autograd.grad(squares, leaves, allow_unused=True, materialize_grads=True)
            found.append([loss, *first, *second])
        for mine, reference in zip(*found, strict=True):
            np.testing.assert_allclose(mine.detach().numpy(), reference.detach().numpy(), rtol=1e-9, atol=1e-11)


# ---- reductions ----


def test_the_old_arguments_choose_a_reduction_and_warn():
    x, t = tg.tensor([1.0, 3.0]), tg.tensor([0.0, 0.0])
    for arguments, expected in (
        ({"reduce": False}, [1.0, 9.0]),
        ({"size_average": False}, 10.0),
        ({"reduce": True}, 5.0),
    ):
        with pytest.warns(UserWarning, match="please use reduction="):
            assert F.mse_loss(x, t, **arguments).tolist() == expected
        with pytest.warns(UserWarning, match="please use reduction="):
            assert nn.MSELoss(**arguments)(x, t).tolist() == expected


def test_kl_div_by_the_batch():
    x, t = tg.tensor(X), tg.tensor(P)
    total = F.kl_div(x, t, reduction="sum").item()
    assert nn.KLDivLoss(reduction="batchmean")(x, t).item() == pytest.approx(total / 4)
    with pytest.warns(UserWarning, match="divides the total loss by both"):
        assert F.kl_div(x, t).item() == pytest.approx(total / 20)


def test_weighted_means_of_mse_and_l1():
    x, t, w = tg.tensor(X), tg.tensor(T), tg.tensor(P)
    assert F.mse_loss(x, t, weight=w).item() == pytest.approx(((X - T) ** 2 * P).sum() / P.sum())
    assert F.l1_loss(x, t, weight=w, reduction="sum").item() == pytest.approx((np.abs(X - T) * P).sum())
    assert F.huber_loss(x, t, weight=w).item() == pytest.approx((huber(X, T, 1.0) * P).sum() / P.sum())


def test_losses_of_one_sample_have_no_batch():
    x = tg.tensor(X[0])
    assert F.multi_margin_loss(x, tg.tensor(1), reduction="none").shape == ()
    assert F.multilabel_margin_loss(x, tg.tensor(LABELS[0])).item() == pytest.approx(
        multilabel_margin(X[:1], LABELS[:1])[0]
    )
    assert F.cosine_embedding_loss(x, tg.tensor(T[0]), tg.tensor(1.0)).item() == pytest.approx(
        cosine(X[0], T[0], 1.0).item()
    )
    assert F.cross_entropy(x, tg.tensor(2)).item() == pytest.approx(-log_softmax(X, 1)[0, 2])


def test_the_bound_on_a_variance_lets_the_gradient_pass():
    var = tg.tensor([1e-9, 2.0], dtype=tg.float64, requires_grad=True)
    x = tg.tensor([0.5, 0.5], dtype=tg.float64)
    F.gaussian_nll_loss(x, tg.zeros_like(x), var, eps=1e-3, reduction="sum").backward()
    expected = [0.5 * (1 / v - 0.25 / v**2) for v in (1e-3, 2.0)]
    np.testing.assert_allclose(var.grad.numpy(), expected, rtol=1e-12)


def test_pictures_of_classes_under_the_old_name():
    with pytest.warns(FutureWarning, match="NLLLoss2d has been deprecated"):
        loss = nn.NLLLoss2d()
    assert loss(tg.tensor(PICTURE), tg.tensor(PLACES)).item() == pytest.approx(
        nn.NLLLoss()(tg.tensor(PICTURE), tg.tensor(PLACES)).item()
    )


# ---- errors ----

MISTAKES = [
    (RuntimeError, "broadcast", lambda F, t: F.l1_loss(t(X), t(draw(4, 3)))),
    (NotImplementedError, "mse_cpu", lambda F, t: F.mse_loss(t(CLASSES), t(CLASSES))),
    (ValueError, "is not a valid value for reduction", lambda F, t: F.mse_loss(t(X), t(T), reduction="all")),
    (RuntimeError, "non-positive values for delta", lambda F, t: F.huber_loss(t(X), t(T), delta=0.0)),
    (RuntimeError, "negative values for beta", lambda F, t: F.smooth_l1_loss(t(X), t(T), beta=-1.0)),
    (RuntimeError, "Found dtype Long", lambda F, t: F.binary_cross_entropy(t(P), t(LABELS))),
    (RuntimeError, "elements of target", lambda F, t: F.binary_cross_entropy(t(P), t(P + 1))),
    (RuntimeError, "elements of input", lambda F, t: F.binary_cross_entropy(t(P - 1), t(P))),
    (ValueError, "different to the input size", lambda F, t: F.binary_cross_entropy(t(P), t(P[0]))),
    (ValueError, "Target size", lambda F, t: F.binary_cross_entropy_with_logits(t(X), t(P[0]))),
    (RuntimeError, "can't be cast", lambda F, t: F.binary_cross_entropy_with_logits(t(X), t(LABELS))),
    (RuntimeError, "target out of range", lambda F, t: F.multi_margin_loss(t(X), t(CLASSES + 1))),
    (RuntimeError, "target out of range", lambda F, t: F.multi_margin_loss(t(X), t(CLASSES - 1))),
    (RuntimeError, "Expected target size", lambda F, t: F.multi_margin_loss(t(X), t(CLASSES[:2]))),
    (RuntimeError, "expected scalar type Long", lambda F, t: F.multi_margin_loss(t(X), t(X[:, 0]))),
    (RuntimeError, "weight size", lambda F, t: F.multi_margin_loss(t(X), t(CLASSES), weight=t(WEIGHT[:2]))),
    (ValueError, "one-dimensional", lambda F, t: F.multi_margin_loss(t(X), t(CLASSES), weight=t(X))),
    (ValueError, "only p == 1 and p == 2", lambda F, t: F.multi_margin_loss(t(X), t(CLASSES), p=3)),
    (RuntimeError, "non-empty vector or matrix", lambda F, t: F.multi_margin_loss(t(PICTURE), t(CLASSES))),
    (RuntimeError, "out of range", lambda F, t: F.multilabel_margin_loss(t(X), t(LABELS + 1))),
    (RuntimeError, "inconsistent target size", lambda F, t: F.multilabel_margin_loss(t(X), t(LABELS[:, :3]))),
    (RuntimeError, "2D input tensors", lambda F, t: F.cosine_embedding_loss(t(X[0]), t(T[0]), t(signs(1)))),
    (RuntimeError, "0D or 1D target", lambda F, t: F.cosine_embedding_loss(t(X), t(T), t(signs(4, 1)))),
    (RuntimeError, "same dimension", lambda F, t: F.margin_ranking_loss(t(X), t(T), t(signs(4)))),
    (RuntimeError, "same number of dimensions", lambda F, t: F.triplet_margin_loss(t(X), t(T), t(T[0]))),
    (ValueError, "greater than 0", lambda F, t: F.triplet_margin_loss(t(X), t(T), t(P), margin=-1.0)),
    (ValueError, "negative entry", lambda F, t: F.gaussian_nll_loss(t(X), t(T), t(-P))),
    (ValueError, "incorrect size", lambda F, t: F.gaussian_nll_loss(t(X), t(T), t(P[:, :2]))),
    (IndexError, "5 is out of bounds", lambda F, t: F.nll_loss(t(X), t(CLASSES + 1))),
    (ValueError, "batch_size", lambda F, t: F.cross_entropy(t(X), t(CLASSES[:2]))),
    (RuntimeError, "Long or Byte", lambda F, t: F.nll_loss(t(X), t(X[:, 0]))),
    (RuntimeError, "class probabilities, got Long", lambda F, t: F.cross_entropy(t(X), t(LABELS))),
    (RuntimeError, "ignore_index is not supported", lambda F, t: F.cross_entropy(t(X), t(P), ignore_index=1)),
    (RuntimeError, "between 0.0 and 1.0", lambda F, t: F.cross_entropy(t(X), t(CLASSES), label_smoothing=2.0)),
    (RuntimeError, "for all 5 classes", lambda F, t: F.cross_entropy(t(X), t(CLASSES), weight=t(WEIGHT[:3]))),
    (RuntimeError, "for all 5 classes", lambda F, t: F.cross_entropy(t(X), t(P), weight=t(WEIGHT[:3]))),
]


@pytest.mark.filterwarnings("ignore:Using a target size")
@pytest.mark.parametrize(("error", "message", "mistake"), MISTAKES)
def test_mistakes_are_refused(error, message, mistake):
    with pytest.raises(error, match=message):
        mistake(F, tg.tensor)


@pytest.mark.filterwarnings("ignore:Using a target size")
@pytest.mark.parametrize(("error", "message", "mistake"), MISTAKES)
def test_mistakes_raise_what_torch_raises(error, message, mistake):
    torch = pytest.importorskip("torch")
    with pytest.raises(error):
        mistake(torch.nn.functional, torch.tensor)


def test_a_size_that_is_broadcast_is_warned_of():
    with pytest.warns(UserWarning, match="will likely lead to incorrect results"):
        F.l1_loss(tg.ones(3, 2), tg.ones(2))
