"""Random numbers: the same for the same seed, of the right distribution, in-place forms, dropout's gradient, errors."""

import pickle

import numpy as np
import pytest
from scipy import stats

import tapegrad as tg

DRAWS = {
    "rand": lambda g: tg.rand(100, generator=g),
    "rand64": lambda g: tg.rand(100, generator=g, dtype=tg.float64),
    "randn": lambda g: tg.randn(10, 10, generator=g),
    "randint": lambda g: tg.randint(0, 1000, (100,), generator=g),
    "randint_wide": lambda g: tg.randint(-(2**62), 2**62, (100,), generator=g),
    "randperm": lambda g: tg.randperm(100, generator=g),
    "normal": lambda g: tg.normal(1.0, 2.0, (100,), generator=g),
    "bernoulli": lambda g: tg.bernoulli(tg.full((200,), 0.5), generator=g),
    "multinomial": lambda g: tg.multinomial(tg.ones(50), 50, True, generator=g),
    "uniform_": lambda g: tg.empty(100).uniform_(-1, 1, generator=g),
    "normal_": lambda g: tg.empty(100).normal_(generator=g),
    "exponential_": lambda g: tg.empty(100).exponential_(generator=g),
    "random_": lambda g: tg.empty(100, dtype=tg.int64).random_(generator=g),
    "bernoulli_": lambda g: tg.empty(200).bernoulli_(0.5, generator=g),
}


@pytest.mark.parametrize("name", DRAWS)
def test_same_seed_same_numbers(name):
    draw = DRAWS[name]
    g = tg.Generator().manual_seed(3)
    first, second = draw(g).tolist(), draw(g).tolist()
    g.manual_seed(3)
    assert [draw(g).tolist(), draw(g).tolist()] == [first, second]
    assert first != second
    assert draw(tg.Generator().manual_seed(4)).tolist() != first
    if name not in ("normal", "randint_wide"):
        state = g.get_state()
        third = draw(g).tolist()
        g.set_state(state)
        assert draw(g).tolist() == third


@pytest.mark.parametrize("name", DRAWS)
def test_the_default_generator(name):
    tg.manual_seed(5)
    assert DRAWS[name](None).tolist() == DRAWS[name](tg.Generator().manual_seed(5)).tolist()


def test_numbers_are_fixed_for_ever():
    """Philox's words and these conversions are part of what a seed means."""
    tg.manual_seed(0)
    assert tg.randint(0, 1000, (5,)).tolist() == [399, 972, 19, 787, 934]


def test_states():
    g = tg.Generator()
    assert g.initial_seed() == tg.Generator().initial_seed() == 67280421310721
    assert g.manual_seed(-1).initial_seed() == 2**64 - 1
    assert g.get_state().dtype is tg.uint8
    assert g.seed() == g.initial_seed()
    tg.rand(3, generator=g)
    copy = pickle.loads(pickle.dumps(g))
    assert tg.rand(3, generator=copy).tolist() == tg.rand(3, generator=g).tolist()
    state = tg.get_rng_state()
    a = tg.rand(3).tolist()
    tg.set_rng_state(state)
    assert tg.rand(3).tolist() == a
    assert tg.seed() == tg.initial_seed()
    with pytest.raises(RuntimeError, match="Overflow"):
        g.manual_seed(2**64)
    with pytest.raises(TypeError):
        g.set_state([1])
    with pytest.raises(RuntimeError, match="ByteTensor"):
        g.set_state(tg.zeros(16))


