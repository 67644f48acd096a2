"""Reductions on threads: some elements of the result a task, or some of the rows that are reduced.

Where a task reduces a part of the rows, its accumulators are merged with the others' in order, by the calling thread.
How a reduction is cut depends on the shape alone.
"""

from collections.abc import Callable

from tapegrad.kernels.reduce_loops import WIDTH, Reduction, make_columns, make_rows
from tapegrad.kernels.reduce_plan import (
    COUNT,
    INNER_IS_REDUCED,
    KEPT,
    KEPT_LENGTHS,
    KEPT_Y,
    PLAN_WORDS,
    REDUCED,
    REDUCED_LENGTHS,
    REDUCED_X,
    make_plan,
    product,
)
from tapegrad.native.cache import jit
from tapegrad.native.dtypes import ITEM_BYTES, POINTERS, SCALARS
from tapegrad.native.parallel import parallel_for
from tapegrad.native.pointers import int64_at, stack_words

# words of a context
PLAN, X, Y, CENTRE, PARAMETER, TOTALS, EACH, HOW = range(8)
_RESULTS, _ONE_ROW, _PARTS = range(3)  # how work is cut: elements of the result, a row's pieces, rows of a matrix

_TASK = 1 << 17  # elements: some 20 us
_MOST_PIECES, _MOST_PARTS = 256, 16
_TOTALS_AT = 2 * 8 * WIDTH  # in the scratch memory; before, what a task on the calling thread needs
_TOTALS_BYTES = 2 << 20
_BLOCK = 1024  # elements that are summed before float64 takes their sum


def make_reduction(parts: Reduction) -> Callable[..., int]:
    """Return ``reduce_into(pool, x_row, x_address, y_address, numel, y_strides, centre_address, parameter, scratch)``.

    ``pool`` is the address of the threads' pool, ``y_strides`` that of y's stride along each dimension of x (0:
    reduced), ``numel`` y's number of elements, ``scratch`` the address of the machine's workspace.
    """
    (reduce_row, rows), (columns, part) = make_rows(parts), make_columns(parts)
    y_pointer, finish, merge = POINTERS[parts.result], parts.finish, parts.merge
    scalar, total_pointer = SCALARS[parts.accumulator], POINTERS[parts.accumulator]
    x_bytes, total_bytes, identity = ITEM_BYTES[parts.dtype], ITEM_BYTES[parts.accumulator], scalar(parts.identity)
    centred = parts.centred

    @jit
    def task(context, k, scratch):
        w, own = int64_at(context), stack_words(PLAN_WORDS)
        plan = int64_at(own)
        for i in range(PLAN_WORDS):
            plan[i] = int64_at(w[PLAN])[i]
        first = k * w[EACH]
        if w[HOW] == _RESULTS:
            count = min(w[EACH], product(own, KEPT_LENGTHS, plan[KEPT]) - first)
            return rows(own, w[X], w[Y], w[CENTRE], w[PARAMETER], scratch, first, count)
        count = min(w[EACH], plan[REDUCED_LENGTHS] - first)
        if w[HOW] == _PARTS:
            to = w[TOTALS] + k * plan[KEPT_LENGTHS] * total_bytes
            return part(own, w[X], w[CENTRE], first, count, to, scratch)
        c = scalar(y_pointer(w[CENTRE])[0]) if centred else scalar(0)
        total_pointer(w[TOTALS])[k] = reduce_row(w[X] + first * x_bytes, count, 1, c, scratch)
        return 0

    @jit
    def cut(context, elements):
        """Choose how the work is cut; return how many tasks there are."""
        w = int64_at(context)
        plan = int64_at(w[PLAN])
        kept, reduced, n = plan[KEPT], plan[REDUCED], plan[REDUCED_LENGTHS]
        w[HOW] = _RESULTS
        results = product(w[PLAN], KEPT_LENGTHS, kept)
        w[EACH] = results if elements < 2 * _TASK else max(1, _TASK // plan[COUNT])
        if elements >= 2 * _TASK and kept == 0 and reduced == 1 and plan[REDUCED_X] == 1:
            w[HOW] = _ONE_ROW
            each = max(_TASK, (n + _MOST_PIECES - 1) // _MOST_PIECES)
            w[EACH], results = (each + _BLOCK - 1) // _BLOCK * _BLOCK, n
        elif plan[INNER_IS_REDUCED] == 0:
            m = plan[KEPT_LENGTHS]
            most = min(min(_MOST_PARTS, elements // _TASK), _TOTALS_BYTES // (m * total_bytes))
            if kept != 1 or reduced != 1 or elements < 2 * _TASK or most < 2:
                return 0
            w[HOW] = _PARTS
            w[EACH], results = ((n + most - 1) // most + 7) // 8 * 8, n
        return (results + w[EACH] - 1) // w[EACH]

    @jit
    def combine(context, tasks):
        """Merge what the tasks have found."""
        w = int64_at(context)
        plan = int64_at(w[PLAN])
        one_row = w[HOW] == _ONE_ROW
        m, y_stride = (1, 1) if one_row else (plan[KEPT_LENGTHS], plan[KEPT_Y])
        totals, y = total_pointer(w[TOTALS]), y_pointer(w[Y])
        for k in range(1, tasks):
            others = total_pointer(w[TOTALS] + k * m * total_bytes)
            for i in range(m):
                totals[i] = merge(totals[i], others[i])
        for i in range(m):
            y[i * y_stride] = finish(totals[i], plan[COUNT], w[PARAMETER])
        return 0

    @jit
    def reduce_into(pool, x_row, x_address, y_address, numel, y_strides, centre_address, parameter, scratch):
        if x_row.numel == 0:
            y = y_pointer(y_address)
            for i in range(numel):
                y[i] = finish(identity, 0, parameter)
            return 0
        context, plan_address = stack_words(8), stack_words(PLAN_WORDS)
        make_plan(x_row, y_strides, plan_address)
        w = int64_at(context)
        w[PLAN], w[X], w[Y], w[CENTRE], w[PARAMETER] = plan_address, x_address, y_address, centre_address, parameter
        w[TOTALS] = scratch + _TOTALS_AT
        tasks = cut(context, x_row.numel)
        if tasks == 0:
            return columns(plan_address, x_address, y_address, centre_address, parameter, scratch)
        if tasks == 1 and w[HOW] == _RESULTS:
            return task(context, 0, scratch)
        status = parallel_for(pool, task, context, tasks)
        if status == 0 and w[HOW] != _RESULTS:
            combine(context, tasks)
        return status

    return reduce_into
