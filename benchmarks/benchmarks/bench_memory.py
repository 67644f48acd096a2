"""Peaks of memory, what tensors weigh, and whether memory stays flat."""

import os
from pathlib import Path

from step_cases import STEPS

import tapegrad as tg

TURNS = 100_000
ALLOWED = (
    2 << 20
)  # bytes: what allocators and the interpreter may take meanwhile; a leak of 100 bytes a step is 5 times it


def resident():
    """Return the bytes of the process that are in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class Growth:
    """By how much memory has grown after 100,000 turns: it fails if that is more than 20 bytes each."""

    params = [["forward passes", "training steps", "captured steps", "tensors created", "second derivatives"]]
    param_names = ["what"]
    timeout = 300

    def setup(self, what):
        w, x = tg.tensor([0.5, 0.5, 0.5], requires_grad=True), tg.tensor([1.0, 2.0, 3.0])
        optimizer = tg.optim.SGD([w], lr=1e-9)

        def train():
            optimizer.zero_grad()
            (w * x).sum().backward()
            optimizer.step()

        def second():
            (g,) = tg.autograd.grad((w * w * x).sum(), w, create_graph=True)
            tg.autograd.grad(g.sum(), w)

        self.body = {
            "forward passes": lambda: (w * x).sum(),
            "training steps": train,
            "captured steps": tg.compile(train),
            "tensors created": lambda: tg.tensor([1.0, 2.0, 3.0], requires_grad=True),
            "second derivatives": second,
        }[what]

    def track_growth(self, what):
        for _ in range(2000):
            self.body()
        before = resident()
        for _ in range(TURNS):
            self.body()
        grown = resident() - before
        if grown > ALLOWED:
            raise MemoryError(f"{TURNS} {what} have left {grown} bytes behind")
        return max(grown, 0)

    track_growth.unit = "bytes"


class Peak:
    """The most that a process has in memory: only imported, and in whole steps."""

    def peakmem_import(self):
        pass

    def peakmem_digits_eager(self):
        _run(STEPS["digits"].build)

    def peakmem_digits_captured(self):
        _run(STEPS["digits"].build, captured=True)

    def peakmem_cnn_eager(self):
        _run(STEPS["cnn"].build)

    def peakmem_cnn_captured(self):
        _run(STEPS["cnn"].build, captured=True)

    def peakmem_chain_of_100_000_ops(self):
        x = tg.tensor([1.0, 2.0, 3.0], requires_grad=True)
        y = x
        for _ in range(100_000):
            y = y * x
        y.backward(tg.ones(3))


def _run(build, captured=False):
    function, arguments = build(tg)
    function = tg.compile(function) if captured else function
    for _ in range(5):
        function(*arguments)


def mem_thousand_tensors():
    """Python's part of a thousand tensors; their numbers lie in the machine's tables."""
    return [tg.zeros(3) for _ in range(1000)]


class Tables:
    """What the tape keeps of each recorded op, numbers and table rows together."""

    def track_bytes_a_recorded_op(self):
        x = tg.tensor([1.0, 2.0, 3.0], requires_grad=True)
        y = x * x
        before = resident()
        for _ in range(TURNS):
            y = y * x
        return (resident() - before) / TURNS

    track_bytes_a_recorded_op.unit = "bytes"
