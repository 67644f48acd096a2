"""Groups of elementwise instructions that run tile by tile: the same bits as one after the other, on any threads."""

import numpy as np
import pytest

import tapegrad as tg
from tapegrad.capture.fusion import find_groups, walk_of
from tapegrad.capture.plan import lifetimes_of, plan_memory

SIZES = (16_384, 100_003, 300_000)


def chain(x):
    y = (x * 1.01).tanh() + 0.5
    y = (y.sigmoid() * y - 0.1).exp() * x
    return y.relu()


def chain_and_gradient(x):
    x = x.detach().requires_grad_()
    y = chain(x).sum()
    return y, tg.autograd.grad(y, x)[0]


def mixed_dtypes(x):
    positive = x > 0.3
    return tg.where(positive, x.double() * 2, x.double()), positive & (x < 1), x.long() + 1


def in_place(x):
    y = x * 2
    y += x
    y.mul_(0.5).exp_()
    return y - 1


def shifted(x):
    y = x * 2
    y[1:].add_(x[:-1])
    return y + y.flip(0)


def broadcast(x):
    rows = x[: x.numel() // 4 * 4].reshape(4, -1)
    return (rows * rows.mean() + rows[:, :1]).tanh() * 2 - rows.sum(0)


def used_twice(x):
    y = x * 3
    z = y + 1
    return z * y, z


PROGRAMS = [chain, chain_and_gradient, mixed_dtypes, in_place, shifted, broadcast, used_twice]


def values(found):
    return [t.detach().numpy().copy() for t in (found if isinstance(found, tuple) else (found,))]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("program", PROGRAMS)
def test_the_same_bits_as_uncaptured_on_any_number_of_threads(program, size):
    rng = np.random.default_rng(0)
    captured = tg.compile(program, without="generated")
    before = tg.get_num_threads()
    try:
        for threads in (1, 1, 1, 2, 3, 7):
            tg.set_num_threads(threads)
            x = tg.from_numpy(rng.normal(size=size).astype(np.float32))
            for a, b in zip(values(program(x)), values(captured(x)), strict=True):
                np.testing.assert_array_equal(a, b)
    finally:
        tg.set_num_threads(before)
    assert captured.variants[0].program is not None


def groups_of(program, size=20_000):
    captured = tg.compile(program, without=("gather", "generated"))
    for _ in range(2):
        captured(tg.ones(size))
    return captured.variants[0].program


def test_a_chain_is_one_group_and_its_results_lie_in_local_buffers():
    program = groups_of(chain)
    (group,) = program.groups
    assert (group.first, group.last) == (0, len(program) - 1)
    assert len(group.local) == len(program) - 1
    assert max(group.local.values()) < 3
    assert program.plan.size == 0


def test_what_is_read_later_lies_in_memory():
    program = groups_of(chain_and_gradient)
    assert len(program.groups) == 2
    assert program.plan.size >= 4 * 20_000
    assert "┌" in str(program)
    assert "└" in str(program)


def test_small_work_is_not_grouped():
    assert groups_of(chain, 100).groups == []


def test_shifted_views_of_what_a_group_writes_are_not_in_it():
    program = groups_of(shifted)
    walks = [walk_of(instruction, program.notes.geometries) for instruction in program.instructions]
    for group in program.groups:
        written = {walk.operands[0].storage for walk in group.walks}
        places = {operand for walk in group.walks for operand in walk.operands if operand.storage in written}
        assert len({place.storage for place in places}) == len(places)
    assert find_groups(walks, lifetimes_of(program.instructions, set()), 1) is not None


@pytest.mark.parametrize("largest", [5000, 500_000])
def test_the_memory_plan_never_gives_a_place_to_two_at_once(largest):
    rng = np.random.default_rng(0)
    for _ in range(50):
        lifetimes = {}
        for storage in range(60):
            first = int(rng.integers(0, 80))
            lifetimes[storage] = (first, first + int(rng.integers(0, 30)))
        sizes = {storage: int(rng.integers(1, largest)) for storage in lifetimes}
        plan = plan_memory(dict(lifetimes), sizes)
        for a, (first_a, last_a) in lifetimes.items():
            assert plan.places[a] >= 0
            assert plan.places[a] + sizes[a] <= plan.size
            assert plan.places[a] % (64 if sizes[a] > 32 else 8) == 0
            for b, (first_b, last_b) in lifetimes.items():
                if a < b and first_a <= last_b and first_b <= last_a:
                    start = max(plan.places[a], plan.places[b])
                    end = min(plan.places[a] + sizes[a], plan.places[b] + sizes[b])
                    assert start >= end, (a, b)
        assert plan.size < sum(sizes.values())


def test_the_memory_plan_of_a_forward_and_a_backward_pass_is_the_least_possible():
    layers = [64, 64, 16, 16, 8, 8, 4]  # KiB of their results, which the backward pass takes in reverse
    lifetimes = {k: (k, 14 - k) for k in range(7)} | {7 + k: (7 + k, 8 + k) for k in range(7)}
    sizes = {k: 1024 * layers[min(k, 13 - k)] for k in range(14)}
    alive = [sum(sizes[s] for s, (first, last) in lifetimes.items() if first <= k <= last) for k in range(16)]
    assert plan_memory(lifetimes, sizes).size == max(alive)


@pytest.mark.parametrize("dtype", [tg.float32, tg.float64])
def test_single_numbers_are_computed_as_uncaptured(dtype):
    def program(x, y):
        z = (x * y - x / y + 0.5) * -x
        z -= y
        return z, (z + x).requires_grad_().neg(), x / 0.0, -(x - x)

    captured = tg.compile(program)
    for k in range(5):
        x, y = (tg.tensor(value, dtype=dtype) for value in (0.3 + k, 1.7 - k))
        for a, b in zip(values(program(x, y)), values(captured(x, y)), strict=True):
            np.testing.assert_array_equal(a, b)
            assert np.signbit(a) == np.signbit(b)


def reads_one_element(x):
    reversed_x = x.flip(0)
    y = x * reversed_x[5:6] + 1  # x's reversal is over here, but for the tiles to come
    return y.sum(), y.amax()


def reads_a_wider_dtype(x):
    wide = x.double().flip(0)
    y = (x * wide).float() + 1
    return y.sum(), y.flip(0)


@pytest.mark.parametrize("program", [reads_one_element, reads_a_wider_dtype])
def test_what_a_group_reads_shares_no_memory_with_what_it_writes(program):
    rng = np.random.default_rng(0)
    captured = tg.compile(program, without="generated")
    for _ in range(4):
        x = tg.from_numpy(rng.normal(size=40_000).astype(np.float32))
        for a, b in zip(values(program(x)), values(captured(x)), strict=True):
            np.testing.assert_array_equal(a, b)
    made = captured.variants[0].program
    for group in made.groups:
        touched = {operand.storage for walk in group.walks for operand in walk.operands}
        places = [made.plan.places[storage] for storage in touched & made.plan.places.keys()]
        assert len(set(places)) == len(places)