@pytest.mark.parametrize(
    ("draw", "distribution"),
    [
        (lambda n: tg.rand(n), stats.uniform()),
        (lambda n: tg.rand(n, dtype=tg.float64), stats.uniform()),
        (lambda n: tg.randn(n), stats.norm()),
        (lambda n: tg.normal(2.0, 3.0, (n,)), stats.norm(2, 3)),
        (lambda n: tg.empty(n).uniform_(-2, 5), stats.uniform(-2, 7)),
        (lambda n: tg.empty(n).normal_(1, 2), stats.norm(1, 2)),
        (lambda n: tg.empty(n).exponential_(2.0), stats.expon(scale=0.5)),
        (lambda n: tg.normal(tg.full((n,), 1.0), tg.full((n,), 2.0)), stats.norm(1, 2)),
        (lambda n: tg.normal(0.0, tg.full((n,), 2.0)), stats.norm(0, 2)),
    ],
)
def test_distribution(draw, distribution):
    tg.manual_seed(11)
    assert stats.kstest(draw(20000).numpy(), distribution.cdf).pvalue > 1e-3


def test_integers():
    tg.manual_seed(1)
    x = tg.randint(3, 7, (10000,)).numpy()
    assert x.dtype == np.int64 and stats.chisquare(np.bincount(x)[3:]).pvalue > 1e-3 and x.min() == 3 and x.max() == 6
    assert tg.randint(5, (2, 3)).numpy().max() < 5
    assert tg.randint(0, 2, (4,), dtype=tg.float32).dtype is tg.float32
    y = tg.empty(10000, dtype=tg.uint8).random_().numpy()
    assert y.max() == 255 and y.min() == 0
    assert set(tg.empty(100, dtype=tg.int64).random_(2, 4).tolist()) == {2, 3}
    assert sorted(tg.randperm(1000).tolist()) == list(range(1000))
    assert tg.randperm(0).tolist() == [] and tg.randperm(3, dtype=tg.int32).dtype is tg.int32


def test_likes():
    x = tg.zeros(2, 3, dtype=tg.float64)
    for y in (tg.rand_like(x), tg.randn_like(x), tg.randint_like(x, 3), tg.randint_like(x, 1, 3)):
        assert y.dtype is tg.float64 and tuple(y.shape) == (2, 3)
    assert tg.rand(2, requires_grad=True).requires_grad


def test_bernoulli():
    tg.manual_seed(0)
    p = tg.tensor(np.tile([0.0, 0.25, 1.0], 4000))
    x = tg.bernoulli(p).numpy().reshape(-1, 3).mean(0)
    np.testing.assert_allclose(x, [0, 0.25, 1], atol=0.02)
    y = tg.empty(4000, 3).bernoulli_(tg.tensor([0.0, 0.25, 1.0])).numpy().mean(0)
    np.testing.assert_allclose(y, [0, 0.25, 1], atol=0.03)
    with pytest.raises(RuntimeError, match="Expected p_in >= 0 && p_in <= 1 to be true"):
        tg.bernoulli(tg.tensor([0.5, 1.5]))


def test_multinomial():
    tg.manual_seed(0)
    w = tg.tensor([[0.0, 1.0, 3.0], [2.0, 2.0, 0.0]])
    x = tg.multinomial(w, 8000, replacement=True).numpy()
    np.testing.assert_allclose(np.bincount(x[0], minlength=3) / 8000, [0, 0.25, 0.75], atol=0.02)
    np.testing.assert_allclose(np.bincount(x[1], minlength=3) / 8000, [0.5, 0.5, 0], atol=0.02)
    assert sorted(tg.multinomial(tg.ones(5), 5).tolist()) == [0, 1, 2, 3, 4]
    for weights, count, message in (
        ([-1.0, 1.0], 1, "probability tensor contains either"),
        ([0.0, 0.0], 1, "sum of probabilities <= 0"),
        ([1.0, 0.0], 2, "not enough non-negative category"),
        ([1.0], 2, "cannot sample n_sample > prob_dist.size"),
        ([1.0], 0, "cannot sample n_sample <= 0"),
    ):
        with pytest.raises(RuntimeError, match=message):
            tg.multinomial(tg.tensor(weights), count)


def test_in_place_forms_write_into_views():
    base = tg.zeros(4, 6)
    base[1:3, ::2].uniform_(1, 2)
    a = base.numpy()
    assert (a[1:3, ::2] >= 1).all() and (a != 0).sum() == 6
    base.t().normal_()
    assert (base.numpy() != 0).all()


