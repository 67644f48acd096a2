"""Matrix multiplication against the machine's peak, NumPy and torch, on one thread.

Run: python benchmarks/measure_gemm.py [--quick]

Each line has m, n, k, the layouts of A and B (n: contiguous rows, t: contiguous columns), GFLOP/s, their share of the
peak (multiply-adds from registers), and our speed over NumPy's and torch's, then the median round's ratios. The
contestants and the peak take turns in every round; the first figures compare everybody's best round, which a busy
neighbour on the same core (it halves the speed while it runs) changes least. Ours is called by address from a compiled
loop, as the library does; NumPy and torch write into a given array and pay for their call from Python.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

for _name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_name] = "1"
os.environ.pop("OPENBLAS_CORETYPE", None)

import numpy as np
from peak import CHAINS, address_call, fma_loop, fma_peak

from tapegrad.kernels.gemm import WORKSPACE_BYTES, make_gemm
from tapegrad.kernels.gemm_micro import host_tile
from tapegrad.native.cache import compile_function
from tapegrad.native.pointers import call1

try:
    import torch

    torch.set_num_threads(1)
except ImportError:
    torch = None

SQUARES = (16, 32, 64, 96, 128, 192, 256, 384, 512, 768, 1024)
SHAPES = (  # m, n, k
    *((n, n, n) for n in SQUARES),
    (32, 64, 8),
    (64, 256, 784),
    (64, 128, 256),
    (256, 2048, 1024),
    (1000, 333, 77),
    (128, 128, 784),
    (128, 10, 128),
    (784, 128, 128),
    (1, 1024, 1024),
    (1024, 1, 1024),
)
ROUND_SECONDS = 0.003


def repeat(gemm, args, count):  # type: ignore[no-untyped-def]
    for _ in range(count):
        call1(gemm, args)
    return 0


class Case:
    """One product: operands in their layouts, and a function of each contestant that runs it some times."""

    def __init__(self, dtype: str, shape: tuple[int, int, int], layout: str) -> None:
        m, n, k = shape
        rng = np.random.default_rng(0)
        a, b = rng.normal(size=(m, k)).astype(dtype), rng.normal(size=(k, n)).astype(dtype)
        self.a = np.asfortranarray(a) if layout[0] == "t" else a
        self.b = np.asfortranarray(b) if layout[1] == "t" else b
        self.c = np.zeros((m, n), dtype)
        scratch = np.empty(WORKSPACE_BYTES + 64, np.uint8)
        operands = [self.a, self.b]
        words = [m, n, k]
        for x in operands:
            words += [x.ctypes.data, x.strides[0] // x.itemsize, x.strides[1] // x.itemsize]
        words += [self.c.ctypes.data, n, 0, 1, 0, 0, 0, (scratch.ctypes.data + 63) // 64 * 64]
        self.args, self.alive = np.array(words), scratch

    def contestants(self, ours: Callable[[int, int], int]) -> dict[str, Callable[[int], Any]]:
        """Return by name what runs the product ``count`` times."""
        runs: dict[str, Callable[[int], Any]] = {"ours": lambda count: ours(self.args.ctypes.data, count)}

        def numpy_run(count: int) -> None:
            for _ in range(count):
                np.matmul(self.a, self.b, out=self.c)

        runs["numpy"] = numpy_run
        if torch is not None:
            a, b, c = (torch.from_numpy(x) for x in (self.a, self.b, self.c))

            def torch_run(count: int) -> None:
                for _ in range(count):
                    torch.mm(a, b, out=c)

            runs["torch"] = torch_run
        return runs


def seconds(run: Callable[[int], Any], count: int) -> float:
    start = time.perf_counter()
    run(count)
    return (time.perf_counter() - start) / count


def peak_run(dtype: str, flops: int) -> Callable[[int], Any]:
    """Return what runs as many multiply-adds from registers as ``count`` products have."""
    data = np.zeros(CHAINS * 64, dtype)
    loop = address_call(fma_loop(dtype), 2)
    turns = flops / (2 * CHAINS * host_tile().vector_bytes // data.itemsize)
    return lambda count: loop(max(1, round(count * turns)), data.ctypes.data)


def measure(case: Case, ours: Callable[[int, int], int], rounds: int) -> dict[str, list[float]]:
    """Return each contestant's times of one product, round by round, and the peak's time of as much arithmetic."""
    runs = case.contestants(ours)
    m, n = case.c.shape
    runs["peak"] = peak_run(case.c.dtype.name, 2 * m * n * case.a.shape[1])
    counts = {}
    for name, run in runs.items():
        run(1)
        counts[name] = max(1, int(ROUND_SECONDS / max(seconds(run, 3), 1e-9)))
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            times[name].append(seconds(run, counts[name]))
    return times


def median_ratio(times: dict[str, list[float]], name: str) -> float:
    """Return the median over the rounds of a contestant's time divided by ours."""
    return statistics.median(theirs / ours for theirs, ours in zip(times[name], times["ours"], strict=True))


def table(dtype: str, shapes: Any, layouts: tuple[str, ...], rounds: int) -> None:
    """Measure and print all shapes and layouts of one dtype."""
    gemm = compile_function(make_gemm(dtype), f"gemm {dtype} {host_tile()}", "int64(int64)")
    loop = address_call(compile_function(repeat, "benchmark repeat", "int64(int64, int64, int64)"), 3)
    print(f"\n{dtype}: peak {fma_peak(dtype):.1f} GFLOP/s")
    print("   m    n    k      GFLOP/s  of peak  x numpy  x torch    medians")
    for shape in shapes:
        for layout in layouts:
            times = measure(Case(dtype, shape, layout), lambda args, count: loop(gemm, args, count), rounds)
            m, n, k = shape
            speed = 2e-9 * m * n * k / min(times["ours"])
            names = [name for name in ("peak", "numpy", "torch") if name in times]
            best = " ".join(f"{min(times[name]) / min(times['ours']):8.3f}" for name in names)
            medians = " ".join(f"{median_ratio(times, name):6.2f}" for name in names)
            print(f"{m:4} {n:4} {k:4} {layout} {speed:10.1f} {best}    {medians}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer shapes and rounds: about ten seconds")
    quick = parser.parse_args().quick
    for dtype in ("float32", "float64"):
        if quick:
            table(dtype, [(64, 64, 64), (256, 256, 256), (128, 10, 128)], ("nn", "nt"), rounds=5)
        else:
            table(dtype, SHAPES, ("nn", "nt", "tn", "tt"), rounds=25)


if __name__ == "__main__":
    main()
