"""Layers that normalise: values, running statistics, derivatives, errors; torch's numbers."""

import numpy as np
import pytest

import tapegrad as tg
from tapegrad import nn
from tapegrad.nn import functional as F


def data(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


LAYERS = {
    "layer": (lambda nn: nn.LayerNorm(6), (4, 6)),
    "layer of two dimensions": (lambda nn: nn.LayerNorm((3, 5), eps=1e-3), (4, 2, 3, 5)),
    "layer without bias": (lambda nn: nn.LayerNorm(40, bias=False), (9, 40)),
    "plain layer": (lambda nn: nn.LayerNorm(6, elementwise_affine=False), (4, 6)),
    "rms": (lambda nn: nn.RMSNorm(6), (4, 6)),
    "rms of two dimensions": (lambda nn: nn.RMSNorm((3, 5), eps=1e-3), (4, 3, 5)),
    "group": (lambda nn: nn.GroupNorm(2, 6), (3, 6, 4, 5)),
    "group without space": (lambda nn: nn.GroupNorm(3, 6), (4, 6)),
    "plain group": (lambda nn: nn.GroupNorm(2, 6, affine=False), (3, 6, 7)),
    "batch 1d": (lambda nn: nn.BatchNorm1d(5), (7, 5)),
    "batch 1d with length": (lambda nn: nn.BatchNorm1d(5, momentum=None), (7, 5, 3)),
    "batch 2d": (lambda nn: nn.BatchNorm2d(3, momentum=0.3), (2, 3, 14, 15)),
    "batch 3d": (lambda nn: nn.BatchNorm3d(3, affine=False), (2, 3, 2, 3, 4)),
    "batch without running statistics": (lambda nn: nn.BatchNorm2d(3, track_running_stats=False), (2, 3, 4, 5)),
    "instance 1d": (lambda nn: nn.InstanceNorm1d(3), (2, 3, 7)),
    "instance 2d": (lambda nn: nn.InstanceNorm2d(3, affine=True), (2, 3, 4, 5)),
    "instance with running statistics": (
        lambda nn: nn.InstanceNorm2d(3, affine=True, track_running_stats=True),
        (2, 3, 4, 5),
    ),
    "instance of one sample": (lambda nn: nn.InstanceNorm3d(3), (3, 2, 4, 5)),
    "many rows": (lambda nn: nn.LayerNorm(300), (700, 300)),
    "long rows": (lambda nn: nn.LayerNorm(10000), (3, 10000)),
    "many columns": (lambda nn: nn.BatchNorm1d(700), (300, 700)),
    "large planes": (lambda nn: nn.BatchNorm2d(3), (3, 3, 150, 151)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_torch_gives_the_same_outputs_gradients_and_statistics(name):
    torch = pytest.importorskip("torch")
    make, shape = LAYERS[name]
    ours, theirs = make(nn).double(), make(torch.nn).double()
    factors = {key: data(*p.shape, seed=len(key)) for key, p in ours.named_parameters()}
    ours.load_state_dict({key: tg.tensor(v) for key, v in factors.items()}, strict=False)
    theirs.load_state_dict({key: torch.tensor(v) for key, v in factors.items()}, strict=False)
    for step in range(3):
        if step == 2:
            ours.eval(), theirs.eval()
        x, g = data(*shape, seed=step) * 2 + 3, data(*shape, seed=9)
        results = []
        for library, layer in ((tg, ours), (torch, theirs)):
            leaf = library.tensor(x, requires_grad=True)
            y = layer(leaf)
            layer.zero_grad()
            y.backward(library.tensor(g))
            grads = [p.grad.numpy() for _, p in sorted(layer.named_parameters())]
            state = [v.detach().numpy() for _, v in sorted(layer.state_dict().items())]
            results.append([y.detach().numpy(), leaf.grad.numpy(), *grads, *state])
        for got, wanted in zip(*results, strict=True):
            assert got.dtype == wanted.dtype
            np.testing.assert_allclose(got, wanted, rtol=1e-9, atol=1e-9)


def test_torch_gives_the_same_in_float32_of_a_large_offset():
    torch = pytest.importorskip("torch")
    x = (data(64, 3, 16, 16) + 1000).astype("float32")
    for make in (lambda nn: nn.BatchNorm2d(3), lambda nn: nn.GroupNorm(3, 3), lambda nn: nn.LayerNorm(16)):
        exact = make(torch.nn).double()(torch.tensor(x, dtype=torch.float64)).detach().numpy()
        np.testing.assert_allclose(make(nn)(tg.tensor(x)).detach().numpy(), exact, atol=1e-3)


def test_torch_prints_the_same():
    torch = pytest.importorskip("torch")
    for make, _ in LAYERS.values():
        assert repr(make(nn)) == repr(make(torch.nn))


@pytest.mark.parametrize(
    "function",
    [
        lambda x, w, b: F.layer_norm(x, (4,), w, b),
        lambda x, w, b: F.rms_norm(x, (4,), w, 0.1),
        lambda x, w, b: F.group_norm(x.reshape(1, 4, 3), 2, w, b),
        lambda x, w, b: F.batch_norm(x, None, None, w, b, training=True),
        lambda x, w, b: F.batch_norm(x, tg.zeros(4, dtype=tg.float64), tg.ones(4, dtype=tg.float64), w, b),
    ],
)
def test_third_derivatives(function):
    leaves = [tg.tensor(data(*shape, seed=k), requires_grad=True) for k, shape in enumerate([(3, 4), (4,), (4,)])]
    weights = tg.tensor(data(12))

    def slope(*operands):
        y = (function(*operands).reshape(-1) * weights).sum() + 0 * sum(o.sum() for o in operands)
        return tg.autograd.grad(y, operands, create_graph=True)

    assert tg.autograd.gradgradcheck(slope, leaves)


def test_statistics_of_a_batch():
    layer, x = nn.BatchNorm1d(2), data(5, 2).astype("float32")
    layer(tg.tensor(x))
    np.testing.assert_allclose(layer.running_mean.numpy(), 0.1 * x.mean(0), rtol=1e-5)
    np.testing.assert_allclose(layer.running_var.numpy(), 0.9 + 0.1 * x.var(0, ddof=1), rtol=1e-5)
    assert layer.num_batches_tracked.item() == 1
    before = layer.running_mean.numpy().copy()
    layer.eval()(tg.tensor(x))
    np.testing.assert_array_equal(layer.running_mean.numpy(), before)


def test_the_number_of_threads_changes_no_bit():
    x = tg.tensor(data(40, 64, 10, 20).astype("float32"), requires_grad=True)
    layers = [nn.LayerNorm(20), nn.GroupNorm(4, 64), nn.BatchNorm2d(64)]
    before, found = tg.get_num_threads(), []
    for threads in (1, 2):
        tg.set_num_threads(threads)
        for layer in layers:
            (layer(x) * layer(x)).sum().backward()
        found.append([x.grad.numpy().copy(), *[p.grad.numpy().copy() for layer in layers for p in layer.parameters()]])
        x.grad = None
        for layer in layers:
            layer.zero_grad()
    tg.set_num_threads(before)
    for a, b in zip(*found, strict=True):
        np.testing.assert_array_equal(a, b)


def test_nan_stays_in_its_row_or_channel():
    x = data(4, 3, 20, 20).astype("float32")
    x[0, 1, 2, 3] = np.nan
    assert np.isnan(nn.BatchNorm2d(3)(tg.tensor(x)).detach().numpy()).all((0, 2, 3)).tolist() == [False, True, False]
    assert np.isnan(nn.GroupNorm(3, 3)(tg.tensor(x)).detach().numpy()).any((2, 3)).sum() == 1
    x[0, 1, 2, 3] = np.inf
    assert np.isnan(nn.BatchNorm2d(3)(tg.tensor(x)).detach().numpy()).any((0, 2, 3)).tolist() == [False, True, False]


def test_large_results_that_pass_the_caches_by():
    x, g = (data(4400, 1024, seed=k).astype("float32") for k in range(2))
    leaf, layer = tg.tensor(x, requires_grad=True), nn.LayerNorm(1024)
    y = layer(leaf)
    y.backward(tg.tensor(g))
    hat = (x - x.mean(1, keepdims=True)) / x.std(1, keepdims=True)
    np.testing.assert_allclose(y.detach().numpy(), hat, atol=1e-4)
    middle = g - g.mean(1, keepdims=True) - hat * (g * hat).mean(1, keepdims=True)
    np.testing.assert_allclose(leaf.grad.numpy(), middle / x.std(1, keepdims=True), atol=1e-4)
    np.testing.assert_allclose(layer.weight.grad.numpy(), (g * hat).sum(0), atol=0.02)
    e = np.exp(x)
    np.testing.assert_allclose(tg.softmax(tg.tensor(x), 1).numpy(), e / e.sum(1, keepdims=True), rtol=1e-5)


def test_a_gradient_out_of_a_reshape_is_not_copied():
    x = tg.tensor(data(2, 4, 3).astype("float32"), requires_grad=True)
    (F.group_norm(x, 2) ** 2).sum().backward()
    x.grad.add_(1)
    assert not x.grad._is_view() and x.grad.view(-1).shape == (24,)


def test_empty_batches():
    assert nn.LayerNorm(3)(tg.ones(0, 3)).shape == (0, 3)
    assert nn.GroupNorm(3, 3)(tg.ones(0, 3, 2)).shape == (0, 3, 2)
    layer, x = nn.BatchNorm2d(3), tg.ones(0, 3, 4, 4, requires_grad=True)
    layer(x).sum().backward()
    assert x.grad.shape == x.shape and layer.weight.grad.tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("error", "text", "call"),
    [
        (RuntimeError, "expected input with shape", lambda: nn.LayerNorm(3)(tg.ones(2, 4))),
        (RuntimeError, "weight to be of same shape", lambda: F.layer_norm(tg.ones(2, 4), (4,), tg.ones(3))),
        (RuntimeError, "one dtype", lambda: nn.LayerNorm(3).double()(tg.ones(2, 3))),
        (RuntimeError, "floating point", lambda: F.layer_norm(tg.ones(2, 3, dtype=tg.int64), (3,))),
        (ValueError, "must be divisible", lambda: nn.GroupNorm(2, 5)),
        (RuntimeError, "divisible by num_groups", lambda: nn.GroupNorm(2, 4)(tg.ones(2, 5, 3))),
        (RuntimeError, "vector of size equal", lambda: nn.GroupNorm(2, 4)(tg.ones(2, 6, 3))),
        (ValueError, "expected 4D input", lambda: nn.BatchNorm2d(3)(tg.ones(2, 3, 4))),
        (ValueError, "more than 1 value per channel", lambda: nn.BatchNorm1d(3)(tg.ones(1, 3))),
        (RuntimeError, "running_mean should contain 4 elements not 3", lambda: nn.BatchNorm1d(3)(tg.ones(2, 4))),
        (RuntimeError, "to be defined", lambda: F.batch_norm(tg.ones(2, 3), None, None)),
        (ValueError, "match num_features", lambda: nn.InstanceNorm1d(3, affine=True)(tg.ones(2, 4, 5))),
        (ValueError, "more than 1 spatial", lambda: nn.InstanceNorm2d(3)(tg.ones(2, 3, 1, 1))),
    ],
)
def test_errors(error, text, call):
    with pytest.raises(error, match=text):
        call()


def test_failed_batches_leave_the_statistics():
    layer = nn.BatchNorm1d(3)
    for shape in [(2, 4), (1, 3), (2, 3, 4, 5)]:
        with pytest.raises((RuntimeError, ValueError)):
            layer(tg.ones(*shape))
    assert layer.num_batches_tracked.item() == 0 and layer.running_mean.tolist() == [0, 0, 0]
