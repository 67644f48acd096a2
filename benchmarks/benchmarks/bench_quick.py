"""What matters most, from the other modules: less than 3 minutes in all, to be run often.

All benchmarks take turns, in sweeps of one short window for each, in one process after another: whatever is slow for
half a minute, or in one process, is so in a few of a benchmark's windows (see measuring.py for what is).
``python -m benchmarks.bench_quick`` prints the windows of one process.
"""

import json
import subprocess
import sys
from pathlib import Path

import measuring
import numpy as np

from . import bench_bandwidth, bench_dispatch, bench_ops, bench_products, bench_steps

SUITE = Path(__file__).resolve().parent.parent
PROCESSES, SWEEPS = 6, 4  # each sweep measures every benchmark in a window
SHARE = 0.1  # of the seconds that a benchmark alone would take, in each window
QUANTILE = 0.25  # of all windows
OPS = """
abs add addmm argmax bmm cat clone cumsum div embedding_rows erf exp gather gelu_tanh index
leaky_relu log log_softmax logsumexp matrix_transpose max_along max_pool mean mm mul norm_channels norm_rows
pad_constant permute pow relu scatter_add sigmoid silu sin softmax sort sqrt stack sub sum sum_by_index tanh var
where
"""
STEPS = [name for name in bench_steps.STEPS if not name.startswith(("wide", "chain", "layer", "cross"))]

_WATCHED = [
    *[(bench_ops.Forward, "track_relative_time", (name, "float32", 10_000)) for name in OPS.split()],
    *[(bench_dispatch.Forward, "track_relative_time", (name,)) for name in bench_dispatch.Forward.params[0]],
    *[(bench_dispatch.Chains, name, ()) for name in vars(bench_dispatch.Chains) if name.startswith("track_")],
    (bench_dispatch.Call, "track_relative_time_calling_a_program", ()),
    *[
        (bench_products.Matmul, "track_relative_to_peak", (sizes, "float32", "nn"))
        for sizes in ("64x64x64", "128x10x128", "256x256x256")
    ],
    *[
        (bench_products.Convolution, "track_relative_to_peak", (name, "with backward"))
        for name in bench_products.Convolution.params[0]
        if name.startswith("digits")
    ],
    *[(bench_bandwidth.Ops, "track_relative_to_copy", (name,)) for name in ("x + y", "softmax", "transpose")],
    *[(bench_bandwidth.SmallOptimizers, "track_relative_time", (name,)) for name in ("SGD", "Adam", "AdamW")],
    *[(bench_steps.Relative, "track_relative_time", (name, "captured")) for name in STEPS],
]


def _name(kind, method, arguments):
    what = arguments[0] if arguments else method.removeprefix("track_relative_time_").replace("_", " ")
    return f"{kind.__module__.split('_')[-1]}: {what}"


CASES = {_name(*each): each for each in _WATCHED}
assert len(CASES) == len(_WATCHED), "two benchmarks have one name"


def _prepared(name):
    """Return what the benchmark would measure, warm."""
    kind, method, arguments = CASES[name]
    bench = kind()
    if hasattr(bench, "setup"):
        bench.setup(*arguments)
    with measuring.put_off() as found:
        getattr(bench, method)(*arguments)
    found[0].prepare()
    return found[0]


def windows_of_all():
    """Return the windows' quotients of every benchmark by name, or what went wrong in it."""
    windows, errors = {}, {}

    def tried(name, function, *arguments):
        try:
            return function(*arguments)
        except Exception as error:
            errors[name] = f"{type(error).__name__}: {error}"

    prepared = {name: tried(name, _prepared, name) for name in CASES}
    for _ in range(SWEEPS):
        for name in CASES:
            if name not in errors:
                windows.setdefault(name, []).append(tried(name, prepared[name].window, SHARE))
    return windows | errors


class Quick:
    """Relative times, in the units of the benchmarks that they are from."""

    params = [list(CASES)]
    param_names = ["benchmark"]

    def setup_cache(self):
        command = [sys.executable, "-m", __name__]
        done = [subprocess.run(command, cwd=SUITE, stdout=subprocess.PIPE, check=True) for _ in range(PROCESSES)]
        return [json.loads(each.stdout) for each in done]

    setup_cache.timeout = 1800

    def track_watched(self, found, benchmark):
        windows = [each[benchmark] for each in found]
        for each in windows:
            if isinstance(each, str):
                raise RuntimeError(each)
        return measuring.four_digits(np.quantile(np.concatenate(windows), QUANTILE))

    track_watched.unit = "turns, or times the limit"


if __name__ == "__main__":
    json.dump(windows_of_all(), sys.stdout)
