"""Captured functions compute what they compute uncaptured, call by call, to the bit; what cannot be replayed raises."""

import collections
import gc
import itertools
import math
import queue
import threading
import types

import numpy as np
import pytest

import tapegrad as tg
from tapegrad import nn, optim
from tapegrad.capture import CaptureError
from tapegrad.runtime.machine import machine

F = nn.functional


def batches(count, rows=8, features=5, classes=3, seed=0):
    rng = np.random.default_rng(seed)
    return [
        (
            tg.from_numpy(rng.normal(size=(rows, features)).astype(np.float32)),
            tg.from_numpy(rng.integers(0, classes, rows)),
        )
        for _ in range(count)
    ]


def network(*extra):
    return nn.Sequential(nn.Linear(5, 16), nn.Tanh(), *extra, nn.Linear(16, 3))


OPTIMIZERS = {
    "sgd": lambda p: optim.SGD(p, lr=0.1),
    "momentum": lambda p: optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=1e-3),
    "adam": lambda p: optim.Adam(p, lr=1e-2),
    "adamw": lambda p: optim.AdamW(p, lr=1e-2),
    "rmsprop": lambda p: optim.RMSprop(p, lr=1e-2),
}


def train(steps, *, captured, optimizer="adam", dropout=False, zero="before", schedule=None, clip=False):
    tg.manual_seed(3)
    net = network(*([nn.Dropout(0.3)] if dropout else []))
    opt = OPTIMIZERS[optimizer](net.parameters())
    scheduler = optim.lr_scheduler.CosineAnnealingLR(opt, steps) if schedule else None

    def step(x, y):
        if zero == "before":
            opt.zero_grad()
        loss = F.cross_entropy(net(x), y)
        loss.backward()
        if clip:
            nn.utils.clip_grad_norm_(net.parameters(), 0.1)
        opt.step()
        if zero == "after":
            opt.zero_grad()
        if schedule == "inside":
            scheduler.step()
        return loss

    run = tg.compile(step) if captured else step
    losses = []
    for x, y in batches(steps):
        if zero == "outside":
            opt.zero_grad()
        losses.append(run(x, y).item())
        if schedule == "outside":
            scheduler.step()
    programs = sum(v.program is not None for v in run.variants) if captured else 0
    grads = [None if p.grad is None else p.grad.numpy().copy() for p in net.parameters()]
    return losses, [p.detach().numpy().copy() for p in net.parameters()], grads, programs


