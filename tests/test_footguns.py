"""What goes wrong with captured functions elsewhere: here each either works or raises, and no number is silently wrong.

Each case makes a function of the call's number that uses a captured function; it is run uncaptured and captured, and
the results must be the same up to where the captured one raises what the case expects.
"""

import collections
import dataclasses
import enum
import functools
import itertools
import random
import sys
import threading
import types

import numpy as np
import pytest

import tapegrad as tg
from tapegrad import nn, optim

F = nn.functional
CASES = {}
WORKS = None


def footgun(message):
    """Enter a case; ``message`` is what the error must say, WORKS where there must be none."""

    def enter(make):
        CASES[make.__name__] = (make, message)
        return make

    return enter


def outcome(make, wrap, calls=20):
    tg.manual_seed(0)
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002
    found, error = [], None
    call = make(wrap)
    try:
        for k in range(calls):
            found.append(call(k))
    except Exception as raised:
        error = raised
    return found, error


@pytest.mark.parametrize("name", NAMES := [])
def test_footgun(name):
    make, message = CASES[name]
    eager, no_error = outcome(make, lambda f: f)
    assert no_error is None
    captured, error = outcome(make, tg.compile)
    assert captured == eager[: len(captured)], "a silently wrong number"
    if message is WORKS:
        if error is not None:
            raise error
    else:
        with pytest.raises(RuntimeError, match=message):
            raise error or AssertionError("it did not raise")
    assert tg.compile(lambda x: x + 1)(tg.ones(1)).item() == 2  # the library goes on


def one(value=1.0):
    return tg.tensor([float(value)])


# ---- Python state that changes: counters, lists, attributes ----


@footgun("'n' was")
def a_counter_in_a_dict(wrap):
    state = {"n": 0}

    def step(x):
        state["n"] += 1
        return x * state["n"]

    step = wrap(step)
    return lambda k: step(one()).item()


@footgun("was")
def a_counter_in_a_cell(wrap):
    n = 0

    def step(x):
        nonlocal n
        n += 1
        return x * n

    step = wrap(step)
    return lambda k: step(one()).item()


counter = 0


@footgun("'counter' was")
def a_global_counter(wrap):
    global counter
    counter = 0

    def step(x):
        global counter
        counter += 1
        return x * counter

    step = wrap(step)
    return lambda k: step(one()).item()


