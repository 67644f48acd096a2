"""Learning-rate schedules: torch's numbers step by step, their state, and what goes wrong."""

import copy
import pickle
import warnings

import numpy as np
import pytest

import tapegrad as tg
from tapegrad import optim
from tapegrad.optim import lr_scheduler


class Halving:
    """A factor that is an object with state of its own."""

    def __init__(self):
        self.base = 0.5

    def __call__(self, step):
        return self.base**step


def power(step):
    return 0.9**step


SCHEDULES = [
    ("LambdaLR", (power,), {}),
    ("LambdaLR", ([power, Halving()],), {}),
    ("MultiplicativeLR", (lambda step: 0.8 + 0.01 * step,), {}),
    ("StepLR", (4, 0.5), {}),
    ("MultiStepLR", ([3, 7, 7, 12],), {"gamma": 0.3}),
    ("ConstantLR", (), {"factor": 0.25, "total_iters": 6}),
    ("LinearLR", (), {"start_factor": 0.2, "end_factor": 0.9, "total_iters": 7}),
    ("ExponentialLR", (0.9,), {}),
    ("PolynomialLR", (), {"total_iters": 9, "power": 2.0}),
    ("CosineAnnealingLR", (5, 0.01), {}),
    ("CosineAnnealingWarmRestarts", (4,), {"T_mult": 2, "eta_min": 0.01}),
    ("CosineAnnealingWarmRestarts", (3,), {}),
    ("CyclicLR", (0.01, 0.3), {"step_size_up": 3, "step_size_down": 5}),
    ("CyclicLR", ([0.01, 0.02], [0.3, 0.4]), {"step_size_up": 4, "mode": "triangular2"}),
    ("CyclicLR", (0.01, 0.3), {"step_size_up": 4, "mode": "exp_range", "gamma": 0.9, "cycle_momentum": False}),
    ("CyclicLR", (0.01, 0.3), {"step_size_up": 4, "scale_fn": power, "scale_mode": "iterations"}),
    ("OneCycleLR", (0.5, 25), {}),
    ("OneCycleLR", ([0.5, 0.1],), {"epochs": 5, "steps_per_epoch": 5, "pct_start": 0.4, "anneal_strategy": "linear"}),
    ("OneCycleLR", (0.5, 30), {"three_phase": True, "base_momentum": 0.7}),
]


def name_of(case):
    """Return a name that is the same in every process: a function's text has its address."""
    return str(case).split(" at 0x")[0][:24]


CASES = pytest.mark.parametrize(("name", "args", "options"), SCHEDULES, ids=name_of)


def make(library=tg, name="SGD", **options):
    """Return an optimiser of two groups with gradients."""
    params = [library.tensor([1.0], requires_grad=True) for _ in range(2)]
    for param in params:
        param.grad = library.tensor([1.0])
    if name == "SGD":
        options = {"momentum": 0.9, **options}
    return getattr(library.optim, name)([{"params": params[:1]}, {"params": params[1:], "lr": 0.05}], lr=0.2, **options)


def rows_of(optimizer, schedule, steps, step=None):
    """Return the learning rates and momenta before each of so many steps."""
    rows = []
    for k in range(steps):
        for group, last in zip(optimizer.param_groups, schedule.get_last_lr(), strict=True):
            momentum = group["momentum"] if "momentum" in group else group["betas"][0]
            rows.append((float(group["lr"]), float(last), float(momentum)))
        optimizer.step()
        schedule.step() if step is None else step(schedule, k)
    return rows


def plain(state):
    return {
        key: value for key, value in state.items() if not callable(value) and key not in ("lr_lambdas", "_schedulers")
    }


@pytest.mark.parametrize("optimizer", ["SGD", "Adam"])
@CASES
def test_schedules_are_torch_s(name, args, options, optimizer):
    torch = pytest.importorskip("torch")
    found, states = [], []
    for library in (tg, torch):
        chosen = make(library, optimizer)
        schedule = getattr(library.optim.lr_scheduler, name)(chosen, *args, **options)
        found.append(rows_of(chosen, schedule, 25))
        states.append(plain(schedule.state_dict()))
    np.testing.assert_allclose(*found, rtol=1e-12, atol=1e-16)
    assert set(states[0]) == set(states[1])
    assert {k: v for k, v in states[0].items() if isinstance(v, int | str)} == {
        k: v for k, v in states[1].items() if isinstance(v, int | str)
    }


