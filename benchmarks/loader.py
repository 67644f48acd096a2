"""Batches per second of a shuffled data set in memory: this loader, torch's, and indexing written by hand.

`python benchmarks/loader.py`; the issue that asks for it is pytorch#4959. Rounds alternate; the best of each is shown.
"""

import time

import numpy as np
import torch

import tapegrad as tg

ROUNDS = 7
CASES = [  # samples, shape of one, batch size
    (5_000, (28, 28), 64),
    (60_000, (28, 28), 64),
    (60_000, (28, 28), 512),
    (100_000, (8,), 32),
    (4_000, (3, 64, 64), 32),
]


def by_hand(library, x, y, size):
    """Go through an epoch as people do who find loaders slow."""
    order = library.randperm(len(x))
    for start in range(0, len(x), size):
        rows = order[start : start + size]
        yield x[rows], y[rows]


def epoch(batches, limit):
    """Return the seconds a batch, over at most ``limit`` of them."""
    start, count = time.perf_counter(), 0
    for _ in batches:
        count += 1
        if count == limit:
            break
    return (time.perf_counter() - start) / count


def contenders(x, y, size):
    mine, theirs = (tg.tensor(x), tg.tensor(y)), (torch.tensor(x), torch.tensor(y))
    return {
        "tapegrad loader": lambda: tg.utils.data.DataLoader(tg.utils.data.TensorDataset(*mine), size, shuffle=True),
        "tapegrad by hand": lambda: by_hand(tg, *mine, size),
        "torch loader": lambda: torch.utils.data.DataLoader(
            torch.utils.data.TensorDataset(*theirs), size, shuffle=True
        ),
        "torch by hand": lambda: by_hand(torch, *theirs, size),
    }


def measure(samples, shape, size):
    generator = np.random.default_rng(0)
    x = generator.random((samples, *shape), dtype=np.float32)
    y = generator.integers(0, 10, samples)
    makers = contenders(x, y, size)
    best = dict.fromkeys(makers, float("inf"))
    for _ in range(ROUNDS):
        for name, make in makers.items():
            best[name] = min(best[name], epoch(make(), 100 if name == "torch loader" else 1000))
    return best, size * (x[0].nbytes + 8)


def main():
    print(" samples        shape batch threads  batches/s:    loader   by hand torch's loader, by hand")
    for threads in (1, 2):
        torch.set_num_threads(threads)
        tg.set_num_threads(threads)
        for case in CASES:
            best, size = measure(*case)
            rates = [1 / best[name] for name in best]
            speed = size / best["tapegrad loader"] / 1e9
            print(
                f"{case[0]:8} {case[1]!s:>12} {case[2]:5} {threads:7}             {rates[0]:9.0f} {rates[1]:9.0f} "
                f"{rates[2]:14.0f} {rates[3]:8.0f}   {rates[0] / rates[2]:6.1f} times torch's, {speed:.1f} GB/s"
            )


if __name__ == "__main__":
    main()
