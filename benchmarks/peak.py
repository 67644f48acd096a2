"""The machine's limits on one thread: fused multiply-adds from registers, and copying memory beyond the caches."""

from tapegrad.kernels.limits import (  # noqa: F401 (for the other benchmarks)
    CHAINS,
    COPY_BYTES,
    address_call,
    best,
    copy_bandwidth,
    copy_loop,
    fma_loop,
    fma_peak,
)

if __name__ == "__main__":
    for name in ("float32", "float64"):
        print(f"multiply-add {name}: {fma_peak(name):7.1f} GFLOP/s")
    print(f"copy:                {copy_bandwidth():7.1f} GB/s")
