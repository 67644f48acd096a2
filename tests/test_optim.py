"""Optimisers: torch's numbers step by step, the formulas in NumPy, and what a step reads and writes."""

import itertools

import numpy as np
import pytest
from optim_cases import ALL_CASES, CASES, DTYPES, SHAPES, draws, give, parameters, values
from optim_formulas import FORMULAS

import tapegrad as tg
from tapegrad import optim
from tapegrad.ops.updates_adam import ADAM
from tapegrad.optim.group import run_update


@ALL_CASES
def test_steps_follow_the_formula(name, options):
    numbers = draws(1)
    weights, step = next(numbers), FORMULAS[name.lower()]
    states: list = [{} for _ in weights]
    params = parameters(weights)
    optimizer = getattr(optim, name)(params, lr=0.05, **options)
    for gradients in itertools.islice(numbers, 20):
        give(params, gradients)
        optimizer.step()
        weights = [step(*row, 0.05, **options) for row in zip(weights, gradients, states, strict=True)]
        for value, expected in zip(values(params), weights, strict=True):
            np.testing.assert_allclose(value, expected, rtol=1e-11, atol=1e-13)


@DTYPES
@CASES
def test_steps_are_torch_s(name, options, dtype):
    torch = pytest.importorskip("torch")
    # torch's Adafactor divides by the number of elements
    numbers = draws(2, dtype, [shape for shape in SHAPES if name != "Adafactor" or 0 not in shape])
    start = next(numbers)
    theirs, ours = [torch.tensor(array, requires_grad=True) for array in start], parameters(start)
    optimizers = [getattr(torch.optim, name)(theirs, lr=0.05, **options)]
    optimizers.append(getattr(optim, name)(ours, lr=0.05, **options))
    for gradients in itertools.islice(numbers, 30):
        for param, gradient in zip(theirs, gradients, strict=True):
            param.grad = torch.tensor(gradient)
        give(ours, gradients)
        for optimizer in optimizers:
            optimizer.step()
    epsilon = np.finfo(dtype).eps
    for param, value in zip(theirs, values(ours), strict=True):
        np.testing.assert_allclose(value, param.detach().numpy(), rtol=32 * epsilon, atol=16 * epsilon)


MUON = pytest.mark.parametrize(
    "options",
    [{}, {"nesterov": False, "weight_decay": 0.0}, {"adjust_lr_fn": "match_rms_adamw", "ns_steps": 3, "momentum": 0.5}],
    ids=lambda case: str(case),
)
MATRICES = ((3, 4), (5, 2), (1, 1))


@MUON
def test_muon_follows_the_formula(options):
    numbers = draws(1, shapes=MATRICES)
    weights = next(numbers)
    states: list = [{} for _ in weights]
    params = parameters(weights)
    optimizer = optim.Muon(params, lr=0.05, **options)
    for gradients in itertools.islice(numbers, 8):
        give(params, gradients)
        optimizer.step()
        weights = [FORMULAS["muon"](*row, 0.05, **options) for row in zip(weights, gradients, states, strict=True)]
        for value, expected in zip(values(params), weights, strict=True):
            np.testing.assert_allclose(value, expected, rtol=1e-10, atol=1e-12)


@MUON
def test_muon_is_torch_s_but_for_bfloat16(options, monkeypatch):
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(torch.Tensor, "bfloat16", torch.Tensor.clone)  # torch computes in the parameter's dtype too
    numbers = draws(2, shapes=MATRICES)
    start = next(numbers)
    theirs, ours = [torch.tensor(array, requires_grad=True) for array in start], parameters(start)
    optimizers = [torch.optim.Muon(theirs, lr=0.05, **options), optim.Muon(ours, lr=0.05, **options)]
    for gradients in itertools.islice(numbers, 10):
        for param, gradient in zip(theirs, gradients, strict=True):
            param.grad = torch.tensor(gradient)
        give(ours, gradients)
        for optimizer in optimizers:
            optimizer.step()
    for param, value in zip(theirs, values(ours), strict=True):
        np.testing.assert_allclose(value, param.detach().numpy(), rtol=1e-9, atol=1e-11)
    first, second = (optimizer.state_dict() for optimizer in optimizers)
    assert first["param_groups"] == second["param_groups"]
    assert {k: set(state) for k, state in first["state"].items()} == {k: set(s) for k, s in second["state"].items()}


