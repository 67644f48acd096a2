"""The workers of a loader: a thread each, which fetches batches itself or has a process fetch them."""

from __future__ import annotations

import contextlib
import queue
import threading
from typing import Any

from tapegrad.utils.data.worker import Exhausted, Failure, Job, Worker

_PATIENCE = 10.0  # seconds to wait for the threads that end processes


class Crew:
    """Workers that answer tasks until `close`.

    Args:
        job: what to do.
        context: of multiprocessing, for workers that are processes, or None.
    """

    def __init__(self, job: Job, context: Any) -> None:
        self.epoch = 0
        self.answers: queue.SimpleQueue[tuple[int, int, int, Any]] = queue.SimpleQueue()
        self.remotes = [] if context is None else _start_processes(job, context)
        workers: list[Any] = self.remotes or [Worker(job, id, process=False) for id in range(job.count)]
        self.tasks: list[queue.SimpleQueue[Any]] = [queue.SimpleQueue() for _ in workers]
        self.threads = [
            threading.Thread(target=self._work, args=(id, worker), daemon=True, name=f"tapegrad-loader-{id}")
            for id, worker in enumerate(workers)
        ]
        for thread in self.threads:
            thread.start()

    def _work(self, id: int, worker: Any) -> None:
        while (task := self.tasks[id].get()) is not None:
            epoch, number, numbers = task
            if epoch == self.epoch:  # else nobody waits for it any more
                self.answers.put((epoch, number, id, worker.answer(epoch, numbers)))
        if self.remotes:
            worker.close()

    def begin(self) -> int:
        """Begin an epoch, whose number is returned: what was asked before is forgotten."""
        self.epoch += 1
        return self.epoch

    def ask(self, id: int, number: int, numbers: Any) -> None:
        """Give a worker the task ``number``."""
        self.tasks[id].put((self.epoch, number, numbers))

    def receive(self, timeout: float) -> tuple[int, int, Any]:
        """Wait for an answer of this epoch: a task's number, the worker and what it answered."""
        while True:
            try:
                epoch, number, id, answer = self.answers.get(timeout=timeout or None)
            except queue.Empty:
                raise RuntimeError(f"DataLoader timed out after {timeout} seconds") from None
            if epoch == self.epoch:
                return number, id, answer

    def close(self) -> None:
        """Let the workers go: idle ones end at once, processes at work are ended, threads at work end after it."""
        self.epoch = -1
        for tasks in self.tasks:
            tasks.put(None)
        for remote in self.remotes:
            with contextlib.suppress(ValueError):  # it has ended and been closed meanwhile
                remote.interrupt()
        if self.remotes:
            for thread in self.threads:
                if thread is not threading.current_thread():  # which may be collecting garbage
                    thread.join(_PATIENCE)


def _start_processes(job: Job, context: Any) -> list[Any]:
    from tapegrad.utils.data.process import RemoteWorker  # multiprocessing's pipes take 10 ms to import

    remotes: list[Any] = []
    try:
        for id in range(job.count):
            remotes.append(RemoteWorker(job, id, context))
    except BaseException:
        for remote in remotes:
            remote.close()
        raise
    return remotes


class WorkerBatches:
    """The batches of an epoch that a crew fetches, in the order in which they were asked for.

    Args:
        crew: the workers.
        lists: what to ask for, one after the other.
        ahead: how many tasks each worker is given in advance.
        timeout: seconds to wait for a batch, 0 for ever.
        in_order: whether a batch waits for those that were asked for before it.
        keep: whether the crew outlives the epoch.
    """

    def __init__(self, crew: Crew, lists: Any, ahead: int, timeout: float, in_order: bool, keep: bool) -> None:
        self.crew, self.lists, self.timeout, self.in_order, self.keep = crew, lists, timeout, in_order, keep
        self.active = list(range(len(crew.threads)))
        self.asked = self.returned = self.turn = 0
        self.waiting: dict[int, tuple[int, Any]] = {}
        self.epoch = crew.begin()
        for _ in range(max(ahead, 1) * len(self.active)):
            self._ask()

    def _ask(self) -> None:
        """Give the next task to the next worker that has not said that its data set has ended."""
        if not self.active:
            return
        try:
            numbers = next(self.lists)
        except StopIteration:
            return
        id = self.active[self.turn % len(self.active)]
        self.turn += 1
        self.crew.ask(id, self.asked, numbers)
        self.asked += 1

    def __iter__(self) -> WorkerBatches:
        return self

    def __next__(self) -> Any:
        if self.crew.epoch != self.epoch and self.returned < self.asked:
            raise RuntimeError("a later iteration over this DataLoader has taken over its persistent workers")
        while self.returned < self.asked:
            id, answer = self._next_answer()
            self.returned += 1
            ended = isinstance(answer, Exhausted)
            if ended and id in self.active:
                self.active.remove(id)  # in the order of the batches, so that it is the same in every run
            self._ask()
            if isinstance(answer, Failure):
                answer.reraise()
            if not ended:
                return answer
        self.close()
        raise StopIteration

    def _next_answer(self) -> tuple[int, Any]:
        """Return a worker and its answer to the first task not yet returned, or to any where order does not matter."""
        wanted = self.returned if self.in_order else next(iter(self.waiting), -1)
        while wanted not in self.waiting:
            number, id, answer = self.crew.receive(self.timeout)
            self.waiting[number] = id, answer
            wanted = self.returned if self.in_order else number
        return self.waiting.pop(wanted)

    def close(self) -> None:
        """End the epoch; let the crew go unless it is to be kept."""
        self.lists = iter(())
        self.returned = self.asked
        if not self.keep:
            self.crew.close()
        elif self.crew.epoch == self.epoch:
            self.crew.begin()

    def __del__(self) -> None:
        if hasattr(self, "waiting"):
            self.close()
