"""Optimisers: torch's numbers step by step, the formulas in NumPy, groups, state and what goes wrong."""

import copy
import itertools
import pickle
import re

import numpy as np
import pytest
from optim_formulas import FORMULAS

import tapegrad as tg
from tapegrad import optim
from tapegrad.ops.updates_adam import ADAM
from tapegrad.optim.group import run_update
from tapegrad.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

SHAPES = ((3, 4), (5,), (), (0,), (2, 1, 3))
OPTIONS = [
    ("SGD", {}),
    ("SGD", {"weight_decay": 0.1, "maximize": True}),
    ("SGD", {"momentum": 0.9}),
    ("SGD", {"momentum": 0.9, "dampening": 0.3, "weight_decay": 0.1}),
    ("SGD", {"momentum": 0.9, "nesterov": True, "maximize": True}),
    ("Adam", {}),
    ("Adam", {"weight_decay": 0.1, "eps": 1e-3, "betas": (0.5, 0.9)}),
    ("Adam", {"amsgrad": True, "maximize": True}),
    ("AdamW", {}),
    ("AdamW", {"amsgrad": True, "weight_decay": 0.3}),
    ("NAdam", {}),
    ("NAdam", {"weight_decay": 0.1, "momentum_decay": 0.1, "maximize": True}),
    ("NAdam", {"weight_decay": 0.1, "decoupled_weight_decay": True}),
    ("RAdam", {}),
    ("RAdam", {"weight_decay": 0.1, "betas": (0.8, 0.9), "maximize": True}),
    ("RAdam", {"weight_decay": 0.1, "decoupled_weight_decay": True}),
    ("Adamax", {}),
    ("Adamax", {"weight_decay": 0.1, "eps": 1e-2, "maximize": True}),
    ("Adadelta", {}),
    ("Adadelta", {"rho": 0.5, "eps": 1e-3, "weight_decay": 0.1, "maximize": True}),
    ("Adagrad", {}),
    ("Adagrad", {"lr_decay": 0.1, "weight_decay": 0.1, "initial_accumulator_value": 0.5, "maximize": True}),
    ("RMSprop", {}),
    ("RMSprop", {"momentum": 0.9, "weight_decay": 0.1}),
    ("RMSprop", {"centered": True, "alpha": 0.9, "maximize": True}),
    ("RMSprop", {"centered": True, "momentum": 0.5}),
    ("Rprop", {}),
    ("Rprop", {"etas": (0.3, 1.5), "step_sizes": (1e-3, 0.1), "maximize": True}),
    ("Adafactor", {}),
    ("Adafactor", {"weight_decay": 0.1, "beta2_decay": -0.5, "eps": (1e-3, 0.1), "d": 1.5, "maximize": True}),
    ("ASGD", {}),
    ("ASGD", {"lambd": 0.1, "alpha": 0.5, "t0": 3.0, "weight_decay": 0.1, "maximize": True}),
]
OWN_OPTIONS = [
    ("Lion", {}),
    ("Lion", {"weight_decay": 0.1, "betas": (0.5, 0.8), "maximize": True}),
]
CASES = pytest.mark.parametrize(("name", "options"), OPTIONS, ids=lambda case: str(case))
ALL_CASES = pytest.mark.parametrize(("name", "options"), OPTIONS + OWN_OPTIONS, ids=lambda case: str(case))
DTYPES = pytest.mark.parametrize("dtype", ["float32", "float64"])


def parameters(arrays):
    return [tg.tensor(array, requires_grad=True) for array in arrays]


def give(params, gradients):
    for param, gradient in zip(params, gradients, strict=True):
        param.grad = tg.tensor(gradient)


def values(params):
    return [param.detach().numpy() for param in params]


def draws(seed, dtype="float64", shapes=SHAPES):
    rng = np.random.default_rng(seed)
    while True:
        yield [np.asarray(rng.standard_normal(shape), dtype) for shape in shapes]


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


