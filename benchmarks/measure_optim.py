"""Optimisers beside torch's: ten million parameters against the copy bandwidth, and a small network in microseconds.

Run: python benchmarks/measure_optim.py [--quick] [--threads N]

Large: one step on one float32 tensor; the bytes are those that the update has to read and write. Small: one step on the
six tensors of a 64-100-100-10 perceptron, against torch's foreach and fused steps where it has them.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

import tapegrad as tg

try:
    import torch
except ImportError:
    torch = None

# optimiser, options, arrays that a step reads and writes: of 4 bytes an element each
CASES = [
    ("SGD", {}, 3),
    ("SGD", {"momentum": 0.9}, 5),
    ("Adam", {}, 7),
    ("AdamW", {}, 7),
    ("Adam", {"amsgrad": True}, 9),
    ("NAdam", {}, 7),
    ("RAdam", {}, 7),
    ("Adamax", {}, 7),
    ("Adadelta", {}, 7),
    ("Adagrad", {}, 5),
    ("RMSprop", {}, 5),
    ("RMSprop", {"momentum": 0.9, "centered": True}, 9),
    ("Rprop", {}, 7),
    ("ASGD", {}, 5),
    ("Lion", {}, 5),
]
COUNT = 10_000_000
SMALL = ((100, 64), (100,), (100, 100), (100,), (10, 100), (10,))


def step_of(library: Any, name: str, shapes: Any, options: dict[str, Any]) -> Callable[[], Any]:
    params = [library.zeros(*shape, requires_grad=True) for shape in shapes]
    for param in params:
        param.grad = library.ones(*param.shape)
    return getattr(library.optim, name)(params, lr=1e-3, **options).step


def torch_steps(name: str, shapes: Any, options: dict[str, Any], kinds: tuple[str, ...]) -> dict[str, Any]:
    """Return torch's steps by how they are made; older and newer versions have more or fewer."""
    steps = {}
    for kind in kinds if torch is not None and hasattr(torch.optim, name) else ():
        try:
            steps[kind] = step_of(torch, name, shapes, {**options, kind: True} if kind != "single" else options)
            steps[kind]()
        except (TypeError, RuntimeError, ValueError):
            steps.pop(kind, None)
    return steps


def times(calls: dict[str, Callable[[], Any]], rounds: int, repeat: int) -> dict[str, float]:
    """Return the median seconds of each call; the contestants take turns."""
    found: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()
    for _ in range(rounds):
        for name, call in calls.items():
            start = time.perf_counter()
            for _ in range(repeat):
                call()
            found[name].append((time.perf_counter() - start) / repeat)
    return {name: statistics.median(kept) for name, kept in found.items()}


def copy_rate(rounds: int) -> float:
    """Return the bytes a second, read and written, of a copy beyond the caches by NumPy, on one thread."""
    source = np.ones(1 << 25, np.float32)
    target = np.empty_like(source)
    seconds = times({"copy": lambda: np.copyto(target, source)}, rounds, 1)["copy"]
    return 2 * source.nbytes / seconds


def title(name: str, options: dict[str, Any]) -> str:
    return " ".join([name, *[f"{key}={value}" for key, value in options.items()]])


def large(rounds: int) -> None:
    for name, options, arrays in CASES:
        before = copy_rate(rounds)
        calls = {"ours": step_of(tg, name, ((COUNT,),), options)}
        calls |= torch_steps(name, ((COUNT,),), options, ("fused", "single"))
        found = times(calls, rounds, 1)
        rate, copy = 4 * arrays * COUNT / found["ours"], (before + copy_rate(rounds)) / 2
        others = ", ".join(f"torch {kind} {found[kind] / found['ours']:.2f}" for kind in found if kind != "ours")
        print(f"{title(name, options):40s} {rate / 1e9:6.1f} GB/s = {rate / copy:4.2f} of copying   ratio: {others}")


def small(rounds: int) -> None:
    for name, options, _ in CASES:
        calls = {"ours": step_of(tg, name, SMALL, options)}
        calls |= torch_steps(name, SMALL, options, ("foreach", "fused"))
        found = times(calls, rounds, 50)
        others = ", ".join(
            f"torch {kind} {found[kind] * 1e6:6.1f} us, ratio {found[kind] / found['ours']:5.1f}"
            for kind in found
            if kind != "ours"
        )
        print(f"{title(name, options):40s} {found['ours'] * 1e6:6.1f} us   {others}   wanted: >= 3")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    tg.set_num_threads(arguments.threads)
    if torch is not None:
        torch.set_num_threads(arguments.threads)
    print(f"{COUNT} parameters, {arguments.threads} of {os.cpu_count()} processors; copying is one thread's")
    large(3 if arguments.quick else 9)
    print(f"a perceptron's six tensors, {sum(int(np.prod(shape)) for shape in SMALL)} parameters")
    small(5 if arguments.quick else 25)


if __name__ == "__main__":
    main()