def follow_closed_form(name, t, base):
    """The schedules' formulas, for one group, as the documentation has them."""
    return {
        "StepLR": lambda: base * 0.5 ** (t // 4),
        "MultiStepLR": lambda: base * 0.3 ** sum(t >= m for m in (3, 7, 7, 12)),
        "ConstantLR": lambda: base * (0.25 if t < 6 else 1),
        "LinearLR": lambda: base * (0.2 + 0.7 * min(t, 7) / 7),
        "ExponentialLR": lambda: base * 0.9**t,
        "PolynomialLR": lambda: base * (1 - min(t, 9) / 9) ** 2,
        "CosineAnnealingLR": lambda: 0.01 + (base - 0.01) * (1 + np.cos(np.pi * t / 5)) / 2,
    }[name]()


@pytest.mark.parametrize(
    ("name", "args", "options"),
    [
        case
        for case in SCHEDULES
        if case[0]
        in ("StepLR", "MultiStepLR", "ConstantLR", "LinearLR", "ExponentialLR", "PolynomialLR", "CosineAnnealingLR")
    ],
    ids=name_of,
)
def test_schedules_follow_their_closed_forms(name, args, options):
    optimizer = make()
    schedule = getattr(lr_scheduler, name)(optimizer, *args, **options)
    for t in range(20):
        for rate, base in zip(schedule.get_last_lr(), (0.2, 0.05), strict=True):
            assert rate == pytest.approx(follow_closed_form(name, t, base), rel=1e-9, abs=1e-12)
        optimizer.step()
        schedule.step()
    with pytest.warns(UserWarning, match="epoch parameter"):
        schedule.step(3)
    assert schedule.get_last_lr()[0] == pytest.approx(follow_closed_form(name, 3, 0.2))


@CASES
def test_schedules_go_on_from_their_state(name, args, options):
    found = []
    for broken_off in (False, True):
        optimizer = make()
        schedule = getattr(lr_scheduler, name)(optimizer, *args, **options)
        rows = rows_of(optimizer, schedule, 7)
        if broken_off:
            saved = (
                pickle.loads(pickle.dumps((schedule.state_dict(), optimizer.state_dict())))
                if name != ("MultiplicativeLR")
                else copy.deepcopy((schedule.state_dict(), optimizer.state_dict()))
            )
            optimizer = make()
            schedule = getattr(lr_scheduler, name)(optimizer, *args, **options)
            schedule.load_state_dict(saved[0])
            optimizer.load_state_dict(saved[1])
        found.append(rows + rows_of(optimizer, schedule, 8))
    assert found[0] == found[1]


@pytest.mark.parametrize(
    "name", ["StepLR", "ExponentialLR", "CosineAnnealingLR", "LinearLR", "LambdaLR", "PolynomialLR"]
)
def test_a_schedule_made_at_a_later_epoch_is_torch_s(name):
    torch = pytest.importorskip("torch")
    args = {"StepLR": (4,), "ExponentialLR": (0.9,), "CosineAnnealingLR": (9,), "LambdaLR": (power,)}.get(name, ())
    found = []
    for library in (tg, torch):
        optimizer = make(library)
        for group in optimizer.param_groups:
            group["initial_lr"] = 0.4
        schedule = getattr(library.optim.lr_scheduler, name)(optimizer, *args, last_epoch=2)
        found.append(rows_of(optimizer, schedule, 8))
    np.testing.assert_allclose(*found, rtol=1e-12)
    with pytest.raises(KeyError, match=r"'initial_lr' is not specified in param_groups\[0\]"):
        getattr(lr_scheduler, name)(make(), *args, last_epoch=2)


PLATEAU = [
    {"patience": 1},
    {"mode": "max", "factor": 0.5, "patience": 0, "threshold": 0.1, "cooldown": 2},
    {"threshold_mode": "abs", "threshold": 0.2, "patience": 2, "min_lr": [0.01, 0.04]},
    {"mode": "max", "threshold_mode": "abs", "patience": 1, "eps": 0.02},
]


@pytest.mark.parametrize("options", PLATEAU, ids=str)
def test_plateaus_are_torch_s(options):
    torch = pytest.importorskip("torch")
    metrics = [1.0, 0.9, 0.95, 0.96, 0.2, 0.3, 0.3, 0.3, 1.5, 1.5, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 2.0, 2.0, 2.0]
    found, states = [], []
    for library in (tg, torch):
        optimizer = make(library)
        schedule = library.optim.lr_scheduler.ReduceLROnPlateau(optimizer, **options)
        found.append(rows_of(optimizer, schedule, 20, lambda schedule, k: schedule.step(metrics[k])))
        states.append(schedule.state_dict())
    np.testing.assert_allclose(*found, rtol=1e-12)
    assert states[0] == states[1]
    again = lr_scheduler.ReduceLROnPlateau(make())
    again.load_state_dict(states[1])
    assert again.best == states[1]["best"]


def test_a_plateau_in_numbers():
    optimizer = make()
    schedule = lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=1)
    rates = []
    for metric in (1.0, 1.0, 1.0, 1.0, 1.0, 0.1, 0.1):
        schedule.step(tg.tensor(metric))
        rates.append(optimizer.param_groups[0]["lr"])
    assert rates == [0.2, 0.2, 0.1, 0.1, 0.05, 0.05, 0.05]


