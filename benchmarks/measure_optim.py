"""Optimisers beside torch's: ten million parameters against the copy bandwidth, and a small network in microseconds.

Run: python benchmarks/measure_optim.py [--quick] [--threads N]

Large: one step on one float32 tensor; the bytes are those that the update has to read and write. Small: one step on the
six tensors of a 64-100-100-10 perceptron, against torch's foreach and fused steps where it has them.
"""

from __future__ import annotations

import argparse
import os
from typing import Any

import numpy as np
from measuring import medians
from optimizer_cases import CASES, COUNT, SMALL, step_of, title
from peak import copy_bandwidth

import tapegrad as tg

try:
    import torch
except ImportError:
    torch = None


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


def large(rounds: int) -> None:
    for name, options, arrays in CASES:
        before = copy_bandwidth()
        calls = {"ours": step_of(tg, name, ((COUNT,),), options)}
        calls |= torch_steps(name, ((COUNT,),), options, ("fused", "single"))
        found = medians(calls, rounds)
        rate, copy = 4e-9 * arrays * COUNT / found["ours"], (before + copy_bandwidth()) / 2
        others = ", ".join(f"torch {kind} {found[kind] / found['ours']:.2f}" for kind in found if kind != "ours")
        print(f"{title(name, options):40s} {rate:6.1f} GB/s = {rate / copy:4.2f} of copying   ratio: {others}")


def small(rounds: int) -> None:
    for name, options, _ in CASES:
        calls = {"ours": step_of(tg, name, SMALL, options)}
        calls |= torch_steps(name, SMALL, options, ("foreach", "fused"))
        found = medians(calls, rounds, 50)
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
