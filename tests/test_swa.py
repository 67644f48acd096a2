"""Averages of parameters: torch's numbers, the formulas, buffers, and statistics of batch normalisations."""

import copy

import numpy as np
import pytest

import tapegrad as tg
from tapegrad.optim import SGD, swa_utils

FUNCTIONS = {
    "mean of all": lambda swa: {},
    "swa": lambda swa: {"multi_avg_fn": swa.get_swa_multi_avg_fn()},
    "swa, one by one": lambda swa: {"avg_fn": swa.get_swa_avg_fn()},
    "ema": lambda swa: {"multi_avg_fn": swa.get_ema_multi_avg_fn(0.7)},
    "ema, fast": lambda swa: {"multi_avg_fn": swa.get_ema_multi_avg_fn(0.2)},
    "ema, one by one": lambda swa: {"avg_fn": swa.get_ema_avg_fn(0.7)},
}
CASES = pytest.mark.parametrize("name", FUNCTIONS)


def model_of(library, dtype="float32"):
    model = library.nn.Sequential(library.nn.Linear(3, 2), library.nn.Tanh(), library.nn.Linear(2, 1))
    model.register_buffer("seen", library.tensor([1.0, 2.0]))
    return model.to(getattr(library, dtype))


def states(seed=0, count=5, dtype="float32"):
    rng = np.random.default_rng(seed)
    shapes = {"seen": (2,), "0.weight": (2, 3), "0.bias": (2,), "2.weight": (1, 2), "2.bias": (1,)}
    return [{name: rng.standard_normal(s).astype(dtype) for name, s in shapes.items()} for _ in range(count)]


def averaged(library, name, use_buffers=False, dtype="float32"):
    model = model_of(library, dtype)
    result = library.optim.swa_utils.AveragedModel(
        model, use_buffers=use_buffers, **FUNCTIONS[name](library.optim.swa_utils)
    )
    for state in states(dtype=dtype):
        model.load_state_dict({key: library.tensor(value) for key, value in state.items()})
        result.update_parameters(model)
    return result


def arrays(model):
    return {key: value.numpy() for key, value in model.state_dict().items()}


@CASES
@pytest.mark.parametrize("use_buffers", [False, True])
def test_averages_are_torch_s(name, use_buffers):
    torch = pytest.importorskip("torch")
    ours, theirs = (arrays(averaged(library, name, use_buffers)) for library in (tg, torch))
    assert list(ours) == list(theirs)
    for key, value in theirs.items():
        np.testing.assert_allclose(ours[key], value, rtol=2e-6, atol=1e-7)


@CASES
def test_averages_follow_the_formula(name):
    expected = None
    for k, state in enumerate(states(dtype="float64")):
        weight = {"ema": 0.3, "ema, fast": 0.8, "ema, one by one": 0.3}.get(name, 1 / (k + 1))
        before = expected or state
        expected = {key: before[key] + weight * (state[key] - before[key]) for key in state}
    found = arrays(averaged(tg, name, use_buffers=True, dtype="float64"))
    for key, value in expected.items():
        np.testing.assert_allclose(found[f"module.{key}"], value, rtol=1e-12)
    assert found["n_averaged"] == 5


def test_buffers_are_copied_unless_they_are_averaged():
    found = averaged(tg, "ema")
    np.testing.assert_array_equal(found.module.seen.numpy(), states()[-1]["seen"])
    assert not any(param.grad_fn for param in found.parameters())


def test_whole_numbers_are_averaged_too():
    model = tg.nn.Linear(1, 1)
    model.register_buffer("count", tg.tensor(8))
    result = swa_utils.AveragedModel(model, multi_avg_fn=swa_utils.get_ema_multi_avg_fn(0.5), use_buffers=True)
    result.update_parameters(model)
    model.count.fill_(4)
    result.update_parameters(model)
    assert result.module.count.item() == 6


def test_an_averaged_model_is_a_model():
    model = tg.nn.Linear(2, 1)
    result = swa_utils.AveragedModel(model)
    result.update_parameters(model)
    x = tg.tensor([[1.0, 2.0]])
    assert result(x).item() == model(x).item()
    other = swa_utils.AveragedModel(tg.nn.Linear(2, 1))
    other.load_state_dict(result.state_dict())
    assert other(x).item() == model(x).item()
    assert copy.deepcopy(result).n_averaged.item() == 1