def chained(library, optimizer):
    s = library.optim.lr_scheduler
    return s.ChainedScheduler([s.ConstantLR(optimizer, 0.1, 4), s.ExponentialLR(optimizer, 0.9)])


def sequential(library, optimizer):
    s = library.optim.lr_scheduler
    parts = [s.LinearLR(optimizer, 0.1, 1.0, 5), s.CosineAnnealingLR(optimizer, 8), s.ExponentialLR(optimizer, 0.5)]
    return s.SequentialLR(optimizer, parts, milestones=[5, 12])


# torch warns so too where a schedule within a schedule takes its first step
NESTED = pytest.mark.filterwarnings("ignore:Detected call of:UserWarning")


def nested(library, optimizer):
    s = library.optim.lr_scheduler
    inner = s.SequentialLR(optimizer, [s.ConstantLR(optimizer, 0.5, 3), s.StepLR(optimizer, 2, 0.5)], [3])
    return s.SequentialLR(optimizer, [inner, s.ExponentialLR(optimizer, 0.9)], milestones=[9])


COMBINED = pytest.mark.parametrize("build", [chained, sequential, pytest.param(nested, marks=NESTED)])


@COMBINED
def test_schedules_of_schedules_are_torch_s(build):
    torch = pytest.importorskip("torch")
    found = []
    for library in (tg, torch):
        optimizer = make(library)
        found.append(rows_of(optimizer, build(library, optimizer), 18))
    np.testing.assert_allclose(*found, rtol=1e-12, atol=1e-16)


@COMBINED
def test_schedules_of_schedules_go_on_from_their_state(build):
    optimizer, other = make(), make()
    schedule, again = build(tg, optimizer), build(tg, other)
    rows_of(optimizer, schedule, 6)
    again.load_state_dict(copy.deepcopy(schedule.state_dict()))
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert rows_of(optimizer, schedule, 8) == rows_of(other, again, 8)


def test_a_schedule_changes_what_a_step_does():
    w = tg.tensor([1.0], requires_grad=True)
    optimizer = optim.SGD([w], lr=0.5)
    schedule = lr_scheduler.StepLR(optimizer, 1, 0.5)
    for _ in range(3):
        w.grad = tg.tensor([1.0])
        optimizer.step()
        schedule.step()
    assert w.item() == 1 - 0.5 - 0.25 - 0.125


def test_learning_rates_in_tensors_change_in_place():
    w = tg.tensor([1.0], requires_grad=True)
    rate = tg.tensor(0.5)
    optimizer = optim.SGD([w], lr=rate)
    schedule = lr_scheduler.ExponentialLR(optimizer, 0.5)
    for _ in range(2):
        w.grad = tg.tensor([1.0])
        optimizer.step()
        schedule.step()
    assert (w.item(), rate.item()) == (0.25, 0.125)
    assert optimizer.param_groups[0]["lr"] is rate


def test_schedules_of_one_s_own_override_get_lr():
    class Inverse(lr_scheduler.LRScheduler):
        def get_lr(self):
            return [base / (1 + self.last_epoch) for base in self.base_lrs]

    optimizer = make()
    schedule = Inverse(optimizer)
    optimizer.step()
    schedule.step()
    assert schedule.get_last_lr() == [0.1, 0.025]


