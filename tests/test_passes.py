"""Passes over captured programs: the same bits as uncaptured, with each pass and without; loops that are generated."""

import dataclasses
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tapegrad as tg
from tapegrad.capture import PASSES
from tapegrad.capture.common import without_repetition
from tapegrad.capture.folding import without_constants
from tapegrad.capture.gather import gathered
from tapegrad.capture.generated import Generated, Loops
from tapegrad.capture.legal import check_pass

F = tg.nn.functional
SIZE = 20_011  # neither a multiple of a strip nor of a task


def chain_and_gradient(x):
    x = x.detach().requires_grad_()
    y = (x * 1.1 + 0.3).tanh() * x
    y = ((y - 0.1).sigmoid() * y + x).relu() * 0.5
    loss = (y + 1.0).sum()
    return loss, tg.autograd.grad(loss, x)[0]


def products_and_sums(x):
    """What LLVM would join to fused multiply-adds, and differences whose sign it would turn."""
    a, b = x * 3.0, x * x
    c = a + b - x * 0.7
    return c, -(x - b) + 1.0 / (x - x), F.silu(x) + F.gelu(x) * x, F.gelu(c * a + b)


def in_place(x):
    y = x * 2
    y += x
    z = y + 1
    y.mul_(0.5).exp_()
    return y - 1, z


def mixed_dtypes(x):
    positive = x > 0.3
    wide = x.double() * 2
    return tg.where(positive, wide, x.double()), positive & (x < 1), wide.float() - x, (x * 3).int() + 1


def several_sums(x):
    d = x - 0.5
    return (d * d).mean(), d.sum(), (d.abs() + x).sum(), d.exp()


def rows(x):
    y = x[:20_000].reshape(100, 200)
    z = (y * y.mean() + y[:, :1]).tanh() * 2
    return z, z.sum(0), z.sum()


def numbers_get_gradients(x):
    a = tg.tensor(0.3).requires_grad_()
    y = ((x * a).tanh() + a).sum()
    return tg.autograd.grad(y, a)[0]


def repeats_itself(x):
    y = x.exp() + x.exp().sin()
    z = x.exp()
    z += 1
    return y, z, x.reshape(-1, 1).exp(), (x.exp() * x)[5:] + x[5:].exp()


def with_constants(x):
    places = tg.arange(x.numel()) % 7
    mask = tg.ones(8, 8).triu(1).sum() + tg.zeros(3).sum()
    counter = tg.zeros(5)
    counter += 1
    return x * places + mask, tg.full_like(x, 2.0), counter * 2, places * 2


PROGRAMS = [
    chain_and_gradient,
    products_and_sums,
    in_place,
    mixed_dtypes,
    several_sums,
    rows,
    numbers_get_gradients,
    repeats_itself,
    with_constants,
]


def values(found):
    return [t.detach().numpy().copy() for t in (found if isinstance(found, tuple) else (found,))]


def numbers(seed, size=SIZE, dtype=np.float32):
    return tg.from_numpy(np.random.default_rng(seed).normal(size=size).astype(dtype))


def program_of(captured):
    return captured.variants[0].program


def assert_same_bits(function, captured, x):
    for a, b in zip(values(function(x)), values(captured(x)), strict=True):
        np.testing.assert_array_equal(a, b)
        if a.dtype.kind == "f":
            np.testing.assert_array_equal(np.signbit(a) & (a == a), np.signbit(b) & (b == b))


def generated(function, x):
    captured = tg.compile(function)
    captured(x)
    captured(x)
    program_of(captured).generate()
    return captured


@pytest.mark.parametrize("function", PROGRAMS[:-2])
def test_generated_loops_give_the_same_bits_on_any_number_of_threads(function):
    captured = generated(function, numbers(0))
    before = tg.get_num_threads()
    try:
        for threads in (1, 2, 3, 7):
            tg.set_num_threads(threads)
            assert_same_bits(function, captured, numbers(threads))
    finally:
        tg.set_num_threads(before)
    program = program_of(captured)
    assert any(program._loops.of(group) for group in program.groups)


