"""Captured functions called from @njit code, by address and by SciPy compute what a plain call does, or raise."""

import copy
import ctypes
import gc
import pickle
import re
import resource
import threading

import numba
import numpy as np
import pytest
from numba.core.errors import TypingError

import tapegrad as tg
from tapegrad import nn, optim
from tapegrad.capture import CaptureError
from tapegrad.runtime.machine import machine

F = nn.functional


def captured(function, *examples, calls=2):
    """Return a function as a program for some arrays."""
    compiled = tg.compile(function)
    for _ in range(calls):
        compiled(*map(tg.from_numpy, examples))
    return compiled


@pytest.fixture(scope="module")
def square():
    return captured(lambda x: (x * x).sum(), np.ones(4))


@numba.njit(nogil=True)
def call(function, x):
    return function(x)


@numba.njit(nogil=True)
def call_often(function, x, count):
    total = 0.0
    for _ in range(count):
        total += function(x)
    return total


# ---- values ----


def training(dtype):
    tg.manual_seed(0)
    net = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3)).to(dtype)
    optimizer = optim.Adam(net.parameters(), lr=1e-2)

    @tg.compile
    def step(x, y):
        optimizer.zero_grad()
        scores = net(x)
        loss = F.cross_entropy(scores, y)
        loss.backward()
        optimizer.step()
        return {"loss": loss, "scores": (scores, scores.argmax(1))}

    return net, optimizer, step


def test_a_training_step_is_the_same_to_the_bit():
    rng = np.random.default_rng(0)
    X, Y = rng.normal(size=(10, 8, 5)).astype(np.float32), rng.integers(0, 3, (10, 8))
    plain_net, _, plain = training(tg.float32)
    wanted = [plain.__wrapped__(tg.from_numpy(x), tg.from_numpy(y)) for x, y in zip(X, Y, strict=True)]
    net, _, compiled = training(tg.float32)
    for k in range(3):  # the first makes Adam's state
        compiled(tg.from_numpy(X[k]), tg.from_numpy(Y[k]))
    step = compiled.njit
    versions = [p._version for p in net.parameters()]

    @numba.njit(nogil=True)
    def train(X, Y, losses, guesses):
        for k in range(len(X)):
            losses[k], scores, guesses[k] = step(X[k], Y[k])
        return scores

    losses, guesses = np.zeros(7, np.float32), np.zeros((7, 8), np.int64)
    scores = train(X[3:], Y[3:], losses, guesses)
    assert losses.tolist() == [w["loss"].item() for w in wanted[3:]]
    np.testing.assert_array_equal(scores, wanted[-1]["scores"][0].detach().numpy())
    np.testing.assert_array_equal(guesses[-1], wanted[-1]["scores"][1].numpy())
    for a, b, version in zip(plain_net.parameters(), net.parameters(), versions, strict=True):
        np.testing.assert_array_equal(a.detach().numpy(), b.detach().numpy())
        np.testing.assert_array_equal(a.grad.numpy(), b.grad.numpy())
        assert b._version >= version + 7
    assert compiled(tg.from_numpy(X[0]), tg.from_numpy(Y[0]))["loss"].item() < wanted[0]["loss"].item()


def test_gradients_that_were_taken_away_are_there_again():
    net, optimizer, compiled = training(tg.float32)
    x, y = np.ones((8, 5), np.float32), np.zeros(8, np.int64)
    for _ in range(3):
        compiled(tg.from_numpy(x), tg.from_numpy(y))
    step = compiled.njit
    optimizer.zero_grad()
    step(x, y)
    assert all(p.grad is not None for p in net.parameters())


def test_a_learning_rate_that_was_changed_is_used_after_asking_for_njit():
    w = nn.Parameter(tg.zeros(1))
    optimizer = optim.SGD([w], lr=1.0)

    def step():
        optimizer.zero_grad()
        w.sum().backward()
        optimizer.step()

    compiled = captured(step, calls=3)
    native = compiled.njit

    @numba.njit
    def two():
        native()
        native()

    two()
    assert w.item() == -5
    optimizer.param_groups[0]["lr"] = 0.25
    assert compiled.njit is native
    two()
    assert w.item() == -5.5


