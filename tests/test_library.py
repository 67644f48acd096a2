"""Ops that users declare from outside: values, derivatives of both orders, capture, errors, the disk cache's keys."""

import math

import numpy as np
import pytest
from numba import njit

import tapegrad as tg
from tapegrad.library.fingerprint import fingerprint
from tapegrad.ops.registry import registry


@tg.library.elementwise(vjp=lambda g, y, x, w: (g * w * x.own_cosine(w), g * x * x.own_cosine(w)))
def own_sine(x, w):
    return math.sin(x * w)


@tg.library.elementwise(vjp=lambda g, y, x, w: (-(g * w * x.own_sine(w)), -(g * x * x.own_sine(w))))
def own_cosine(x, w):
    return math.cos(x * w)


@tg.library.op("(n),()->(n)", vjp=lambda g, y, x, rate: (g.smooth_back(rate), g.smooth_rate(y, x, rate)))
def smooth(x, rate, y):
    y[0] = x[0]
    for k in range(1, x.size):
        y[k] = rate * y[k - 1] + (1 - rate) * x[k]


@tg.library.op("(n),()->(n)", vjp=lambda g, y, x, rate: (g.smooth(rate), None))
def smooth_back(g, rate, gx):
    carried = g[0] * 0
    for k in range(g.size - 1, 0, -1):
        carried = g[k] + rate * carried
        gx[k] = (1 - rate) * carried
    gx[0] = g[0] + rate * carried


@tg.library.op("(n),(n),(n),()->()")
def smooth_rate(g, y, x, rate, total):
    slope = g[0] * 0
    total[0] = 0
    for k in range(1, g.size):
        slope = y[k - 1] - x[k] + rate * slope
        total[0] += g[k] * slope


@tg.library.op("(m,n),(n)->(m),(n)", vjp=lambda g, y, a, b: (g[0].outer_own(b), None))
def two_results(a, b, y, z):
    for i in range(a.shape[0]):
        y[i] = 0
        for j in range(a.shape[1]):
            y[i] += a[i, j] * b[j]
    for j in range(b.size):
        z[j] = 2 * b[j]


@tg.library.op("(m),(n)->(m,n)")
def outer_own(u, v, y):
    for i in range(u.size):
        for j in range(v.size):
            y[i, j] = u[i] * v[j]


def smoothed(x, rate):
    y = np.array(x)
    for k in range(1, x.shape[-1]):
        y[..., k] = rate * y[..., k - 1] + (1 - rate) * x[..., k]
    return y


def double(*shape):
    return tg.randn(*shape, dtype=tg.float64, requires_grad=True)


def test_an_elementwise_op_broadcasts_promotes_and_has_all_derivatives():
    x, w = double(3, 1), double(4)
    assert tg.allclose(own_sine(x, w), tg.sin(x * w))
    assert tg.autograd.gradcheck(own_sine, (x, w))
    assert tg.autograd.gradgradcheck(own_sine, (x, w))
    assert own_sine(tg.arange(3), 2.0).dtype == tg.float32
    assert own_sine(double(4, 3).T, 1.0).shape == (3, 4)


def test_an_op_of_arrays_loops_over_leading_dimensions():
    x = tg.randn(2, 5, 7, dtype=tg.float64)
    np.testing.assert_allclose(smooth(x, 0.8).numpy(), smoothed(x.numpy(), 0.8))
    transposed = tg.randn(7, 5, dtype=tg.float64).T
    np.testing.assert_allclose(smooth(transposed, 0.8).numpy(), smoothed(transposed.numpy(), 0.8))
    assert smooth(tg.zeros(0, 7), 0.5).shape == (0, 7)


def test_the_derivatives_of_an_op_of_arrays():
    x, rate = double(3, 6), tg.tensor(0.7, dtype=tg.float64, requires_grad=True)
    assert tg.autograd.gradcheck(smooth, (x, rate))
    assert tg.autograd.gradgradcheck(lambda x: smooth(x, 0.7) ** 2, (x,))


def test_an_operand_without_leading_dimensions_gets_the_sum_of_its_gradients():
    a, b = double(4, 2, 3), tg.randn(3, dtype=tg.float64)
    y, z = two_results(a, b)
    assert tg.allclose(y, a @ b)
    assert tg.allclose(z, 2 * b.expand(4, 3))
    y.sum().backward()
    assert tg.allclose(a.grad, b.expand(4, 2, 3))
    one = double(2, 3)
    smooth(one, tg.full((), 0.5, dtype=tg.float64)).sum().backward()
    assert one.grad.shape == (2, 3)


