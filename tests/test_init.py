"""How weights begin: the fills' distributions and exact patterns, the formulas, the errors."""

import math

import numpy as np
import pytest

import tapegrad as tg
from tapegrad.nn import init

SIZES = [("linear", None), ("conv_transpose3d", None), ("sigmoid", None), ("tanh", None), ("relu", None)]
SIZES += [("leaky_relu", None), ("leaky_relu", 0.3), ("selu", None)]


@pytest.mark.parametrize(("name", "param"), SIZES)
def test_gains_are_torch_s(name, param):
    torch = pytest.importorskip("torch")
    assert init.calculate_gain(name, param) == torch.nn.init.calculate_gain(name, param)


def test_truncated_normal_numbers_have_the_distribution_between_the_bounds():
    tg.manual_seed(0)
    w = init.trunc_normal_(tg.empty(40_000), mean=0.5, std=2.0, a=-1.0, b=3.0).numpy()
    assert -1 <= w.min() < -0.99 and 2.99 < w.max() <= 3
    grid = np.linspace(-1, 3, 9)
    cdf = np.array([math.erf((x - 0.5) / 2 / math.sqrt(2)) for x in grid])
    expected = (cdf - cdf[0]) / (cdf[-1] - cdf[0])
    np.testing.assert_allclose([(w <= x).mean() for x in grid], expected, atol=0.01)
    with pytest.warns(UserWarning, match="mean is more than 2 std from"):
        init.trunc_normal_(tg.empty(3), mean=10.0)


@pytest.mark.parametrize("shape", [(4, 9), (9, 4), (5, 5), (3, 2, 5)])
def test_orthogonal_matrices(shape):
    tg.manual_seed(0)
    w = init.orthogonal_(tg.nn.Parameter(tg.empty(shape, dtype=tg.float64)), gain=2.0)
    m = w.detach().numpy().reshape(shape[0], -1)
    square = m @ m.T if m.shape[0] <= m.shape[1] else m.T @ m
    np.testing.assert_allclose(square, 4 * np.eye(len(square)), atol=1e-12)
    assert w.requires_grad and w.is_leaf


def test_sparse_columns():
    tg.manual_seed(0)
    w = init.sparse_(tg.empty(10, 300), sparsity=0.25, std=0.5).numpy()
    assert ((w == 0).sum(0) == 3).all()
    assert w[w != 0].std() == pytest.approx(0.5, rel=0.05)


@pytest.mark.parametrize(
    ("shape", "groups"), [((4, 3, 3), 1), ((2, 5, 3, 4), 1), ((6, 2, 3, 3), 3), ((2, 2, 3, 3, 3), 1)]
)
def test_dirac_is_torch_s(shape, groups):
    torch = pytest.importorskip("torch")
    ours = init.dirac_(tg.ones(shape), groups).numpy()
    np.testing.assert_array_equal(ours, torch.nn.init.dirac_(torch.ones(shape), groups).numpy())


def test_dirac_passes_channels_through():
    w = init.dirac_(tg.empty(4, 2, 3), groups=2).numpy()
    assert w.sum() == 4 and [tuple(place) for place in np.argwhere(w)] == [(0, 0, 1), (1, 1, 1), (2, 0, 1), (3, 1, 1)]


def test_draws_come_from_the_generator_given():
    for name in ("uniform_", "normal_", "xavier_uniform_", "kaiming_normal_", "trunc_normal_", "orthogonal_"):
        first, second = [
            getattr(init, name)(tg.empty(4, 5), generator=tg.Generator().manual_seed(3)).numpy() for _ in range(2)
        ]
        np.testing.assert_array_equal(first, second)
        assert first.std() > 0.1


REFUSED = [
    (lambda: init.eye_(tg.empty(2)), "Only tensors with 2 dimensions"),
    (lambda: init.dirac_(tg.empty(2, 2)), "Only tensors with 3, 4, or 5 dimensions"),
    (lambda: init.dirac_(tg.empty(3, 2, 2), 2), "dim 0 must be divisible by groups"),
    (lambda: init.orthogonal_(tg.empty(2)), "Only tensors with 2 or more dimensions"),
    (lambda: init.sparse_(tg.empty(2), 0.1), "Only tensors with 2 dimensions"),
    (lambda: init.kaiming_normal_(tg.empty(2, 2), mode="fan"), "Mode fan not supported"),
    (lambda: init.calculate_gain("swish"), "Unsupported nonlinearity swish"),
    (lambda: init.calculate_gain("leaky_relu", "a"), "negative_slope a not a valid number"),
]


@pytest.mark.parametrize(("call", "text"), REFUSED, ids=range(len(REFUSED)))
def test_what_cannot_be_is_refused(call, text):
    with pytest.raises(ValueError, match=text):
        call()
