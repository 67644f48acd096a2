"""Connectionist temporal classification: beside the sum over all alignments, and beside torch."""

import itertools

import numpy as np
import pytest

import tapegrad as tg
from tapegrad import nn
from tapegrad.nn import functional as F


def collapsed(path, blank):
    """What a path reads: repeated classes once, blanks left out."""
    return [label for label, _ in itertools.groupby(path) if label != blank]


def loss_by_enumeration(x, labels, blank):
    steps, classes = x.shape
    paths = itertools.product(range(classes), repeat=steps)
    total = sum(
        np.exp(sum(x[t, c] for t, c in enumerate(path))) for path in paths if collapsed(path, blank) == list(labels)
    )
    with np.errstate(divide="ignore"):
        return -np.log(total)


def log_probabilities(*shape, seed=0):
    x = np.random.default_rng(seed).standard_normal(shape)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


LENGTHS, COUNTS = [5, 4, 2, 3], [2, 3, 2, 0]
LABELS = np.array([[1, 1, 0], [2, 1, 2], [1, 1, 2], [0, 0, 0]])


@pytest.mark.parametrize("blank", [0, 2])
@pytest.mark.parametrize("in_a_row", [False, True])
def test_the_loss_is_the_sum_over_all_alignments(blank, in_a_row):
    x = log_probabilities(5, 4, 3)
    labels = np.where(blank == LABELS, 0, LABELS) if blank else LABELS
    expected = [
        loss_by_enumeration(x[:n, k], labels[k, :m], blank)
        for k, (n, m) in enumerate(zip(LENGTHS, COUNTS, strict=True))
    ]
    if blank == 0:
        assert expected[2] == np.inf  # a repeated label needs three steps
    targets = np.concatenate([labels[k, :m] for k, m in enumerate(COUNTS)]) if in_a_row else labels
    arguments = tg.tensor(x), tg.tensor(targets), tg.tensor(LENGTHS), COUNTS
    losses = F.ctc_loss(*arguments, blank=blank, reduction="none")
    np.testing.assert_allclose(losses.numpy(), expected, rtol=1e-10)
    kept = np.where(np.isinf(expected), 0, expected)
    loss = nn.CTCLoss(blank, zero_infinity=True)
    assert loss(*arguments).item() == pytest.approx(np.mean(kept / np.maximum(COUNTS, 1)))
    assert F.ctc_loss(*arguments, blank, "sum", True).item() == pytest.approx(kept.sum())


def test_the_gradient_through_log_softmax():
    x = tg.tensor(np.random.default_rng(1).standard_normal((5, 4, 3)), requires_grad=True)

    def loss(x):
        return F.ctc_loss(tg.log_softmax(x, -1), tg.tensor(LABELS), LENGTHS, COUNTS, 0, "none", True)

    assert tg.autograd.gradcheck(loss, (x,))


def test_a_loss_without_end_has_no_gradient_unless_it_counts_as_zero():
    x = tg.tensor(log_probabilities(2, 1, 3), requires_grad=True)
    for zero_infinity in (True, False):
        loss = F.ctc_loss(x, tg.tensor([[1, 1]]), [2], [2], 0, "sum", zero_infinity)
        (gradient,) = tg.autograd.grad(loss, x)
        assert loss.item() == (0 if zero_infinity else np.inf)
        assert bool(gradient.isnan().all()) is not zero_infinity
        assert not zero_infinity or (gradient == 0).all()


def test_a_sequence_alone_and_none_at_all():
    x = tg.tensor(log_probabilities(4, 3))
    alone = F.ctc_loss(x, tg.tensor([1, 2]), tg.tensor(4), tg.tensor(2), reduction="none")
    assert alone.shape == ()
    assert alone.item() == F.ctc_loss(x[:, None], tg.tensor([[1, 2]]), [4], [2], reduction="sum").item()
    empty = F.ctc_loss(x[:, None], tg.tensor([[1, 2]]), [0], [0], reduction="none")
    assert empty.tolist() == [0.0]


def test_the_second_derivative_is_refused_as_torch_does():
    x = tg.tensor(log_probabilities(4, 1, 3), requires_grad=True)
    (g,) = tg.autograd.grad(F.ctc_loss(x, tg.tensor([[1]]), [4], [1]), x, create_graph=True)
    with pytest.raises(RuntimeError, match="derivative for 'ctc_gradient' is not implemented"):
        g.sum().backward()


@pytest.mark.parametrize(("dtype", "rtol", "atol"), [("float64", 1e-9, 1e-10), ("float32", 1e-4, 1e-5)])
def test_ctc_as_torch(dtype, rtol, atol):
    torch = pytest.importorskip("torch")
    random = np.random.default_rng(3)
    x = random.standard_normal((20, 6, 7)).astype(dtype)
    labels = random.integers(1, 7, (6, 8))
    lengths, counts = random.integers(14, 21, 6), random.integers(0, 9, 6)
    for reduction in ("none", "mean", "sum"):
        found = []
        for library in (tg, torch):
            leaf = library.tensor(x, requires_grad=True)
            given = [library.tensor(a) for a in (labels, lengths, counts)]
            loss = library.nn.CTCLoss(reduction=reduction, zero_infinity=True)(library.log_softmax(leaf, -1), *given)
            (gradient,) = library.autograd.grad((loss / 10).square().sum(), leaf)
            found.append([loss.detach().numpy(), gradient.numpy()])
        for mine, reference in zip(*found, strict=True):
            np.testing.assert_allclose(mine, reference, rtol=rtol, atol=atol)


MISTAKES = [
    ("at most 4", lambda F, x, t: F.ctc_loss(x, t([[1]]), [5], [1])),
    ("at least 0", lambda F, x, t: F.ctc_loss(x, t([[1]]), [-1], [1])),
    ("at least 0", lambda F, x, t: F.ctc_loss(x, t([[1]]), [4], [-1])),
    ("size at least 2", lambda F, x, t: F.ctc_loss(x, t([[1]]), [4], [2])),
    ("have size 3", lambda F, x, t: F.ctc_loss(x, t([1, 2]), [4], [3])),
    ("batch_size", lambda F, x, t: F.ctc_loss(x, t([[1]]), [4, 4], [1])),
    ("label range", lambda F, x, t: F.ctc_loss(x, t([[1]]), [4], [1], blank=3)),
    ("must be integral", lambda F, x, t: F.ctc_loss(x, t([[1]]), t([4.0]), t([1.0]))),
]


@pytest.mark.parametrize(("message", "mistake"), MISTAKES)
def test_mistakes_are_refused(message, mistake):
    with pytest.raises(RuntimeError, match=message):
        mistake(F, tg.tensor(log_probabilities(4, 1, 3)), tg.tensor)


@pytest.mark.parametrize("label", [3, -1])
def test_a_label_that_is_no_class_is_refused(label):
    with pytest.raises(RuntimeError, match="not all below 3"):
        F.ctc_loss(tg.tensor(log_probabilities(4, 1, 3)), tg.tensor([[1, label]]), [4], [2])


@pytest.mark.parametrize(("message", "mistake"), MISTAKES)
def test_mistakes_raise_what_torch_raises(message, mistake):
    torch = pytest.importorskip("torch")
    with pytest.raises(RuntimeError):
        mistake(torch.nn.functional, torch.tensor(log_probabilities(4, 1, 3)), torch.tensor)