@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW"])
def test_a_model_s_losses_are_torch_s_step_by_step(name):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(5)
    images, classes = rng.standard_normal((64, 20), np.float32), rng.integers(0, 4, 64)
    models, losses = [], []
    for library in (tg, torch):
        layers = [library.nn.Linear(20, 32), library.nn.ReLU(), library.nn.Linear(32, 16), library.nn.Tanh()]
        models.append(library.nn.Sequential(*layers, library.nn.Linear(16, 4)))
    models[1].load_state_dict({key: torch.tensor(value.numpy()) for key, value in models[0].state_dict().items()})
    for library, model in zip((tg, torch), models, strict=True):
        optimizer = getattr(library.optim, name)(model.parameters(), lr=1e-2, weight_decay=1e-3)
        losses.append([])
        for _ in range(40):
            optimizer.zero_grad()
            loss = library.nn.functional.cross_entropy(model(library.tensor(images)), library.tensor(classes))
            loss.backward()
            library.nn.utils.clip_grad_norm_(model.parameters(), 0.7)
            optimizer.step()
            losses[-1].append(loss.item())
    assert losses[0][-1] < losses[0][0]
    np.testing.assert_allclose(losses[0], losses[1], rtol=2e-5)


@ALL_CASES
def test_parameters_of_several_dtypes_and_layouts_step_alike(name, options):
    array = np.arange(12.0).reshape(3, 4) / 7
    params = [
        tg.tensor(array, requires_grad=True),
        tg.tensor(array.astype(np.float32), requires_grad=True),
        tg.tensor(np.ascontiguousarray(array.T)).t().requires_grad_(),
        tg.from_numpy(np.repeat(array, 2, axis=1)[:, ::2]).requires_grad_(),
    ]
    optimizer = getattr(optim, name)(params, lr=0.1, **options)
    for k in range(3):
        gradient = np.cos(array + k)
        params[0].grad = tg.tensor(gradient)
        params[1].grad = tg.tensor(gradient.astype(np.float32))
        params[2].grad = tg.tensor(gradient)
        params[3].grad = tg.tensor(np.ascontiguousarray(gradient.T)).t()
        optimizer.step()
    first, single, *strided = values(params)
    np.testing.assert_allclose(single, first, rtol=2e-5, atol=1e-6)
    for value in strided:
        # Adafactor's norms of parameters are sums, whose order depends on the layout
        np.testing.assert_allclose(value, first, rtol=1e-14 if name == "Adafactor" else 0)


def test_parameters_without_gradient_stay_and_count_no_steps():
    params = parameters([np.ones(3), np.ones(3)])
    optimizer = optim.Adam(params, lr=0.1)
    for k in range(3):
        give(params[: 1 + (k == 2)], [np.ones(3)] * (1 + (k == 2)))
        optimizer.step()
        assert (params[1].tolist() == [1.0, 1.0, 1.0]) == (k < 2)
    assert [optimizer.state[param]["step"].item() for param in params] == [3, 1]


def test_hundreds_of_parameters_step_in_one_go():
    params = parameters([np.full(3, float(k)) for k in range(400)])
    optimizer = optim.Adam(params, lr=0.5)
    give(params, [np.ones(3)] * 400)
    optimizer.step()
    np.testing.assert_allclose(np.stack(values(params)), np.arange(400)[:, None] - 0.5 + np.zeros((1, 3)), rtol=1e-6)


