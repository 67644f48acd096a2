"""Runs of operations on single numbers, as straight-line code: the same bits as one after the other."""

import itertools

import numpy as np
import pytest

import tapegrad as tg
from tapegrad.capture.generated import Straight
from tapegrad.capture.runs import PIECE, find_runs
from tapegrad.native.dtypes import FLOAT32, FLOAT64
from tapegrad.ops.calls import call
from tapegrad.ops.registry import registry
from tapegrad.runtime import replay

POINTS = [0.37, -1.2, 0.0, -0.0, 1.0, 3e5, 1e-30, np.inf, np.nan, 5e8]


def tower(x):
    """Two loops, in-place writes, a value used late, a vector's elements."""
    first = x * 1.5
    y = first
    for k in range(60):
        y = (y * 0.999 + x).sin() * (1 + 1e-3 * k)
        if k == 7:
            y = y.clone()
            y += first
            y.mul_(0.5)
    for _ in range(60):
        y = (y - x * 0.1).tanh() / 1.01 + first
    return y, first + y


def tower_and_gradient(x):
    x = x.detach().requires_grad_()
    y = tower(x)[0]
    return y, tg.autograd.grad(y, x)[0]


def elements(x):
    table = tg.stack([x, x * 2, x * 3])
    for k in range(40):
        table[k % 3] += table[(k + 1) % 3] * 0.25
        table[1].mul_(0.9)
    return table, table[0] - table[2]


def captured_twice(function, *arguments, **options):
    """Return the captured function with straight-line code, and its program."""
    captured = tg.compile(function, **options)
    for _ in range(3):
        captured(*arguments)
    program = captured.variants[0].program
    program.generate()
    return captured, program


def bits(found):
    """Return the bits of numbers; the sign of a nan means nothing."""
    arrays = [t.detach().numpy() for t in (found if isinstance(found, tuple) else (found,))]
    return [np.where(np.isnan(array), np.nan, array).tobytes() for array in arrays]


def steps_of(program):
    return int(program.words[replay.COUNT])


@pytest.mark.parametrize("dtype", [tg.float32, tg.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("function", [tower, tower_and_gradient, elements])
def test_the_bits_are_those_of_the_uncaptured_function(function, dtype):
    captured, program = captured_twice(function, tg.tensor(0.3, dtype=dtype))
    assert steps_of(program) < len(program) // 4
    for point in POINTS:
        x = tg.tensor(point, dtype=dtype)
        assert bits(captured(x)) == bits(function(x)), point


def test_every_formula_gives_its_kernels_bits():
    """Ops of all sorts in one program: what it computes one by one, and as straight-line code."""
    names = ["exp", "erf", "remainder", "lerp", "tanh_backward", "sigmoid", "maximum", "rsqrt", "addcdiv", "square"]
    ops = [registry[name] for name in [*names, *["add", "sub", "mul", "div", "neg"] * 5]]

    def function(*operands):
        return tg.stack([call(op, *operands[: len(op.inputs)]) for op in ops])

    for dtype in (FLOAT32, FLOAT64):
        random = np.random.default_rng(dtype)
        points = [tuple(random.choice([*POINTS, 0.7, 2.0, -0.4], 5)) for _ in range(12)]
        columns = [tuple(tg.tensor(v, dtype=[tg.float32, tg.float64][dtype == FLOAT64]) for v in p) for p in points]
        captured, program = captured_twice(function, *columns[0])
        assert steps_of(program) < len(ops) // 2
        for operands in columns:
            found, wanted = captured(*operands), function(*operands)
            different = [op.name for op, a, b in zip(ops, found, wanted, strict=True) if bits(a) != bits(b)]
            assert not different, (different, operands)


def test_turns_of_a_loop_share_their_code():
    _, program = captured_twice(lambda x: turns(x, 2000), tg.tensor(0.3, dtype=tg.float64))
    pieces = [program._loops.of(run)[0] for run in program._runs.values()]
    assert len(pieces) >= 2000 * 3 // PIECE and all(isinstance(piece, Straight) for piece in pieces)
    assert len({piece.key for piece in pieces}) <= 3  # the first, which makes x's multiple, the others, and the rest


def turns(x, count):
    y = x
    for _ in range(count):
        y = (y * 0.99 + x).tanh()
    return y


@pytest.mark.parametrize("dtype", [tg.float32, tg.float64], ids=["float32", "float64"])
def test_constants_are_in_the_words_and_tensors_from_outside_are_read_anew(dtype):
    scale = tg.tensor(0.5, dtype=dtype)

    def function(x):
        y = x
        for k in range(40):
            y = (y * scale + x) / (1.5 + k)
        return y

    x = tg.tensor(0.3, dtype=dtype)
    captured, program = captured_twice(function, x)
    (made, _), *_ = program._loops._kernels.values()
    assert len(made.loop.constants) == 40 < len(made.loaded)
    scale.fill_(-0.25)
    assert bits(captured(x)) == bits(function(x))


def test_pieces_cover_each_run_once():
    _, program = captured_twice(tower_and_gradient, tg.tensor(0.3, dtype=tg.float64))
    runs = find_runs(program.instructions, program._walks, program.plan.lifetimes)
    assert all(a.end < b.first for a, b in itertools.pairwise(runs))
    assert all(len(run.walks) == run.end + 1 - run.first <= PIECE for run in runs)


def test_without_the_pass_there_is_none():
    captured = tg.compile(tower, without="generated")
    x = tg.tensor(0.3, dtype=tg.float64)
    for _ in range(3):
        captured(x)
    program = captured.variants[0].program
    program.generate()
    assert steps_of(program) == len(program)
    assert bits(captured(x)) == bits(tower(x))


def test_generating_again_changes_nothing():
    _, program = captured_twice(tower, tg.tensor(0.3, dtype=tg.float64))
    code = int(program.words[replay.CODE])
    program.generate()
    assert int(program.words[replay.CODE]) == code


def test_training_a_number_goes_on_with_the_same_bits():
    def run(capture):
        w = tg.tensor(0.4, dtype=tg.float64, requires_grad=True)
        optimizer = tg.optim.SGD([w], lr=0.01)

        def step(x):
            optimizer.zero_grad()
            loss = (turns(w * x, 30) - 0.2) ** 2
            loss.backward()
            optimizer.step()
            return loss

        step = tg.compile(step) if capture else step
        found = []
        for k in range(12):
            if capture and k == 6:
                step.variants[0].program.generate()
            found.append(step(tg.tensor(0.1 * k, dtype=tg.float64)).item())
        return found, w.item(), w.grad.item()

    assert run(True) == run(False)


def test_a_checked_function_finds_no_difference():
    captured = tg.compile(tower_and_gradient, check=6)
    x = tg.tensor(0.3, dtype=tg.float64)
    for k in range(9):
        if k == 4:
            captured.variants[0].program.generate()
        assert bits(captured(x)) == bits(tower_and_gradient(x))
