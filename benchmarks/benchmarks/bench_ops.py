"""Every op, from its declaration: forward and backward, by dtype and size. A new op appears here by itself."""

import itertools

import measuring
import numpy as np
import op_cases

import tapegrad as tg

DTYPES = ["float32", "float64", "int64"]
SIZES = [100, 10_000, 1_000_000]
FLOATS = DTYPES[:2]


def _skipped(names, dtypes):
    """Return the combinations that do not exist: dtypes that an op does not have, large arrays of general ops."""
    return [
        case
        for case in itertools.product(names, dtypes, SIZES)
        if not op_cases.has_dtype(case[0], case[1]) or not op_cases.has_size(case[0], case[2])
    ]


class Forward:
    """A call of the op; int64 for the ops that have no floats."""

    params = [op_cases.OPS, DTYPES, SIZES]
    param_names = ["op", "dtype", "elements"]
    skip_params = _skipped(op_cases.OPS, DTYPES)

    def setup(self, op, dtype, elements):
        self.call = op_cases.forward_call(op, dtype, elements)

    def track_relative_time(self, op, dtype, elements):
        return measuring.relative_time(self.call)

    track_relative_time.unit = "turns"


class Backward:
    """The sweep over the one entry that the op has recorded."""

    params = [op_cases.DIFFERENTIABLE, FLOATS, SIZES]
    param_names = ["op", "dtype", "elements"]
    skip_params = _skipped(op_cases.DIFFERENTIABLE, FLOATS)

    def setup(self, op, dtype, elements):
        self.call = op_cases.backward_call(op, dtype, elements)

    def track_relative_time(self, op, dtype, elements):
        return measuring.relative_time(self.call)

    track_relative_time.unit = "turns"


class Matrices:
    """Decompositions and solvers, whose samples cannot be made longer, on an n x n matrix."""

    params = [["cholesky", "det", "eigh", "inv", "qr", "slogdet", "solve", "svd"], [8, 64, 128], FLOATS]
    param_names = ["op", "n", "dtype"]

    def setup(self, op, n, dtype):
        a = np.random.default_rng(0).normal(size=(n, n))
        matrix = tg.from_numpy((a @ a.T + n * np.eye(n)).astype(dtype))
        function, more = getattr(tg.linalg, op), (matrix,) if op == "solve" else ()
        self.call = lambda: function(matrix, *more)

    def track_relative_time(self, op, n, dtype):
        return measuring.relative_time(self.call)

    track_relative_time.unit = "turns"


class Random:
    """Random draws, which have no samples: their results are their own."""

    params = [["rand", "randn", "randint", "bernoulli", "randperm", "multinomial", "dropout"], [100, 1_000_000]]
    param_names = ["op", "elements"]

    def setup(self, op, elements):
        p = tg.from_numpy(np.full(elements, 0.5, np.float32))
        calls = {
            "rand": lambda: tg.rand(elements),
            "randn": lambda: tg.randn(elements),
            "randint": lambda: tg.randint(0, 10, (elements,)),
            "bernoulli": lambda: tg.bernoulli(p),
            "randperm": lambda: tg.randperm(elements),
            "multinomial": lambda: tg.multinomial(p, 64, replacement=True),
            "dropout": lambda: tg.nn.functional.dropout(p, 0.5, True),
        }
        self.call = calls[op]

    def track_relative_time(self, op, elements):
        return measuring.relative_time(self.call)

    track_relative_time.unit = "turns"