def test_groups_have_options_of_their_own():
    params = parameters([np.ones(2), np.ones(2), np.ones(2)])
    optimizer = optim.SGD([{"params": params[0]}, {"params": [params[1]], "lr": 0.5}], lr=0.1)
    optimizer.add_param_group({"params": params[2:], "weight_decay": 1.0})
    give(params, [np.ones(2)] * 3)
    optimizer.step()
    np.testing.assert_allclose(np.stack(values(params))[:, 0], [0.9, 0.5, 0.8])
    optimizer.param_groups[0]["lr"] = 0.0
    give(params, [np.ones(2)] * 3)
    optimizer.step()
    np.testing.assert_allclose(values(params)[0], [0.9, 0.9])


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


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("SGD", {"lr": -1.0}, "Invalid learning rate: -1.0"),
        ("SGD", {"momentum": -0.5}, "Invalid momentum value: -0.5"),
        ("SGD", {"weight_decay": -1}, "Invalid weight_decay value: -1"),
        ("SGD", {"nesterov": True}, "Nesterov momentum requires a momentum and zero dampening"),
        ("Adam", {"lr": -1.0}, "Invalid learning rate: -1.0"),
        ("Adam", {"eps": -1.0}, "Invalid epsilon value: -1.0"),
        ("Adam", {"betas": (1.0, 0.9)}, "Invalid beta parameter at index 0: 1.0"),
        ("AdamW", {"betas": (0.9, -0.1)}, "Invalid beta parameter at index 1: -0.1"),
        ("AdamW", {"weight_decay": -1}, "Invalid weight_decay value: -1"),
    ],
)
def test_options_out_of_range_are_refused(name, options, message):
    with pytest.raises(ValueError, match=message):
        getattr(optim, name)(parameters([np.ones(2)]), **options)


def test_what_is_no_list_of_leaves_is_refused():
    w = tg.tensor([1.0], requires_grad=True)
    with pytest.raises(TypeError, match="should be an iterable of Tensors or dicts, but got Tensor"):
        optim.SGD(w)
    with pytest.raises(ValueError, match="optimizer got an empty parameter list"):
        optim.SGD([])
    with pytest.raises(TypeError, match="can only optimize Tensors, but one of the params is float"):
        optim.SGD([1.0])
    with pytest.raises(ValueError, match="can't optimize a non-leaf Tensor"):
        optim.SGD([w * 2])
    with pytest.raises(ValueError, match="more than once in a parameter group"):
        optim.SGD([w, w])
    with pytest.raises(ValueError, match="more than one parameter group"):
        optim.SGD([{"params": [w]}, {"params": [w]}])


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


def test_memory_that_is_not_to_be_written_is_not():
    array = np.ones(3)
    array.flags.writeable = False
    w = tg.from_numpy(array).requires_grad_()
    w.grad = tg.tensor(np.ones(3))
    with pytest.raises(RuntimeError, match="not writable"):
        optim.SGD([w]).step()
    assert array.tolist() == [1.0, 1.0, 1.0]


def test_names_and_text():
    w = tg.nn.Linear(2, 1)
    optimizer = optim.AdamW(w.named_parameters(), lr=0.5)
    assert optimizer.param_groups[0]["param_names"] == ["weight", "bias"]
    assert "AdamW (\nParameter Group 0\n    amsgrad: False" in repr(optimizer)


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


def test_hooks_are_called_around_steps_and_states():
    (w,) = parameters([np.ones(2)])
    optimizer = optim.SGD([w], lr=0.5)
    called = []
    hooks = [
        optimizer.register_step_pre_hook(lambda o, args, kwargs: called.append(("pre", len(args), kwargs))),
        optimizer.register_step_post_hook(lambda o, args, kwargs: called.append(("post", w.tolist()))),
        register_optimizer_step_pre_hook(lambda o, args, kwargs: called.append("any pre")),
        register_optimizer_step_post_hook(lambda o, args, kwargs: called.append("any post")),
    ]
    give([w], [np.ones(2)])
    optimizer.step()
    assert called == ["any pre", ("pre", 1, {}), ("post", [0.5, 0.5]), "any post"]
    for hook in hooks:
        hook.remove()
    optimizer.step()
    assert len(called) == 4
    changed = optimizer.register_step_pre_hook(lambda o, args, kwargs: ((args[0], lambda: 7), {}))
    assert optimizer.step() == 7
    changed.remove()
    optimizer.register_step_pre_hook(lambda o, args, kwargs: 3)
    with pytest.raises(RuntimeError, match="must return None or a tuple"):
        optimizer.step()


