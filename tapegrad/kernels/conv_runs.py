"""Runs of results of a correlation, along one dimension, that see pixels through the same places of the filter.

At an image's borders some places see none. A run has few words: results, their pixels and places lie evenly apart.
"""

from tapegrad.kernels.conv_plan import IN, NO, OB, OS, RUNS, RUNS_OF, B, D, S, T
from tapegrad.kernels.gemm_ir import greatest, least
from tapegrad.native.cache import jit
from tapegrad.native.pointers import int64_at

# The words of a run: its results, how many there are, their distance; the first one's first pixel, the distance of
# pixels from one result to the next; the places, how many there are, their distance, that of their pixels.
RESULT, COUNT, RESULT_STEP, PIXEL, PIXEL_STEP, PLACE, PLACES, PLACE_STEP, PLACE_PIXELS = range(9)
RUN_WORDS = 9
MOST_RUNS = 64  # along one dimension
THREE_RUNS_WORDS = 3 * RUN_WORDS
ALL_RUNS_WORDS = 3 * MOST_RUNS * RUN_WORDS


@jit
def runs_at(p, d):
    """Return the address of the runs along dimension ``d``."""
    return p[RUNS] + d * MOST_RUNS * RUN_WORDS * 8


@jit
def _first_place(p, d, o):
    return least(greatest(0, (-(o * p[S + d] + p[B + d]) + p[D + d] - 1) // p[D + d]), p[T + d])


@jit
def _end_place(p, d, o, low):
    return greatest(low, least(p[T + d], (p[IN + d] - (o * p[S + d] + p[B + d]) + p[D + d] - 1) // p[D + d]))


@jit
def add_runs(p, d, place, step):
    """Add the runs of a correlation along dimension ``d``; its place t is ``place`` + t * ``step`` of the weight.

    ``RUNS_OF`` + d is how many runs there are; MOST_RUNS + 1 where there would be too many.
    """
    o = 0
    while o < p[NO + d]:
        if p[RUNS_OF + d] >= MOST_RUNS:
            p[RUNS_OF + d] = MOST_RUNS + 1
            return 0
        low = _first_place(p, d, o)
        end = _end_place(p, d, o, low)
        beyond = o + 1
        while beyond < p[NO + d]:
            begin = _first_place(p, d, beyond)
            if begin != low or _end_place(p, d, beyond, begin) != end:
                break
            beyond += 1
        run = int64_at(runs_at(p, d) + p[RUNS_OF + d] * RUN_WORDS * 8)
        run[RESULT], run[COUNT], run[RESULT_STEP] = o * p[OS + d] + p[OB + d], beyond - o, p[OS + d]
        run[PIXEL], run[PIXEL_STEP] = o * p[S + d] + p[B + d] + low * p[D + d], p[S + d]
        run[PLACE], run[PLACES], run[PLACE_STEP], run[PLACE_PIXELS] = place + low * step, end - low, step, p[D + d]
        p[RUNS_OF + d] += 1
        o = beyond
    return 0


@jit
def cut_run(run_address, low, high, to):
    """Write the part of a run whose results lie from ``low`` up to ``high`` - 1; return how many there are."""
    run, part = int64_at(run_address), int64_at(to)
    for k in range(RUN_WORDS):
        part[k] = run[k]
    step = run[RESULT_STEP]
    first = least(greatest(0, (low - run[RESULT] + step - 1) // step), run[COUNT])
    end = least(greatest(first, (high - run[RESULT] + step - 1) // step), run[COUNT])
    part[RESULT] += first * step
    part[PIXEL] += first * run[PIXEL_STEP]
    part[COUNT] = end - first
    return end - first
