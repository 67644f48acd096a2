"""Optimisers' states: saved and loaded, given to torch and taken from it, copied, refused where they do not fit."""

import copy
import itertools
import pickle

import numpy as np
import pytest
from optim_cases import ALL_CASES, CASES, SHAPES, draws, give, parameters, values

import tapegrad as tg
from tapegrad import optim


@CASES
def test_state_travels_to_torch_and_back(name, options):
    torch = pytest.importorskip("torch")
    numbers = draws(3, "float32", SHAPES[:3])
    start = next(numbers)
    theirs, ours = [torch.tensor(array, requires_grad=True) for array in start], parameters(start)
    first = getattr(torch.optim, name)(theirs, lr=0.05, **options)
    for gradients in itertools.islice(numbers, 3):
        for param, gradient in zip(theirs, gradients, strict=True):
            param.grad = torch.tensor(gradient)
        first.step()
    exported = copy.deepcopy(first.state_dict())
    for state in exported["state"].values():
        state.update({key: tg.tensor(value.numpy()) for key, value in state.items() if value is not None})
    second = getattr(optim, name)(ours, lr=1.0)
    second.load_state_dict(exported)
    with tg.no_grad():
        for param, value in zip(ours, theirs, strict=True):
            param.copy_(tg.tensor(value.detach().numpy()))
    gradients = next(numbers)
    for param, gradient in zip(theirs, gradients, strict=True):
        param.grad = torch.tensor(gradient)
    give(ours, gradients)
    first.step()
    second.step()
    for param, value in zip(theirs, values(ours), strict=True):
        np.testing.assert_allclose(value, param.detach().numpy(), rtol=1e-5, atol=1e-6)
    back = second.state_dict()
    assert back["param_groups"][0].keys() == first.state_dict()["param_groups"][0].keys()
    assert {k: set(state) for k, state in back["state"].items()} == {
        k: set(state) for k, state in first.state_dict()["state"].items()
    }


@ALL_CASES
def test_a_run_that_is_broken_off_goes_on_from_its_state(name, options):
    numbers = draws(4)
    start, *gradients = itertools.islice(numbers, 7)
    whole, broken = parameters(start), parameters(start)
    one, two = (getattr(optim, name)(params, lr=0.1, **options) for params in (whole, broken))
    for k, gradient in enumerate(gradients):
        give(whole, gradient)
        give(broken, gradient)
        one.step()
        two.step()
        if k == 2:
            saved = copy.deepcopy(two.state_dict())
            broken = parameters(values(broken))
            two = getattr(optim, name)(broken, lr=9.0)
            two.load_state_dict(saved)
    for value, expected in zip(values(broken), values(whole), strict=True):
        np.testing.assert_array_equal(value, expected)


def test_a_state_that_does_not_fit_is_refused():
    params = parameters([np.ones(2), np.ones(2)])
    optimizer = optim.Adam(params)
    give(params, [np.ones(2)] * 2)
    optimizer.step()
    state = optimizer.state_dict()
    with pytest.raises(ValueError, match="doesn't match the size of optimizer's group"):
        optim.Adam(params[:1]).load_state_dict(state)
    with pytest.raises(ValueError, match="different number of parameter groups"):
        optim.Adam([{"params": params[:1]}, {"params": params[1:]}]).load_state_dict(state)
    optimizer.state[params[1]]["exp_avg"] = tg.tensor(np.zeros(3))
    before = values(params)[0].copy()
    with pytest.raises(RuntimeError, match=r"adam_update: .*\[2\].*\[3\]"):
        optimizer.step()
    np.testing.assert_array_equal(values(params)[0], before)


@CASES
def test_state_travels_from_here_to_torch(name, options):
    torch = pytest.importorskip("torch")
    numbers = draws(3, "float64", SHAPES[:3])
    start, *gradients, last = itertools.islice(numbers, 5)
    ours = parameters(start)
    first = getattr(optim, name)(ours, lr=0.05, **options)
    for gradient in gradients:
        give(ours, gradient)
        first.step()
    exported = copy.deepcopy(first.state_dict())
    for state in exported["state"].values():
        state.update({key: torch.from_numpy(value.numpy().copy()) for key, value in state.items()})
    theirs = [torch.tensor(value.copy(), requires_grad=True) for value in values(ours)]
    second = getattr(torch.optim, name)(theirs, lr=1.0)
    second.load_state_dict(exported)
    give(ours, last)
    for param, gradient in zip(theirs, last, strict=True):
        param.grad = torch.tensor(gradient)
    first.step()
    second.step()
    for param, value in zip(theirs, values(ours), strict=True):
        np.testing.assert_allclose(value, param.detach().numpy(), rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("name", ["NAdam", "ASGD", "Adam"])
def test_scalars_of_the_state_have_torch_s_dtype(name):
    (w,) = parameters([np.ones(2)])
    for dtype in (tg.float32, tg.float64):
        before = tg.get_default_dtype()
        tg.set_default_dtype(dtype)
        try:
            optimizer = getattr(optim, name)([w], lr=0.1)
            give([w], [np.ones(2)])
            optimizer.step()
        finally:
            tg.set_default_dtype(before)
        scalars = [value for value in optimizer.state[w].values() if value.dim() == 0]
        assert scalars and all(value.dtype is dtype for value in scalars)


@pytest.mark.parametrize("how", ["deepcopy", "pickle"])
@pytest.mark.parametrize(("name", "options"), [("Adam", {"amsgrad": True}), ("SGD", {"momentum": 0.9}), ("ASGD", {})])
def test_copies_go_on_alike_and_apart(name, options, how):
    params = parameters([np.ones(3), np.ones(2)])
    optimizer = getattr(optim, name)([{"params": params[:1]}, {"params": params[1:], "lr": 0.5}], lr=0.1, **options)
    give(params, [np.ones(3), np.ones(2)])
    optimizer.step()
    twin = copy.deepcopy(optimizer) if how == "deepcopy" else pickle.loads(pickle.dumps(optimizer))
    others = [param for group in twin.param_groups for param in group["params"]]
    assert not {id(param) for param in params} & {id(param) for param in others}
    give(others, [np.ones(3), np.ones(2)])
    before = values(params)[0].copy()
    twin.step()
    np.testing.assert_array_equal(values(params)[0], before)
    give(params, [np.ones(3), np.ones(2)])
    optimizer.step()
    for value, expected in zip(values(others), values(params), strict=True):
        np.testing.assert_array_equal(value, expected)
    assert repr(twin) == repr(optimizer)
