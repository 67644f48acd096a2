"""Epochs in compiled code: schedules that step inside, loaders, callbacks, progress, errors and Ctrl-C meanwhile."""

import os
import signal
import threading

import numpy as np
import pytest

import tapegrad as tg
from tapegrad import nn, optim
from tapegrad.capture.compiled import Compiled
from tapegrad.utils.data import DataLoader, StackDataset, Subset, TensorDataset

F = nn.functional
schedules = optim.lr_scheduler


def make(schedule=None, optimizer=None, captured=True):
    """Return the parameters, an optimiser, a schedule and a step of a small classifier."""
    tg.manual_seed(1)
    net = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3))
    opt = (optimizer or (lambda p: optim.SGD(p, lr=0.1, momentum=0.9)))(net.parameters())
    scheduler = schedule(opt) if schedule else None

    def step(x, y):
        opt.zero_grad()
        loss = F.cross_entropy(net(x), y)
        loss.backward()
        opt.step()
        if scheduler is not None:
            scheduler.step()
        return loss

    return list(net.parameters()), opt, scheduler, tg.compile(step) if captured else step


def data(rows):
    rng = np.random.default_rng(0)
    return rng.normal(size=(rows, 5)).astype(np.float32), rng.integers(0, 3, rows)


def values(params):
    return [param.tolist() for param in params]


@pytest.fixture
def calls(monkeypatch):
    """How many steps went through Python."""
    found = []
    call = Compiled.__call__
    monkeypatch.setattr(Compiled, "__call__", lambda *args: (found.append(1), call(*args))[1])
    return found