CASES = [
    *[{"optimizer": name} for name in OPTIMIZERS],
    {"dropout": True},
    {"zero": "after"},
    {"zero": "outside"},
    {"zero": "never"},
    {"schedule": "outside"},
    {"schedule": "inside"},
    {"clip": True},
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_training_is_the_same_to_the_bit(case):
    eager, captured = train(12, captured=False, **case), train(12, captured=True, **case)
    assert captured[3] >= 1
    assert eager[0] == captured[0]
    for a, b in zip(eager[1], captured[1], strict=True):
        np.testing.assert_array_equal(a, b)
    for a, b in zip(eager[2], captured[2], strict=True):
        assert (a is None) == (b is None)
        assert a is None or np.array_equal(a, b)


def test_a_program_is_made_after_two_calls_that_are_the_same():
    calls = itertools.count()

    @tg.compile
    def double(x):
        next(calls)
        return 2 * x

    found = [double(tg.tensor([float(k)])).item() for k in range(5)]
    assert found == [0, 2, 4, 6, 8]
    assert next(calls) == 2


def test_shapes_dtypes_and_plain_arguments_get_programs_of_their_own():
    calls = itertools.count()

    @tg.compile
    def scaled(x, factor=2.0):
        next(calls)
        return x * factor

    for _ in range(4):
        for shape in ((3,), (2, 3)):
            for dtype in (tg.float32, tg.float64):
                for factor in (2.0, 3.0):
                    x = tg.arange(float(np.prod(shape)), dtype=dtype).reshape(shape)
                    result = scaled(x, factor=factor)
                    assert result.dtype == dtype
                    np.testing.assert_array_equal(result.numpy(), x.numpy() * factor)
    assert next(calls) == 16
    assert len(scaled.variants) == 8


def test_the_oldest_program_makes_room_for_another():
    scaled = tg.compile(lambda x, factor: x * factor, limit=2)
    for factor in (1, 2, 3, 1, 2, 3):
        assert scaled(tg.ones(2), factor).tolist() == [factor, factor]
        assert len(scaled.variants) <= 2


def test_inputs_are_read_where_they_lie_at_any_offset():
    base = tg.arange(20.0)
    add = tg.compile(lambda x: x + 1)
    for start in range(8):
        assert add(base[start : start + 4]).tolist() == [start + 1.0 + k for k in range(4)]
    strided = tg.compile(lambda x: (x * 2).sum())
    for start in range(6):
        assert strided(base[start : start + 10 : 3]).item() == 2 * sum(range(start, start + 10, 3))


def test_containers_go_in_and_out():
    @tg.compile
    def both(pair, table):
        return {"sum": pair[0] + pair[1], "rest": [table["a"] * 2, (pair[0], 7, "text")]}

    for k in range(4):
        x, y, a = tg.tensor([1.0 + k]), tg.tensor([2.0]), tg.tensor([5.0 * k])
        result = both((x, y), {"a": a})
        assert result["sum"].item() == 3 + k
        assert result["rest"][0].item() == 10 * k
        assert result["rest"][1][0] is x
        assert result["rest"][1][1:] == (7, "text")


def test_results_are_copies_that_later_calls_leave_alone():
    square = tg.compile(lambda x: x * x)
    found = [square(tg.tensor([float(k)])) for k in range(6)]
    assert [x.item() for x in found] == [0, 1, 4, 9, 16, 25]
    assert not any(x.requires_grad for x in found)


def test_random_numbers_go_on_and_are_the_same_as_uncaptured():
    noise = tg.compile(lambda x: x + tg.rand(3))
    tg.manual_seed(5)
    found = [noise(tg.zeros(3)).tolist() for _ in range(5)]
    tg.manual_seed(5)
    assert found == [tg.rand(3).tolist() for _ in range(5)]
    tg.manual_seed(5)
    assert noise(tg.zeros(3)).tolist() == found[0]


def test_a_gradient_with_respect_to_an_argument():
    def value_and_gradient(x):
        x = x.detach().requires_grad_()
        y = (x.sin() * x).sum()
        (gradient,) = tg.autograd.grad(y, x)
        return y, gradient

    captured = tg.compile(value_and_gradient)
    for k in range(5):
        x = tg.tensor([0.5 + k, 2.0], dtype=tg.float64)
        for a, b in zip(value_and_gradient(x), captured(x), strict=True):
            assert a.tolist() == b.tolist()


def test_second_derivatives_are_captured():
    def curvature(x):
        x = x.detach().requires_grad_()
        (first,) = tg.autograd.grad((x**3).sum(), x, create_graph=True)
        return tg.autograd.grad(first.sum(), x)[0]

    captured = tg.compile(curvature)
    for k in range(4):
        assert captured(tg.tensor([1.0 + k])).item() == 6 * (1 + k)


def test_an_argument_may_be_written_into():
    @tg.compile
    def add_one(x):
        x += 1

    for k in range(4):
        x = tg.tensor([1.0 * k, 2.0])
        version = x._version
        assert add_one(x) is None
        assert x.tolist() == [k + 1.0, 3.0]
        assert x._version == version + 1


def test_a_buffer_from_outside_may_be_written_into():
    total = tg.zeros(2)

    @tg.compile
    def count(x):
        total.add_(x)
        return total * 1

    assert [count(tg.ones(2)).tolist() for _ in range(5)] == [[k, k] for k in (1, 2, 3, 4, 5)]
    assert total.tolist() == [5, 5]
    total.zero_()
    assert count(tg.ones(2)).tolist() == [1, 1]


def test_training_mode_is_guarded():
    net = nn.Sequential(nn.Dropout(0.5))
    run = tg.compile(lambda x: net(x))
    x = tg.ones(1000)
    for _ in range(3):
        net.train()
        assert 0 < (run(x) == 0).sum().item() < 1000
        net.eval()
        assert run(x).tolist() == x.tolist()
    assert sum(v.program is not None for v in run.variants) == 2


def test_a_parameter_that_is_replaced_is_noticed():
    net = nn.Linear(2, 2, bias=False)
    run = tg.compile(lambda x: net(x))
    x = tg.ones(1, 2)
    for k in range(4):
        net.weight = nn.Parameter(tg.full((2, 2), float(k)))
        for _ in range(3):
            assert run(x).tolist() == [[2.0 * k, 2.0 * k]]
    net.weight.data = tg.full((2, 2), 10.0)
    assert run(x).tolist() == [[20.0, 20.0]]


def test_a_parameter_that_is_frozen_is_noticed():
    net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))

    @tg.compile
    def gradients(x):
        net.zero_grad()
        net(x).sum().backward()

    for frozen in (False, True, False, True):
        net[0].requires_grad_(not frozen)
        for _ in range(3):
            gradients(tg.ones(1, 2))
            assert (net[0].weight.grad is None) == frozen
            assert net[1].weight.grad is not None


