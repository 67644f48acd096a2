"""The machine's limits on one thread: fused multiply-adds from registers, and copying memory beyond the caches."""

import ctypes
import time
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from llvmlite import ir

from tapegrad.kernels.gemm_ir import Loop, Vectors, kernel
from tapegrad.kernels.gemm_micro import host_tile
from tapegrad.native.cache import compile_function

CHAINS = 12  # independent sums: more than latency x units, and with two operands they fit sixteen registers
COPY_BYTES = 256 << 20


def _emit_fma(builder: ir.IRBuilder, dtype: np.dtype[Any], vector_bytes: int, count: ir.Value, data: ir.Value) -> None:
    v = Vectors(builder, dtype, vector_bytes)
    x, y = v.load(data), v.load(v.at(data, vector_bytes))
    loop = Loop(builder, count, [v.load(v.at(data, i * vector_bytes)) for i in range(CHAINS)])
    sums = loop.close([v.multiply_add(total, x, y) for total in loop.values])
    for i, total in enumerate(sums):  # every sum must be used, or its chain would be removed
        v.store(total, v.at(data, i * vector_bytes))


def _emit_copy(builder: ir.IRBuilder, vector_bytes: int, count: ir.Value, source: ir.Value, target: ir.Value) -> None:
    v = Vectors(builder, np.dtype(np.float64), vector_bytes)
    loop = Loop(builder, count, [source, target])
    x, y = loop.values
    for offset in range(0, 4 * vector_bytes, vector_bytes):
        v.store(v.load(v.at(x, offset)), v.at(y, offset))
    loop.close([v.at(x, 4 * vector_bytes), v.at(y, 4 * vector_bytes)])


@cache
def fma_loop(dtype: str) -> int:
    """Return the address of ``loop(count, data)``: ``count`` turns of ``CHAINS`` independent vector multiply-adds."""
    vector_bytes = host_tile().vector_bytes
    turns = kernel("count *data", _emit_fma, np.dtype(dtype), vector_bytes)

    def loop(count, data):  # type: ignore[no-untyped-def]
        turns(count, data)
        return 0

    return compile_function(loop, f"limit fma {dtype} {vector_bytes}", "int64(int64, int64)")


@cache
def copy_loop() -> int:
    """Return the address of ``loop(count, source, target)``: ``count`` turns that each copy four vectors."""
    vector_bytes = host_tile().vector_bytes
    copy = kernel("count *source *target", _emit_copy, vector_bytes)

    def loop(count, source, target):  # type: ignore[no-untyped-def]
        copy(count, source, target)
        return 0

    return compile_function(loop, f"limit copy {vector_bytes}", "int64(int64, int64, int64)")


def best(run: Callable[[], Any], rounds: int = 7) -> float:
    """Return the shortest time of some rounds, in seconds."""
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times)


def address_call(address: int, arguments: int) -> Callable[..., int]:
    """Return a Python function that calls the compiled one at ``address``; the call costs about 0.2 us."""
    return ctypes.CFUNCTYPE(ctypes.c_int64, *[ctypes.c_int64] * arguments)(address)


def fma_peak(dtype: str = "float32", turns: int = 400_000) -> float:
    """Return the GFLOP/s of multiply-adds whose operands stay in registers."""
    data = np.zeros(CHAINS * 64, dtype)
    lanes = host_tile().vector_bytes // data.itemsize
    run = address_call(fma_loop(dtype), 2)
    seconds = best(lambda: run(turns, data.ctypes.data))
    return 2e-9 * lanes * CHAINS * turns / seconds


def copy_bandwidth(size: int = COPY_BYTES) -> float:
    """Return the GB/s (read plus written) of a copy between buffers that no cache holds."""
    source, target = np.ones(size, np.uint8), np.ones(size, np.uint8)
    turns = size // (4 * host_tile().vector_bytes)
    run = address_call(copy_loop(), 3)
    seconds = best(lambda: run(turns, source.ctypes.data, target.ctypes.data), rounds=5)
    return 2e-9 * size / seconds
