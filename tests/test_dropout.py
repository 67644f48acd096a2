"""Dropout of elements and channels, and the kind that keeps mean and variance."""

import warnings

import numpy as np
import pytest

import tapegrad as tg
from tapegrad import nn
from tapegrad.nn import functional as F

NAMES = ["Dropout", "Dropout1d", "Dropout2d", "Dropout3d", "AlphaDropout", "FeatureAlphaDropout"]
FUNCTIONS = ["dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_alpha_dropout"]
SHAPES = [(4, 300), (4, 300, 5), (4, 300, 2, 3), (4, 300, 2, 2, 2), (4, 300), (4, 300, 5)]
ALPHA = -1.7580993408473766


@pytest.mark.parametrize(("name", "function"), list(zip(NAMES, FUNCTIONS, strict=True)))
def test_modules_drop_in_training_only_and_refuse_what_is_no_probability(name, function):
    layer = getattr(nn, name)(0.3)
    assert repr(layer) == f"{name}(p=0.3, inplace=False)"
    x = tg.ones(2, 3, 4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert layer.eval()(x).tolist() == x.tolist()
        for p in (-0.1, 1.1):
            with pytest.raises(ValueError, match=f"has to be between 0 and 1, but got {p}"):
                getattr(nn, name)(p)
            with pytest.raises(ValueError, match=f"has to be between 0 and 1, but got {p}"):
                getattr(F, function)(x, p, True)


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize(("function", "shape"), list(zip(FUNCTIONS[1:4], SHAPES[1:4], strict=True)))
def test_whole_channels_are_dropped(function, shape, inplace):
    tg.manual_seed(0)
    x = tg.ones(shape)
    y = getattr(F, function)(x, 0.25, True, inplace)
    assert (y is x) == inplace
    channels = y.numpy().reshape(*shape[:2], -1)
    np.testing.assert_array_equal(channels, channels[:, :, :1].repeat(channels.shape[2], 2))
    assert set(np.unique(channels)) == {np.float32(0), np.float32(4 / 3)}
    assert (channels == 0).mean() == pytest.approx(0.25, abs=0.05)


def test_inputs_without_a_batch_have_channels_too():
    tg.manual_seed(0)
    for function, shape in (("dropout1d", (500, 3)), ("dropout3d", (500, 2, 2, 2))):
        for inplace in (False, True):
            y = getattr(F, function)(tg.ones(shape), 0.5, True, inplace)
            assert tuple(y.shape) == shape
            channels = y.numpy().reshape(shape[0], -1)
            np.testing.assert_array_equal(channels.min(1), channels.max(1))
            assert 0.4 < (channels == 0).mean() < 0.6
    with pytest.raises(RuntimeError, match="dropout1d: Expected 2D or 3D input, but received a 4D input"):
        F.dropout1d(tg.ones(1, 1, 1, 1))
    with pytest.warns(UserWarning, match="dropout2d: Received a 3D input"):
        F.dropout2d(tg.ones(1, 1, 1))
    with pytest.warns(UserWarning, match="dropout3d: Received a 2-D input"):
        F.dropout3d(tg.ones(1, 1))


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("function", FUNCTIONS[4:])
def test_alpha_dropout_keeps_mean_and_variance(function, inplace):
    tg.manual_seed(0)
    p = 0.3
    x = tg.randn(200, 500, 2, dtype=tg.float64).requires_grad_()
    y = getattr(F, function)(x * 1, p, True, inplace)
    y.sum().backward()
    factor = 1 / np.sqrt((ALPHA**2 * p + 1) * (1 - p))
    kept = x.grad.numpy() != 0
    np.testing.assert_allclose(np.unique(x.grad.numpy()), [0, factor])
    expected = np.where(kept, factor * x.detach().numpy(), factor * ALPHA) - factor * ALPHA * p
    np.testing.assert_allclose(y.detach().numpy(), expected, rtol=1e-12, atol=1e-12)
    assert kept.mean() == pytest.approx(1 - p, abs=0.01)
    assert abs(y.mean().item()) < 0.02 and abs(y.var().item() - 1) < 0.05
    assert ((kept[:, :, 0] == kept[:, :, 1]).all()) == (function == "feature_alpha_dropout")


def test_the_ends_of_the_range():
    x = tg.ones(3, 4)
    for function in ("dropout", "alpha_dropout", "feature_alpha_dropout"):
        assert getattr(F, function)(x, 1.0, True).tolist() == [[0.0] * 4] * 3
        assert getattr(F, function)(x, 0.0, True).tolist() == x.tolist()
        assert tuple(getattr(F, function)(tg.ones(0, 4), 0.5, True).shape) == (0, 4)
    with pytest.raises(RuntimeError, match="Feature dropout requires at least 2 dimensions"):
        F.feature_alpha_dropout(tg.ones(3), 0.5, True)