def test_gradient_functions_capture_themselves():
    def f(x, scale):
        return (x.sin() * scale).sum()

    both = tg.func.value_and_grad(f, argnums=(0, 1))
    x, scale = np.linspace(0, 1, 7), np.float64(3)
    value, gradients = both(tg.from_numpy(x), tg.tensor(3.0, dtype=tg.float64))
    for found in (both.njit(x, scale), numba.njit(lambda f, x, s: f(x, s))(both.njit, x, 3.0)):
        assert found[0] == value.item()
        assert isinstance(found[0], float)
        np.testing.assert_array_equal(found[1], gradients[0].numpy())
        assert found[2] == gradients[1].item()
    hessian = tg.func.hessian(lambda x: (x**3).sum()).njit
    np.testing.assert_array_equal(hessian(np.arange(3.0)), np.diag(6 * np.arange(3.0)))


def test_modules_capture_themselves_and_follow_their_mode():
    net = nn.Sequential(nn.Linear(3, 2), nn.Dropout(0.5))
    x = np.ones((4, 3), np.float32)
    net.eval()
    act = net.njit
    wanted = net(tg.from_numpy(x)).detach().numpy()
    np.testing.assert_array_equal(act(x), wanted)
    np.testing.assert_array_equal(call(act, x), wanted)
    net.train()
    assert (net.njit(np.ones((4, 3), np.float32)) == 0).any()
    net.eval()
    np.testing.assert_array_equal(call(net.njit, x), wanted)
    assert net.njit is act
    other = copy.deepcopy(net)
    assert other.njit is not act
    with tg.no_grad():
        other[0].weight.zero_()
    np.testing.assert_array_equal(other.njit(x)[0], other[0].bias.detach().numpy())
    assert list(net.state_dict()) == ["0.weight", "0.bias"]


def test_parameters_that_change_in_place_are_seen():
    net = nn.Linear(1, 1, bias=False)
    x = np.ones((1, 1), np.float32)
    net.njit(x)
    for value in (2.0, 3.0):
        with tg.no_grad():
            net.weight.fill_(value)
        assert call(net.njit, x) == value


def test_asking_for_a_module_leaves_captured_functions_as_they_are():
    net = nn.Linear(2, 1)
    function = captured(lambda x: net(x).sum(), np.ones((1, 2), np.float32))
    address = function.njit.address
    net.njit(np.ones((3, 2), np.float32))
    assert function.njit.address == address


def test_a_method_of_an_object():
    class Model:
        def __init__(self, factor):
            self.factor = tg.tensor([factor], dtype=tg.float64)

        @tg.compile
        def scale(self, x):
            return x * self.factor

    models = [Model(2.0), Model(3.0)]
    for model in models:
        for _ in range(2):
            model.scale(tg.ones(2, dtype=tg.float64))
    for model, factor in zip(models, (2, 3), strict=True):
        assert call(model.scale.njit, np.ones(2)).tolist() == [factor, factor]


@pytest.mark.parametrize("dtype", [np.bool_, np.uint8, np.int32, np.int64, np.float32, np.float64])
def test_every_dtype_and_number(dtype):
    function = captured(lambda x, y: (x, y.clone(), x[0].clone())[1:], np.ones(3, dtype), np.ones((), dtype)).njit
    x = np.array([1, 0, 1], dtype)
    y, first = numba.njit(lambda f, x: f(x, x[0]))(function, x)
    assert y == first == x[0]
    assert isinstance(y, bool if dtype is np.bool_ else float if np.dtype(dtype).kind == "f" else int)


def test_results_that_are_not_contiguous():
    function = captured(lambda x: [(y := x * 2).t(), y[1:, :1], y.expand(2, 3, 2)], np.ones((3, 2))).njit
    x = np.arange(6.0).reshape(3, 2)
    for found in (call(function, x), function(x)):
        for a, b in zip(found, (2 * x.T, 2 * x[1:, :1], np.broadcast_to(2 * x, (2, 3, 2))), strict=True):
            np.testing.assert_array_equal(a, b)


def test_several_shapes_and_dtypes():
    double = tg.compile(lambda x: x * 2)
    for shape in ((3,), (5,), (2, 3), (0,)):
        for _ in range(2):
            double(tg.ones(shape, dtype=tg.float64))
    for _ in range(2):
        double(tg.ones(3))
    for shape in ((3,), (5,), (2, 3), (0,)):
        x = np.random.default_rng(0).normal(size=shape)
        found = call(double.njit, x)
        assert found.shape == shape
        np.testing.assert_array_equal(found, 2 * x)
    assert call(double.njit, np.ones(3, np.float32)).dtype == np.float32
    with pytest.raises(ValueError, match=re.escape("(float64[0]) or (float64[3]) or (float64[5]), got")):
        call(double.njit, np.ones(4))


