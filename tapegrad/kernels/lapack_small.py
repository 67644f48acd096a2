"""Gaussian elimination of small row-major matrices, whose time a call of LAPACK would more than double."""

from tapegrad.native.cache import jit

SMALL = 8  # the largest order at which this is faster than getrf


@jit
def eliminate(a, n, x, k):  # type: ignore[no-untyped-def]
    """Bring A[n, n] to its upper triangle by row operations with partial pivoting, and X[n, k] along.

    Return how many rows were swapped, and 1 + the index of the first pivot that was exactly 0, or 0 if none was.
    """
    swaps, info = 0, 0
    for j in range(n):
        p = j
        for i in range(j + 1, n):
            if abs(a[i * n + j]) > abs(a[p * n + j]):
                p = i
        if p != j:
            swaps += 1
            for c in range(j, n):
                a[j * n + c], a[p * n + c] = a[p * n + c], a[j * n + c]
            for c in range(k):
                x[j * k + c], x[p * k + c] = x[p * k + c], x[j * k + c]
        pivot = a[j * n + j]
        if pivot == 0:
            info = info if info != 0 else 1 + j
            continue
        for i in range(j + 1, n):
            factor = a[i * n + j] / pivot
            for c in range(j + 1, n):
                a[i * n + c] -= factor * a[j * n + c]
            for c in range(k):
                x[i * k + c] -= factor * x[j * k + c]
    return swaps, info


@jit
def substitute_back(a, n, x, k):  # type: ignore[no-untyped-def]
    """Solve U Y = X[n, k] in the place of X, U being the upper triangle of A[n, n]."""
    for i in range(n - 1, -1, -1):
        for j in range(i + 1, n):
            factor = a[i * n + j]
            for c in range(k):
                x[i * k + c] -= factor * x[j * k + c]
        pivot = a[i * n + i]
        for c in range(k):
            x[i * k + c] /= pivot