def test_a_step_forward_and_backward_is_one_loop_that_stores_only_results():
    captured = generated(chain_and_gradient, numbers(0))
    program = program_of(captured)
    (group,) = program.groups
    loop = program._loops.of(group)[0]
    assert len(program.spans) == 1
    assert len(loop.stored) == 1
    assert len(loop.sums) == 1
    assert len(loop.loop.applied) == len(program) - 1
    assert "└" in str(program).splitlines()[-1]


def test_float64():
    assert_same_bits(chain_and_gradient, generated(chain_and_gradient, numbers(0, dtype=np.float64)),
                     numbers(1, 70_000 + SIZE, np.float64)[:SIZE])  # fmt: skip


def test_not_finite_numbers():
    x = numbers(0)
    x[::7] = float("nan")
    x[1::7] = float("inf")
    x[2::7] = -float("inf")
    x[3::7] = -0.0
    assert_same_bits(chain_and_gradient, generated(chain_and_gradient, numbers(0)), x)


@pytest.mark.parametrize("without", sorted(PASSES))
@pytest.mark.parametrize("function", PROGRAMS)
def test_each_pass_can_be_left_out(function, without):
    captured = tg.compile(function, without=without)
    for seed in range(3):
        assert_same_bits(function, captured, numbers(seed))
    assert program_of(captured) is not None


def test_no_such_pass():
    with pytest.raises(ValueError, match="there is no pass 'unroll', only"):
        tg.compile(lambda x: x, without=["unroll"])


def test_loops_that_are_not_on_the_disk_are_compiled_when_they_have_paid(monkeypatch):
    monkeypatch.setattr(Generated, "is_cached", False)

    def function(x):
        return (x * 0.123 + x).neg() - x

    captured, x = tg.compile(function), numbers(0)
    captured(x)
    captured(x)
    program = program_of(captured)
    assert program._loops.due > 10
    assert program._loops.of(program.groups[0]) is None
    program._loops.due = 2
    for seed in range(3):
        assert_same_bits(function, captured, numbers(seed))
    assert program._loops.due == 0
    assert program._loops.of(program.groups[0]) is not None
    monkeypatch.undo()
    again = tg.compile(function)
    again(x)
    again(x)
    assert program_of(again)._loops.of(program_of(again).groups[0]) is not None  # it is there now
    assert program_of(again).plan.size == 0


def test_checked_replays_of_generated_loops():
    captured = tg.compile(several_sums, check=4)
    for seed in range(2):
        captured(numbers(seed))
    program_of(captured).generate()
    for seed in range(4):
        assert_same_bits(several_sums, captured, numbers(seed))
    assert captured.variants[0].checks_left == 0


@pytest.mark.parametrize("kind", ["layer", "group"])
def test_results_that_nobody_reads_are_left_out(kind):
    weight, bias = (tg.ones(12, requires_grad=True) for _ in range(2))

    def function(x):
        x = x.reshape(-1, 12).detach().requires_grad_()
        y = F.layer_norm(x, (12,), weight, bias) if kind == "layer" else F.group_norm(x, 4, weight, bias)
        grads = tg.autograd.grad(y, (x, weight, bias), x.detach() * 2)
        return grads[1:]

    captured = tg.compile(function, check=2)
    for seed in range(5):
        for a, b in zip(values(function(numbers(seed, 1200))), values(captured(numbers(seed, 1200))), strict=True):
            np.testing.assert_array_equal(a, b)
    norms = [i for i in program_of(captured).instructions if i.op.name.startswith("norm_rows")]
    assert [i.results[0] for i in norms] == [-1, -1]
    assert "norm_rows_backward" in str(program_of(captured))


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("classes", [5, 200])  # short rows are taken together
def test_a_loss_and_its_gradient_become_one_instruction(reduction, classes):
    weight, targets = tg.rand(classes) + 0.5, tg.arange(12) % classes
    targets[3] = -100

    def function(x):
        x = x.reshape(12, classes).detach().requires_grad_()
        loss = F.cross_entropy(x * 2, targets, weight, reduction=reduction, label_smoothing=0.1)
        return loss, tg.autograd.grad(loss, x, tg.ones_like(loss))[0]

    names = []
    for without in ((), "joining"):
        captured = tg.compile(function, without=without, check=2)
        for seed in range(5):
            x = numbers(seed, 12 * classes)
            for a, b in zip(values(function(x)), values(captured(x)), strict=True):
                np.testing.assert_array_equal(a, b)
        names.append([i.op.name for i in program_of(captured).instructions])
    assert "cross_entropy_and_gradient" in names[0] and "ce_gradient" not in names[0]
    assert "cross_entropy_and_gradient" not in names[1] and "ce_gradient" in names[1]


