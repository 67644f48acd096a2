"""All the figures that the project answers for, beside torch where it is installed.

Run: python benchmarks/compare.py [--quick] [section ...]

Sections: dispatch, small, matmul, maths, bandwidth, optim, start, memory. One thread, float32 unless a line says
otherwise. Contestants take turns in each round within one process; medians and their ratios are printed (ratio: the
other's time over ours).
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

for _name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_name] = "1"
os.environ.pop("OPENBLAS_CORETYPE", None)

import numpy as np

try:
    import torch

    torch.set_num_threads(1)
except ImportError:
    torch = None

from measuring import medians

HERE = Path(__file__).parent


def line(what: str, ours: float, theirs: float | None, unit: float, unit_name: str, wanted: str) -> None:
    other = f"torch {theirs / unit:10.3f} {unit_name}, ratio {theirs / ours:6.2f}" if theirs else "torch: not installed"
    print(f"{what:48s} {ours / unit:10.3f} {unit_name}, {other}   wanted: {wanted}")


def dispatch(quick: bool) -> None:
    """The cost of an op beside its arithmetic: three float32 elements that require a gradient."""
    import tapegrad as tg

    rounds = 15 if quick else 41
    a, b = (tg.tensor([1.0, 2.0, 3.0], requires_grad=True) for _ in range(2))
    calls: dict[str, Callable[[], Any]] = {"ours": lambda: a + b}
    if torch:
        ta, tb = (torch.tensor([1.0, 2.0, 3.0], requires_grad=True) for _ in range(2))
        calls["torch"] = lambda: ta + tb
    found = medians(calls, rounds, 2000)
    line("a + b", found["ours"], found.get("torch"), 1e-9, "ns", "ratio >= 3")

    times: dict[str, list[float]] = {"ours": [], "torch": []}
    contestants = {"ours": (a, b, tg)} | ({"torch": (ta, tb, torch)} if torch else {})
    for _ in range(rounds):
        for name, (x, w, module) in contestants.items():
            y = x
            for _ in range(1000):
                y = y * w
            ones = module.tensor([1.0, 1.0, 1.0])
            start = time.perf_counter()
            y.backward(ones)
            times[name].append((time.perf_counter() - start) / 1000)
    ours = statistics.median(times["ours"])
    theirs = statistics.median(times["torch"]) if torch else None
    line("backward of a chain of 1,000 products, an op", ours, theirs, 1e-9, "ns", "ratio >= 20")


def _script(name: str, quick: bool) -> None:
    subprocess.run([sys.executable, str(HERE / name), *(["--quick"] if quick else [])], check=False)


def small(quick: bool) -> None:
    """The functions that scripts use most, on tensors of 3 and of 1,000 elements."""
    if torch is None:
        print("small: install torch for the comparison")
        return
    _script("measure_small.py", quick)


def matmul(quick: bool) -> None:
    """Matrix products against the FMA peak, NumPy and torch."""
    _script("measure_gemm.py", quick)


def maths(quick: bool) -> None:
    """Elementary functions in cache: ns an element and worst error in ulp."""
    if torch is None:
        print("maths: install torch for the comparison")
        return
    _script("measure_vector_math.py", quick)


def bandwidth(quick: bool) -> None:
    """Ops on arrays beyond the caches, as a fraction of the copy bandwidth of the same run."""
    from peak import copy_bandwidth

    import tapegrad as tg

    rounds = 5 if quick else 15
    size = 1 << 24
    rng = np.random.default_rng(0)
    x = rng.normal(size=size).astype(np.float32)
    rows = x.reshape(-1, 1024)
    labels = rng.integers(0, 1024, len(rows))
    cases: list[tuple[str, float, Callable[[Any, Any], Any]]] = [
        ("x + y", 12 * size, lambda m, t: t["x"] + t["x"]),
        ("relu", 8 * size, lambda m, t: t["x"].relu()),
        ("tanh", 8 * size, lambda m, t: t["x"].tanh()),
        ("sum of all", 4 * size, lambda m, t: t["x"].sum()),
        ("sum of columns [16384, 1024]", 4 * size, lambda m, t: t["rows"].sum(0)),
        ("sum of rows [16384, 1024]", 4 * size, lambda m, t: t["rows"].sum(1)),
        ("softmax [16384, 1024]", 8 * size, lambda m, t: t["rows"].softmax(1)),
        ("cross_entropy [16384, 1024]", 4 * size, lambda m, t: m.nn.functional.cross_entropy(t["rows"], t["labels"])),
    ]
    ours = {"x": tg.tensor(x), "rows": tg.tensor(rows), "labels": tg.tensor(labels)}
    theirs = {k: torch.from_numpy(v) for k, v in (("x", x), ("rows", rows), ("labels", labels))} if torch else {}
    for name, size_bytes, function in cases:
        before = copy_bandwidth()
        calls = {"ours": lambda function=function: function(tg, ours)}
        if torch:
            calls["torch"] = lambda function=function: function(torch, theirs)
        found = medians(calls, rounds)
        copy = (before + copy_bandwidth()) / 2
        _bandwidth_line(name, size_bytes, found, copy)
    _adam(rounds)


def _bandwidth_line(name: str, size_bytes: float, found: dict[str, float], copy: float) -> None:
    rate = size_bytes / found["ours"] / 1e9
    ratio = f"torch ratio {found['torch'] / found['ours']:5.2f}" if "torch" in found else ""
    print(f"{name:34s} {rate:7.1f} GB/s = {rate / copy:4.2f} of the copy's {copy:5.1f}   wanted: >= 0.80   {ratio}")


def _adam(rounds: int) -> None:
    from peak import copy_bandwidth

    import tapegrad as tg

    count = 10_000_000
    calls = {}
    for name, module in (("ours", tg), ("torch", torch)):
        if module is None:
            continue
        p = module.zeros(count, requires_grad=True)
        p.grad = module.ones(count)
        extra = {"foreach": False, "fused": True} if module is torch else {}
        calls[name] = module.optim.Adam([p], lr=1e-3, **extra).step
    before = copy_bandwidth()
    found = medians(calls, rounds)
    _bandwidth_line("Adam, 10 million parameters", 28 * count, found, (before + copy_bandwidth()) / 2)


def optim(quick: bool) -> None:
    """Each optimiser on ten million parameters and on a small network's."""
    _script("measure_optim.py", quick)


