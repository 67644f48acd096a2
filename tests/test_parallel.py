"""The thread pool: every task is done once, on any number of threads, from several Python threads, after a fork."""

import ctypes
import os
import subprocess
import sys
import threading

import numpy as np
import pytest

import tapegrad as tg
from tapegrad.native.cache import compile_function, jit
from tapegrad.native.parallel import parallel_for
from tapegrad.native.pointers import int64_at
from tapegrad.runtime.machine import machine


@jit
def _count_task(context, k, scratch):
    """Add 1 to word ``k`` by way of the scratch memory, which another thread's task would spoil."""
    words, private = int64_at(context), int64_at(scratch)
    for i in range(64):
        private[i] = k
    total = 0
    for i in range(64):
        total += private[i]
    words[k] += total - 64 * k + 1
    return 0


@jit
def _failing_task(context, k, scratch):
    return -7 if k == 3 else 0


@jit
def _nested_task(context, k, scratch):
    pool, words, count = int64_at(context)[0], int64_at(context)[1], int64_at(context)[2]
    return parallel_for(pool, _count_task, words + 8 * count * k, count)


def _count(pool, context, count):
    return parallel_for(pool, _count_task, context, count)


def _fail(pool, context, count):
    return parallel_for(pool, _failing_task, context, count)


def _nest(pool, context, count):
    return parallel_for(pool, _nested_task, context, count)


def caller(function):
    address = compile_function(function, f"test parallel {function.__name__}", "int64(int64, int64, int64)")
    return ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64)(address)


def count_tasks(tasks, loops=1):
    words = np.zeros(tasks, np.int64)
    run = caller(_count)
    for _ in range(loops):
        assert run(machine.pool.address, words.ctypes.data, tasks) == 0
    return words


@pytest.fixture
def threads(request):
    before = tg.get_num_threads()
    tg.set_num_threads(request.param)
    yield request.param
    tg.set_num_threads(before)


@pytest.mark.parametrize("threads", [1, 2, 3, 7], indirect=True)
@pytest.mark.parametrize("tasks", [0, 1, 2, 5, 1000])
def test_every_task_is_done_once_a_loop(threads, tasks):
    assert tg.get_num_threads() == threads
    assert (count_tasks(tasks, loops=200) == 200).all()


@pytest.mark.parametrize("threads", [1, 3], indirect=True)
def test_a_task_may_fail(threads):
    assert caller(_fail)(machine.pool.address, 0, 8) == -7
    assert caller(_fail)(machine.pool.address, 0, 3) == 0


@pytest.mark.parametrize("threads", [1, 3], indirect=True)
def test_a_loop_inside_a_task_has_memory_of_its_own(threads):
    words = np.zeros(16 * 32, np.int64)
    context = np.array([machine.pool.address, words.ctypes.data, 16])
    assert caller(_nest)(machine.pool.address, context.ctypes.data, 32) == 0
    assert (words == 1).all()