def test_in_place_forms_and_gradients():
    x = tg.ones(3, requires_grad=True)
    with pytest.raises(RuntimeError, match="leaf Variable that requires grad"):
        x.normal_()
    with tg.no_grad():
        x.uniform_(5, 6)
    assert (x.detach().numpy() >= 5).all()
    y = x * 2
    y.normal_()
    (y.sum() + x.sum()).backward()
    assert x.grad.tolist() == [1, 1, 1]


@pytest.mark.parametrize("dtype", [tg.float32, tg.float64])
def test_dropout(dtype):
    tg.manual_seed(2)
    x = tg.ones(100, 100, dtype=dtype, requires_grad=True)
    y = tg.dropout(x, 0.25)
    values = y.detach().numpy()
    np.testing.assert_allclose(np.unique(values), [0, 4 / 3], rtol=1e-6)
    assert abs((values == 0).mean() - 0.25) < 0.02
    (g,) = tg.autograd.grad((y * 3).sum(), x)
    np.testing.assert_allclose(g.numpy(), 3 * values)
    z = tg.dropout(x, 0.25)
    assert (z.detach().numpy() != values).any()


def test_dropout_second_derivative():
    x = tg.full((50,), 2.0, requires_grad=True)
    y = tg.dropout(x * x * x, 0.5)
    mask = (y / x**3).detach().numpy()
    (g,) = tg.autograd.grad(y.sum(), x, create_graph=True)
    (h,) = tg.autograd.grad(g.sum(), x)
    np.testing.assert_allclose(h.numpy(), 12 * mask, rtol=1e-5)


def test_dropout_arguments():
    x = tg.ones(8)
    assert tg.dropout(x, 0.5, False) is x and tg.dropout(x, 0.0) is x
    assert tg.dropout(x, 1.0).tolist() == [0] * 8
    y = tg.ones(1000)
    assert tg.dropout(y, 0.5, inplace=True) is y and set(y.tolist()) == {0, 2}
    assert np.isnan(tg.dropout(tg.full((100,), float("nan")), 0.5).numpy()).all()
    with pytest.raises(ValueError, match="dropout probability has to be between 0 and 1, but got 1"):
        tg.dropout(x, 1.5)
    z = tg.feature_dropout(tg.ones(20, 30, 4, 4), 0.5).numpy()
    assert ((z == z[:, :, :1, :1]).all()) and set(np.unique(z)) == {0, 2}


def test_strided_input_of_dropout():
    x = tg.ones(30, 40, requires_grad=True)
    y = tg.dropout(x.t(), 0.5)
    y.sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), y.detach().numpy().T)


@pytest.mark.parametrize(
    ("draw", "error", "message"),
    [
        (lambda: tg.empty(2).uniform_(2, 1), RuntimeError, r"uniform_ expects to return a \[from, to\) range"),
        (lambda: tg.empty(2).normal_(0, -1), RuntimeError, "normal expects std >= 0.0, but found std -1"),
        (lambda: tg.empty(2).exponential_(0), RuntimeError, "exponential_ expects lambda > 0.0"),
        (
            lambda: tg.randint(3, 3, (2,)),
            RuntimeError,
            "random_ expects 'from' to be less than 'to', but got from=3 >= to=3",
        ),
        (lambda: tg.empty(2).bernoulli_(2), RuntimeError, r"bernoulli_ expects p to be in \[0, 1\], but got p=2"),
        (lambda: tg.empty(2, dtype=tg.int64).normal_(), NotImplementedError, "not implemented for 'Long'"),
        (lambda: tg.randperm(-1), RuntimeError, "n must be non-negative"),
        (
            lambda: tg.normal(tg.zeros(2), tg.tensor([1.0, -1.0])),
            RuntimeError,
            "normal expects all elements of std >= 0.0",
        ),
    ],
)
def test_errors(draw, error, message):
    with pytest.raises(error, match=message):
        draw()
