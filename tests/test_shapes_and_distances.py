"""Layers that rearrange, distances, bilinear forms: beside NumPy's formulas and torch."""

import numpy as np
import pytest

import tapegrad as tg
from tapegrad import nn
from tapegrad.nn import functional as F

RNG = np.random.default_rng(0)
A, B = RNG.standard_normal((2, 4, 6)), RNG.standard_normal((2, 4, 6))
PICTURE = RNG.standard_normal((2, 8, 4, 6))

ONE = [
    ("PixelShuffle", (2,), PICTURE),
    ("PixelUnshuffle", (2,), PICTURE),
    ("PixelShuffle", (2,), PICTURE[0]),
    ("ChannelShuffle", (4,), PICTURE),
    ("Unflatten", (1, (2, -1)), PICTURE),
    ("Flatten", (1, 2), PICTURE),
]
TWO = [
    ("CosineSimilarity", {}),
    ("CosineSimilarity", {"dim": -1, "eps": 0.5}),
    ("PairwiseDistance", {}),
    ("PairwiseDistance", {"p": 1.0, "keepdim": True}),
]


def run(lib, layer, *arrays):
    leaves = [lib.tensor(array, requires_grad=True) for array in arrays]
    y = layer(*leaves)
    (y * lib.tensor(np.cos(np.arange(y.numel()))).reshape(y.shape)).sum().backward()
    return [y.detach().numpy(), *(leaf.grad.numpy() for leaf in leaves)]


def compare(torch, make, *arrays):
    ours, theirs = make(tg), make(torch)
    if isinstance(ours, nn.Module):
        assert repr(ours) == repr(theirs).replace("torch", "tapegrad")
    for a, b in zip(run(tg, ours, *arrays), run(torch, theirs, *arrays), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("name", "args", "x"), ONE, ids=[f"{n}-{k}" for k, (n, *_) in enumerate(ONE)])
def test_rearrangements_are_torch_s(name, args, x):
    compare(pytest.importorskip("torch"), lambda lib: getattr(lib.nn, name)(*args), x)


@pytest.mark.parametrize(("name", "options"), TWO, ids=str)
def test_distances_are_torch_s(name, options):
    compare(pytest.importorskip("torch"), lambda lib: getattr(lib.nn, name)(**options), A, B)


@pytest.mark.parametrize("p", [1.0, 2.0, 3.0, float("inf")])
def test_cdist_pdist_and_normalize_are_torch_s(p):
    torch = pytest.importorskip("torch")
    compare(torch, lambda lib: lambda a, b: lib.cdist(a, b[:, :3], p), A, B)
    compare(torch, lambda lib: lambda a: lib.nn.functional.pdist(a, p), A[0])
    compare(torch, lambda lib: lambda a: lib.nn.functional.normalize(a, p, dim=-1), A)


def test_bilinear_is_torch_s():
    torch = pytest.importorskip("torch")
    w, b = RNG.standard_normal((3, 6, 5)), RNG.standard_normal(3)
    x = RNG.standard_normal((2, 4, 5))
    compare(torch, lambda lib: lib.nn.functional.bilinear, A, x, w, b)
    assert repr(nn.Bilinear(6, 5, 3)) == repr(torch.nn.Bilinear(6, 5, 3))


def test_pixel_shuffle_is_the_formula_and_its_reverse():
    y = F.pixel_shuffle(tg.tensor(PICTURE), 2).numpy()
    for c, h, w, i, j in np.ndindex(2, 4, 6, 2, 2):
        assert y[1, c, 2 * h + i, 2 * w + j] == PICTURE[1, 4 * c + 2 * i + j, h, w]
    np.testing.assert_array_equal(F.pixel_unshuffle(tg.tensor(y), 2).numpy(), PICTURE)


def test_distances_are_the_formulas():
    a, b = tg.tensor(A), tg.tensor(B)
    np.testing.assert_allclose(
        F.cosine_similarity(a, b, -1).numpy(),
        (A * B).sum(-1) / np.linalg.norm(A, axis=-1) / np.linalg.norm(B, axis=-1),
        rtol=1e-12,
    )
    np.testing.assert_allclose(F.pairwise_distance(a, b).numpy(), np.linalg.norm(A - B + 1e-6, axis=-1), rtol=1e-12)
    np.testing.assert_allclose(tg.cdist(a, b).numpy(), np.linalg.norm(A[:, :, None] - B[:, None], axis=-1), rtol=1e-12)
    same = tg.tensor(A, requires_grad=True)
    tg.cdist(same, same).sum().backward()  # distances of 0 have the gradient 0
    assert np.isfinite(same.grad.numpy()).all()


def test_bilinear_begins_and_computes():
    tg.manual_seed(0)
    layer = nn.Bilinear(6, 5, 3).double()
    assert 0.3 < layer.weight.abs().max().item() <= 6**-0.5
    x = RNG.standard_normal((2, 4, 5))
    w, b = (param.detach().numpy() for param in layer.parameters())
    np.testing.assert_allclose(
        layer(tg.tensor(A), tg.tensor(x)).detach().numpy(), np.einsum("...i,kij,...j->...k", A, w, x) + b, rtol=1e-10
    )
    assert tuple(nn.Bilinear(6, 5, 3, bias=False)(tg.ones(0, 6), tg.ones(0, 5)).shape) == (0, 3)


REFUSED = [
    (lambda: F.pixel_shuffle(tg.ones(1, 3, 2, 2), 2), "divisible by the square of upscale_factor, but"),
    (lambda: F.pixel_shuffle(tg.ones(2, 2), 2), "at least 3 dimensions, but got input with 2"),
    (lambda: F.pixel_unshuffle(tg.ones(1, 3, 2, 3), 2), r"width to be divisible .* input.size\(-1\)=3"),
    (lambda: F.channel_shuffle(tg.ones(1, 3, 2), 2), "Got 3 channels and 2 groups"),
    (lambda: F.bilinear(tg.ones(2, 3), tg.ones(3, 3), tg.ones(1, 3, 3)), "batch dimensions do not match"),
    (lambda: F.bilinear(tg.ones(2, 3), tg.ones(2, 3), tg.ones(1, 3, 4)), "does not fit inputs"),
    (lambda: tg.cdist(tg.ones(2, 3), tg.ones(2, 4)), "must have the same number of columns. X1: 3 X2: 4"),
    (lambda: F.pdist(tg.ones(3)), "pdist only supports 2D tensors, got: 1D"),
]


@pytest.mark.parametrize(("call", "text"), REFUSED, ids=range(len(REFUSED)))
def test_what_cannot_be_is_refused(call, text):
    with pytest.raises(RuntimeError, match=text):
        call()