@footgun("was|has changed")
def a_counter_in_a_class(wrap):
    class Model:
        calls = 0

        def step(self, x):
            Model.calls += 1
            return x * (Model.calls // 3)

    step = wrap(Model().step)
    return lambda k: step(one()).item()


@footgun("was|has changed")
def a_counter_in_slots(wrap):
    class Model:
        __slots__ = ("calls",)

        def __init__(self):
            self.calls = 0

        def step(self, x):
            self.calls += 1
            return x * (self.calls // 3)

    step = wrap(Model().step)
    return lambda k: step(one()).item()


@footgun("length|was")
def a_mutable_default_argument(wrap):
    def step(x, seen=[]):  # noqa: B006
        seen.append(1)
        return x * (len(seen) // 3)

    step = wrap(step)
    return lambda k: step(one()).item()


@footgun("length|was")
def a_mutable_keyword_default(wrap):
    def step(x, *, seen={"n": 0}):  # noqa: B006
        seen["n"] += 1
        return x * (seen["n"] // 3)

    step = wrap(step)
    return lambda k: step(one()).item()


@footgun("length")
def a_list_that_grows(wrap):
    history = []

    def step(x):
        history.append(1)
        return x * (len(history) // 3)

    step = wrap(step)
    return lambda k: step(one()).item()


@footgun("length|has")
def a_deque_and_a_set_that_grow(wrap):
    seen, last = set(), collections.deque(maxlen=3)

    def step(x):
        seen.add(len(seen))
        last.append(1)
        return x * (len(seen) // 3)

    step = wrap(step)
    return lambda k: step(one()).item()


@footgun("'state' was a Tensor")
def an_attribute_swapped_for_a_new_tensor(wrap):
    class Cell:
        def __init__(self):
            self.state = one()

        def step(self, x):
            self.state = self.state * 0.5 + x
            return self.state * 1

    step = wrap(Cell().step)
    return lambda k: step(one()).item()


@footgun("was a Tensor|changed")
def a_tensor_in_a_dict_swapped(wrap):
    state = {"h": one()}

    def step(x):
        state["h"] = state["h"] * 0.5 + x
        return state["h"] * 1

    step = wrap(step)
    return lambda k: step(one()).item()


@footgun(WORKS)
def state_written_in_place(wrap):
    state = one()

    def step(x):
        state.mul_(0.5).add_(x)
        return state * 1

    step = wrap(step)
    return lambda k: step(one()).item()


# ---- values that change between calls ----


@footgun(WORKS)
def an_attribute_changed_between_calls(wrap):
    config = types.SimpleNamespace(scale=1.0)
    step = wrap(lambda x: x * config.scale)

    def call(k):
        config.scale = 1.0 + k // 4
        return step(one()).item()

    return call


@footgun(WORKS)
def a_class_attribute_changed_between_calls(wrap):
    class Model:
        scale = 1.0

        def step(self, x):
            return x * self.scale

    step = wrap(Model().step)

    def call(k):
        Model.scale = 1.0 + k // 4
        return step(one()).item()

    return call


factor = 1.0


class ReadsAGlobal(nn.Module):
    def forward(self, x):
        return x * factor


@footgun(WORKS)
def a_global_that_a_method_reads(wrap):
    net = ReadsAGlobal()
    step = wrap(lambda x: net(x))

    def call(k):
        global factor
        factor = 1.0 + k // 4
        return step(one()).item()

    return call


@footgun(WORKS)
def a_method_replaced_between_calls(wrap):
    class Model:
        def scale(self, x):
            return x * 2

        def step(self, x):
            return self.scale(x)

    step = wrap(Model().step)

    def call(k):
        if k == 5:
            Model.scale = lambda self, x: x * 3
        return step(one()).item()

    return call


settings = types.ModuleType("settings")
sys.modules.setdefault("settings_of_a_footgun", settings)


@footgun(WORKS)
def a_setting_in_a_module(wrap):
    settings.scale = 1.0
    step = wrap(lambda x: x * settings.scale)

    def call(k):
        settings.scale = 1.0 + k // 4
        return step(one()).item()

    return call


@footgun(WORKS)
def an_attribute_in_slots_changed_between_calls(wrap):
    @dataclasses.dataclass(slots=True)
    class Config:
        scale: float = 1.0

    config = Config()
    step = wrap(lambda x: x * config.scale)

    def call(k):
        config.scale = 1.0 + k // 4
        return step(one()).item()

    return call


@footgun(WORKS)
def a_partial_function(wrap):
    table = {"scale": 1.0}

    def scaled(table, x):
        return x * table["scale"]

    inner = functools.partial(scaled, table)
    step = wrap(lambda x: inner(x))

    def call(k):
        table["scale"] = 1.0 + k // 4
        return step(one()).item()

    return call


@footgun(WORKS)
def a_decorated_function(wrap):
    table = {"scale": 1.0}

    def decorate(function):
        @functools.wraps(function)
        def decorated(x):
            return function(x) * table["scale"]

        return decorated

    @decorate
    def add(x):
        return x + 1

    step = wrap(add)

    def call(k):
        table["scale"] = 1.0 + k // 4
        return step(one()).item()

    return call


@footgun(WORKS)
def an_array_of_numpy_that_changes(wrap):
    scales = np.ones(1, np.float32)
    step = wrap(lambda x: x * tg.tensor(scales))

    def call(k):
        scales[0] = 1.0 + k // 4
        return step(one()).item()

    return call


@footgun(WORKS)
def an_element_of_a_numpy_array(wrap):
    scales = np.ones(3)
    step = wrap(lambda x: x * float(scales[1]))

    def call(k):
        scales[1] = 1.0 + k // 4
        return step(one()).item()

    return call


@footgun(WORKS)
def memory_shared_with_numpy(wrap):
    scales = np.ones(1, np.float32)
    step = wrap(lambda x: x * tg.from_numpy(scales))

    def call(k):
        scales[0] = 1.0 + k // 4
        return step(one()).item()

    return call


@footgun(WORKS)
def a_set_that_changes(wrap):
    wanted = {"double"}
    step = wrap(lambda x: x * 2 if "double" in wanted else x)

    def call(k):
        (wanted.add if k % 4 < 2 else wanted.discard)("double")
        return step(one()).item()

    return call


@footgun(WORKS)
def zero_and_minus_zero(wrap):
    step = wrap(lambda x, y: 1 / (x * y))
    return lambda k: step(one(), 0.0 if k % 2 else -0.0).item()


@footgun(WORKS)
def plain_arguments_of_equal_value_and_other_type(wrap):
    step = wrap(lambda x, y: x + y)
    return lambda k: str(step(tg.tensor([1]), (1, 1.0, True)[k % 3]).dtype)


class Kind(enum.Enum):
    DOUBLE = 2
    TRIPLE = 3


@footgun(WORKS)
def an_enum_argument(wrap):
    step = wrap(lambda x, kind: x * kind.value)
    return lambda k: step(one(), (Kind.DOUBLE, Kind.TRIPLE)[k % 2]).item()


@footgun(WORKS)
def a_user_object_as_argument(wrap):
    class Config:
        scale = 1.0

    config = Config()
    step = wrap(lambda x, config: x * config.scale)

    def call(k):
        config.scale = 1.0 + k // 4
        return step(one(), config).item()

    return call


@footgun(WORKS)
def an_array_as_argument(wrap):
    step = wrap(lambda x, y: x * float(y.sum()))
    return lambda k: step(one(), np.full(2, 1.0 + k // 3)).item()


# ---- random numbers, clocks, iterators ----


@footgun("random numbers from NumPy")
def numbers_from_numpy(wrap):
    step = wrap(lambda x: x * np.random.randint(3))  # noqa: NPY002
    return lambda k: step(one()).item()


@footgun("random numbers from NumPy or Python")
def numbers_from_pythons_random(wrap):
    step = wrap(lambda x: x * random.choice([1, 2]))
    return lambda k: step(one()).item()


@footgun("random numbers from NumPy or Python")
def numbers_from_a_random_object(wrap):
    source = random.Random(0)
    step = wrap(lambda x: x * source.choice([1, 2]))
    return lambda k: step(one()).item()


@footgun("random numbers from NumPy or Python")
def numbers_from_a_random_state(wrap):
    source = np.random.RandomState(0)
    step = wrap(lambda x: x * int(source.randint(2)))
    return lambda k: step(one()).item()


@footgun("random numbers from NumPy or Python")
def numbers_from_a_generator_of_numpy(wrap):
    source = np.random.default_rng(0)
    step = wrap(lambda x: x * int(source.integers(2)))
    return lambda k: step(one()).item()


@footgun("iterator|generator")
def an_iterator(wrap):
    numbers = iter([1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 4, *range(9)])
    step = wrap(lambda x: x * next(numbers))
    return lambda k: step(one()).item()


@footgun("iterator|generator")
def a_generator(wrap):
    numbers = (k // 3 for k in range(70))
    step = wrap(lambda x: x * next(numbers))
    return lambda k: step(one()).item()


@footgun("has changed")
def an_endless_counter(wrap):
    numbers = itertools.count()
    step = wrap(lambda x: x * next(numbers))
    return lambda k: step(one()).item()


@footgun(WORKS)
def random_numbers_of_the_library(wrap):
    step = wrap(lambda x: x + tg.rand(2))
    return lambda k: step(tg.ones(2)).tolist()


@footgun("seed")
def seeding_inside(wrap):
    def step(x):
        tg.manual_seed(7)
        return x + tg.rand(2)

    step = wrap(step)
    return lambda k: step(tg.ones(2)).tolist()


@footgun("seed|state")
def going_back_in_a_stream_inside(wrap):
    source = tg.Generator().manual_seed(3)

    def step(x):
        before = source.get_state()
        a = tg.rand(1, generator=source)
        source.set_state(before)
        return x + a + tg.rand(1, generator=source)

    step = wrap(step)
    return lambda k: step(one()).tolist()


@footgun(WORKS)
def seeding_between_calls(wrap):
    step = wrap(lambda x: x + tg.rand(2))

    def call(k):
        if k % 3 == 0:
            tg.manual_seed(k)
        return step(tg.ones(2)).tolist()

    return call


@footgun(WORKS)
def another_generator_object(wrap):
    step = wrap(lambda x, source: x + tg.rand(2, generator=source))
    sources = [tg.Generator().manual_seed(k) for k in range(3)]
    return lambda k: step(tg.ones(2), sources[k % 3]).tolist()


# ---- control flow ----


@footgun(WORKS)
def a_branch_on_a_shape(wrap):
    step = wrap(lambda x: x.sum() if x.shape[0] > 2 else x.prod())
    return lambda k: step(tg.full((1 + k % 4,), 2.0)).item()


@footgun("cannot read values")
def a_branch_on_a_value(wrap):
    step = wrap(lambda x: x * 2 if x > 0.5 else x)
    return lambda k: step(one(k % 2)).item()


@footgun(WORKS)
def a_branch_on_a_value_by_where(wrap):
    step = wrap(lambda x: tg.where(x > 0.5, x * 2, x))
    return lambda k: step(one(k % 2)).item()


@footgun("depends on values")
def a_shape_that_depends_on_values(wrap):
    step = wrap(lambda x: x[x > 0.5].sum())
    return lambda k: step(tg.arange(4.0) * (k % 3)).item()


@footgun(WORKS)
def an_exception_in_the_middle(wrap):
    total = one()
    trouble = {"now": False}

    def step(x):
        total.add_(x)
        if trouble["now"]:
            raise KeyError("trouble")
        return total * 2

    step = wrap(step)

    def call(k):
        trouble["now"] = k in (1, 7)
        try:
            return step(one()).item()
        except KeyError:
            return total.item()

    return call


@footgun(WORKS)
def an_error_in_a_kernel_in_the_middle(wrap):
    table, total = tg.arange(5.0), one()

    def step(index):
        total.add_(1)
        return tg.index_select(table, 0, index) + total

    step = wrap(step)

    def call(k):
        try:
            return step(tg.tensor([9 if k == 6 else k % 5])).item()
        except IndexError:
            return "IndexError"

    return call


# ---- inputs and results ----


@footgun(WORKS)
def an_in_place_write_to_an_input(wrap):
    def step(x):
        x += 1
        return x * 2

    step = wrap(step)
    kept = one()
    return lambda k: (step(kept).item(), kept.item())


@footgun(WORKS)
def a_result_kept_by_the_caller(wrap):
    step = wrap(lambda x: x * 2)
    kept = []

    def call(k):
        kept.append(step(one(k)))
        return [y.item() for y in kept]

    return call


@footgun(WORKS)
def an_argument_twice(wrap):
    step = wrap(lambda x, y: x.mul_(2) + y)
    return lambda k: step(*([one()] * 2)).item() if k == 4 else step(one(), one()).item()


@footgun("share memory|shares memory")
def an_argument_that_is_a_view_of_another(wrap):
    step = wrap(lambda x, y: x.mul_(2) + y)

    def call(k):
        base = tg.ones(3)
        return step(base[:2], base[1:]).tolist() if k == 4 else step(tg.ones(2), tg.ones(2)).tolist()

    return call


@footgun(WORKS)
def an_argument_that_is_also_found(wrap):
    weight = one(2)

    def step(x):
        weight.mul_(1.5)
        return x * weight

    step = wrap(step)
    return lambda k: step(weight if k == 4 else one()).item()


@footgun(WORKS)
def an_argument_that_becomes_found_without_writes(wrap):
    weight = one(2)
    step = wrap(lambda x: x * weight)
    return lambda k: step(one(k)).item()


@footgun(WORKS)
def strides_and_offsets_of_an_input(wrap):
    step = wrap(lambda x: (x * tg.arange(3.0)).sum())
    base = tg.arange(60.0)
    return lambda k: step(base[k : k + 9 : 3] if k % 2 else base[k : k + 3]).item()


@footgun("argument")
def an_input_that_requires_gradients(wrap):
    weight = one(3).requires_grad_()

    def step(x):
        weight.grad = None
        (x * weight).sum().backward()
        return weight.grad * 1

    step = wrap(step)

    def call(k):
        x = one(k).requires_grad_(k % 3 == 0)
        return step(x).item()

    return call


@footgun("argument")
def the_gradient_of_an_argument(wrap):
    def step(x):
        (x * x).sum().backward()

    step = wrap(step)

    def call(k):
        x = one(k).requires_grad_()
        step(x)
        return x.grad.item()

    return call


@footgun("argument")
def backward_into_the_graph_of_an_argument(wrap):
    weight = one(2).requires_grad_()

    def step(x):
        (x * x).sum().backward()

    step = wrap(step)

    def call(k):
        weight.grad = None
        step(weight * k)
        return weight.grad.item()

    return call


@footgun("does not require grad")
def backward_from_a_result(wrap):
    weight = one(2).requires_grad_()
    step = wrap(lambda x: (x * weight).sum())

    def call(k):
        weight.grad = None
        step(one(k)).backward()
        return weight.grad.item()

    return call


@footgun(WORKS)
def a_result_that_is_a_parameter(wrap):
    weight = one(2)

    def step(x):
        weight.add_(x)
        return weight

    step = wrap(step)
    return lambda k: step(one()).item()


# ---- gradients, parameters, optimisers ----


def model(optimizer=lambda p: optim.SGD(p, lr=0.1, momentum=0.9)):
    net = nn.Linear(2, 1)
    return net, optimizer(net.parameters())


def steps(wrap, net, opt, zero=True):
    def step(x):
        if zero:
            opt.zero_grad()
        loss = (net(x) ** 2).sum()
        loss.backward()
        opt.step()
        return loss

    return wrap(step)


def batch(k):
    return tg.tensor([[1.0 + k % 3, -0.5]])


@footgun(WORKS)
def gradients_read_between_steps(wrap):
    net, opt = model()
    step = steps(wrap, net, opt)
    return lambda k: (step(batch(k)).item(), net.weight.grad.tolist())


@footgun(WORKS)
def gradients_kept_between_steps(wrap):
    net, opt = model()
    step = steps(wrap, net, opt)
    kept = []

    def call(k):
        step(batch(k))
        kept.append(net.weight.grad.clone())
        return [g.tolist() for g in kept]

    return call


@footgun(WORKS)
def gradients_changed_between_steps(wrap):
    net, opt = model()
    step = steps(wrap, net, opt, zero=False)

    def call(k):
        if net.weight.grad is not None:
            net.weight.grad.mul_(0.5)
        if k == 6:
            net.weight.grad = tg.ones(1, 2)
        if k == 8:
            net.bias.grad = None
        return step(batch(k)).item()

    return call


@footgun(WORKS)
def a_parameter_replaced(wrap):
    net, _ = model()

    def make(x):
        return net(x)

    step = wrap(make)

    def call(k):
        if k % 4 == 3:
            net.weight = nn.Parameter(tg.full((1, 2), float(k)))
        return step(batch(k)).tolist()

    return call


@footgun(WORKS)
def the_data_of_a_parameter_replaced(wrap):
    net, opt = model()
    step = steps(wrap, net, opt)

    def call(k):
        if k % 5 == 4:
            net.weight.data = tg.full((1, 2), 0.25 * k)
        return step(batch(k)).item(), net.weight.tolist()

    return call


@footgun(WORKS)
def parameters_loaded(wrap):
    net, opt = model()
    step = steps(wrap, net, opt)
    saved = {name: value.clone() for name, value in net.state_dict().items()}

    def call(k):
        if k % 5 == 4:
            net.load_state_dict(saved)
        return step(batch(k)).item()

    return call


@footgun(WORKS)
def an_optimisers_state_loaded(wrap):
    net, opt = model()
    step = steps(wrap, net, opt)
    saved = {}

    def call(k):
        if k == 1:
            saved.update(opt.state_dict())
            saved["state"] = {n: {key: v.clone() for key, v in s.items()} for n, s in saved["state"].items()}
        if k in (6, 9):
            opt.load_state_dict(saved)
        return step(batch(k)).item()

    return call


@footgun(WORKS)
def an_optimisers_state_cleared(wrap):
    net, opt = model()
    step = steps(wrap, net, opt)

    def call(k):
        if k == 6:
            opt.state.clear()
        return step(batch(k)).item()

    return call


@footgun(WORKS)
def an_optimisers_state_tensor_replaced(wrap):
    net, opt = model()
    step = steps(wrap, net, opt)

    def call(k):
        if k == 6:
            opt.state[net.weight]["momentum_buffer"] = tg.ones(1, 2)
        return step(batch(k)).item()

    return call


@footgun(WORKS)
def an_optimisers_numbers_changed(wrap):
    net, opt = model(lambda p: optim.AdamW(p, lr=0.1))
    step = steps(wrap, net, opt)

    def call(k):
        group = opt.param_groups[0]
        group["lr"] = 0.1 / (1 + k)
        if k == 5:
            group["betas"] = (0.5, 0.9)
        if k == 7:
            group["weight_decay"] = 0.3
        if k == 9:
            group["amsgrad"] = False
            group["maximize"] = True
        return step(batch(k)).item()

    return call


@footgun(WORKS)
def weight_decay_switched_on(wrap):
    net, opt = model(lambda p: optim.SGD(p, lr=0.1))
    step = steps(wrap, net, opt)

    def call(k):
        group = opt.param_groups[0]
        if k == 5:
            group["weight_decay"] = 0.3
        if k == 7:
            group["momentum"] = 0.9
        if k == 9:
            group["nesterov"] = True
        return step(batch(k)).item()

    return call


@footgun(WORKS)
def a_group_added(wrap):
    net, opt = model()
    extra = nn.Parameter(one())

    def step(x):
        opt.zero_grad()
        loss = ((net(x) + extra) ** 2).sum()
        loss.backward()
        opt.step()
        return loss

    step = wrap(step)

    def call(k):
        if k == 5:
            opt.add_param_group({"params": [extra], "lr": 0.5})
        return step(batch(k)).item()

    return call


@footgun("cannot read values")
def a_learning_rate_in_a_tensor(wrap):
    rate = tg.tensor(0.1)
    net, opt = model(lambda p: optim.Adam(p, lr=rate))
    step = steps(wrap, net, opt)

    def call(k):
        if k % 4 == 3:
            rate.mul_(0.5)
        return step(batch(k)).item()

    return call


@footgun(WORKS)
def one_tensor_given_twice(wrap):
    step = wrap(lambda x, y: x.add_(1) * y)

    def call(k):
        x = one(k)
        return step(x, x if k % 3 else one(2)).item(), x.item()

    return call


@footgun("tensors 0 and 1 of the call")
def two_views_of_one_tensor(wrap):
    step = wrap(lambda x, y: x * y)
    return lambda k: step(*tg.full((4,), float(k)).chunk(2)).tolist()


@footgun(WORKS)
def two_views_of_one_tensor_after_others(wrap):
    step = wrap(lambda x, y: x * y)

    def call(k):
        x, y = tg.full((2,), float(k)), tg.arange(2.0)
        return step(*(tg.cat([x, y]).chunk(2) if k > 5 else (x, y))).tolist()

    return call


@footgun("tensors 0 and 1 of the call")
def two_views_of_one_tensor_one_of_them_written(wrap):
    step = wrap(lambda x, y: x.add_(1) * y)

    def call(k):
        whole = tg.full((3,), float(k))
        x, y = (whole[:2], whole[1:]) if k > 5 else (whole[:2], whole[1:] * 1)
        return step(x, y).tolist()

    return call


@footgun(WORKS)
def a_view_of_an_argument_returned(wrap):
    step = wrap(lambda x: (x[0], x.sum(), x.T, x.detach()))
    return lambda k: [t.tolist() for t in step(tg.full((2, 2), float(k)))]


@footgun("another tensor, made of the same NumPy array")
def tensors_over_one_numpy_array(wrap):
    numbers = np.zeros(8, np.float32)
    a, b = tg.from_numpy(numbers[:6]), tg.from_numpy(numbers[2:])

    def step(x):
        before = b * 2
        a.add_(x)
        return (before + b * 2).sum()

    step = wrap(step)
    return lambda k: step(tg.ones(6)).item()


@footgun("another tensor, made of the same NumPy array")
def arguments_over_one_numpy_array(wrap):
    numbers = np.zeros(8, np.float32)
    step = wrap(lambda x, y: x.add_(1) * y)

    def call(k):
        apart = tg.from_numpy(numbers[2:]) if k > 5 else tg.from_numpy(numbers[2:].copy())
        return step(tg.from_numpy(numbers[:6]), apart).tolist()

    return call


@footgun("LBFGS.step.* at .*the closure, once")
def lbfgs_inside(wrap):
    weight = tg.ones(3, requires_grad=True)
    opt = optim.LBFGS([weight], max_iter=3)

    def step(x):
        def closure():
            opt.zero_grad()
            loss = ((weight - x) ** 2).sum()
            loss.backward()
            return loss

        return opt.step(closure)

    step = wrap(step)
    return lambda k: step(tg.zeros(3)).item()


@footgun(WORKS)
def the_closure_of_lbfgs(wrap):
    weight = tg.ones(3, requires_grad=True)
    opt = optim.LBFGS([weight], max_iter=3, lr=0.1)

    def closure():
        opt.zero_grad()
        loss = ((weight - 2) ** 4).sum()
        loss.backward()
        return loss

    closure = wrap(closure)
    return lambda k: opt.step(closure).item()


def scheduled(wrap, schedule, use):
    """Return a call of a step that uses its optimiser's and its schedule's state, with the schedule outside of it."""
    weight = tg.ones(3, requires_grad=True)
    opt = optim.SGD([weight], lr=0.5)
    scheduler = schedule(opt)

    def step(x):
        opt.zero_grad()
        loss = (weight * x).sum()
        loss.backward()
        opt.step()
        return loss + use(opt, scheduler)

    step = wrap(step)

    def call(k):
        found = step(tg.ones(3)).item()
        scheduler.step()
        return found

    return call


@footgun(WORKS)
def a_learning_rate_read_in_the_function(wrap):
    return scheduled(wrap, lambda o: optim.lr_scheduler.StepLR(o, 5), lambda o, s: o.param_groups[0]["lr"])


@footgun(WORKS)
def the_last_learning_rate_of_a_schedule_read_in_the_function(wrap):
    return scheduled(wrap, lambda o: optim.lr_scheduler.StepLR(o, 5), lambda o, s: s.get_last_lr()[0])


@footgun("'last_epoch' was")
def the_count_of_a_schedule_read_in_the_function(wrap):
    return scheduled(wrap, lambda o: optim.lr_scheduler.StepLR(o, 5), lambda o, s: s.last_epoch // 3)


@footgun("'lr' was")
def a_learning_rate_changed_by_hand_in_the_function(wrap):
    def use(opt, scheduler):
        for group in opt.param_groups:
            group["lr"] *= 0.75
        return 0

    return scheduled(wrap, lambda o: optim.lr_scheduler.StepLR(o, 100), use)


@footgun(WORKS)
def a_schedule_of_ones_own_inside(wrap):
    class Mine(optim.lr_scheduler.LRScheduler):
        def get_lr(self):
            return [base / (1 + self.last_epoch) for base in self.base_lrs]

        def step(self, epoch=None):
            super().step(epoch)
            self.extra = self.last_epoch

    return scheduled(wrap, Mine, lambda o, s: s.step() or 0)


@footgun("before its optimiser")
def a_schedule_that_steps_before_its_optimiser(wrap):
    weight = tg.ones(3, requires_grad=True)
    opt = optim.SGD([weight], lr=0.5)
    scheduler = optim.lr_scheduler.ExponentialLR(opt, 0.9)
    opt.step()

    def step(x):
        opt.zero_grad()
        (weight * x).sum().backward()
        scheduler.step()
        opt.step()
        return weight.sum()

    step = wrap(step)
    return lambda k: step(tg.ones(3)).item()


@footgun(WORKS)
def two_optimisers_with_schedules_of_their_own(wrap):
    weights = [tg.ones(3, requires_grad=True) for _ in range(2)]
    opts = [optim.SGD([weight], lr=0.5) for weight in weights]
    schedulers = [optim.lr_scheduler.ExponentialLR(opt, 0.9) for opt in opts]

    def step(x):
        for weight, opt, scheduler in zip(weights, opts, schedulers, strict=True):
            opt.zero_grad()
            (weight * x).sum().backward()
            opt.step()
            scheduler.step()
        return weights[0].sum() + weights[1].prod()

    step = wrap(step)
    return lambda k: step(tg.ones(3)).item()


@footgun(WORKS)
def a_schedule_of_warm_restarts_inside(wrap):
    restarts = lambda o: optim.lr_scheduler.CosineAnnealingWarmRestarts(o, 3)  # noqa: E731
    return scheduled(wrap, restarts, lambda o, s: s.step() or 0)


@footgun(WORKS)
def parameters_of_groups_clipped_in_the_function(wrap):
    def use(opt, scheduler):
        for group in opt.param_groups:
            nn.utils.clip_grad_norm_(group["params"], 1.0)
        return 0

    return scheduled(wrap, lambda o: optim.lr_scheduler.ExponentialLR(o, 0.9), use)


@footgun(WORKS)
def requires_grad_toggled(wrap):
    net, opt = model()
    step = steps(wrap, net, opt)

    def call(k):
        net.bias.requires_grad_(k % 5 < 3)
        return step(batch(k)).item(), net.bias.tolist()

    return call


@footgun(WORKS)
def training_and_evaluation(wrap):
    net = nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.Dropout(0.5))
    step = wrap(lambda x: net(x))

    def call(k):
        net.train(k % 6 < 3)
        if k == 9:
            net[2].p = 0.9
        return step(tg.arange(8.0).reshape(4, 2) * (1 + k)).tolist(), net[1].running_mean.tolist()

    return call


@footgun(WORKS)
def steps_outside_between_steps_inside(wrap):
    net, opt = model(lambda p: optim.Adam(p, lr=0.1))
    inside, outside = steps(wrap, net, opt), steps(lambda f: f, net, opt)
    return lambda k: (outside if k % 4 == 3 else inside)(batch(k)).item()


@footgun(WORKS)
def two_captured_functions_of_one_model(wrap):
    net, opt = model(lambda p: optim.Adam(p, lr=0.1))
    first, second = steps(wrap, net, opt), steps(wrap, net, opt)
    return lambda k: (first if k % 2 else second)(batch(k)).item()


@footgun(WORKS)
def other_batch_sizes_between(wrap):
    net, opt = model(lambda p: optim.Adam(p, lr=0.1))
    step = steps(wrap, net, opt)
    return lambda k: step(tg.full((1 + k % 3, 2), 0.1 * k)).item()


@footgun(WORKS)
def an_average_of_parameters_in_place(wrap):
    net, opt = model()
    mean = [p.detach().clone() for p in net.parameters()]

    def step(x):
        opt.zero_grad()
        loss = (net(x) ** 2).sum()
        loss.backward()
        opt.step()
        with tg.no_grad():
            for a, p in zip(mean, net.parameters(), strict=True):
                a.mul_(0.9).add_(p, alpha=0.1)
        return loss

    step = wrap(step)
    return lambda k: (step(batch(k)).item(), mean[0].tolist())


@footgun("assigning .data")
def data_swapped_inside(wrap):
    weight = one(2)

    def step(x):
        weight.data = weight.data * 0.5 + x
        return weight * 1

    step = wrap(step)
    return lambda k: step(one()).item()


# ---- hooks and custom functions ----


@footgun(WORKS)
def a_module_hook_added_later(wrap):
    net = nn.Linear(2, 1)
    step = wrap(lambda x: net(x))

    def call(k):
        if k == 5:
            net.register_forward_hook(lambda module, args, output: output * 2)
        return step(batch(k)).item()

    return call


@footgun(WORKS)
def a_tensor_hook_added_later(wrap):
    net, opt = model()
    step = steps(wrap, net, opt)

    def call(k):
        if k == 5:
            net.weight.register_hook(lambda g: g * 0.5)
        if k == 8:
            net.weight.register_hook(lambda g: g * 0.5)
        return step(batch(k)).item()

    return call


@footgun(WORKS)
def an_optimiser_hook_added_later(wrap):
    net, opt = model()
    step = steps(wrap, net, opt)

    def halve(optimizer, args, kwargs):
        for p in net.parameters():
            p.grad.mul_(0.5)

    def call(k):
        if k == 5:
            opt.register_step_pre_hook(halve)
        return step(batch(k)).item()

    return call


@footgun("length|has")
def a_hook_with_side_effects(wrap):
    net, seen = nn.Linear(2, 1), []
    net.register_forward_hook(lambda module, args, output: seen.append(1))
    step = wrap(lambda x: net(x) * (len(seen) // 3))
    return lambda k: step(batch(k)).item()


class Doubled(tg.autograd.Function):
    scale = 2.0

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * Doubled.scale

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return g * Doubled.scale + 0 * x


@footgun(WORKS)
def a_custom_function(wrap):
    weight = one(3).requires_grad_()

    def step(x):
        weight.grad = None
        Doubled.apply(weight * x).sum().backward()
        return weight.grad * 1

    step = wrap(step)
    return lambda k: step(one(k)).item()


@footgun(WORKS)
def a_custom_function_that_changes(wrap):
    step = wrap(lambda x: Doubled.apply(x))

    def call(k):
        Doubled.scale = 2.0 + (k // 4) * (k < 19)
        result = step(one(k)).item()
        Doubled.scale = 2.0
        return result

    return call


@footgun("cannot read values")
def a_custom_function_in_numpy(wrap):
    class Sine(tg.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return tg.from_numpy(np.sin(x.numpy()))

        @staticmethod
        def backward(ctx, g):
            return g

    step = wrap(lambda x: Sine.apply(x))
    return lambda k: step(one(k)).item()


# ---- the library's modes ----


@footgun(WORKS)
def no_grad_toggled(wrap):
    net, _ = model()

    def step(x):
        return tg.is_grad_enabled() * one() + net(x).detach()[0]

    step = wrap(step)

    def call(k):
        with tg.set_grad_enabled(k % 4 < 2):
            return step(batch(k)).item()

    return call


@footgun(WORKS)
def the_default_dtype_changed(wrap):
    step = wrap(lambda x: x + tg.zeros(1))

    def call(k):
        tg.set_default_dtype(tg.float64 if k % 6 >= 3 else tg.float32)
        try:
            return str(step(tg.tensor([1])).dtype)
        finally:
            tg.set_default_dtype(tg.float32)

    return call


@footgun(WORKS)
def another_thread(wrap):
    total = one()

    def step(x):
        total.add_(x)
        return total * 2

    step = wrap(step)

    def call(k):
        found = []
        thread = threading.Thread(target=lambda: found.append(step(one(k)).item()))
        thread.start()
        thread.join()
        return found

    return call


@footgun("cannot read values")
def printing_a_tensor(wrap):
    def step(x):
        str(x)
        return x * 2

    step = wrap(step)
    return lambda k: step(one(k)).item()


@footgun(WORKS)
def a_captured_function_inside(wrap):
    scale = {"by": 2.0}
    inner = wrap(lambda x: x * scale["by"])
    outer = wrap(lambda x: inner(x) + 1)

    def call(k):
        scale["by"] = 2.0 + k // 4
        return outer(one(k)).item()

    return call


@footgun(WORKS)
def tensors_deleted(wrap):
    table = {"w": one(2)}
    step = wrap(lambda x: x * table["w"])

    def call(k):
        if k % 4 == 3:
            del table["w"]
            table["w"] = one(k)
        return step(one()).item()

    return call


NAMES += CASES
