"""Numeric kernels on addresses and sizes that know nothing of the tape: vector maths, loops, GEMM, random numbers."""
