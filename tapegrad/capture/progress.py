"""The progress of an epoch on the terminal, shown by a thread while compiled code runs without the GIL."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable

_SECONDS = 0.2  # from one line to the next


class Progress:
    """Shows ``done()`` of ``total`` steps on the standard error stream, inside of a ``with`` block.

    Args:
        done: returns how many steps were taken; it is called from another thread.
        total: how many there are.
    """

    def __init__(self, done: Callable[[], int], total: int) -> None:
        self._done, self._total = done, total
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._show, daemon=True)

    def __enter__(self) -> None:
        self._start = time.perf_counter()
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self._write("\n")

    def _show(self) -> None:
        while not self._over.wait(_SECONDS):
            self._write("")

    def _write(self, end: str) -> None:
        done, taken = self._done(), time.perf_counter() - self._start
        rate = f"{done / max(taken, 1e-9):,.0f} steps/s"
        sys.stderr.write(f"\r{done:,} of {self._total:,} steps, {taken:.1f} s, {rate}   {end}")
        sys.stderr.flush()