def test_a_global_or_attribute_that_changes_is_noticed():
    class Scale:
        def __init__(self):
            self.factor = 1.0

        def __call__(self, x):
            return x * self.factor

    scale = Scale()
    run = tg.compile(lambda x: scale(x))
    for factor in (1.0, 2.0, 1.0, 3.0):
        scale.factor = factor
        for _ in range(3):
            assert run(tg.ones(1)).item() == factor


def test_gradients_stay_when_taken_away_between_calls():
    w = tg.ones(2, requires_grad=True)

    @tg.compile
    def backward(x):
        w.grad = None
        (w * x).sum().backward()

    for k in range(5):
        backward(tg.tensor([1.0 * k, 2.0]))
        assert w.grad.tolist() == [k, 2]
        if k % 2:
            w.grad = None


# ---- what cannot be replayed ----


def calls_into(found, captured):
    for _ in range(20):
        found.append(captured(tg.ones(1)).item())


@pytest.mark.parametrize(
    "read",
    [
        lambda x: x.item(),
        lambda x: float(x),
        lambda x: bool(x > 0),
        lambda x: x.numpy(),
        lambda x: x.tolist(),
        lambda x: str(x),
        lambda x: 1 if x else 0,
        lambda x: tg.nonzero(x).sum(),
        lambda x: x[x > 0],
        lambda x: np.asarray(x),
        lambda x: x.unique(),
    ],
)
def test_reading_a_value_is_refused_with_the_line(read):
    captured = tg.compile(read)
    with pytest.raises(RuntimeError, match=r"test_capture.py:\d+.*(cannot read|depends on) values"):
        captured(tg.tensor(1.0))
    assert tg.tensor(2.0).item() == 2  # the library is usable afterwards


def test_a_counter_that_changes_what_is_computed_is_refused():
    state = {"step": 0}

    def step(x):
        state["step"] += 1
        return x * state["step"]

    captured = tg.compile(step)
    found = []
    with pytest.raises(CaptureError, match="'step' was"):
        calls_into(found, captured)
    assert found == list(range(1, len(found) + 1))


def test_a_hidden_counter_is_refused():
    counter = itertools.count(1)
    captured = tg.compile(lambda x: x * next(counter))
    found = []
    with pytest.raises(CaptureError, match="a number made in Python has changed"):
        calls_into(found, captured)
    assert found == list(range(1, len(found) + 1))


def test_numbers_drawn_by_numpy_are_refused():
    rng = np.random.default_rng(0)
    with pytest.raises(CaptureError, match="random numbers from NumPy"):
        tg.compile(lambda x: x * float(rng.normal()))(tg.ones(1))
    with pytest.raises(CaptureError, match="random numbers from NumPy"):
        tg.compile(lambda x: x * float(np.random.rand()))(tg.ones(1))  # noqa: NPY002


def test_a_list_that_grows_is_refused():
    history = []

    @tg.compile
    def step(x):
        y = x * 2
        history.append(y)
        return y

    with pytest.raises(CaptureError, match="a list of length"):
        calls_into([], step)


def test_a_tensor_put_into_a_hidden_place_is_refused():
    kept = queue.SimpleQueue()

    @tg.compile
    def step(x):
        y = x * 2
        kept.put(y)
        return y

    with pytest.raises(CaptureError, match="kept somewhere"):
        calls_into([], step)


def test_an_attribute_swapped_for_a_new_tensor_is_refused():
    class Cell:
        def __init__(self):
            self.state = tg.zeros(1)

        def step(self, x):
            self.state = self.state + x
            return self.state * 1

    cell = Cell()
    captured = tg.compile(cell.step)
    found = []
    with pytest.raises(CaptureError, match="'state' was a Tensor"):
        calls_into(found, captured)
    assert found == list(range(1, len(found) + 1))


