"""Whole training steps on threads: the same bits on any number, and no deadlock whatever happens to the process."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

import tapegrad as tg
from tapegrad import nn, optim

F = nn.functional


class LastOf(nn.Module):
    """A recurrent layer's last output."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return self.layer(x)[0][:, -1]


class MeanOf(nn.Module):
    """A sequence's mean after a layer."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return self.layer(x).mean(1)


# what is trained, and the shape of its inputs; each has kernels of several tasks
MODELS = {
    "perceptron": (lambda: nn.Sequential(nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 10)), (256, 784)),
    "convolution": (
        lambda: nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(32 * 49, 10),
        ),
        (64, 1, 28, 28),
    ),
    "transformer": (
        lambda: nn.Sequential(
            MeanOf(nn.TransformerEncoderLayer(64, 4, 128, dropout=0.1, batch_first=True)), nn.Linear(64, 10)
        ),
        (32, 64, 64),
    ),
    "lstm": (lambda: nn.Sequential(LastOf(nn.LSTM(32, 64, batch_first=True)), nn.Linear(64, 10)), (64, 20, 32)),
}  # fmt: skip


def training(kind, captured):
    """Return a model and its step on data of its own."""
    make, shape = MODELS[kind]
    tg.manual_seed(1)
    model = make()
    optimizer = optim.AdamW(model.parameters(), lr=1e-3)
    rng = np.random.default_rng(2)
    x, y = tg.tensor(rng.normal(size=shape).astype(np.float32)), tg.tensor(rng.integers(0, 10, shape[0]))

    def step(x, y):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        return loss

    step = tg.compile(step) if captured else step
    return model, lambda: step(x, y)


def trained(kind, captured, steps=4):
    """Return the losses and all parameters after some steps."""
    model, step = training(kind, captured)
    losses = [step().item() for _ in range(steps)]
    return [np.array(losses), *[p.detach().numpy().copy() for p in model.parameters()]]


@pytest.fixture(autouse=True)
def as_many_threads_as_before():
    before = tg.get_num_threads()
    yield
    tg.set_num_threads(before)


@pytest.mark.parametrize("captured", [False, True], ids=["eager", "captured"])
@pytest.mark.parametrize("kind", MODELS)
def test_training_has_the_same_bits_on_any_number_of_threads(kind, captured):
    found = {}
    for threads in (1, 2, 3, 7):
        tg.set_num_threads(threads)
        found[threads] = trained(kind, captured)
    assert found[1][0][-1] < found[1][0][0]
    for threads in (2, 3, 7):
        for one, other in zip(found[1], found[threads], strict=True):
            np.testing.assert_array_equal(one, other, err_msg=f"{threads} threads")


# ---- in processes of their own ----

_START = f"""
import os, signal, sys, threading, time
sys.path.insert(0, {os.path.dirname(__file__)!r})
import numpy as np
import tapegrad as tg
from test_thread_steps import trained, training
def same(one, other):
    return len(one) == len(other) and all(np.array_equal(a, b) for a, b in zip(one, other))
"""


def start(script, **options):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OPENBLAS_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", _START + script],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options,
    )  # fmt: skip


def finish(process, seconds=300):
    """Return what a process printed; a deadlock shows as a TimeoutExpired."""
    try:
        out, errors = process.communicate(timeout=seconds)
    finally:
        process.kill()
    assert process.returncode == 0, errors
    return out


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system cannot bind a process to a processor")
def test_a_process_bound_to_one_processor_trains_on_any_number_of_threads():
    bound = {min(os.sched_getaffinity(0))}
    script = """
assert tg.get_num_threads() == 1, tg.get_num_threads()
one = trained("convolution", True)
tg.set_num_threads(4)
assert same(one, trained("convolution", True)) and same(one, trained("convolution", True))
"""
    finish(start(script, preexec_fn=lambda: os.sched_setaffinity(0, bound)))


@pytest.mark.skipif(sys.platform != "linux", reason="limits of other systems differ")
def test_threads_that_the_system_does_not_give_are_done_without():
    import resource

    script = """
tg.set_num_threads(4)
several = trained("perceptron", False)
from tapegrad.native.parallel import STARTED
from tapegrad.runtime.machine import machine
assert machine.pool.words[STARTED] == 0, "threads were to be refused"
tg.set_num_threads(1)
assert same(several, trained("perceptron", False))
"""
    huge = 1 << 48  # bytes of stack, which is what a new thread asks for: more than there are addresses

    def limit():
        resource.setrlimit(resource.RLIMIT_STACK, (huge, huge))

    finish(start(script, preexec_fn=limit))


def test_several_python_threads_train_at_once():
    script = """