def test_own_ops_are_captured_and_called_from_numba():
    def loss(x):
        return (smooth(own_sine(x, 2.0), 0.6) ** 2).sum()

    captured = tg.compile(loss)
    for _ in range(4):
        x = tg.randn(9, dtype=tg.float64)
        assert captured(x).item() == loss(x).item()
    gradient = tg.func.grad(loss).njit
    point = np.linspace(-1, 1, 9)
    gradient(point)

    @njit
    def call(x):
        return gradient(x)

    np.testing.assert_array_equal(call(point), tg.func.grad(loss)(tg.tensor(point)).numpy())


def test_an_own_op_is_declared_anew_with_other_code():
    def declare(factor):
        @tg.library.elementwise()
        def rescaled(x):
            return x * factor

        return rescaled

    twice, thrice = declare(2.0), declare(3.0)
    assert twice(tg.ones(2)).tolist() == [2.0, 2.0]
    assert thrice(tg.ones(2)).tolist() == [3.0, 3.0]
    assert declare(2.0)(tg.ones(2)).tolist() == [2.0, 2.0]


def test_an_op_without_a_rule_has_no_derivative():
    y = smooth_rate(double(3), double(3), double(3), 0.5)
    assert not y.requires_grad


def test_names_that_are_taken_or_missing():
    with pytest.raises(ValueError, match="tapegrad has an op 'exp': give the function another name"):

        @tg.library.elementwise()
        def exp(x):
            return x

    @tg.library.elementwise(vjp=lambda g, y, x: g.own_op_that_comes_later())
    def waiting(x):
        return x

    with pytest.raises(RuntimeError, match="its gradient rule uses 'own_op_that_comes_later', which is no op so far"):
        waiting(double(2))


def test_a_wrong_rule_leaves_what_was_there():
    with pytest.raises(TypeError):

        @tg.library.op("(n),()->(n)", vjp=lambda g, y: g)
        def smooth(x, rate, y):
            y[0] = 0

    test_an_op_of_arrays_loops_over_leading_dimensions()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("n->n", "'n->n' is no signature: one looks like"),
        ("(n)->(m)", "no operand tells the size of m"),
        ("(n)->(n)", "body has 3 arguments"),
        (",".join(["(n)"] * 9) + "->(n)", "at most 8 operands"),
    ],
)
def test_wrong_signatures(text, message):
    with pytest.raises(ValueError, match=message):

        @tg.library.op(text)
        def body(a, b, c):
            c[0] = a[0]


def test_wrong_operands():
    with pytest.raises(RuntimeError, match=r"two_results: the shapes \[2, 3\], \[4\] do not fit \(m,n\),\(n\)"):
        two_results(tg.ones(2, 3), tg.ones(4))
    with pytest.raises(RuntimeError, match=r"the shapes \[4, 3\], \[5\] do not fit"):
        smooth(tg.ones(4, 3), tg.ones(5))
    with pytest.raises(RuntimeError, match="do not fit"):
        smooth(tg.tensor(1.0), 0.5)
    with pytest.raises(TypeError, match=r"smooth\(\) takes 2 tensors, got 1"):
        smooth(tg.ones(3))
    with pytest.raises(RuntimeError, match='"smooth" not implemented for int64'):
        smooth(tg.arange(3), tg.arange(3)[0])


def test_a_rule_with_wrong_shapes_is_an_error_and_no_crash():
    @tg.library.op("(n)->()", vjp=lambda g, y, x: x.two_results(x))
    def first_of(x, y):
        y[0] = x[0]

    with pytest.raises(RuntimeError, match="two_results: an argument has a value that the op does not accept"):
        first_of(double(3)).backward()


def test_fingerprints_see_code_constants_and_what_is_closed_over():
    def make(number, helper):
        return lambda x: helper(x) + number

    plain, other = (lambda x: x), (lambda x: -x)
    assert fingerprint(make(1, plain)) == fingerprint(make(1, plain))
    assert fingerprint(make(1, plain)) != fingerprint(make(2, plain))
    assert fingerprint(make(1, plain)) != fingerprint(make(1.0, plain))
    assert fingerprint(make(1, plain)) != fingerprint(make(1, other))
    assert fingerprint(make(1, njit(plain))) == fingerprint(make(1, plain))
    assert fingerprint(make(np.arange(3), plain)) != fingerprint(make(np.arange(4), plain))
    assert fingerprint(make(object(), plain)) is None


def test_what_cannot_be_told_apart_is_not_kept_on_the_disk():
    table = {"unknown": 2.0}

    @tg.library.elementwise()
    def own_clear(x):
        return x * 2

    @tg.library.elementwise()
    def own_unclear(x):
        return x if table is None else x * 2

    assert registry["own_clear"].stamp
    assert registry["own_unclear"].stamp is None