def test_the_wrong_order_is_told():
    optimizer = make()
    schedule = lr_scheduler.StepLR(optimizer, 2)
    with pytest.warns(UserWarning, match=r"`lr_scheduler.step\(\)` before `optimizer.step\(\)`"):
        schedule.step()
    optimizer = make()
    schedule = lr_scheduler.StepLR(optimizer, 2)
    optimizer.step = lambda: None
    with pytest.warns(UserWarning, match="has been overridden"):
        schedule.step()
    with pytest.warns(UserWarning, match=r"please use `get_last_lr\(\)`"):
        schedule.get_lr()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        schedule.step()


@pytest.mark.parametrize(
    ("name", "args", "options", "error", "message"),
    [
        ("LambdaLR", ([abs],), {}, ValueError, "Expected 2 lr_lambdas, but got 1"),
        ("MultiplicativeLR", (0.5,), {}, TypeError, "lr_lambda should be a function, but got float"),
        ("ConstantLR", (1.5,), {}, ValueError, "between 0 and 1"),
        ("LinearLR", (0.0,), {}, ValueError, "greater than 0 and less or equal to 1"),
        ("LinearLR", (0.5, 1.5), {}, ValueError, "Ending multiplicative factor"),
        ("CosineAnnealingWarmRestarts", (0,), {}, ValueError, "Expected positive integer T_0, but got 0"),
        ("CosineAnnealingWarmRestarts", (2, 0), {}, ValueError, "Expected integer T_mult >= 1"),
        ("CosineAnnealingWarmRestarts", (2, 1, "0"), {}, ValueError, "Expected float or int eta_min"),
        ("CyclicLR", ([0.1], 0.2), {}, ValueError, "base_lr must have the same length as optimizer.param_groups"),
        ("CyclicLR", (0.1, 0.2), {"mode": "square"}, ValueError, "mode is invalid and scale_fn is None"),
        ("OneCycleLR", (0.1,), {}, ValueError, "You must define either total_steps OR"),
        ("OneCycleLR", (0.1, -3), {}, ValueError, "Expected positive integer total_steps, but got -3"),
        ("OneCycleLR", (0.1, 10), {"pct_start": 2.0}, ValueError, "Expected float between 0 and 1 pct_start"),
        ("OneCycleLR", (0.1, 10), {"anneal_strategy": "step"}, ValueError, "anneal_strategy must be one of"),
        ("ReduceLROnPlateau", (), {"factor": 1.0}, ValueError, "Factor should be < 1.0."),
        ("ReduceLROnPlateau", ("best",), {}, ValueError, "mode best is unknown!"),
        ("ReduceLROnPlateau", (), {"threshold_mode": "x"}, ValueError, "threshold mode x is unknown!"),
        ("ReduceLROnPlateau", (), {"min_lr": [0.1]}, ValueError, "expected 2 min_lrs, got 1"),
        ("SequentialLR", ([], []), {}, ValueError, "expects at least one scheduler"),
        ("StepLR", (3,), {"last_epoch": 4}, KeyError, "initial_lr"),
    ],
)
def test_what_does_not_fit_is_refused_and_changes_nothing(name, args, options, error, message):
    optimizer = make()
    before = [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]
    with pytest.raises(error, match=message):
        getattr(lr_scheduler, name)(optimizer, *args, **options)
    assert [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups] == before


def test_schedules_need_their_optimizer():
    with pytest.raises(TypeError, match="int is not an Optimizer"):
        lr_scheduler.StepLR(3, 3)
    with pytest.raises(ValueError, match="must support momentum or beta1"):
        lr_scheduler.OneCycleLR(make(name="Adagrad"), 0.1, 10)
    one, other = make(), make()
    with pytest.raises(ValueError, match="belong to the same optimizer"):
        lr_scheduler.ChainedScheduler([lr_scheduler.StepLR(one, 3), lr_scheduler.StepLR(other, 3)])
    with pytest.raises(ValueError, match="does not support `ReduceLROnPlateau`"):
        lr_scheduler.SequentialLR(one, [lr_scheduler.ReduceLROnPlateau(one)], [])
    with pytest.raises(ValueError, match="one more than the number of milestone points"):
        lr_scheduler.SequentialLR(one, [lr_scheduler.StepLR(one, 3)], [4])
    schedule = lr_scheduler.OneCycleLR(one, 0.1, 2)
    with pytest.raises(ValueError, match="Tried to step 3 times"):
        rows_of(one, schedule, 3)