def test_what_makes_no_average_is_refused():
    with pytest.raises(ValueError, match=r"Invalid decay value 1\.5"):
        swa_utils.get_ema_multi_avg_fn(1.5)
    with pytest.raises(ValueError, match="Invalid decay value -1"):
        swa_utils.get_ema_avg_fn(-1)
    with pytest.raises(AssertionError, match="Only one of avg_fn and multi_avg_fn"):
        swa_utils.AveragedModel(tg.nn.Linear(1, 1), avg_fn=abs, multi_avg_fn=abs)


def rates(library, optimizer_lr, swa_lr, **options):
    params = [library.tensor([1.0], requires_grad=True) for _ in range(2)]
    optimizer = library.optim.SGD([{"params": params[:1]}, {"params": params[1:], "lr": 0.3}], lr=optimizer_lr)
    schedule = library.optim.swa_utils.SWALR(optimizer, swa_lr, **options)
    found = []
    for _ in range(9):
        found.append(schedule.get_last_lr())
        optimizer.step()
        schedule.step()
    return found, set(schedule.state_dict())


@pytest.mark.parametrize(
    "options",
    [
        {"swa_lr": 0.05, "anneal_epochs": 5},
        {"swa_lr": [0.05, 0.5], "anneal_epochs": 4, "anneal_strategy": "linear"},
        {"swa_lr": 0.02, "anneal_epochs": 0},
    ],
    ids=str,
)
def test_the_schedule_is_torch_s(options):
    torch = pytest.importorskip("torch")
    (ours, names), (theirs, expected) = rates(tg, 0.1, **options), rates(torch, 0.1, **options)
    np.testing.assert_allclose(ours, theirs, rtol=1e-12)
    assert names == expected


def test_the_schedule_ends_at_its_rate():
    found, _ = rates(tg, 0.1, 0.05, anneal_epochs=4, anneal_strategy="linear")
    np.testing.assert_allclose([row[0] for row in found[:6]], [0.1, 0.0875, 0.075, 0.0625, 0.05, 0.05], rtol=1e-12)
    optimizer = SGD([tg.tensor([1.0], requires_grad=True)])
    with pytest.raises(ValueError, match="anneal_strategy must be one of"):
        swa_utils.SWALR(optimizer, 0.1, anneal_strategy="step")
    with pytest.raises(ValueError, match="anneal_epochs must be equal or greater than 0"):
        swa_utils.SWALR(optimizer, 0.1, anneal_epochs=-1)


def batch_normed(library):
    model = library.nn.Sequential(library.nn.Linear(3, 4), library.nn.BatchNorm1d(4, momentum=0.3), library.nn.Tanh())
    weights = np.random.default_rng(7)
    for param in model.parameters():
        param.data.copy_(library.tensor(weights.standard_normal(tuple(param.shape)).astype("float32")))
    return model


def test_statistics_are_computed_anew_over_all_batches():
    batches = [np.random.default_rng(k).standard_normal((6, 3)).astype("float32") for k in range(4)]
    model = batch_normed(tg)
    model(tg.tensor(100 * batches[0]))  # statistics that are to be forgotten
    model.eval()
    swa_utils.update_bn([(tg.tensor(batch), None) for batch in batches], model)
    norm = model[1]
    hidden = [model[0](tg.tensor(batch)).detach().numpy() for batch in batches]
    np.testing.assert_allclose(norm.running_mean.numpy(), np.mean([h.mean(0) for h in hidden], 0), rtol=1e-5)
    np.testing.assert_allclose(norm.running_var.numpy(), np.mean([h.var(0, ddof=1) for h in hidden], 0), rtol=1e-5)
    assert (norm.momentum, model.training, norm.num_batches_tracked.item()) == (0.3, False, 4)


def test_statistics_are_torch_s():
    torch = pytest.importorskip("torch")
    batches = [np.random.default_rng(k).standard_normal((6, 3)).astype("float32") for k in range(3)]
    found = []
    for library in (tg, torch):
        model = batch_normed(library)
        library.optim.swa_utils.update_bn([library.tensor(batch) for batch in batches], model)
        found.append(model.state_dict())
    for key, value in found[1].items():
        np.testing.assert_allclose(found[0][key].numpy(), value.numpy(), rtol=1e-5, atol=1e-6)


def test_a_batch_that_fails_leaves_the_model_as_it_was():
    model = batch_normed(tg).eval()
    with pytest.raises(RuntimeError):
        swa_utils.update_bn([tg.zeros(2, 5)], model)
    assert (model[1].momentum, model.training) == (0.3, False)
    swa_utils.update_bn([tg.zeros(2, 5)], tg.nn.Linear(3, 4))  # without batch normalisation there is nothing to do
