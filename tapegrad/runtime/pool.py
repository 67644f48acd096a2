"""The thread pool of the process: its words and scratch memory, how many threads it has, and its end.

The threads start when a kernel first has more than one task; see native/parallel.py for what they do.
"""

from __future__ import annotations

import atexit
import ctypes
import os
import time

import numpy as np

from tapegrad.native.pages import make_usable, reserve_addresses
from tapegrad.native.parallel import (
    BUSY,
    CONDITION,
    FINISHED,
    HANDLES,
    MAX_THREADS,
    MUTEX,
    POOL_WORDS,
    RUN,
    SCRATCH,
    SCRATCH_BYTES,
    SCRATCH_STEP,
    SLEEPING,
    STARTED,
    STOP,
    THREADS,
    TICKET,
    WAITING,
)

_LINE = 128  # bytes: two cache lines, which are fetched together


class ThreadPool:
    """Threads that share the tasks of a kernel.

    Args:
        run: the address of the compiled ``run_tasks``.
        threads: how many, the calling one included.
    """

    def __init__(self, run: int, threads: int) -> None:
        self._memory = np.zeros(POOL_WORDS + _LINE // 8, np.int64)
        skipped = -self._memory.ctypes.data % _LINE // 8
        self.words = self._memory[skipped : skipped + POOL_WORDS]
        self.address = self.words.ctypes.data
        self.words[RUN] = run
        self._scratch_of = 0  # threads
        self._libc = ctypes.CDLL(None)
        self._make_locks()
        self._set_size(threads)
        atexit.register(self.stop)
        os.register_at_fork(after_in_child=self._forget_threads)

    @property
    def threads(self) -> int:
        """How many threads a kernel may use, the calling one included."""
        return int(self.words[THREADS])

    def resize(self, threads: int) -> None:
        """Use another number of threads from the next kernel on, 256 at the most."""
        self.stop()
        self._set_size(min(threads, MAX_THREADS))

    def stop(self) -> None:
        """End the threads, when the loop that they may be in is over; kernels then run on the calling thread."""
        self.words[THREADS] = 1
        while self.words[BUSY]:
            time.sleep(0.001)
        count, self.words[STARTED] = int(self.words[STARTED]), 0
        if count == 0:
            return
        self.words[STOP] = 1
        mutex, condition, _ = self._locks
        self._libc.pthread_mutex_lock(mutex)
        self._libc.pthread_cond_broadcast(condition)
        self._libc.pthread_mutex_unlock(mutex)
        for k in range(count):
            self._libc.pthread_join(ctypes.c_void_p(int(self.words[HANDLES + 3 * k])), None)

    def _set_size(self, threads: int) -> None:
        if threads > self._scratch_of:
            # The one there was is kept: a thread that runs without the GIL may be in it. Pages that nobody touches take
            # no memory.
            scratch = reserve_addresses(threads * SCRATCH_STEP)
            for k in range(threads):
                make_usable(scratch + k * SCRATCH_STEP, SCRATCH_BYTES)
            self._scratch_of = threads
            self.words[SCRATCH] = scratch
        self.words[THREADS] = threads

    def _make_locks(self) -> None:
        self._locks = tuple(ctypes.c_void_p(self.address + 8 * word) for word in (MUTEX, CONDITION, FINISHED))
        mutex, *conditions = self._locks
        self._libc.pthread_mutex_init(mutex, None)
        for condition in conditions:
            self._libc.pthread_cond_init(condition, None)

    def _forget_threads(self) -> None:
        """A forked process has none of its parent's threads."""
        self.words[[BUSY, TICKET, STARTED, SLEEPING, STOP, WAITING]] = 0
        self._make_locks()


def usable_cores() -> int:
    """Return how many processors this process may use, which ``taskset`` or a container may have limited."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
