"""Activations as modules and functions, beside torch's and NumPy's."""

import math

import numpy as np
import pytest

import tapegrad as tg
from tapegrad import nn
from tapegrad.nn import functional as F

X = np.random.default_rng(0).uniform(-3, 3, (2, 4, 6))
WEIGHTS = np.cos(np.arange(48.0)).reshape(2, 4, 6)

CASES = [
    ("ELU", {"alpha": 1.5}),
    ("Hardshrink", {}),
    ("Hardsigmoid", {}),
    ("Hardtanh", {"min_val": -0.5, "max_val": 2.0}),
    ("Hardswish", {}),
    ("LeakyReLU", {"negative_slope": 0.2}),
    ("LogSigmoid", {}),
    ("PReLU", {}),
    ("PReLU", {"num_parameters": 4, "init": 0.1}),
    ("ReLU", {}),
    ("ReLU6", {}),
    ("SELU", {}),
    ("CELU", {"alpha": 0.7}),
    ("GELU", {"approximate": "tanh"}),
    ("GELU", {}),
    ("Sigmoid", {}),
    ("SiLU", {}),
    ("Mish", {}),
    ("Softplus", {"beta": 2.0, "threshold": 3.0}),
    ("Softshrink", {"lambd": 0.3}),
    ("Softsign", {}),
    ("Tanh", {}),
    ("Tanhshrink", {}),
    ("Threshold", {"threshold": 0.1, "value": 20.0}),
    ("GLU", {}),
    ("GLU", {"dim": 1}),
    ("Softmin", {"dim": 1}),
    ("Softmax", {"dim": 1}),
    ("Softmax2d", {}),
    ("LogSoftmax", {"dim": 1}),
]
IN_PLACE = [
    *("ReLU", "ReLU6", "Hardsigmoid", "Hardswish", "SiLU", "Mish", "SELU", "ELU", "CELU", "LeakyReLU", "Hardtanh"),
    "Threshold",
]
case_of_each = pytest.mark.parametrize(("name", "options"), CASES, ids=[f"{n}-{k}" for k, (n, _) in enumerate(CASES)])


def result(library, layer):
    """Return the layer's text, output and gradients."""
    x = library.tensor(X, requires_grad=True)
    y = layer(x * 1)
    (y * library.tensor(WEIGHTS[:, :, : y.shape[2]][:, : y.shape[1]])).sum().backward()
    arrays = [y.detach().numpy(), x.grad.numpy(), *(param.grad.numpy() for param in layer.parameters())]
    return repr(layer), arrays


@case_of_each
def test_torch_gives_the_same(name, options):
    torch = pytest.importorskip("torch")
    (text, ours), (torchs, theirs) = [result(lib, getattr(lib.nn, name)(**options).double()) for lib in (tg, torch)]
    assert text == torchs
    for a, b in zip(ours, theirs, strict=True):
        # torch has 1 / 6 and 1 / alpha of these two in float32
        np.testing.assert_allclose(a, b, rtol=1e-7 if name in ("Hardsigmoid", "CELU") else 1e-9, atol=1e-12)


@pytest.mark.parametrize("name", IN_PLACE)
def test_in_place_writes_and_has_the_same_gradient(name):
    options = {"threshold": 0.1, "value": 20.0} if name == "Threshold" else {}
    text, out_of_place = result(tg, getattr(nn, name)(**options))
    in_place = getattr(nn, name)(**options, inplace=True)
    for a, b in zip(result(tg, in_place)[1], out_of_place, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)
    x = tg.tensor(X)
    assert in_place(x) is x
    np.testing.assert_allclose(x.numpy(), out_of_place[0])
    assert text != repr(in_place) or name.startswith("Hards")


def test_a_leaky_relu_in_place_keeps_no_copy_unless_its_slope_is_negative():
    for slope in (0.2, -0.2):
        x = tg.tensor(X, requires_grad=True)
        F.leaky_relu(x * 1, slope, inplace=True).sum().backward()
        np.testing.assert_allclose(x.grad.numpy(), np.where(X > 0, 1, slope))
    held = tg.memory_stats()["in_use"]
    x = tg.ones(1 << 16, requires_grad=True) * 1
    before = tg.memory_stats()["in_use"]
    F.leaky_relu_(x, 0.2)
    assert tg.memory_stats()["in_use"] - before < 1 << 16 < before - held


