"""Workers of a loader, threads and spawned processes: the same batches, errors, deaths, and none left behind."""

import gc
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import textwrap
import threading
import time

import numpy as np
import pytest

import tapegrad as tg
from tapegrad.utils.data import DataLoader, Dataset, IterableDataset, get_worker_info

CONTEXTS = [None, "spawn"]


class Rows(Dataset):
    """Samples that are made by Python, with trouble at certain numbers."""

    def __init__(self, length, trouble=None):
        self.length, self.trouble = length, trouble or {}

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        match self.trouble.get(index):
            case "raise":
                raise ValueError(f"no sample {index}")
            case "stop":
                raise StopIteration
            case "own error":
                raise TwoArguments(index, "is bad")
            case "exit":
                os._exit(3)
            case "hang":
                time.sleep(60)
        return tg.full((3,), float(index)), {"pid": os.getpid(), "k": np.int32(index)}


class TwoArguments(Exception):
    def __init__(self, a, b):
        super().__init__(a, b)


class Shards(IterableDataset):
    """The numbers of a range that are a worker's share."""

    def __init__(self, length):
        self.length = length

    def __iter__(self):
        info = get_worker_info()
        return iter(range(self.length)[info.id :: info.num_workers] if info else range(self.length))


class Random(Dataset):
    def __len__(self):
        return 8

    def __getitem__(self, index):
        return tg.rand(()), random.random(), np.random.random()  # noqa: NPY002


class Parts(IterableDataset):
    """torch's example: worker_init_fn tells each worker's copy where it begins and ends."""

    def __init__(self, start, end):
        self.start, self.end = start, end

    def __iter__(self):
        return iter(range(self.start, self.end))


def give_part(id):
    info = get_worker_info()
    size = -(-(info.dataset.end - info.dataset.start) // info.num_workers)
    info.dataset.start += id * size
    info.dataset.end = min(info.dataset.start + size, info.dataset.end)


def refuse_first(id):
    if id == 0:
        raise OSError("no such disk")


def children():
    return {process.pid for process in multiprocessing.active_children()}


def loader_threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("tapegrad-loader")]


def until(condition, seconds=10):
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.02)
    return condition()


@pytest.fixture(autouse=True)
def _nothing_is_left_behind():
    yield
    gc.collect()
    assert until(lambda: not children() and not loader_threads())


def test_batches_come_in_order_whoever_fetches_them():
    loader = DataLoader(Rows(23), 4, num_workers=2)
    batches = list(loader)
    assert [batch[1]["k"].tolist() for batch in batches] == [list(range(k, min(k + 4, 23))) for k in range(0, 23, 4)]
    assert batches[1][0].tolist() == [[4.0] * 3, [5.0] * 3, [6.0] * 3, [7.0] * 3]
    assert batches[0][0].dtype is tg.float32 and batches[0][1]["k"].dtype is tg.int32


@pytest.mark.parametrize(
    ("context", "trouble", "kind", "words"),
    [
        (
            "spawn",
            "raise",
            ValueError,
            r"Caught ValueError in DataLoader worker (thread|process) [01]\.(.|\n)*no sample 5",
        ),
        (None, "raise", ValueError, "DataLoader worker thread 1(.|\n)*no sample 5"),
        (None, "stop", RuntimeError, "Caught StopIteration in DataLoader worker"),
        (None, "own error", RuntimeError, r"TwoArguments(.|\n)*in __getitem__(.|\n)*is bad"),
    ],
)
def test_an_exception_arrives_with_the_worker_and_its_traceback(context, trouble, kind, words):
    workers = 1 if context else 2  # each process takes a second to start
    batches = iter(DataLoader(Rows(9, {5: trouble}), 3, num_workers=workers, multiprocessing_context=context))
    assert next(batches)[1]["k"].tolist() == [0, 1, 2]
    with pytest.raises(kind, match=words) as caught:
        next(batches)
    assert "test_workers.py" in str(caught.value)
    assert next(batches)[1]["k"].tolist() == [6, 7, 8]


def test_a_worker_that_dies_is_an_error_soon():
    batches = iter(DataLoader(Rows(30, {5: "exit"}), 3, num_workers=1, multiprocessing_context="spawn"))
    next(batches)
    started = time.monotonic()
    with pytest.raises(RuntimeError, match=r"worker process 0(.|\n)*pid \d+\) exited unexpectedly, with exit code 3"):
        list(batches)
    assert time.monotonic() - started < 5