def test_a_gradient_that_depends_on_what_comes_after_the_loss_is_computed_after_it():
    targets = tg.arange(12) % 5

    def function(x):
        x = x.reshape(12, 5).detach().requires_grad_()
        loss = F.cross_entropy(x, targets)
        first, *_ = tg.autograd.grad(loss, x, loss.detach(), retain_graph=True)
        second, *_ = tg.autograd.grad(loss * loss, x)
        return loss, first, second

    captured = tg.compile(function, check=2)
    for seed in range(5):
        assert_same_bits(function, captured, numbers(seed, 60))
    assert "cross_entropy_and_gradient" not in [i.op.name for i in program_of(captured).instructions]


UNARY = ("neg", "tanh", "exp", "relu", "sigmoid", "abs", "sin", "square")
BINARY = ("add", "sub", "mul", "maximum", "div")
STEP = st.tuples(st.sampled_from(UNARY + BINARY), st.integers(0, 99), st.integers(0, 99), st.integers(0, 9))


@settings(max_examples=6, deadline=None, derandomize=True)
@given(st.lists(STEP, min_size=3, max_size=10))
def test_random_programs(steps):
    def function(x):
        made = [x, x[: 15_000], x * 0.5]  # fmt: skip
        for name, a, b, way in steps:
            first = made[a % len(made)]
            others = [t for t in made if t.shape == first.shape] + [x[3]]
            operands = (first,) if name in UNARY else (first, others[b % len(others)])
            if way == 0 and a % len(made) > 1 and name in ("add", "mul", "neg"):
                getattr(first, f"{name}_")(*operands[1:])
            elif way == 1:
                made.append(first - getattr(tg, name)(*operands).mean())
            else:
                made.append(getattr(tg, name)(*operands))
        return tuple(made[2:])

    x = numbers(1) * 0.5
    captured = generated(function, x)
    assert_same_bits(function, captured, numbers(2) * 0.5)


def test_a_pass_that_mixes_up_instructions_is_found():
    captured = tg.compile(in_place)
    captured(numbers(0))
    captured(numbers(0))
    instructions = program_of(captured).instructions
    live = {instructions[-1].result_storages[0]}
    check_pass("none", instructions, list(instructions), live)
    for k in range(len(instructions) - 1):
        swapped = [*instructions[:k], instructions[k + 1], instructions[k], *instructions[k + 2 :]]
        first, second = instructions[k], instructions[k + 1]
        depends = {*first.writes()} & {*second.reads(), *second.writes()} or {*first.reads()} & {*second.writes()}
        if depends:
            with pytest.raises(RuntimeError, match="the pass 'swap' has"):
                check_pass("swap", instructions, swapped, live)
    with pytest.raises(RuntimeError, match="has lost a result"):
        check_pass("forget", instructions, instructions[:-1], live)


def names_of(function, x, without=()):
    captured = tg.compile(function, without=without)
    for seed in range(3):
        assert_same_bits(function, captured, numbers(seed, len(x)))
    return [instruction.op.name for instruction in program_of(captured).instructions]


