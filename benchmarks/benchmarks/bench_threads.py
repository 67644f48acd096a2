"""Scaling with threads: the time on n threads, times n, over the time on one; 1 would be ideal."""

import os

import measuring
import numpy as np
from step_cases import STEPS

import tapegrad as tg

THREADS = [n for n in (1, 2, 4, 8, 16) if n <= (os.cpu_count() or 1)]


def _step(name):
    function, arguments = STEPS[name].build(tg)
    return lambda: function(*arguments)


class Scaling:
    """Beside one another in alternating rounds; a machine whose other processors are busy shows no gain."""

    params = [["matmul 512", "conv 3x3 64x64", "tanh of a million", "sum of 8 million", "digits", "cnn"], THREADS]
    param_names = ["what", "threads"]

    def setup(self, what, threads):
        a, x = tg.randn(512, 512), tg.randn(1 << 20)
        long, image, weight = tg.randn(1 << 23), tg.randn(16, 64, 28, 28), tg.randn(64, 64, 3, 3)
        self.call = {
            "matmul 512": lambda: a @ a,
            "conv 3x3 64x64": lambda: tg.nn.functional.conv2d(image, weight, padding=1),
            "tanh of a million": lambda: x.tanh(),
            "sum of 8 million": lambda: long.sum(),
            "digits": _step("digits"),
            "cnn": _step("cnn"),
        }[what]

    def track_relative_to_ideal(self, what, threads):
        def on(count):
            def run(times):
                tg.set_num_threads(count)
                for _ in range(times):
                    self.call()

            return run

        found = measuring.Beside(on(threads), on(1), threads, 1.0, measuring.WALL).measured()
        tg.set_num_threads(1)
        return found

    track_relative_to_ideal.unit = "times the ideal time"


class SameBits:
    """What several threads compute is what one computes, to the bit: 0 differences, or a failure."""

    def track_differences(self):
        a, b = (tg.from_numpy(np.random.default_rng(k).normal(size=(700, 300)).astype("float32")) for k in range(2))
        results = []
        for threads in THREADS:
            tg.set_num_threads(threads)
            results.append([(a @ b.T).numpy(), a.sum().numpy(), a.exp().sum(0).numpy()])
        tg.set_num_threads(1)
        differences = sum(int((x != y).sum()) for r in results for x, y in zip(r, results[0], strict=True))
        if differences:
            raise AssertionError(f"{differences} numbers depend on the number of threads")
        return differences

    track_differences.unit = "numbers"