def test_an_argument_is_written_into_where_it_lies():
    def add(x, y):
        x += y

    function = captured(add, np.zeros(3), np.ones(3)).njit
    run = numba.njit(lambda f, x, y: f(x, y))
    x = np.zeros(3)
    assert run(function, x, np.ones(3)) is None
    assert x.tolist() == [1, 1, 1]
    with pytest.raises(ValueError, match="shares memory"):
        run(function, x, x)
    with pytest.raises(ValueError, match="shares memory"):
        function(x, x)
    x.flags.writeable = False
    with pytest.raises(TypingError, match="expected C-contiguous"):
        run(function, x, np.ones(3))
    assert x.tolist() == [1, 1, 1]


def test_the_same_array_twice_is_fine_where_nothing_is_written():
    function = captured(lambda x, y: x + y, np.ones(3), np.ones(3)).njit
    assert numba.njit(lambda f, x: f(x, x))(function, np.arange(3.0)).tolist() == [0, 2, 4]


def test_an_array_over_a_parameter_that_is_written_is_refused():
    w = tg.zeros(3, dtype=tg.float64)

    def add(x):
        w.add_(x)

    function = captured(add, np.ones(3)).njit
    with pytest.raises(ValueError, match="shares memory"):
        call(function, w.numpy())
    assert w.tolist() == [2, 2, 2]


# ---- errors ----


def test_wrong_arguments_raise_with_what_was_expected(square):
    with pytest.raises(ValueError, match=re.escape("expected arrays (float64[4]), got another shape")):
        call(square.njit, np.ones(5))
    for wrong in (np.ones(4, np.float32), np.ones((4, 1)), np.ones(8)[::2], 1.0):
        with pytest.raises(TypingError, match=re.escape("expected C-contiguous arrays (float64[4]), got")):
            call(square.njit, wrong)
    with pytest.raises(TypingError, match="named"):
        numba.njit(lambda f, x: f(x=x))(square.njit, np.ones(4))
    assert call(square.njit, np.ones(4)) == 4


def test_an_error_can_be_caught_in_njit_code(square):
    native = square.njit

    @numba.njit
    def safe(x):
        try:
            return native(x)
        except Exception:
            return -1.0

    assert safe(np.ones(5)) == -1
    assert safe(np.ones(4)) == 4


def test_an_index_out_of_bounds_raises_and_the_program_goes_on():
    table = tg.arange(5.0, dtype=tg.float64)
    function = captured(lambda index: tg.index_select(table, 0, index), np.array([1, 2])).njit
    for run in (lambda x: call(function, x), function):
        with pytest.raises(IndexError):
            run(np.array([1, 9]))
        assert run(np.array([0, 2])).tolist() == [0, 2]


def test_what_cannot_be_called_natively_says_why():
    fresh = tg.compile(lambda x: x * 2)
    with pytest.raises(
        CaptureError, match="call it first, with arrays of the right shapes and dtypes, two or three times"
    ):
        call(fresh.njit, np.ones(2))
    fresh(tg.ones(2))
    with pytest.raises(CaptureError, match="two or three"):
        fresh.njit.address
    with pytest.raises(CaptureError, match="return a clone"):
        captured(lambda x: x, np.ones(2)).njit.address
    optimizer = optim.SGD([nn.Parameter(tg.zeros(1))], lr=1.0)
    schedule = optim.lr_scheduler.StepLR(optimizer, 10)

    def step():
        optimizer.zero_grad()
        optimizer.param_groups[0]["params"][0].sum().backward()
        optimizer.step()
        schedule.step()

    with pytest.raises(CaptureError, match="outside"):
        captured(step, calls=3).njit.address
    strided = tg.compile(lambda x: x * 2)
    for _ in range(2):
        strided(tg.ones(4)[::2])
    with pytest.raises(CaptureError, match="not contiguous"):
        strided.njit.address
    scaled = tg.compile(lambda x, factor: x * factor)
    for factor in (2.0, 3.0):
        for _ in range(2):
            scaled(tg.ones(2), factor)
    with pytest.raises(CaptureError, match="plain arguments"):
        scaled.njit


def test_a_parameter_that_was_replaced_means_another_program():
    net = nn.Linear(1, 1, bias=False)
    x = np.ones((1, 1), np.float32)
    net.njit(x)
    net.weight = nn.Parameter(tg.full((1, 1), 5.0))
    with pytest.raises(CaptureError, match="no program"):
        net.njit.address
    assert net.njit(x) == 5
    assert call(net.njit, x) == 5


def test_it_is_not_pickled(square):
    with pytest.raises(TypeError, match="addresses in this process"):
        pickle.dumps(square.njit)


# ---- by address ----