tg.set_num_threads(1)
expected = {captured: trained("perceptron", captured, 6) for captured in (False, True)}
tg.set_num_threads(3)
wrong, done = [], []
def work(captured):
    model, step = trainings.pop()
    losses = [step().item() for _ in range(6)]
    found = [np.array(losses), *[p.detach().numpy() for p in model.parameters()]]
    (done if same(found, expected[captured]) else wrong).append(captured)
kinds = [False, True, True, False]
trainings = [training("perceptron", captured) for captured in reversed(kinds)]
threads = [threading.Thread(target=work, args=(captured,), daemon=True) for captured in kinds]
for thread in threads: thread.start()
for thread in threads: thread.join(200)
assert not wrong and len(done) == 4, (wrong, done)
"""
    finish(start(script))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.parametrize("captured", [False, True], ids=["eager", "captured"])
def test_a_fork_amid_training_goes_on_in_both_processes(captured):
    script = f"""
tg.set_num_threads(3)
expected = trained("perceptron", {captured}, 8)
model, step = training("perceptron", {captured})
losses = [step().item() for _ in range(4)]
child = os.fork()
losses += [step().item() for _ in range(4)]
right = same([np.array(losses), *[p.detach().numpy() for p in model.parameters()]], expected)
right = right and same(trained("perceptron", {captured}, 8), expected)
if child == 0:
    os._exit(0 if right else 1)
assert os.waitpid(child, 0)[1] == 0, "the child"
assert right, "the parent"
"""
    finish(start(script))


WAITING = """
inside, go_on = threading.Event(), threading.Event()
def wait(*_):
    inside.set()
    go_on.wait(60)
def fork_meanwhile(work, check):
    worker = threading.Thread(target=work)
    worker.start()
    assert inside.wait(60)
    child = os.fork()
    if child == 0:
        signal.alarm(50)
        os._exit(0 if check() else 1)
    assert os.waitpid(child, 0)[1] == 0, "the child"
    go_on.set()
    worker.join()
    assert check(), "the parent"
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_fork_amid_another_thread_s_sweep():
    script = """
x = tg.ones(3, requires_grad=True)
y = x * x
y.register_hook(wait)
def check():
    z = tg.ones(2, requires_grad=True)
    (z * z * x[0].detach()).sum().backward()
    return z.grad.tolist() == [2.0, 2.0] and tg.is_grad_enabled()
fork_meanwhile(lambda: y.sum().backward(), check)
assert x.grad.tolist() == [2.0, 2.0, 2.0]
"""
    finish(start(WAITING + script))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_fork_while_another_thread_captures():
    script = """
def noted(x):
    wait()
    return x * 2
def check():
    triple = tg.compile(lambda x: x * 3)
    found = [triple(tg.full((2,), float(k))).tolist() for k in range(4)]
    return found == [[3.0 * k] * 2 for k in range(4)] and len(triple.variants) == 1
fork_meanwhile(lambda: tg.compile(noted)(tg.ones(2)), check)
"""
    finish(start(WAITING + script))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_fork_while_another_thread_trains_leaves_a_child_that_can():
    script = """
tg.set_num_threads(3)
expected = trained("perceptron", True)
model, step = training("perceptron", True)
stop = threading.Event()
def work():
    while not stop.is_set(): step()
worker = threading.Thread(target=work, daemon=True)
worker.start()
for turn in range(10):
    time.sleep(0.02)
    child = os.fork()
    if child == 0:
        signal.alarm(100)
        os._exit(0 if same(trained("perceptron", True), expected) else 1)
    assert os.waitpid(child, 0)[1] == 0, turn
stop.set()
worker.join(60)
assert not worker.is_alive()
"""
    finish(start(script))


@pytest.mark.skipif(os.name != "posix", reason="needs signals")
@pytest.mark.parametrize("captured", [False, True], ids=["eager", "captured"])
def test_an_interrupt_ends_training_and_leaves_a_library_that_works(captured):
    script = f"""
tg.set_num_threads(3)
expected = trained("perceptron", {captured})
model, step = training("perceptron", {captured})
for turn in range(3):
    try:
        print("ready", flush=True)
        while True: step()
    except KeyboardInterrupt:
        print("interrupted", flush=True)
assert all(p.isfinite().all() for p in model.parameters())
assert same(trained("perceptron", {captured}), expected)
print("done", flush=True)
"""
    process = start(script)
    for _ in range(3):
        assert process.stdout.readline() == "ready\n", process.stderr.read()
        time.sleep(0.3)
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline() == "interrupted\n"
    assert finish(process) == "done\n"
