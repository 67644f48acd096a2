"""Matrix products and convolutions against the peak of multiply-adds, measured in the same rounds.

1.05 is 95 % of the peak: asv takes less for better, so what is shown is the time over the time at the peak.
"""

import layers_conv
import measuring
import numpy as np

import tapegrad as tg

UNIT = "times the time at the FMA peak"


class Matmul:
    """Products by size, dtype and layout (n: contiguous rows, t: contiguous columns)."""

    params = [
        ["64x64x64", "128x10x128", "32x64x8", "256x256x256", "64x256x784", "512x512x512"],
        ["float32", "float64"],
        ["nn", "nt", "tn"],
    ]
    param_names = ["m x n x k", "dtype", "layout"]

    def setup(self, sizes, dtype, layout):
        m, n, k = map(int, sizes.split("x"))
        rng = np.random.default_rng(0)
        a = tg.from_numpy(rng.normal(size=(m, k) if layout[0] == "n" else (k, m)).astype(dtype))
        b = tg.from_numpy(rng.normal(size=(k, n) if layout[1] == "n" else (n, k)).astype(dtype))
        self.a, self.b = (a if layout[0] == "n" else a.T), (b if layout[1] == "n" else b.T)
        self.flops = 2 * m * n * k

    def track_relative_to_peak(self, sizes, dtype, layout):
        return measuring.time_over_peak(lambda: self.a @ self.b, self.flops, dtype)

    track_relative_to_peak.unit = UNIT


class Convolution:
    """The layers of layers_conv.py: forward, and the whole step, which has three times the arithmetic."""

    params = [[case.name for case in layers_conv.CASES], ["forward", "with backward"]]
    param_names = ["layer", "pass"]

    def setup(self, layer, what):
        case = next(each for each in layers_conv.CASES if each.name == layer)
        compute, self.leaves = case.build(tg, np.random.default_rng(0))
        self.compute, self.flops = compute, case.flops * (1 if what == "forward" else 3)
        self.cotangent = tg.ones_like(compute())
        self.call = self.forward if what == "forward" else self.step

    def forward(self):
        with tg.no_grad():
            self.compute()

    def step(self):
        for leaf in self.leaves:
            leaf.grad = None
        self.compute().backward(self.cotangent)

    def track_relative_to_peak(self, layer, what):
        return measuring.time_over_peak(self.call, self.flops)

    track_relative_to_peak.unit = UNIT
