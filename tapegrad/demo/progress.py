"""Shows how training goes: a live bar in a terminal, a line per epoch elsewhere; a first Ctrl-C stops it cleanly."""

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from types import FrameType
from typing import Any, TextIO

from tapegrad.demo.train import Best, Epoch, Settings

_REFRESH_SECONDS = 0.1
_SHOW_CURSOR = b"\x1b[?25h"
_STOPPING = b"\nstopping after this step; Ctrl-C again quits at once\n"


def epoch_line(row: Epoch, epochs: int) -> str:
    """Return one epoch's line for people.

    Examples:
        >>> epoch_line(Epoch(3, 189, 0.41234, 0.2, 0.94, 1e-3, 51234.5), 40)
        'epoch  3/40  loss 0.4123  held-out accuracy 0.9400   51,234 samples/s'
    """
    width = len(str(epochs))
    return (
        f"epoch {row.epoch:{width}}/{epochs}  loss {row.loss:.4f}  held-out accuracy {row.held_out_accuracy:.4f}"
        f"  {row.samples_per_second:7,.0f} samples/s"
    )


class LineProgress:
    """A watcher that prints a line after each epoch."""

    stop = False

    def __init__(self, settings: Settings, on_epoch: Callable[[Epoch, Best], None], stream: TextIO) -> None:
        self.settings, self.on_epoch, self.stream = settings, on_epoch, stream

    def step(self, epoch: int, step: int, loss: float, samples_per_second: float) -> None:
        """Say when the first step is done: on a first start, that is when everything has been compiled."""
        if step == 1:
            self._print(f"first step {seconds_since_start():.1f} s after the start, loss {loss:.4f}")

    def epoch(self, row: Epoch, best: Best) -> None:
        """Print the epoch's line."""
        self.on_epoch(row, best)
        self._print(epoch_line(row, self.settings.epochs))

    def _print(self, line: str) -> None:
        print(line, file=self.stream, flush=True)


class LiveProgress(LineProgress):
    """A watcher that draws a bar with rich, ten times a second, and says when the first step is done."""

    def __init__(
        self, settings: Settings, on_epoch: Callable[[Epoch, Best], None], stream: TextIO, steps: int, bar: Any
    ) -> None:
        super().__init__(settings, on_epoch, stream)
        self.bar, self.accuracy, self.refreshed = bar, "    –", 0.0
        self.task = bar.add_task("", total=steps, epoch=1, loss=float("nan"), accuracy=self.accuracy, speed=0.0)

    def step(self, epoch: int, step: int, loss: float, samples_per_second: float) -> None:
        """Move the bar, unless it has just moved."""
        super().step(epoch, step, loss, samples_per_second)
        now = time.perf_counter()
        if now - self.refreshed >= _REFRESH_SECONDS:
            self.refreshed = now
            self._move(epoch, step, loss, samples_per_second)

    def epoch(self, row: Epoch, best: Best) -> None:
        """Show the epoch's accuracy."""
        self.on_epoch(row, best)
        self.accuracy = f"{row.held_out_accuracy:.4f}"
        self._move(row.epoch, row.steps, row.loss, row.samples_per_second)

    def _move(self, epoch: int, step: int, loss: float, speed: float) -> None:
        self.bar.update(self.task, completed=step, epoch=epoch, loss=loss, accuracy=self.accuracy, speed=speed)
        self.bar.refresh()

    def _print(self, line: str) -> None:
        self.bar.console.print(line, highlight=False)


@contextmanager
def progress(
    settings: Settings, steps: int, on_epoch: Callable[[Epoch, Best], None], stream: TextIO | None = None
) -> Iterator[LineProgress]:
    """Give a watcher that suits ``stream`` (standard output) and stops on Ctrl-C while the block runs."""
    stream = stream or sys.stdout
    if not stream.isatty():
        watcher = LineProgress(settings, on_epoch, stream)
        with stopping_on_interrupt(watcher):
            yield watcher
        return
    with _bar(settings.epochs, stream) as bar:
        watcher = LiveProgress(settings, on_epoch, stream, steps, bar)
        with stopping_on_interrupt(watcher):
            yield watcher


def _bar(epochs: int, stream: TextIO) -> AbstractContextManager[Any]:
    # rich is imported here since it takes 0.05 s and only terminals need it.
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    return Progress(
        TextColumn("epoch {task.fields[epoch]:2}/" + str(epochs)),
        BarColumn(bar_width=None),
        TextColumn("loss [bold]{task.fields[loss]:.4f}"),
        TextColumn("held-out accuracy [bold green]{task.fields[accuracy]}"),
        TextColumn("{task.fields[speed]:,.0f} samples/s"),
        TimeRemainingColumn(compact=True),
        console=Console(file=stream),
        auto_refresh=False,
        expand=True,
    )


@contextmanager
def stopping_on_interrupt(watcher: LineProgress) -> Iterator[None]:
    """Let the first SIGINT ask ``watcher`` to stop and a second one end the process."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        if watcher.stop:
            os.write(2, _SHOW_CURSOR if watcher.stream.isatty() else b"")
            os._exit(130)
        watcher.stop = True
        os.write(2, _STOPPING)  # print() may be what was interrupted, and must not be entered twice

    previous = signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)


_IMPORTED = time.perf_counter()


def seconds_since_start() -> float:
    """Return the seconds since this process began, by Linux's record of it; elsewhere, since this import."""
    try:
        with open("/proc/self/stat") as stat, open("/proc/uptime") as uptime:
            ticks = int(stat.read().rpartition(")")[2].split()[19])
            return float(uptime.read().split()[0]) - ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError):
        return time.perf_counter() - _IMPORTED