def test_hooks_see_and_change_states():
    (w,) = parameters([np.ones(2)])
    optimizer = optim.SGD([w], lr=0.5)
    order = []
    optimizer.register_state_dict_pre_hook(lambda o: order.append("before"))
    optimizer.register_state_dict_post_hook(lambda o, state: {**state, "more": 1})
    optimizer.register_state_dict_post_hook(lambda o, state: order.append("first"), prepend=True)
    state = optimizer.state_dict()
    assert (order, state["more"]) == (["before", "first"], 1)
    other = optim.SGD([w], lr=0.1)

    def doubled(o, state):
        groups = [{**group, "lr": 2 * group["lr"]} for group in state["param_groups"]]
        return {**state, "param_groups": groups}

    other.register_load_state_dict_pre_hook(doubled)
    other.register_load_state_dict_post_hook(lambda o: order.append(o.param_groups[0]["lr"]))
    other.load_state_dict(state)
    assert order[-1] == 1.0
    assert state["param_groups"][0]["lr"] == 0.5


def test_optimizers_of_one_s_own_override_step():
    class Signs(optim.Optimizer):
        def __init__(self, params, lr):
            super().__init__(params, {"lr": lr})

        def step(self, closure=None):
            for group in self.param_groups:
                for param in group["params"]:
                    if param.grad is not None:
                        self.state[param]["count"] = self.state[param].get("count", 0) + 1
                        param.data.add_(param.grad.sign(), alpha=-group["lr"])

    (w,) = parameters([np.ones(2)])
    optimizer = Signs([w], 0.25)
    called = []
    optimizer.register_step_post_hook(lambda *args: called.append(1))
    give([w], [np.array([3.0, -3.0])])
    optimizer.step()
    assert (w.tolist(), called) == ([0.75, 1.25], [1])
    state = optimizer.state_dict()
    assert state == {"state": {0: {"count": 1}}, "param_groups": [{"lr": 0.25, "params": [0]}]}
    optimizer.load_state_dict(state)
    assert optimizer.state[w] == {"count": 1}


def test_names_of_parameters_are_kept():
    model = tg.nn.Linear(2, 1)
    optimizer = optim.SGD(model.named_parameters(), lr=0.5)
    state = optimizer.state_dict()
    assert state["param_groups"][0]["param_names"] == ["weight", "bias"]
    assert state["param_groups"][0]["params"] == [0, 1]
    plain = optim.SGD(model.parameters(), lr=0.1)
    plain.load_state_dict(state)
    assert plain.param_groups[0]["param_names"] == ["weight", "bias"]
    optimizer.load_state_dict(optim.SGD(model.parameters(), lr=0.1).state_dict())
    assert optimizer.param_groups[0]["param_names"] == ["weight", "bias"]
    w = tg.tensor([1.0], requires_grad=True)
    with pytest.raises(ValueError, match="cannot add param group without names"):
        optimizer.add_param_group({"params": [w]})
    with pytest.raises(ValueError, match="Some param names are missing"):
        optim.SGD([("a", w), tg.tensor([1.0], requires_grad=True)])
    assert len(optimizer.param_groups) == 1


