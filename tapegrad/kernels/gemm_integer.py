"""Matrix multiplication of integers: plain loops, with the words of kernels/gemm.py."""

from collections.abc import Callable
from typing import Any

import numpy as np

from tapegrad.native.pointers import int64_at, pointer_to


def make_integer_gemm(dtype: Any) -> Callable[[int], int]:
    """Return ``gemm(args) -> 0`` for an integer dtype; see ``make_gemm`` for the words. Overflow wraps around."""
    at, size, scalar = pointer_to(dtype), np.dtype(dtype).itemsize, np.dtype(dtype).type

    def gemm(args):
        p = int64_at(args)
        m, n, k, rsa, csa, rsb, csb, rsc = p[0], p[1], p[2], p[4], p[5], p[7], p[8], p[10]
        for index in range(p[12]):
            a = at(p[3] + index * p[13] * size)
            b = at(p[6] + index * p[14] * size)
            c = at(p[9] + index * p[15] * size)
            for i in range(m):
                for j in range(np.uintp(n if p[11] == 0 else 0)):
                    c[i * rsc + np.int64(j)] = scalar(0)
                for q in range(k):
                    x = a[i * rsa + q * csa]
                    if csb == 1:
                        row, out = (
                            at(p[6] + (index * p[14] + q * rsb) * size),
                            at(p[9] + (index * p[15] + i * rsc) * size),
                        )
                        for j in range(np.uintp(n)):
                            out[j] += x * row[j]
                    else:
                        for j in range(n):
                            c[i * rsc + j] += x * b[q * rsb + j * csb]
        return 0

    return gemm
