"""L-BFGS: torch's steps, exact minima, its line search, its state, and what stops it."""

import copy

import numpy as np
import pytest

import tapegrad as tg
from tapegrad.optim import LBFGS
from tapegrad.optim.line_search import Point, StrongWolfe, cubic_minimum

A = np.random.default_rng(0).standard_normal((30, 4))
LABELS = (np.random.default_rng(1).standard_normal(30) > 0).astype("float64")


def rosenbrock(library, dtype):
    w = library.tensor([-1.5, 2.0, 0.3], dtype=dtype, requires_grad=True)
    return [w], lambda: (100 * (w[1:] - w[:-1] ** 2) ** 2 + (1 - w[:-1]) ** 2).sum()


def logistic(library, dtype):
    """The second parameter has no gradient, the first is no vector."""
    a, labels = library.tensor(A).to(dtype), library.tensor(LABELS).to(dtype)
    w, unused, b = (library.zeros(*shape, dtype=dtype, requires_grad=True) for shape in ((4, 1), (3,), (1,)))
    loss = library.nn.functional.binary_cross_entropy_with_logits
    return [w, unused, b], lambda: loss((a @ w).squeeze(1) + b, labels) + 0.01 * (w * w).sum()


def run(library, problem, steps=3, dtype="float64", **options):
    """Return the losses of all evaluations, the parameters and the optimiser after some steps."""
    params, function = problem(library, getattr(library, dtype))
    optimizer = library.optim.LBFGS(params, **options)
    losses = []

    def closure():
        optimizer.zero_grad()
        loss = function()
        loss.backward()
        losses.append(loss.item())
        return loss

    for _ in range(steps):
        optimizer.step(closure)
    return losses, np.concatenate([param.detach().numpy().ravel() for param in params]), optimizer


@pytest.mark.parametrize("problem", [rosenbrock, logistic])
@pytest.mark.parametrize(
    "options",
    [
        {"line_search_fn": "strong_wolfe", "max_iter": 12},
        {"line_search_fn": "strong_wolfe", "history_size": 3, "max_iter": 8},
        {"lr": 0.05, "max_iter": 10},
        {"lr": 0.02, "history_size": 2, "max_eval": 7},
    ],
    ids=str,
)
def test_steps_are_torch_s(problem, options):
    pytest.importorskip("torch")
    import torch

    ours, theirs = run(tg, problem, **options), run(torch, problem, **options)
    np.testing.assert_allclose(ours[0], theirs[0], rtol=1e-6, atol=1e-12)
    np.testing.assert_allclose(ours[1], theirs[1], rtol=1e-7, atol=1e-8)
    state, expected = (result[2].state_dict() for result in (ours, theirs))
    assert set(state["state"][0]) == set(expected["state"][0])
    assert state["param_groups"] == expected["param_groups"]
    assert [state["state"][0][name] for name in ("func_evals", "n_iter")] == [
        expected["state"][0][name] for name in ("func_evals", "n_iter")
    ]


def test_state_comes_from_torch():
    pytest.importorskip("torch")
    import torch

    def converted(value):
        if isinstance(value, torch.Tensor):
            return tg.tensor(value.numpy())
        return [converted(item) for item in value] if isinstance(value, list) else value

    losses, _, theirs = run(torch, rosenbrock, steps=1, max_iter=6, line_search_fn="strong_wolfe")
    exported = theirs.state_dict()
    state = {name: converted(value) for name, value in exported["state"][0].items()}
    params, function = rosenbrock(tg, tg.float64)
    optimizer = LBFGS(params, line_search_fn="strong_wolfe")
    optimizer.load_state_dict({"state": {0: state}, "param_groups": exported["param_groups"]})
    with tg.no_grad():
        params[0].copy_(tg.tensor(theirs.param_groups[0]["params"][0].detach().numpy()))

    def closure():
        optimizer.zero_grad()
        losses.append(function())
        losses[-1].backward()
        return losses[-1]

    count = len(losses)
    optimizer.step(closure)
    expected, _, _ = run(torch, rosenbrock, steps=2, max_iter=6, line_search_fn="strong_wolfe")
    np.testing.assert_allclose([loss.item() for loss in losses[count:]], expected[count:], rtol=1e-8)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_a_minimum_is_found(dtype):
    tolerance = 1e-6 if dtype == "float64" else 1e-2
    _, found, _ = run(tg, rosenbrock, 8, dtype, line_search_fn="strong_wolfe", tolerance_change=1e-15)
    np.testing.assert_allclose(found, np.ones(3), atol=tolerance)


