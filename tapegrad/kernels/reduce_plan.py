"""How a reduction walks a strided tensor: dimensions merged where they can be, sorted by stride, kept and reduced.

A plan is int64 words: counts, then for up to 8 kept dimensions lengths, strides in x, strides in y, then for the
reduced ones lengths and strides in x; outermost first.
"""

from tapegrad.native.cache import jit
from tapegrad.native.pointers import int64_at, stack_words, words_in

PLAN_WORDS = 80
KEPT, REDUCED, INNER_IS_REDUCED, COUNT = range(4)
KEPT_LENGTHS, KEPT_X, KEPT_Y, REDUCED_LENGTHS, REDUCED_X, KEPT_INDEX, KEPT_INDEX_Y, REDUCED_INDEX = range(8, 72, 8)
_OUTERMOST = 1 << 62
shape_in, strides_in = words_in("shape"), words_in("strides")


@jit
def output_strides(x_row, y_row, mask, keepdim, strides):
    """Write y's stride along each dimension of x into ``strides``; 0 along those in the mask, which are reduced."""
    words = int64_at(strides)
    k = 0
    for d in range(x_row.ndim):
        reduced = (mask >> d) & 1
        words[d] = 0 if reduced else strides_in(y_row)[k]
        k += 1 if keepdim or not reduced else 0
    return 0


@jit
def broadcast_strides(x_row, y_row, strides):
    """Write y's stride along each dimension of x into ``strides``; 0 along those in which y was broadcast to x."""
    words = int64_at(strides)
    lead = x_row.ndim - y_row.ndim
    for d in range(x_row.ndim):
        kept = d >= lead and shape_in(y_row)[d - lead] == shape_in(x_row)[d]
        words[d] = strides_in(y_row)[d - lead] if kept else 0
    return 0


@jit
def make_plan(x_row, y_strides, plan_address):
    """Fill the plan of reducing x to y."""
    steps = int64_at(y_strides)
    sorted_dims = int64_at(stack_words(24))  # lengths, strides in x, strides in y
    count = 0
    for d in range(x_row.ndim):
        length = shape_in(x_row)[d]
        if length == 1:
            continue
        stride = strides_in(x_row)[d]
        place = count
        key = stride if stride > 0 else _OUTERMOST
        while place > 0:
            other = sorted_dims[8 + place - 1]
            if (other if other > 0 else _OUTERMOST) >= key:
                break
            for k in range(3):
                sorted_dims[8 * k + place] = sorted_dims[8 * k + place - 1]
            place -= 1
        sorted_dims[place] = length
        sorted_dims[8 + place] = stride
        sorted_dims[16 + place] = steps[d]
        count += 1
    return _separate(_merge(sorted_dims, count), sorted_dims, plan_address)


@jit
def _merge(dims, count):
    """Merge neighbours that both tensors walk as one; return how many dimensions are left."""
    left = 0
    for d in range(count):
        if left > 0:
            inner_x = dims[8 + d] * dims[d]
            inner_y = dims[16 + d] * dims[d]
            same_kind = (dims[16 + left - 1] == 0) == (dims[16 + d] == 0)
            if same_kind and dims[8 + left - 1] == inner_x and dims[16 + left - 1] == inner_y:
                dims[left - 1] *= dims[d]
                dims[8 + left - 1] = dims[8 + d]
                dims[16 + left - 1] = dims[16 + d]
                continue
        for k in range(3):
            dims[8 * k + left] = dims[8 * k + d]
        left += 1
    return left


@jit
def _separate(count, dims, plan_address):
    plan = int64_at(plan_address)
    kept = 0
    reduced = 0
    plan[COUNT] = 1
    plan[INNER_IS_REDUCED] = 1
    for d in range(count):
        plan[INNER_IS_REDUCED] = 1 if dims[16 + d] == 0 else 0
        if dims[16 + d] == 0:
            plan[REDUCED_LENGTHS + reduced] = dims[d]
            plan[REDUCED_X + reduced] = dims[8 + d]
            plan[REDUCED_INDEX + reduced] = 0
            plan[COUNT] *= dims[d]
            reduced += 1
        else:
            plan[KEPT_LENGTHS + kept] = dims[d]
            plan[KEPT_X + kept] = dims[8 + d]
            plan[KEPT_Y + kept] = dims[16 + d]
            plan[KEPT_INDEX + kept] = 0
            plan[KEPT_INDEX_Y + kept] = 0
            kept += 1
    plan[KEPT] = kept
    plan[REDUCED] = reduced
    return 0


@jit
def product(plan_address, lengths, count):
    """Return the product of ``count`` words of the plan from position ``lengths``."""
    plan = int64_at(plan_address)
    total = 1
    for d in range(count):
        total *= plan[lengths + d]
    return total


@jit
def advance(plan_address, index, lengths, strides, count):
    """Step an odometer over the first ``count`` dimensions; return how far the offset moves."""
    plan = int64_at(plan_address)
    change = 0
    d = count - 1
    while d >= 0:
        plan[index + d] += 1
        change += plan[strides + d]
        if plan[index + d] < plan[lengths + d]:
            return change
        change -= plan[lengths + d] * plan[strides + d]
        plan[index + d] = 0
        d -= 1
    return change


@jit
def move_to(plan_address, index, lengths, strides, count, position):
    """Set an odometer to the position that it reaches after so many steps; return the offset there."""
    plan = int64_at(plan_address)
    offset = 0
    for e in range(count):
        d = count - 1 - e
        plan[index + d] = position % plan[lengths + d]
        offset += plan[index + d] * plan[strides + d]
        position //= plan[lengths + d]
    return offset
