"""The norm of all gradients together, and limits on them."""

import math

import numpy as np
import pytest

import tapegrad as tg
from tapegrad.nn import utils

RNG = np.random.default_rng(0)


def leaf(grad, dtype=None):
    param = tg.zeros(np.shape(grad), dtype=dtype or tg.float64).requires_grad_()
    param.grad = grad if isinstance(grad, tg.Tensor) else tg.tensor(grad, dtype=param.dtype)
    return param


@pytest.mark.parametrize("p", [1.0, 2.0, math.inf, 3.5, 0.5])
def test_large_gradients_have_one_norm_on_any_number_of_threads(p):
    arrays = [RNG.standard_normal(shape) for shape in ((70_000,), (3, 4), (0,), (300, 500), ())]
    norm = np.linalg.norm(np.concatenate([array.ravel() for array in arrays]), p)
    found = []
    for threads in (1, 2):
        tg.set_num_threads(threads)
        params = [leaf(array) for array in arrays]
        total = utils.clip_grad_norm_(params, 1.0, p)
        found.append([total.item(), *(param.grad.numpy() for param in params)])
    tg.set_num_threads(1)
    assert found[0][0] == pytest.approx(norm, rel=1e-12)
    for array, one, two in zip([norm, *arrays], *found, strict=True):
        np.testing.assert_array_equal(one, two)
        if np.ndim(array):
            np.testing.assert_allclose(one, array / (norm + 1e-6), rtol=1e-11)


def test_small_gradients_are_left_as_they_are():
    param = leaf([0.1, 0.2])
    version = param.grad._version
    utils.clip_grad_norm_(param, 1.0)
    assert param.grad.tolist() == [0.1, 0.2] and param.grad._version == version + 1


def test_strided_gradients_and_several_dtypes():
    strided = tg.tensor(np.arange(12.0).reshape(3, 4)).t()
    params = [leaf(strided), leaf([3.0, -4.0], tg.float32)]
    norm = math.sqrt(sum(k * k for k in range(12)) + 25)
    total = utils.clip_grad_norm_(params, 1.0)
    assert total.item() == pytest.approx(norm) and total.dtype is tg.float64
    np.testing.assert_allclose(params[0].grad.numpy(), np.arange(12.0).reshape(3, 4).T / (norm + 1e-6), rtol=1e-9)
    np.testing.assert_allclose(params[1].grad.numpy(), np.array([3.0, -4.0]) / norm, rtol=1e-5)
    utils.clip_grad_value_(params, 0.1)
    assert params[0].grad.max().item() == 0.1 and params[1].grad.tolist() == pytest.approx([0.1, -0.1])


@pytest.mark.parametrize("p", [2.0, math.inf, 1.0, 3.0])
def test_nan_and_infinity_are_told(p):
    for bad in (math.nan, math.inf):
        param = leaf(np.where(np.arange(70_000) == 5, bad, 1.0))
        assert not math.isfinite(utils.get_total_norm([param.grad], p).item())
        before = param.grad.numpy().copy()
        with pytest.raises(RuntimeError, match="is non-finite, so it cannot be clipped"):
            utils.clip_grad_norm_(param, 1.0, p, error_if_nonfinite=True)
        np.testing.assert_array_equal(param.grad.numpy(), before)


def test_norms_of_nothing():
    assert utils.get_total_norm([]).item() == 0.0
    assert utils.clip_grad_norm_(iter([tg.zeros(2).requires_grad_()]), 1.0).item() == 0.0
    utils.clip_grad_value_([], 1.0)


def test_torch_clips_alike():
    torch = pytest.importorskip("torch")
    arrays = [RNG.standard_normal(shape).astype(np.float32) for shape in ((5, 7), (3,))]
    for p in (1.0, 2.0, 4.0, math.inf, 0.0, -1.0):
        results = []
        for lib in (tg, torch):
            params = [lib.zeros(array.shape, requires_grad=True) for array in arrays]
            for param, array in zip(params, arrays, strict=True):
                param.grad = lib.tensor(array)
            total = lib.nn.utils.clip_grad_norm_(params, 0.7, p)
            lib.nn.utils.clip_grad_value_(params, 0.3)
            results.append([total.numpy(), *(param.grad.numpy() for param in params)])
        for ours, theirs in zip(*results, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-5)


def test_parameters_become_a_vector_and_back():
    a, b = tg.nn.Parameter(tg.ones(2, 2)), tg.nn.Parameter(tg.zeros(3))
    vector = utils.parameters_to_vector([a, b])
    assert vector.tolist() == [1.0] * 4 + [0.0] * 3 and vector.requires_grad
    utils.vector_to_parameters(tg.arange(7.0), [a, b])
    assert a.tolist() == [[0.0, 1.0], [2.0, 3.0]] and b.tolist() == [4.0, 5.0, 6.0] and a.requires_grad
    with pytest.raises(RuntimeError, match="the vector has 6 numbers, the parameters 7"):
        utils.vector_to_parameters(tg.arange(6.0), [a, b])
    assert a.tolist() == [[0.0, 1.0], [2.0, 3.0]]