def test_a_write_is_seen_by_version_checks():
    w = tg.tensor([1.0, 2.0], requires_grad=True)
    gradient = w.grad = tg.tensor([1.0, 1.0])
    loss = (w * w * w).sum()
    before = w._version
    optim.Adam([w]).step()
    assert w._version == before + 1
    assert gradient._version == 0
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_a_step_is_not_recorded():
    w = tg.tensor([1.0], requires_grad=True)
    w.grad = tg.tensor([1.0])
    optim.SGD([w], lr=0.1, momentum=0.9).step()
    assert w.is_leaf
    assert w.requires_grad


def test_a_closure_is_run_with_gradients_on():
    w = tg.tensor([3.0], requires_grad=True)
    optimizer = optim.SGD([w], lr=0.25)

    def closure():
        optimizer.zero_grad()
        loss = (w * w).sum()
        loss.backward()
        return loss

    with tg.no_grad():
        loss = optimizer.step(closure)
    assert (loss.item(), w.item()) == (9.0, 1.5)


def test_zero_grad_takes_gradients_away_or_zeroes_them():
    (w,) = parameters([np.ones(2)])
    optimizer = optim.SGD([w], lr=0.1)
    give([w], [np.ones(2)])
    gradient = w.grad
    optimizer.zero_grad(set_to_none=False)
    assert w.grad.tolist() == gradient.tolist() == [0.0, 0.0]
    optimizer.zero_grad()
    assert w.grad is None


def test_gradients_that_are_not_finite_go_where_they_belong():
    (w,) = parameters([np.ones(4)])
    give([w], [np.array([np.nan, np.inf, -np.inf, 1.0])])
    optim.SGD([w], lr=0.5, momentum=0.9, nesterov=True).step()
    np.testing.assert_array_equal(w.detach().numpy(), [np.nan, -np.inf, np.inf, 1 - 0.5 * 1.9])


def test_memory_that_is_not_to_be_written_is_not():
    array = np.ones(3)
    array.flags.writeable = False
    w = tg.from_numpy(array).requires_grad_()
    w.grad = tg.tensor(np.ones(3))
    with pytest.raises(RuntimeError, match="not writable"):
        optim.SGD([w]).step()
    assert array.tolist() == [1.0, 1.0, 1.0]


def test_threads_change_no_bit():
    rng = np.random.default_rng(0)
    shapes = [(300_000,), (7,), (1000, 130), (65536,), (3, 3)]
    start, gradients = ([rng.standard_normal(shape).astype("float32") for shape in shapes] for _ in range(2))
    found = []
    before = tg.get_num_threads()
    try:
        for threads in (1, 3):
            tg.set_num_threads(threads)
            params = parameters(start)
            optimizer = optim.Adam(params, lr=0.1, amsgrad=True)
            for _ in range(3):
                give(params, gradients)
                optimizer.step()
            found.append(values(params))
    finally:
        tg.set_num_threads(before)
    for one, three in zip(*found, strict=True):
        np.testing.assert_array_equal(one, three)


def test_what_changes_between_steps_is_read_from_memory():
    """The same emission again, without any Python of the optimiser's, goes on where the last one stopped."""
    numbers = draws(6)
    start, *gradients = itertools.islice(numbers, 5)
    one, two = parameters(start), parameters(start)
    first, second = optim.Adam(one, lr=0.1), optim.Adam(two, lr=0.1)
    give(two, gradients[0])
    second.step()
    memory = second._numbers[0].tensor
    rows = second._rows(second.param_groups[0], ("exp_avg", "exp_avg_sq", "step"), memory._handle)
    for k, gradient in enumerate(gradients):
        give(one, gradient)
        first.param_groups[0]["lr"] = 0.1 / (k + 1)
        first.step()
        if k > 0:
            memory[0] = 0.1 / (k + 1)
            for param, array in zip(two, gradient, strict=True):
                param.grad.copy_(tg.tensor(array))
            run_update(ADAM, rows)
    for value, expected in zip(values(two), values(one), strict=True):
        np.testing.assert_array_equal(value, expected)