@pytest.mark.parametrize("inplace", [False, True])
def test_rrelu_draws_slopes_in_training(inplace):
    tg.manual_seed(0)
    layer, x = nn.RReLU(0.1, 0.3, inplace), tg.full((10_000,), -2.0, requires_grad=True)
    y = layer(x * 1)
    y.sum().backward()
    slopes = x.grad.numpy()
    np.testing.assert_allclose(y.detach().numpy(), -2 * slopes, rtol=1e-6)
    assert 0.1 <= slopes.min() < 0.11 and 0.29 < slopes.max() <= 0.3
    assert slopes.mean() == pytest.approx(0.2, abs=0.005)
    np.testing.assert_allclose(layer.eval()(tg.tensor([-1.0, 2.0])).numpy(), [-0.2, 2.0], rtol=1e-6)
    assert repr(layer) == "RReLU(lower=0.1, upper=0.3" + (", inplace=True)" if inplace else ")")
    with pytest.raises(RuntimeError, match="Lower bound should be less than or equal to the upper bound"):
        F.rrelu(x, 0.5, 0.1)


def test_what_cannot_be_is_refused():
    with pytest.raises(RuntimeError, match="Halving dimension must be even, but dimension 1 is size 3"):
        F.glu(tg.ones(2, 3))
    with pytest.raises(RuntimeError, match="lambda must be greater or equal to 0"):
        F.softshrink(tg.ones(2), -1.0)
    with pytest.raises(ValueError, match="expected input to be 3D or 4D, got 2D"):
        nn.Softmax2d()(tg.ones(2, 3))
    with pytest.raises(AssertionError, match="max_val must be larger than min_val"):
        nn.Hardtanh(1.0, -1.0)
    with pytest.raises(RuntimeError, match="channel size = 3"):
        nn.PReLU(4)(tg.ones(2, 3))


def test_softmax_without_a_dimension_warns_and_chooses_as_torch():
    with pytest.warns(UserWarning, match="Implicit dimension choice for softmax has been deprecated"):
        y = F.softmax(tg.tensor(X))
    np.testing.assert_allclose(y.numpy().sum(0), 1.0)


def test_gumbel_softmax_draws_classes_by_their_probabilities():
    tg.manual_seed(0)
    p = np.array([0.1, 0.6, 0.3])
    logits = tg.tensor(np.log(p)).expand(20_000, 3).clone().requires_grad_()
    hard = F.gumbel_softmax(logits, tau=0.5, hard=True)
    assert set(np.unique(hard.detach().numpy().round(6))) == {0.0, 1.0}
    np.testing.assert_allclose(hard.detach().numpy().mean(0), p, atol=0.02)
    (hard * tg.tensor([1.0, 2.0, 3.0])).sum().backward()
    assert math.isfinite(float(logits.grad.abs().max())) and logits.grad.abs().max() > 0
    soft = F.gumbel_softmax(logits, tau=2.0)
    np.testing.assert_allclose(soft.detach().numpy().sum(-1), 1.0, rtol=1e-6)


def test_functions_take_torch_s_arguments():
    x = tg.tensor([-2.0, 0.5])
    assert F.hardtanh(x, -1, 1).tolist() == [-1.0, 0.5] and F.threshold(x, 0.0, 7.0).tolist() == [7.0, 0.5]
    assert F.relu(x, inplace=False).tolist() == [0.0, 0.5] and F.relu6(x * 20).tolist() == [0.0, 6.0]
    assert F.hardshrink(x, 0.5).tolist() == [-2.0, 0.0] and F.softshrink(x, 0.5).tolist() == [-1.5, 0.0]
    np.testing.assert_allclose(F.tanhshrink(x).numpy(), [-2 + math.tanh(2), 0.5 - math.tanh(0.5)], rtol=1e-5)