def test_the_same_value_is_computed_once():
    x = numbers(0, 50)
    assert names_of(repeats_itself, x, "common").count("exp") == 6
    assert names_of(repeats_itself, x).count("exp") == 4  # z is written into; another shape; a part


def test_what_is_written_between_two_computations_is_computed_twice():
    def function(x):
        y = x * 2
        a = y.exp()
        y += 1
        return a + y.exp()

    assert names_of(function, numbers(0, 50)).count("exp") == 2


def test_random_numbers_are_drawn_anew():
    def function(x):
        return x + tg.rand(50) + tg.rand(50), tg.rand(50)

    captured = tg.compile(function)
    for seed in range(4):
        x = numbers(seed, 50)
        tg.manual_seed(seed)
        wanted = values(function(x))
        tg.manual_seed(seed)
        for a, b in zip(wanted, values(captured(x)), strict=True):
            np.testing.assert_array_equal(a, b)
    assert [i.op.name for i in program_of(captured).instructions].count("uniform") == 3


def test_what_depends_on_constants_alone_is_a_constant():
    x = numbers(0, 50)
    found = names_of(with_constants, x)
    assert "arange" in names_of(with_constants, x, "folding")
    assert not {"arange", "triu", "sum", "remainder"} & set(found)


def test_saved_programs_have_their_constants(tmp_path):
    captured, x = tg.compile(with_constants), numbers(3, 50)
    captured(x)
    captured(x)
    program_of(captured).save(tmp_path / "step.tgp")
    for a, b in zip(values(with_constants(x)), values(tg.load_program(tmp_path / "step.tgp")(x)), strict=True):
        np.testing.assert_array_equal(a, b)


def test_saved_programs_get_their_loops_again(tmp_path):
    captured = generated(chain_and_gradient, numbers(0))
    program_of(captured).save(tmp_path / "step.tgp")
    loaded = tg.load_program(tmp_path / "step.tgp")
    assert_same_bits(chain_and_gradient, lambda x: loaded(x), numbers(1))
    assert loaded.program._loops.of(loaded.program.groups[0]) is not None


def shifted(instruction, by):
    places = (instruction.result_storages, instruction.operand_storages)
    results, operands = (tuple([s + by if s >= 0 else s for s in storages]) for storages in places)
    return dataclasses.replace(instruction, result_storages=results, operand_storages=operands)


def test_passes_take_time_in_proportion_to_the_program():
    captured = tg.compile(repeats_itself, without="common")
    captured(numbers(0, 50))
    captured(numbers(0, 50))
    program = program_of(captured)

    def seconds(times):
        code = [shifted(i, 10_000 * k) for k in range(times) for i in program.instructions]
        made = {s for i in code for s in i.result_storages}
        spent = []
        for _ in range(3):
            start = time.process_time()
            assert len(without_repetition(code, made, made, program.notes.geometries)) < len(code)
            without_constants(code, set(), set(), dict.fromkeys(made, 4))
            check_pass("none", code, code, set())
            spent.append(time.process_time() - start)
        return min(spent)

    assert seconds(1000) < 30 * seconds(100)


def test_gathering_is_linear():
    """Each instruction is looked at a bounded number of times."""
    captured = tg.compile(chain_and_gradient)
    captured(numbers(0))
    captured(numbers(0))
    program = program_of(captured)
    looks = []
    for times in (10, 100):
        instructions = [i for _ in range(times) for i in program.instructions]
        walks = [w for _ in range(times) for w in program._walks]
        counted = Counted(walks)
        gathered(instructions, counted)
        looks.append(counted.count)
    assert looks[1] <= 11 * looks[0]


class Counted(list):
    count = 0

    def __getitem__(self, k):
        self.count += 1
        return super().__getitem__(k)


def test_no_loops_for_nothing():
    assert Loops([], [], []).due == 0