def test_a_worker_that_is_killed_from_outside_is_an_error_soon():
    loader = DataLoader(Rows(1000), 1, num_workers=1, multiprocessing_context="spawn", persistent_workers=True)
    batches = iter(loader)
    next(batches)
    os.kill(*children(), signal.SIGKILL)
    with pytest.raises(RuntimeError, match="killed by SIGKILL"):
        list(batches)
    with pytest.raises(RuntimeError, match="killed by SIGKILL"):
        list(loader)


def test_a_batch_that_does_not_come_in_time():
    loader = DataLoader(Rows(9, {0: "hang"}), num_workers=1, timeout=0.2, multiprocessing_context="spawn")
    with pytest.raises(RuntimeError, match=r"timed out after 0\.2 seconds"):
        next(iter(loader))


@pytest.mark.parametrize("context", CONTEXTS)
def test_persistent_workers_stay_and_abandoned_ones_go(context):
    loader = DataLoader(Rows(12), 2, num_workers=2, multiprocessing_context=context, persistent_workers=True)
    first = [batch[1]["pid"].tolist() for batch in loader]
    for _ in loader:
        break  # what was asked for in this epoch is not given out in the next
    again = iter(loader)
    batches = list(again)
    assert [batch[1]["k"].tolist() for batch in batches] == [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9], [10, 11]]
    assert batches[5][0].tolist() == [[10.0] * 3, [11.0] * 3] and batches[5][1]["k"].dtype is tg.int32
    assert ({pid for pids in first for pid in pids} == {os.getpid()}) == (context is None)
    assert [batch[1]["pid"].tolist() for batch in loader] == first
    del loader, again
    gc.collect()
    assert until(lambda: not children() and not loader_threads())


def test_iterable_data_sets_are_shared_out():
    whole = [batch.tolist() for batch in DataLoader(Shards(11), 2, num_workers=3)]
    assert whole == [[0, 3], [1, 4], [2, 5], [6, 9], [7, 10], [8]]


@pytest.mark.parametrize("workers", [2, 3])
def test_each_worker_s_data_set_is_its_own_copy(workers):
    data = Parts(3, 10)
    numbers = [int(k) for k in DataLoader(data, num_workers=workers, worker_init_fn=give_part)]
    assert sorted(numbers) == list(range(3, 10)) and (data.start, data.end) == (3, 10)


def test_an_init_function_that_raises():
    loader = DataLoader(Rows(4), num_workers=2, worker_init_fn=refuse_first)
    with pytest.raises(OSError, match=r"worker thread 0(.|\n)*no such disk"):
        list(loader)


@pytest.mark.parametrize("context", CONTEXTS)
def test_random_numbers_of_workers_follow_from_the_seed(context):
    def run():
        tg.manual_seed(3)
        loader = DataLoader(Random(), 1, num_workers=1 if context else 2, multiprocessing_context=context)
        rows = [([float(part) for part in batch], tg.rand(()).item()) for batch in loader]
        return [row for row, _ in rows], [here for _, here in rows]  # what is drawn here is not the workers' affair

    (first, here), (second, here_too) = run(), run()
    columns = slice(0, 1) if context is None else slice(0, 3)  # Python's and NumPy's generators are one for all threads
    assert [row[columns] for row in first] == [row[columns] for row in second] and here == here_too
    assert len({row[0] for row in first}) == 8


def test_answers_may_come_in_any_order():
    loader = DataLoader(Rows(20), 2, num_workers=3, in_order=False)
    assert sorted(batch[1]["k"][0].item() for batch in loader) == list(range(0, 20, 2))


def test_a_data_set_that_cannot_be_sent_leaves_no_process():
    data = Rows(3)
    data.function = lambda: 0
    with pytest.raises(Exception, match="local object"):
        iter(DataLoader(data, num_workers=2, multiprocessing_context="spawn"))


PROGRAM = """
    import os, sys, time
    import tapegrad as tg
    from tapegrad.utils.data import DataLoader, Dataset

    class Slow(Dataset):
        def __len__(self):
            return 1000

        def __getitem__(self, index):
            time.sleep(0.01)
            return os.getpid()

    if __name__ == "__main__":
        for batch in DataLoader(Slow(), num_workers=1, multiprocessing_context="spawn"):
            print(batch.item(), flush=True)
"""


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_no_process_outlives_the_main_one(how, tmp_path):
    (tmp_path / "program.py").write_text(textwrap.dedent(PROGRAM))
    command = [sys.executable, tmp_path / "program.py"]
    program = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    pids = {int(program.stdout.readline()) for _ in range(2)}
    program.send_signal(how)
    _, errors = program.communicate(timeout=20)
    assert len(pids) == 1 and until(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in pids))
    assert errors.count("Traceback") == (how == signal.SIGINT)