def test_a_c_function(square):
    x, result = np.arange(4.0), np.zeros(())
    inputs, outputs = np.array([x.ctypes.data]), np.array([result.ctypes.data])
    function = square.njit.ctypes
    assert function(inputs.ctypes.data, outputs.ctypes.data) == 0
    assert result == 14
    kind = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_void_p, ctypes.c_void_p)
    x += 1
    assert kind(square.njit.address)(inputs.ctypes.data, outputs.ctypes.data) == 0
    assert result == 30
    assert square.njit.signature == "(float64[4]) -> (float64[])"


def test_a_function_for_scipy():
    integrate = pytest.importorskip("scipy.integrate")
    function = captured(lambda x: (-(x * x).sum()).exp() * x[0] ** 2, np.ones(2)).njit.low_level_callable()
    gc.collect()
    found, _ = integrate.nquad(function, [(-5, 5), (-5, 5)])
    assert abs(found - np.pi / 2) < 1e-7
    with pytest.raises(TypeError, match="one float64 vector"):
        captured(lambda x: x * 2, np.ones(2)).njit.low_level_callable()


# ---- threads, memory ----


def test_two_threads_never_mix_their_results():
    function = captured(lambda x: ((x * 2).sin().sum(), x * 3), np.ones(2000))
    native, wrong = function.njit, []

    @numba.njit(nogil=True)
    def check(x, total, count):
        bad = 0
        for _ in range(count):
            found, tripled = native(x)
            bad += found != total or tripled[0] != 3 * x[0] or tripled[-1] != 3 * x[-1]
        return bad

    def in_njit(value):
        x = np.full(2000, value)
        wrong.append(check(x, native(x)[0], 300))

    def in_python(value):
        x = tg.full((2000,), value, dtype=tg.float64)
        total = function(x)[0].item()
        for _ in range(100):
            found, tripled = function(x)
            wrong.append(found.item() != total or tripled[7].item() != 3 * value)

    in_njit(0.1)
    threads = [threading.Thread(target=in_njit, args=(0.2 * k,)) for k in (1, 2)]
    threads += [threading.Thread(target=in_python, args=(0.3 * k,)) for k in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    assert len(wrong) == 203
    assert not any(wrong)
    assert sum(v.program is not None for v in function.variants) == 1


def test_a_loop_that_has_the_gil_and_a_replay_wait_for_each_other():
    function = captured(lambda x: (x.sin() * x).sum(), np.ones(50_000))
    native, x = function.njit, np.ones(50_000)

    @numba.njit  # holds the GIL, which a replay needs when it ends
    def loop(count):
        total = 0.0
        for _ in range(count):
            total += native(x)
        return total

    loop(1)
    thread = threading.Thread(target=lambda: [function(tg.from_numpy(x)) for _ in range(30)])
    thread.start()
    loop(30)
    thread.join(60)
    assert not thread.is_alive()


def test_many_calls_take_no_memory():
    function = captured(lambda x: (x * 2, x.sum()), np.ones(100)).njit

    @numba.njit
    def run(x, count):
        total = 0.0
        for _ in range(count):
            y, z = function(x)
            total += y[0] + z
        return total

    run(np.ones(100), 1000)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    live = int(machine.state["bytes_live"])
    assert run(np.ones(100), 100_000) == 102 * 100_000
    assert int(machine.state["bytes_live"]) == live
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 8192


def test_a_program_lives_as_long_as_the_code_that_calls_it():
    def make(factor):
        native = captured(lambda x: (x * factor).sum(), np.ones(50)).njit
        return numba.njit(lambda x: native(x))

    runs = [make(float(k)) for k in range(3)]
    for run in runs:
        run(np.ones(50))
    gc.collect()
    for _ in range(3):  # what would be reused if the programs had gone
        captured(lambda x: (x + 5).sum(), np.ones(50))
    assert [run(np.ones(50)) for run in runs] == [0, 50, 100]


def test_programs_without_callers_give_their_memory_back():
    def rounds(count):
        for _ in range(count):
            function = captured(lambda x: (x * 2 + 1).tanh().sum(), np.ones(100)).njit
            call_often(function, np.ones(100), 3)
            tg.func.grad(lambda x: (x * 2).tanh().sum()).njit(np.ones(100))
            nn.Linear(2, 2).njit(np.ones((1, 2), np.float32))
            del function
        gc.collect()
        return int(machine.table("slots")["refs"].clip(0).astype(bool).sum()), int(machine.state["bytes_live"])

    rounds(2)
    assert rounds(2) == rounds(10)