def test_the_direction_is_minus_the_inverse_hessian_times_the_gradient():
    """Against the recursion H' = (1 - rho s y^T) H (1 - rho y s^T) + rho s s^T on whole matrices."""
    _, _, optimizer = run(tg, logistic, 1, max_iter=5, lr=0.1)
    state = optimizer.state_dict()["state"][0]
    gradient = tg.tensor(np.cos(np.arange(8.0)))
    state["prev_flat_grad"], state["d"] = gradient, tg.zeros(8, dtype=tg.float64)  # nothing new for the history
    inverse = np.eye(8) * state["H_diag"].item()
    for s, y in zip(state["old_stps"], state["old_dirs"], strict=True):
        s, y = s.numpy(), y.numpy()
        rho = 1 / (s @ y)
        left = np.eye(8) - rho * np.outer(s, y)
        inverse = left @ inverse @ left.T + rho * np.outer(s, s)
    with tg.no_grad():
        found = optimizer._direction({**state, "n_iter": 9}, gradient, state["d"], 1.0)
    assert len(state["old_stps"]) > 2
    np.testing.assert_allclose(found.numpy(), -inverse @ gradient.numpy(), rtol=1e-10)


def test_a_run_that_is_broken_off_goes_on_from_its_state():
    options = {"line_search_fn": "strong_wolfe", "max_iter": 4}
    whole, _, _ = run(tg, rosenbrock, 4, **options)
    first, weights, optimizer = run(tg, rosenbrock, 2, **options)
    params, function = rosenbrock(tg, tg.float64)
    with tg.no_grad():
        params[0].copy_(tg.tensor(weights))
    again = LBFGS(params)
    again.load_state_dict(copy.deepcopy(optimizer.state_dict()))

    def closure():
        again.zero_grad()
        loss = function()
        loss.backward()
        first.append(loss.item())
        return loss

    again.step(closure)
    again.step(closure)
    assert first == whole


def test_strided_parameters_move_alike():
    losses = []
    for w in (tg.ones(2, 3, dtype=tg.float64), tg.ones(3, 2, dtype=tg.float64).t()):
        w.requires_grad_()
        optimizer = LBFGS([w], line_search_fn="strong_wolfe", max_iter=3)

        def closure(w=w, optimizer=optimizer):
            optimizer.zero_grad()
            loss = ((w - tg.arange(6.0).reshape(2, 3)) ** 4).sum()
            loss.backward()
            return loss

        optimizer.step(closure)
        losses.append(closure().item())
    assert losses[0] == losses[1] < 100


def test_the_cubic_minimum_is_one():
    def cubic(t):
        return t**3 - 3 * t, 3 * t**2 - 3  # least at 1

    a, b = (Point(t, cubic(t)[0], None, cubic(t)[1]) for t in (0.0, 3.0))
    assert cubic_minimum(a, b) == pytest.approx(1.0)
    assert cubic_minimum(b, a) == pytest.approx(1.0)
    assert cubic_minimum(a, b, (1.5, 2.0)) == 1.5
    flat = [Point(t, -t, None, -1.0) for t in (0.0, 1.0)]
    assert cubic_minimum(*flat) == 1.0  # a line falls to its end


def test_the_line_search_ends_where_the_wolfe_conditions_hold():
    def at(t):
        return Point(t, (t - 4) ** 4, None, 4 * (t - 4) ** 3)

    for first in (0.01, 1.0, 50.0):
        point, count = StrongWolfe(at, at(0.0), 1.0, 1e-9, 25).search(first)
        assert point.loss <= at(0.0).loss + 1e-4 * point.t * at(0.0).slope
        assert abs(point.slope) <= 0.9 * abs(at(0.0).slope)
        assert count < 12


def test_it_stops_where_nothing_is_to_be_gained():
    w = tg.tensor([1.0, 2.0], requires_grad=True)
    optimizer = LBFGS([w])
    calls = []

    def closure():
        optimizer.zero_grad()
        calls.append(1)
        loss = ((w - tg.tensor([1.0, 2.0])) ** 2).sum()
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == 0.0
    assert len(calls) == 1
    assert w.tolist() == [1.0, 2.0]


def test_what_it_cannot_do_is_refused():
    w, b = (tg.tensor([1.0], requires_grad=True) for _ in range(2))
    with pytest.raises(ValueError, match="Invalid learning rate: -1"):
        LBFGS([w], lr=-1)
    with pytest.raises(ValueError, match="LBFGS doesn't support per-parameter options"):
        LBFGS([{"params": [w]}, {"params": [b]}])
    with pytest.raises(ValueError, match="history_size is at most"):
        LBFGS([w], history_size=1 << 40)
    optimizer = LBFGS([w], line_search_fn="backtracking")

    def closure():
        optimizer.zero_grad()
        loss = (w * w).sum()
        loss.backward()
        return loss

    with pytest.raises(RuntimeError, match="only 'strong_wolfe' is supported"):
        optimizer.step(closure)
    with pytest.raises(TypeError, match="closure"):
        optimizer.step()