def start(quick: bool) -> None:
    """Import, and the demo's first finished step from an empty and from a filled cache."""
    code = "import time; t = time.perf_counter(); import tapegrad; print(time.perf_counter() - t)"
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "TAPEGRAD_CACHE_DIR": f"{folder}/cache"}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)  # importing would compile the sources each time
        for attempt in ("first start", "second start"):
            command = [sys.executable, "-m", "tapegrad", "demo", "--epochs", "1", "--out", f"{folder}/{attempt}"]
            output = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
            print(f"demo, {attempt}: {next(text for text in output.splitlines() if 'first step' in text).strip()}")
        times = [
            float(subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, check=True).stdout)
            for _ in range(3 if quick else 9)
        ]
    print(f"import tapegrad: median {statistics.median(times):.3f} s   wanted: <= 0.6 s; steps <= 15 s and <= 1.5 s")


def _resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def memory(quick: bool) -> None:
    """Resident memory over many forward passes, training steps and creations; a chain of a million ops."""
    import tapegrad as tg

    count = 100_000 if quick else 1_000_000
    w = tg.tensor([0.5, 0.5, 0.5], requires_grad=True)
    x = tg.tensor([1.0, 2.0, 3.0])
    optimizer = tg.optim.SGD([w], lr=1e-9)

    def forward() -> None:
        (w * x).sum()

    def train() -> None:
        optimizer.zero_grad()
        (w * x).sum().backward()
        optimizer.step()

    def create() -> None:
        tg.tensor([1.0, 2.0, 3.0], requires_grad=True)

    for name, body in (("forward passes", forward), ("training steps", train), ("create and drop", create)):
        for _ in range(1000):
            body()
        before = _resident()
        began = time.perf_counter()
        for _ in range(count):
            body()
        seconds = time.perf_counter() - began
        print(
            f"{count} {name}: memory grew by {(_resident() - before) / 1024:.0f} KiB, "
            f"{seconds / count * 1e6:.2f} us each"
        )
    began = time.perf_counter()
    y = w
    for _ in range(count):
        y = y * x
    y.backward(tg.tensor([1.0, 1.0, 1.0]))
    del y
    print(f"a chain of {count} ops forward, backward and freed: {time.perf_counter() - began:.2f} s")


SECTIONS = {
    "dispatch": dispatch,
    "small": small,
    "matmul": matmul,
    "maths": maths,
    "bandwidth": bandwidth,
    "optim": optim,
    "start": start,
    "memory": memory,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sections", nargs="*", choices=[*SECTIONS, []], help="what to measure; everything by default")
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    args = parser.parse_args()
    cpu = next((t.split(":")[1] for t in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in t), "?")
    print(
        f"{cpu.strip()}, {os.cpu_count()} cores, Python {platform.python_version()}, NumPy {np.__version__}, ", end=""
    )
    print(f"torch {torch.__version__ if torch else 'not installed'}; 1 thread")
    for name in args.sections or SECTIONS:
        print(f"\n== {name}: {SECTIONS[name].__doc__}", flush=True)
        SECTIONS[name](args.quick)


if __name__ == "__main__":
    main()