def test_an_exception_in_the_middle_leaves_the_function_usable():
    fail = {"now": True}

    @tg.compile
    def step(x):
        y = x * 2
        if fail["now"]:
            raise KeyError("stop")
        return y + 1

    with pytest.raises(KeyError, match="stop"):
        step(tg.ones(2))
    fail["now"] = False
    for _ in range(4):
        assert step(tg.ones(2)).tolist() == [3, 3]


def test_arguments_that_share_memory_are_refused():
    add = tg.compile(lambda x, y: x + y)
    x = tg.ones(4)
    for _ in range(3):
        assert add(x, tg.ones(4)).tolist() == [2] * 4
    assert add(x, x).tolist() == [2] * 4  # a program of its own
    assert add(*tg.arange(8.0).chunk(2)).tolist() == [4, 6, 8, 10]  # none is written
    with pytest.raises(CaptureError, match="tensors 0 and 1 of the call"):
        add(*tg.arange(6.0).chunk(2))


def test_an_index_out_of_range_in_a_replay_raises_and_the_program_goes_on():
    table = tg.arange(5.0)
    look_up = tg.compile(lambda index: tg.index_select(table, 0, index))
    for _ in range(3):
        assert look_up(tg.tensor([1, 4])).tolist() == [1, 4]
    with pytest.raises(IndexError):
        look_up(tg.tensor([1, 9]))
    assert look_up(tg.tensor([0, 2])).tolist() == [0, 2]


def test_programs_give_their_memory_back():
    def rounds(count):
        for _ in range(count):
            run = tg.compile(lambda x: (x * 2 + 1).tanh().sum())
            for _ in range(3):
                run(tg.ones(100))
            del run
        gc.collect()
        state = machine.state
        return int(machine.table("slots")["refs"].clip(0).astype(bool).sum()), int(state["bytes_live"])

    rounds(3)
    before = rounds(3)
    after = rounds(20)
    assert after == before


def test_a_program_that_goes_frees_no_arrays_of_other_tensors(monkeypatch):
    """Its storages' links in the list of what was put aside were taken for the numbers of arrays to let go."""
    let_go = []

    class Watched(dict):
        def pop(self, owner, default=None):
            let_go.append(owner)
            return super().pop(owner, default)

    net = network()
    step = tg.compile(lambda x: net(x).square().sum())
    x, _ = batches(1)[0]
    for _ in range(3):
        step(x)
    assert len(step.variants[0].program) > 3
    monkeypatch.setattr(machine, "owners", Watched(machine.owners))
    del step
    gc.collect()
    assert let_go == []


@pytest.mark.parametrize("order", [1, 2])
def test_what_only_lends_its_shape_keeps_its_memory(order):
    # the derivative of mean reads the shape of an operand whose memory nothing else reads by then
    def run(captured):
        tg.manual_seed(1)
        w = tg.ones(4, 3, requires_grad=True)

        def step(x):
            w.grad = None
            y = (w * x).tanh().mean()
            if order == 2:
                (g,) = tg.autograd.grad(y, w, create_graph=True)
                y = (g * g).mean()
            y.backward()
            with tg.no_grad():
                w.sub_(w.grad)
            return y

        f = tg.compile(step) if captured else step
        return [f(tg.rand(4, 3)).item() for _ in range(6)]

    assert run(True) == run(False)


def test_a_captured_function_may_call_another():
    inner = tg.compile(lambda x: x * 2)
    outer = tg.compile(lambda x: inner(x) + 1)
    for k in range(5):
        assert outer(tg.tensor([1.0 * k])).item() == 2 * k + 1


def test_methods_can_be_captured():
    class Model:
        def __init__(self):
            self.w = tg.tensor([3.0])

        @tg.compile
        def scale(self, x):
            return self.w * x

    model = Model()
    for k in range(5):
        assert model.scale(tg.tensor([1.0 * k])).item() == 3 * k
    model.w = tg.tensor([4.0])
    assert model.scale(tg.tensor([1.0])).item() == 4


# ---- epochs ----


def training(captured, *, dropout=False, schedule=False):
    tg.manual_seed(1)
    net = network(*([nn.Dropout(0.2)] if dropout else []))
    opt = optim.Adam(net.parameters(), lr=1e-2)
    scheduler = optim.lr_scheduler.StepLR(opt, 3, 0.5) if schedule else None

    def step(x, y):
        opt.zero_grad()
        loss = F.cross_entropy(net(x), y)
        loss.backward()
        opt.step()
        if schedule:
            scheduler.step()
        return loss

    return net, tg.compile(step) if captured else step