@pytest.mark.parametrize("threads", [1, 2, 5], indirect=True)
def test_loops_of_several_python_threads_at_once(threads):
    found = []

    def work():
        found.append(count_tasks(40, loops=500))  # ctypes lets the GIL go

    workers = [threading.Thread(target=work) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert len(found) == 4
    assert all((words == 500).all() for words in found)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.parametrize("threads", [3], indirect=True)
def test_a_forked_process_starts_its_own_threads(threads):
    count_tasks(10)
    child = os.fork()
    if child == 0:
        os._exit(0 if (count_tasks(100, loops=50) == 50).all() and machine.pool.threads == 3 else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert (count_tasks(10) == 1).all()


def test_threads_end_when_their_number_changes_and_with_the_process():
    script = """
import os, tapegrad as tg, sys
sys.path.insert(0, {folder!r})
from test_parallel import count_tasks
def system_threads():
    return len(os.listdir("/proc/self/task")) if os.path.isdir("/proc/self/task") else None
before = system_threads()
tg.set_num_threads(6)
count_tasks(100)
assert before is None or system_threads() == before + 5, (before, system_threads())
tg.set_num_threads(2)
assert before is None or system_threads() == before
count_tasks(100)
print("done")
"""
    command = [sys.executable, "-c", script.format(folder=os.path.dirname(__file__))]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout == "done\n"


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system cannot bind a process to a processor")
def test_more_threads_than_processors_finish():
    before = os.sched_getaffinity(0)
    threads = tg.get_num_threads()
    try:
        os.sched_setaffinity(0, {min(before)})
        tg.set_num_threads(4)
        assert (count_tasks(100, loops=100) == 100).all()
    finally:
        os.sched_setaffinity(0, before)
        tg.set_num_threads(threads)


@pytest.mark.parametrize("count", [0, -1])
def test_a_number_of_threads_is_positive(count):
    with pytest.raises(RuntimeError, match="positive"):
        tg.set_num_threads(count)


def on_threads(compute):
    """Return what is computed on 1, 2, 3 and 7 threads."""
    before, found = tg.get_num_threads(), []
    for count in (1, 2, 3, 7):
        tg.set_num_threads(count)
        found.append(compute().numpy().copy())
    tg.set_num_threads(before)
    return found


PRODUCTS = [
    ((300, 784), (784, 128)),
    ((128, 2000), (2000, 300)),
    ((1, 3000), (3000, 4000)),
    ((4000, 3000), (3000, 1)),
    ((511, 333), (333, 777)),
    ((64, 64, 64), (64, 64, 64)),
    ((64, 33, 64), (64, 100)),
]


@pytest.mark.parametrize("transposed", [(False, False), (True, False), (False, True), (True, True)])
@pytest.mark.parametrize("shapes", PRODUCTS, ids=str)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_product_has_the_same_bits_on_any_number_of_threads(dtype, shapes, transposed):
    rng = np.random.default_rng(0)
    factors = []
    for shape, swapped in zip(shapes, transposed, strict=True):
        stored = (*shape[:-2], shape[-1], shape[-2]) if swapped else shape
        factor = tg.from_numpy(rng.normal(size=stored).astype(dtype))
        factors.append(factor.transpose(-1, -2) if swapped else factor)
    first, *others = on_threads(lambda: factors[0] @ factors[1])
    np.testing.assert_allclose(first, factors[0].numpy() @ factors[1].numpy(), rtol=0, atol=1e-3)
    assert all(np.array_equal(first, other) for other in others)


@pytest.mark.parametrize("size", [1 << 16, 100_003, 1 << 20])
@pytest.mark.parametrize("op", ["x.tanh()", "x * y + 1", "x.clone().mul_(y)", "(x > y)", "x.clone()[1:].add_(x[1:])"])
def test_elementwise_ops_have_the_same_bits_on_any_number_of_threads(op, size):
    rng = np.random.default_rng(0)
    x, y = (tg.from_numpy(rng.normal(size=size).astype(np.float32)) for _ in range(2))
    first, *others = on_threads(lambda: eval(op, {"x": x, "y": y}))
    assert all(np.array_equal(first, other) for other in others)
    assert np.abs(first).sum() > 0


REDUCED = [
    ((1 << 20,), 0),
    ((700, 1000), 0),
    ((700, 1000), 1),
    ((64, 32, 400), (0, 2)),
    ((50_000, 7), 0),
    ((3, 1 << 17), 0),
]


@pytest.mark.parametrize(("shape", "dim"), REDUCED, ids=str)
@pytest.mark.parametrize("op", ["sum", "mean", "var", "amax", "logsumexp"])
def test_a_reduction_has_the_same_bits_on_any_number_of_threads(op, shape, dim):
    rng = np.random.default_rng(0)
    x = rng.normal(size=shape).astype(np.float32)
    first, *others = on_threads(lambda: getattr(tg.from_numpy(x), op)(dim=dim))
    y = x.astype(np.float64)
    expected = {
        "sum": y.sum, "mean": y.mean, "amax": y.max, "var": lambda axis: y.var(axis, ddof=1),
        "logsumexp": lambda axis: np.log(np.exp(y).sum(axis)),
    }[op](axis=dim)  # fmt: skip
    np.testing.assert_allclose(first, expected, rtol=1e-5, atol=1e-3)
    assert all(np.array_equal(first, other) for other in others)
