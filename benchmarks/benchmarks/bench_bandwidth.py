"""What moves memory, against copying as many bytes, measured in the same rounds.

asv takes less for better, so what is shown is the time over the copy's: below 1 is faster than copying.
"""

import measuring
import optimizer_cases

import tapegrad as tg

UNIT = "times the time of copying the bytes"
SIZE = 1 << 23  # float32 elements: 32 MiB, beyond the caches
F = tg.nn.functional

# by name: how many bytes it reads and writes, and the call on a vector and a matrix of SIZE elements
CASES = {
    "x + y": (12 * SIZE, lambda x, rows, labels: x + x),
    "relu": (8 * SIZE, lambda x, rows, labels: x.relu()),
    "exp": (8 * SIZE, lambda x, rows, labels: x.exp()),
    "tanh": (8 * SIZE, lambda x, rows, labels: x.tanh()),
    "gelu": (8 * SIZE, lambda x, rows, labels: F.gelu(x)),
    "sum": (4 * SIZE, lambda x, rows, labels: x.sum()),
    "sum of columns": (4 * SIZE, lambda x, rows, labels: rows.sum(0)),
    "sum of rows": (4 * SIZE, lambda x, rows, labels: rows.sum(1)),
    "softmax": (8 * SIZE, lambda x, rows, labels: rows.softmax(1)),
    "layer_norm": (8 * SIZE, lambda x, rows, labels: F.layer_norm(rows, (1024,))),
    "cross_entropy": (4 * SIZE, lambda x, rows, labels: F.cross_entropy(rows, labels)),
    "transpose": (8 * SIZE, lambda x, rows, labels: rows.T.contiguous()),
}


class Ops:
    """Ops on arrays beyond the caches."""

    params = [list(CASES)]
    param_names = ["op"]

    def setup(self, op):
        self.moved, call = CASES[op]
        x = tg.randn(SIZE)
        rows, labels = x.view(-1, 1024), tg.randint(0, 1024, (SIZE // 1024,))
        self.call = lambda: call(x, rows, labels)

    def track_relative_to_copy(self, op):
        return measuring.time_over_copy(self.call, self.moved)

    track_relative_to_copy.unit = UNIT


OPTIMIZERS = {optimizer_cases.title(name, options): (name, options, n) for name, options, n in optimizer_cases.CASES}


class Optimizers:
    """A step of each optimiser on one large tensor, against copying what it reads and writes."""

    params = [list(OPTIMIZERS)]
    param_names = ["optimizer"]

    def setup(self, optimizer):
        name, options, arrays = OPTIMIZERS[optimizer]
        self.step, self.moved = optimizer_cases.step_of(tg, name, ((SIZE,),), options), 4 * arrays * SIZE

    def track_relative_to_copy(self, optimizer):
        return measuring.time_over_copy(self.step, self.moved)

    track_relative_to_copy.unit = UNIT


class SmallOptimizers:
    """A step of each optimiser on the six tensors of a small perceptron."""

    params = [list(OPTIMIZERS)]
    param_names = ["optimizer"]

    def setup(self, optimizer):
        name, options, _ = OPTIMIZERS[optimizer]
        self.step = optimizer_cases.step_of(tg, name, optimizer_cases.SMALL, options)

    def track_relative_time(self, optimizer):
        return measuring.relative_time(self.step)

    track_relative_time.unit = "turns"
