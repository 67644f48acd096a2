"""tg.compile(check=True): the first replays run beside the function, and what differs is found."""

import ctypes
import itertools

import numpy as np
import pytest

import tapegrad as tg
from tapegrad import nn, optim
from tapegrad.capture import CaptureError
from tapegrad.runtime.machine import machine

F = nn.functional


def train(check, *, steps=9, zero="before", schedule=False, dropout=True, momentum=0.9, accumulate=False):
    tg.manual_seed(2)
    layers = [nn.Linear(5, 16), nn.Tanh(), *([nn.Dropout(0.3)] if dropout else []), nn.Linear(16, 3)]
    net = nn.Sequential(*layers)
    opt = optim.SGD(net.parameters(), lr=0.1, momentum=momentum) if momentum else optim.Adam(net.parameters(), lr=0.01)
    scheduler = optim.lr_scheduler.StepLR(opt, 2, 0.5) if schedule else None
    calls = itertools.count()

    def step(x, y):
        next(calls)
        if zero == "before":
            opt.zero_grad()
        loss = F.cross_entropy(net(x), y)
        loss.backward()
        if not accumulate:
            opt.step()
        if zero == "after":
            opt.zero_grad()
        if schedule:
            scheduler.step()
        return loss

    run = step if check is None else tg.compile(step, check=check)
    rng = np.random.default_rng(0)
    losses = []
    for _ in range(steps):
        x, y = rng.normal(size=(8, 5)).astype(np.float32), rng.integers(0, 3, 8)
        losses.append(run(tg.from_numpy(x), tg.from_numpy(y)).item())
    grads = [p.grad for p in net.parameters()]
    weights = [p.detach().numpy().copy() for p in net.parameters()]
    return losses, weights, [None if g is None else g.numpy().copy() for g in grads], next(calls)


@pytest.mark.parametrize(
    "case",
    [
        {},
        {"zero": "after"},
        {"zero": "never"},
        {"schedule": True},
        {"momentum": 0},
        {"accumulate": True, "zero": "never"},
    ],
    ids=str,
)
def test_checked_steps_are_single_steps(case):
    eager, checked = train(None, **case), train(True, **case)
    assert eager[0] == checked[0]
    for a, b in zip(eager[1] + eager[2], checked[1] + checked[2], strict=True):
        assert (a is None) == (b is None)
        assert a is None or np.array_equal(a, b)
    unchecked = train(False, **case)[3]
    assert checked[3] == unchecked + 3


def test_an_epoch_is_checked_too():
    total = tg.compile(lambda x: (x * 2).sum(), check=True)
    assert total.epoch(tg.arange(40.0), batch_size=4).tolist() == [12.0 + 32 * k for k in range(10)]
    assert total.variants[0].checks_left == 0


def alter_constant(instruction):
    address = int(machine.table("storages")["address"][instruction.operand_storages[1]])
    assert ctypes.c_float.from_address(address).value == 2.0
    ctypes.c_float.from_address(address).value = 3.0


def test_the_first_instruction_that_differs_is_named_with_its_line():
    def function(x):
        y = x + 1
        z = y * tg.tensor(2.0)
        return z.tanh()

    run = tg.compile(function, check=True)
    for k in range(3):
        assert run(tg.tensor([float(k)])).item() == pytest.approx(np.tanh(2 * (k + 1)), rel=1e-6)
    alter_constant(run.variants[0].program.instructions[1])
    line = function.__code__.co_firstlineno + 2
    with pytest.raises(
        CaptureError, match=rf"instruction 1 \(mul, test_checked.py:{line}\): the replay has 6.0, the fun"
    ):
        run(tg.tensor([1.0]))


def test_a_function_that_computes_something_else_without_a_trace_is_found():
    numbers = map(float, [1, 1, 1, 5, 6])  # whose place cannot be seen
    run = tg.compile(lambda x: x * next(numbers), check=True)
    for _ in range(3):
        assert run(tg.ones(1)).item() == 1
    with pytest.raises(CaptureError, match=r"not what the function computes: operation .*number made in Python"):
        run(tg.ones(1))