def data(rows):
    rng = np.random.default_rng(0)
    return rng.normal(size=(rows, 5)).astype(np.float32), rng.integers(0, 3, rows)


@pytest.mark.parametrize("options", [{}, {"dropout": True}, {"schedule": True}], ids=str)
@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("rows", [128, 131])
def test_an_epoch_is_the_same_as_a_loop(rows, shuffle, options):
    features, labels = data(rows)
    net, step = training(False, **options)
    x, y = tg.from_numpy(features), tg.from_numpy(labels)
    expected = []
    tg.manual_seed(7)
    for _ in range(3):
        order = tg.randperm(rows) if shuffle else tg.arange(rows)
        expected.append([step(x[order[k : k + 8]], y[order[k : k + 8]]).item() for k in range(0, rows, 8)])
    other, captured = training(True, **options)
    tg.manual_seed(7)
    found = [captured.epoch(features, labels, batch_size=8, shuffle=shuffle).tolist() for _ in range(3)]
    assert found == expected
    for a, b in zip(net.parameters(), other.parameters(), strict=True):
        assert (a == b).all()


def test_a_callback_sees_every_so_many_steps_and_an_exception_in_it_leaves_all_well():
    features, labels = data(200)
    _, captured = training(True)
    seen = []
    captured.epoch(features, labels, batch_size=4, callback=lambda n, r: seen.append((n, len(r))), every=20)
    assert seen == [(20, 20), (40, 40)]

    def stop(steps, results):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        captured.epoch(features, labels, batch_size=4, callback=stop, every=5)
    assert len(captured.epoch(features, labels, batch_size=4)) == 50


def test_the_last_batch_may_be_left_out():
    total = tg.compile(lambda x: (x.sum(), {"most": x.amax(0)}))
    x = tg.arange(22.0).reshape(11, 2)
    sums, rest = total.epoch(x, batch_size=2, drop_last=True)
    assert sums.tolist() == [6, 22, 38, 54, 70]
    assert rest["most"].tolist() == [[2, 3], [6, 7], [10, 11], [14, 15], [18, 19]]
    assert total.epoch(x, batch_size=2)[0].tolist() == [6, 22, 38, 54, 70, 41]


@pytest.mark.parametrize(
    ("arrays", "options"),
    [
        ((), {"batch_size": 2}),
        ((tg.ones(3), tg.ones(4)), {"batch_size": 2}),
        ((tg.ones(3),), {"batch_size": 0}),
    ],
)
def test_an_epoch_of_nonsense_is_refused(arrays, options):
    with pytest.raises(ValueError, match="epoch"):
        tg.compile(lambda *x: x[0].sum()).epoch(*arrays, **options)


def test_results_of_other_shapes_are_refused():
    with pytest.raises(RuntimeError, match="drop_last"):
        tg.compile(lambda x: x * 2).epoch(tg.ones(5), batch_size=2)


def test_an_optimizer_made_in_the_call_is_refused():
    w = tg.ones(2, requires_grad=True)

    @tg.compile
    def step(x):
        optimizer = optim.Adam([w])
        optimizer.zero_grad()
        (w * x).sum().backward()
        optimizer.step()

    with pytest.raises(CaptureError, match="made of Python's data"):
        calls_into([], lambda x: (step(x), tg.ones(1))[1])


def test_a_setting_in_a_module_of_the_program_is_guarded(monkeypatch):
    settings = types.ModuleType("settings")
    settings.FACTOR = 2.0
    monkeypatch.setitem(globals(), "settings", settings)
    run = tg.compile(_scaled_by_a_setting)
    for factor in (2.0, 3.0, 2.0):
        settings.FACTOR = factor
        for _ in range(3):
            assert run(tg.ones(1)).item() == factor


def _scaled_by_a_setting(x):
    return x * settings.FACTOR  # noqa: F821


def test_a_learning_rate_is_read_anew_wherever_the_optimizer_hides():
    w = tg.zeros(1, requires_grad=True)
    hidden = iter([optim.SGD([w], lr=1.0)])
    holder = collections.deque(hidden, 1)

    @tg.compile
    def step():
        w.grad = None
        w.sum().backward()
        holder[0].step()

    expected = 0.0
    for rate in (1.0, 1.0, 1.0, 0.5, 0.25):
        holder[0].param_groups[0]["lr"] = rate
        step()
        expected -= rate
        assert w.item() == expected