def test_a_group_is_the_caller_s_dict():
    one, two = parameters([np.ones(1), np.ones(1)])
    group = {"params": two, "lr": 0.25}
    optimizer = optim.SGD([one], lr=0.1)
    optimizer.add_param_group(group)
    assert group["params"] == [two] and group["momentum"] == 0
    group["lr"] = 0.5
    give([one, two], [np.ones(1), np.ones(1)])
    optimizer.step()
    assert (one.item(), two.item()) == (0.9, 0.5)
    with pytest.raises(TypeError, match="ordered collections"):
        optimizer.add_param_group({"params": {tg.tensor([1.0], requires_grad=True)}})
    with pytest.raises(TypeError, match="param_group must be a dict"):
        optimizer.add_param_group([one])
    assert len(optimizer.param_groups) == 2


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("NAdam", {"momentum_decay": -1}, "Invalid momentum_decay value: -1"),
        ("RAdam", {"betas": (0.9, 1.0)}, "Invalid beta parameter at index 1: 1.0"),
        ("Adamax", {"eps": -1}, "Invalid epsilon value: -1"),
        ("Adadelta", {"rho": 1.5}, "Invalid rho value: 1.5"),
        ("Adagrad", {"lr_decay": -1}, "Invalid lr_decay value: -1"),
        ("Adagrad", {"initial_accumulator_value": -1}, "Invalid initial_accumulator_value value: -1"),
        ("RMSprop", {"alpha": -1}, "Invalid alpha value: -1"),
        ("RMSprop", {"momentum": -1}, "Invalid momentum value: -1"),
        ("Rprop", {"etas": (1.5, 1.2)}, "Invalid eta values: 1.5, 1.2"),
        ("ASGD", {"weight_decay": -1}, "Invalid weight_decay value: -1"),
        ("Adafactor", {"d": 0.5}, "Clipping threshold d should be >= 1 but is: 0.5"),
        ("Adafactor", {"beta2_decay": 0.5}, "beta2_decay should be <= 0 but is: 0.5"),
        ("Adafactor", {"eps": (-1, 0)}, "epsilon1 should be >= 0 but is: -1"),
        ("Lion", {"lr": float("nan")}, "Invalid learning rate: nan"),
        ("Adam", {"lr": tg.tensor([0.1, 0.2])}, "Tensor lr must be 1-element"),
    ],
)
def test_options_of_the_others_are_checked(name, options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        getattr(optim, name)(parameters([np.ones(2)]), **options)


def test_muon_s_options_are_checked():
    matrix, vector = parameters([np.ones((2, 2)), np.ones(2)])
    with pytest.raises(ValueError, match="Learning rate should be >= 0 but is: -1"):
        optim.Muon([matrix], lr=-1)
    with pytest.raises(ValueError, match="Adjust learning rate function x is not supported"):
        optim.Muon([matrix], adjust_lr_fn="x")
    with pytest.raises(ValueError, match="Muon only supports 2D parameters"):
        optim.Muon([matrix, vector])
    optimizer = optim.Muon([matrix])
    with pytest.raises(ValueError, match="Muon only supports 2D parameters"):
        optimizer.add_param_group({"params": [vector]})
    assert len(optimizer.param_groups) == 1


def test_implementations_that_exclude_each_other_are_refused():
    params = parameters([np.ones(2)])
    with pytest.raises(RuntimeError, match="`fused` and `foreach` cannot be `True` together"):
        optim.Adam(params, fused=True, foreach=True)
    with pytest.raises(RuntimeError, match="`fused` does not support `differentiable`"):
        optim.SGD(params, fused=True, differentiable=True)
    with pytest.raises(RuntimeError, match="differentiable=True is not supported"):
        optim.RMSprop(params, differentiable=True)


def test_every_optimizer_skips_what_has_no_gradient_and_takes_frozen_parameters():
    for name in ("ASGD", "Adadelta", "Adagrad", "Adam", "Adamax", "Lion", "NAdam", "RAdam", "RMSprop", "Rprop", "SGD"):
        used, unused = parameters([np.ones(2), np.ones(2)])
        frozen = tg.tensor([1.0, 1.0])
        optimizer = getattr(optim, name)([{"params": [used, frozen]}, {"params": [unused]}], lr=0.1)
        give([used], [np.ones(2)])
        optimizer.step()
        assert used.tolist() != [1.0, 1.0]
        assert (unused.tolist(), frozen.tolist()) == ([1.0, 1.0], [1.0, 1.0])
