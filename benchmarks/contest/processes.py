"""The parent's side of the contestants' processes: start, ask with a time limit, stop."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from contest.libraries import CONTESTANTS, OURS, SLOWING, THREADS

SCRIPT = Path(__file__).with_name("worker.py")


class ContestantError(Exception):
    """A contestant could not do something: why is the message."""


class Process:
    """A contestant's process.

    Args:
        contestant: its name.
        threads: how many it may use.
        python: the interpreter that has its library.
        log: where what it prints goes.
        environment: variables besides the usual ones.
    """

    def __init__(
        self, contestant: str, threads: int, python: str, log: Path, environment: Mapping[str, str] | None = None
    ) -> None:
        self.contestant, self.threads = contestant, threads
        variables = {k: v for k, v in os.environ.items() if k not in SLOWING}
        variables |= dict.fromkeys(THREADS, str(threads)) | dict(CONTESTANTS[contestant].environment)
        if contestant not in OURS:
            variables.pop("PYTHONPATH", None)
        self.begun = time.time()
        with log.open("a") as errors:
            self._process = subprocess.Popen(
                [python, str(SCRIPT), contestant, str(threads)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=variables | dict(environment or {}),
            )
        self._read = b""
        self._waiting = True  # for the line that says that it is ready

    def ready(self, limit: float = 120) -> None:
        """Wait until it has loaded its library.

        Raises:
            ContestantError: it cannot.
        """
        if self._waiting:
            self._waiting = False
            self._answer(limit)

    def ask(self, do: str, limit: float = 60, **options: Any) -> Any:
        """Have it do something and return what it answers.

        Raises:
            ContestantError: it raised an exception, died, or took longer than the limit, in seconds, and was stopped.
        """
        self.ready()
        if not self.alive:
            raise ContestantError("its process has ended")
        assert self._process.stdin is not None
        try:
            self._process.stdin.write((json.dumps({"do": do, **options}) + "\n").encode())
            self._process.stdin.flush()
        except BrokenPipeError:
            raise ContestantError("its process has died") from None
        return self._answer(limit)

    def _answer(self, limit: float) -> Any:
        answer = json.loads(self._line(limit))
        if "error" in answer:
            raise ContestantError(answer["error"])
        return answer["answer"]

    def _line(self, limit: float) -> bytes:
        assert self._process.stdout is not None
        end, stream = time.monotonic() + limit, self._process.stdout.fileno()
        while b"\n" not in self._read:
            if not select.select([stream], [], [], max(0.0, end - time.monotonic()))[0]:
                self.stop()
                raise ContestantError(f"no answer in {limit:.0f} s")
            part = os.read(stream, 1 << 16)
            if not part:
                code = self._process.wait()
                raise ContestantError(f"its process has died (exit status {code})")
            self._read += part
        line, self._read = self._read.split(b"\n", 1)
        return line

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def stop(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()


def interpreter(contestant: str, peers: str) -> str:
    """Return the Python that runs a contestant: ours is this one."""
    return sys.executable if contestant in OURS else peers
