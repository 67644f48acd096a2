"""Several Python threads: modes are each one's own, sweeps do not disturb one another, the tables stay whole."""

import gc
import threading
import time

import numpy as np
import pytest

import tapegrad as tg
from tapegrad.runtime.machine import machine


def run_all(*bodies):
    """Run each body in a thread of its own; raise the first error."""
    errors = []

    def guarded(body):
        try:
            body()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(body,)) for body in bodies]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    if errors:
        raise errors[0]


@pytest.fixture(autouse=True)
def short_turns():
    """Let threads take turns as often as the interpreter can."""
    import sys

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def test_modes_belong_to_a_thread():
    inside, leave = threading.Event(), threading.Event()
    seen = []
    x = tg.ones(2, requires_grad=True)

    def without():
        with tg.no_grad():
            inside.set()
            leave.wait(10)
            seen.append(("without", (x * 2).requires_grad))

    def usual():
        inside.wait(10)
        seen.append(("usual", tg.is_grad_enabled(), (x * 2).requires_grad))
        leave.set()

    run_all(without, usual)
    assert seen == [("usual", True, True), ("without", False)]
    assert tg.is_grad_enabled()


def test_a_new_thread_starts_recording():
    with tg.no_grad():
        seen = []
        run_all(lambda: seen.append(tg.is_grad_enabled()))
        assert seen == [True]
        assert not tg.is_grad_enabled()


def test_modes_that_threads_leave_behind_do_not_reach_later_ones():
    for _ in range(1500):
        run_all(lambda: tg.set_grad_enabled(False))
    seen = []
    run_all(lambda: seen.append(tg.is_grad_enabled()))
    assert seen == [True] and tg.is_grad_enabled()


def test_a_thread_computes_while_another_sweeps_in_a_hook():
    x = tg.tensor([2.0, 3.0], requires_grad=True)
    in_hook, done = threading.Event(), threading.Event()

    def hook(g):
        in_hook.set()
        assert done.wait(10)
        assert not tg.is_grad_enabled()

    def sweeping():
        y = x * x
        y.register_hook(hook)
        (y * y).sum().backward()

    def computing():
        in_hook.wait(10)
        z = x
        for _ in range(20_000):  # enough that the tables would be compacted
            z = z * 1.0
        seen.append(z.requires_grad)
        done.set()

    seen = []
    run_all(sweeping, computing)
    assert seen == [True]
    assert x.grad.tolist() == [32, 108]


def test_threads_that_train_side_by_side():
    results = {}

    def train(seed):
        random = np.random.default_rng(seed)
        a, b = (random.standard_normal(16) for _ in range(2))
        w = tg.tensor(a, requires_grad=True)
        expected = a.copy()
        target = tg.tensor(b)
        for step in range(300):
            loss = ((w - target) ** 2).sum()
            if step % 3 == 0:
                w.register_hook(lambda g: time.sleep(0)).remove()
                loss.register_hook(lambda g: time.sleep(0))
            loss.backward()
            with tg.no_grad():
                w -= 0.1 * w.grad
            w.grad = None
            expected -= 0.1 * 2 * (expected - b)
        results[seed] = np.abs(w.detach().numpy() - expected).max()

    gc.collect()
    run_all(*[lambda seed=seed: train(seed) for seed in range(4)])
    assert max(results.values()) < 1e-12
    assert int(machine.state["sweeping"]) == 0


def test_custom_functions_in_threads():
    class Twice(tg.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            time.sleep(0)
            ctx.save_for_backward(x)
            return x * x, x * 3

        @staticmethod
        def backward(ctx, g, h):
            time.sleep(0)
            (x,) = ctx.saved_tensors
            return 2 * x * g + 3 * h

    def body(value):
        x = tg.tensor([float(value)], requires_grad=True)
        for _ in range(200):
            a, b = Twice.apply(x)
            (a + b).sum().backward()
            assert x.grad.item() == 2 * value + 3
            x.grad = None

    gc.collect()
    owners = len(machine.owners)
    run_all(*[lambda value=value: body(value) for value in range(4)])
    gc.collect()
    assert len(machine.owners) == owners


def test_an_error_is_raised_in_the_thread_that_made_it():
    def failing():
        x = tg.ones(2, requires_grad=True)
        for k in range(200):
            y = x * 1

            def hook(g, k=k):
                time.sleep(0)
                raise KeyError(k)

            y.register_hook(hook)
            with pytest.raises(KeyError, match=str(k)):
                y.sum().backward()

    def fine():
        x = tg.ones(2, requires_grad=True)
        for _ in range(500):
            with pytest.raises(RuntimeError, match=r"cannot be broadcast|must match"):
                x + tg.ones(3)
            (x * x).sum().backward()

    run_all(failing, fine, failing)


def test_results_of_ops_with_several_are_not_mixed_up():
    def body(length):
        x = tg.arange(length).float()
        for _ in range(300):
            values, places = x.max(dim=0)
            assert (values.item(), places.item()) == (length - 1, length - 1)

    run_all(*[lambda length=length: body(length) for length in (3, 50, 700)])