def test_the_library_itself_is_not_guarded():
    net, loss_of = nn.Linear(2, 2), F.mse_loss
    run = tg.compile(lambda x: loss_of(net(x), x) + math.pi + tg.pi)
    for _ in range(3):
        run(tg.ones(1, 2))
    assert len(run.variants[0].guards) < 20


@pytest.mark.parametrize("view", [lambda y: y.t(), lambda y: y.sum().expand(3000), lambda y: y[:, ::2]])
def test_an_epoch_collects_results_that_are_views_of_any_strides(view):
    x = tg.arange(120.0).reshape(40, 3)
    found = tg.compile(lambda rows: view(rows * 2)).epoch(x, batch_size=2)
    for k, result in enumerate(found):
        np.testing.assert_array_equal(result.numpy(), view(x[2 * k : 2 * k + 2] * 2).numpy())


def test_an_epoch_leaves_its_arrays_alone():
    x = tg.zeros(40)

    def step(rows):
        rows += 1
        return rows.sum()

    assert tg.compile(step).epoch(x, batch_size=2).tolist() == [2] * 20
    assert x.tolist() == [0] * 40


def test_an_argument_that_the_function_also_finds_elsewhere():
    w = tg.tensor([1.0, 2.0])
    scale = tg.compile(lambda x: x * w)
    for _ in range(4):
        assert scale(w).tolist() == [1, 4]
    for _ in range(4):
        assert scale(tg.tensor([10.0, 10.0])).tolist() == [10, 20]
        assert scale(w).tolist() == [1, 4]
    assert sum(v.program is not None for v in scale.variants) == 2
    old, w.data = w.detach(), tg.tensor([3.0, 3.0])
    assert scale(old).tolist() == [3, 6]


def test_a_written_argument_that_the_function_also_finds_elsewhere():
    w = tg.zeros(20_000)

    def step(x):
        x += 1
        return x * 2 + w[3:4]

    captured = tg.compile(step)
    for _ in range(4):
        captured(tg.zeros(20_000))
    for k in range(4):
        assert captured(w).tolist() == [3 * (k + 1)] * 20_000


def test_memory_beside_an_argument_is_refused():
    captured = tg.compile(lambda x: x.as_strided((4,), (1,), 0) * 1)
    base = tg.arange(8.0)
    with pytest.raises(CaptureError, match="beside an argument"):
        captured(base[4:])
    for _ in range(4):
        assert captured(tg.arange(4.0)).tolist() == [0, 1, 2, 3]


def gradient_of(w):
    def backward(x):
        w.grad = None
        (w * x).sum().backward()

    captured = tg.compile(backward)
    for _ in range(3):
        captured(tg.tensor([3.0, 3.0]))
    return captured


def test_a_graph_that_has_saved_a_gradient_sees_that_a_replay_writes_it():
    w, q = tg.ones(2, requires_grad=True), tg.ones(2, requires_grad=True)
    captured = gradient_of(w)
    loss = (w.grad * q).sum()
    captured(tg.tensor([7.0, 7.0]))
    with pytest.raises(RuntimeError, match="modified"):
        loss.backward()


def test_a_gradient_as_an_argument_of_what_makes_it():
    w = tg.ones(2, requires_grad=True)
    captured = gradient_of(w)
    for _ in range(3):
        captured(w.grad)
        assert w.grad.tolist() == [3, 3]


def test_an_arguments_own_gradient_is_refused():
    x = tg.ones(2, requires_grad=True)
    x.grad = tg.ones(2)
    captured = tg.compile(lambda x: x.grad * 2)
    captured(x)
    with pytest.raises(CaptureError, match="of an argument"):
        captured(x)


def test_threads_that_call_one_captured_function_get_their_own_results():
    captured = tg.compile(lambda x: (x @ x) * 1)
    for _ in range(3):
        captured(tg.ones(60, 60))
    wrong = []

    def work(k):
        x = tg.full((60, 60), float(k))
        for _ in range(100):
            found = captured(x)
            if not (found == 60.0 * k * k).all() or found.requires_grad:
                wrong.append(k)

    threads = [threading.Thread(target=work, args=(k,)) for k in (1, 2, 3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not wrong
