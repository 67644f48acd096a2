"""Workers that are spawned processes: one pipe each, so that a killed one holds no lock that others wait for."""

from __future__ import annotations

import contextlib
import pickle
import signal
import threading
from collections.abc import Iterator
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from tapegrad.utils.data.worker import Failure, Job, Worker

_GRACE = 5.0  # seconds that a process is given to end by itself


class RemoteWorker:
    """Has a process fetch batches; used from one thread, which waits for the answers.

    Raises:
        Exception: the data set or a function cannot be pickled.
    """

    def __init__(self, job: Job, id: int, context: Any) -> None:
        self.id = id
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, job, id), daemon=True)
        self.busy = False
        with _interrupts_ignored():
            self.process.start()
        theirs.close()  # so that the pipe ends when the process does

    def answer(self, epoch: int, numbers: Any) -> Any:
        """Return the process's answer; a Failure if it has died."""
        self.busy = True
        try:
            self.connection.send((epoch, numbers))
            return _receive(self.connection)
        except (EOFError, OSError):
            self.process.join(_GRACE)
            return Failure(RuntimeError(self._death()), f"worker process {self.id}")
        finally:
            self.busy = False

    def _death(self) -> str:
        code = self.process.exitcode
        how = f"with exit code {code}" if code is None or code >= 0 else f"killed by {signal.Signals(-code).name}"
        hint = ' (scripts that start processes need `if __name__ == "__main__":`)' if code == 1 else ""
        return f"DataLoader worker (pid {self.process.pid}) exited unexpectedly, {how}{hint}"

    def interrupt(self) -> None:
        """End a process that works at something nobody waits for any more."""
        if self.busy:
            self.process.terminate()

    def close(self) -> None:
        """End the process: it stops by itself when its pipe is closed."""
        self.connection.close()
        self.process.join(_GRACE)
        if self.process.exitcode is None:
            self.process.kill()
            self.process.join()
        self.process.close()


@contextlib.contextmanager
def _interrupts_ignored() -> Iterator[None]:
    """Have processes that start meanwhile ignore Ctrl-C, from their first instruction on: it is for the main one."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.SIG_DFL if before is None else before)


def _serve(connection: Connection, job: Job, id: int) -> None:
    """Answer until the pipe is closed, or its other end has died."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    worker = Worker(job, id, process=True)
    with contextlib.suppress(EOFError, OSError):
        while True:
            epoch, numbers = connection.recv()
            _send(connection, worker.answer(epoch, numbers), worker.name)


def _send(connection: Connection, answer: Any, name: str) -> None:
    """Send an answer; the memory of arrays and tensors goes into the pipe from where it is."""
    buffers: list[pickle.PickleBuffer] = []
    try:
        head = pickle.dumps(answer, 5, buffer_callback=buffers.append)
    except Exception as error:
        buffers = []
        reason = RuntimeError(f"the batch cannot be sent from the worker: {error}")
        kind = answer.kind if isinstance(answer, Failure) else None
        if kind is not None:
            answer.kind = RuntimeError  # a class that only the worker knows
        head = pickle.dumps(Failure(reason, name) if kind is None else answer, 5)
    raws = [buffer.raw() for buffer in buffers]
    connection.send([raw.nbytes for raw in raws])
    connection.send_bytes(head)
    for raw in raws:
        if raw.nbytes:
            connection.send_bytes(raw)


def _receive(connection: Connection) -> Any:
    sizes = connection.recv()
    head = connection.recv_bytes()
    buffers = [np.empty(size, np.uint8) for size in sizes]
    for buffer in buffers:
        if buffer.nbytes:
            connection.recv_bytes_into(buffer)
    try:
        return pickle.loads(head, buffers=buffers)
    except Exception as error:
        return Failure(RuntimeError(f"the worker's answer cannot be read: {error}"), "worker process")