SCHEDULES = {
    "step": lambda o: schedules.StepLR(o, 3, 0.5),
    "cosine": lambda o: schedules.CosineAnnealingWarmRestarts(o, 7, 2),
    "one cycle": lambda o: schedules.OneCycleLR(o, 0.3, total_steps=200),  # the momentum too
    "lambda": lambda o: schedules.LambdaLR(o, lambda k: 1 / (1 + k)),
    "sequential": lambda o: schedules.SequentialLR(
        o, [schedules.LinearLR(o, 0.1, total_iters=5), schedules.ExponentialLR(o, 0.9)], [6]
    ),
    "chained": lambda o: schedules.ChainedScheduler([schedules.LinearLR(o, 0.1), schedules.ExponentialLR(o, 0.9)]),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_schedule_that_steps_inside_stays_in_compiled_code(name, calls):
    x, y = data(64 * 8)
    expected, opt, schedule, step = make(SCHEDULES[name], captured=False)
    losses = [step(tg.from_numpy(x[k : k + 8]), tg.from_numpy(y[k : k + 8])).item() for k in range(0, len(x), 8)]
    losses += [step(tg.from_numpy(x[k : k + 8]), tg.from_numpy(y[k : k + 8])).item() for k in range(0, len(x), 8)]
    found, other, mine, captured = make(SCHEDULES[name])
    assert [*captured.epoch(x, y, batch_size=8).tolist(), *captured.epoch(x, y, batch_size=8).tolist()] == losses
    assert values(found) == values(expected)
    assert mine.get_last_lr() == schedule.get_last_lr()
    assert [g["lr"] for g in other.param_groups] == [g["lr"] for g in opt.param_groups]
    assert len(calls) < 12


def test_a_rate_that_becomes_zero_changes_the_program_and_goes_on():
    schedule = lambda o: schedules.LambdaLR(o, lambda k: 0.0 if 20 <= k < 30 else 1.0)  # noqa: E731
    x, y = data(60 * 8)
    expected, _, _, step = make(schedule, captured=False)
    losses = [step(tg.from_numpy(x[k : k + 8]), tg.from_numpy(y[k : k + 8])).item() for k in range(0, len(x), 8)]
    found, _, _, captured = make(schedule)
    assert captured.epoch(x, y, batch_size=8).tolist() == losses
    assert values(found) == values(expected)


def test_an_error_in_the_middle_leaves_parameters_and_schedule_at_the_same_step():
    schedule = lambda o: schedules.ExponentialLR(o, 0.97)  # noqa: E731
    x, y = data(100 * 8)
    y[77 * 8 + 3] = 9  # no class
    expected, _, other, step = make(schedule, captured=False)
    for k in range(0, 77 * 8, 8):
        step(tg.from_numpy(x[k : k + 8]), tg.from_numpy(y[k : k + 8]))
    found, _, mine, captured = make(schedule)
    with pytest.raises((IndexError, ValueError, RuntimeError)):
        captured.epoch(x, y, batch_size=8)
    assert values(found) == values(expected)
    assert mine.get_last_lr() == other.get_last_lr()
    assert mine.last_epoch == other.last_epoch == 77
    assert len(captured.epoch(x[:80], y[:80], batch_size=8)) == 10


def test_augmentation_in_the_step_draws_other_numbers_for_each_batch():
    images, shifts, labels = tg.rand(96, 6, 6), tg.arange(96.0), tg.arange(96)

    def step(x, shift, y):
        flip = tg.rand(len(x), 1, 1) < 0.5
        x = tg.where(flip, x.flip(2), x) * (0.8 + 0.4 * tg.rand(len(x), 1, 1))
        return (x.sum((1, 2)) + shift * y).sum(), flip.sum()

    tg.manual_seed(3)
    expected = [step(images[k : k + 4], shifts[k : k + 4], labels[k : k + 4]) for k in range(0, 96, 4)]
    tg.manual_seed(3)
    sums, flips = tg.compile(step).epoch(images, shifts, labels, batch_size=4)
    assert flips.tolist() == [flip.item() for _, flip in expected]
    assert sums.tolist() == pytest.approx([total.item() for total, _ in expected], rel=1e-6)
    assert len(set(flips.tolist())) > 1


@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("kind", ["tensors", "subset", "stack", "python"])
def test_a_loader_feeds_an_epoch_with_the_batches_it_would_give(kind, drop_last, calls):
    x, y = map(tg.from_numpy, data(203))
    whole = TensorDataset(x, y)
    dataset = {
        "tensors": whole,
        "subset": Subset(whole, list(range(200, -1, -1))),
        "stack": StackDataset(x, y),
        "python": [(x[k], y[k]) for k in range(203)],
    }[kind]

    def loader():
        return DataLoader(dataset, 8, shuffle=True, drop_last=drop_last, generator=tg.Generator().manual_seed(5))

    expected, _, _, step = make(captured=False)
    source = loader()
    losses = [[step(*batch).item() for batch in source] for _ in range(2)]
    found, _, _, captured = make()
    mine = loader()
    assert [captured.epoch(mine).tolist() for _ in range(2)] == losses
    assert values(found) == values(expected)
    if kind != "python":
        assert len(calls) < 10


def test_a_loaders_state_in_a_callback_is_that_of_the_steps_done():
    x, y = map(tg.from_numpy, data(400))
    loader = DataLoader(TensorDataset(x, y), 4, shuffle=True, generator=tg.Generator().manual_seed(5))
    _, _, _, captured = make()
    states = []
    captured.epoch(loader, every=30, callback=lambda n, r: states.append((n, loader.state_dict())))
    assert [n for n, _ in states] == [30, 60, 90]
    assert all(state["batches"] == n for n, state in states)
    other = DataLoader(TensorDataset(x, y), 4, shuffle=True, generator=tg.Generator().manual_seed(5))
    order = [batch[0].tolist() for batch in other]
    again = DataLoader(TensorDataset(x, y), 4, shuffle=True, generator=tg.Generator())
    again.load_state_dict(states[1][1])
    collect = tg.compile(lambda a, b: a * 1)
    assert collect.epoch(again).tolist() == order[60:]


def test_a_loader_of_other_rows_than_its_tensors_have_is_refused_as_without_capture():
    x, y = map(tg.from_numpy, data(50))
    loader = DataLoader(Subset(TensorDataset(x, y), [*range(40), 77]), 4)
    _, _, _, captured = make()
    with pytest.raises(IndexError):
        captured.epoch(loader)


def test_a_callback_that_raises_ends_the_epoch_between_two_steps():
    x, y = data(80 * 8)
    found, _, _, captured = make()

    def stop(steps, losses):
        assert len(losses) == steps
        if steps == 60:
            raise KeyError("enough")

    with pytest.raises(KeyError, match="enough"):
        captured.epoch(x, y, batch_size=8, callback=stop, every=20)
    expected, _, _, step = make(captured=False)
    for k in range(0, 60 * 8, 8):
        step(tg.from_numpy(x[k : k + 8]), tg.from_numpy(y[k : k + 8]))
    assert values(found) == values(expected)


def test_ctrl_c_stops_between_two_steps():
    adam = lambda p: optim.Adam(p, lr=1e-3)  # noqa: E731
    schedule = lambda o: schedules.ExponentialLR(o, 0.9999)  # noqa: E731
    x, y = data(8 * 400_000)
    found, opt, mine, captured = make(schedule, adam)
    captured.epoch(x[:80], y[:80], batch_size=8)
    timer = threading.Timer(0.4, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        captured.epoch(x, y, batch_size=8)
    steps = int(opt.state[found[0]]["step"].item())
    assert 10 < steps < 400_000
    assert mine.last_epoch == steps
    assert all(int(state["step"].item()) == steps for state in opt.state.values())
    other, _, _, again = make(schedule, adam)
    again.epoch(x[:80], y[:80], batch_size=8)
    again.epoch(x[: 8 * (steps - 10)], y[: 8 * (steps - 10)], batch_size=8)
    assert values(found) == values(other)


def test_progress_is_shown_from_another_thread(capsys, monkeypatch):
    monkeypatch.setattr("tapegrad.capture.progress._SECONDS", 0.01)
    x, y = data(8 * 30_000)
    _, _, _, captured = make()
    captured.epoch(x, y, batch_size=8, progress=True)
    lines = capsys.readouterr().err.split("\r")[1:]
    assert lines[-1].startswith("30,000 of 30,000 steps")
    done = [int(line.split(" of ")[0].replace(",", "")) for line in lines]
    assert done == sorted(done)
    assert any(0 < n < 30_000 for n in done)
