"""How optimisers' updates are made: ops that write, each one pass over a group's parameters, gradients and state.

An update is an op of any number of operands, which take its roles in turn: a parameter, its gradient, arrays of state,
scalars of state (counts of steps, products), and the group's numbers. The numbers (learning rate, betas, ...) are a
float64 tensor, not attributes, so that what a schedule changes is read from memory when the op runs.

The work is cut into tasks of ``CHUNK`` elements, whatever parameters they belong to: the same on any number of threads,
and elementwise, so the results are the same too.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from numba import types
from numba.extending import intrinsic

from tapegrad.native.cache import jit
from tapegrad.native.dtypes import FLOAT32, FLOAT64, ITEM_BYTES, POINTERS
from tapegrad.native.parallel import address_of_helper, parallel_for
from tapegrad.native.pointers import call2, call3, float64_at, int64_at, stack_words
from tapegrad.ops.addresses import UPDATE_DRIVER, address_of, need
from tapegrad.ops.registry import FLOATS, Op, declare
from tapegrad.ops.validity import checks_itself
from tapegrad.runtime.layout import (
    BAD_ARGUMENT,
    CONTIGUOUS,
    GENERAL,
    READ_ONLY,
    RESULT_DTYPE,
    SHAPE_MISMATCH,
    data_address,
    input_count,
    input_slot,
    shape_in,
    slot_of,
    state_of,
    storage_of,
    strides_in,
)

CHUNK = 1 << 16  # elements of a task: 20 us of an update that reads and writes 12 bytes, 60 us of Adam's 28
_GRADIENT = 1  # the role of the gradient
_float32_at = POINTERS[FLOAT32]


@jit
def scalar_of(st, frame, k):
    """Return operand ``k``, a scalar of the state in either float dtype, as a float64."""
    slot = input_slot(frame, k)
    if slot_of(st, slot).dtype == FLOAT32:
        return types.float64(_float32_at(data_address(st, slot))[0])
    return float64_at(data_address(st, slot))[0]


@jit
def set_scalar(st, frame, k, value):
    slot = input_slot(frame, k)
    if slot_of(st, slot).dtype == FLOAT32:
        _float32_at(data_address(st, slot))[0] = types.float32(value)
    else:
        float64_at(data_address(st, slot))[0] = value


@jit
def multiply_scalar(st, frame, k, factor):
    """Multiply a scalar by a number that is first rounded to the scalar's dtype, as torch does."""
    slot = input_slot(frame, k)
    if slot_of(st, slot).dtype == FLOAT32:
        _float32_at(data_address(st, slot))[0] *= types.float32(factor)
    else:
        float64_at(data_address(st, slot))[0] *= factor


@jit
def nothing(st, frame, scalars, options):
    """Change no scalar."""


@jit
def count_step(st, frame, scalars, options):
    """Count the step in the first scalar."""
    set_scalar(st, frame, scalars, scalar_of(st, frame, scalars) + 1.0)


@jit
def offset_of(row, i):
    """Return where in memory the element ``i`` in row-major order lies, in elements from the first."""
    offset = 0
    for k in range(row.ndim):
        d = row.ndim - 1 - k
        offset += (i % shape_in(row)[d]) * strides_in(row)[d]
        i //= shape_in(row)[d]
    return offset


@dataclass(frozen=True)
class Update:
    """What is declared of an update.

    Attributes:
        name: the op's name.
        arrays: roles of the parameter's shape; the first is the parameter, the second its gradient.
        scalars: roles that are numbers of the state, one element each, of either float dtype.
        numbers: how many numbers the group's float64 tensor has.
        make: ``make(dtype)`` gives the compiled ``update(addresses, n, numbers)`` of ``n`` elements.
        prepare: ``prepare(st, frame, first, scalars, options, numbers)`` turns the group's numbers, at ``options``, and
            the scalars, operands from ``scalars`` on, into the numbers of ``update``, for the parameter at ``first``.
        before: ``before(st, frame, scalars, options)`` changes the scalars before the arrays are updated.
        after: the same, afterwards.
        math: how the docs' op table shows it.
    """

    name: str
    arrays: tuple[str, ...]
    scalars: tuple[str, ...]
    numbers: int
    make: Callable[[int], Any]
    prepare: Any
    before: Any = nothing
    after: Any = nothing
    math: str = ""

    @property
    def roles(self) -> tuple[str, ...]:
        """All roles in order."""
        return (*self.arrays, *self.scalars, "*numbers")


def _make_infer(update: Update) -> Callable[..., int]:
    """Return the check that every parameter comes with a gradient and state of its shape, all of one dtype."""
    arrays, roles, numbers = len(update.arrays), len(update.roles), update.numbers

    def infer(st, frame):
        state = state_of(st)
        dtype = slot_of(st, input_slot(frame, 0)).dtype
        for k in range(input_count(frame)):
            role = k % roles
            slot = input_slot(frame, k)
            if slot < 0:
                return BAD_ARGUMENT
            model = input_slot(frame, k - role)
            row = slot_of(st, slot)
            if role != _GRADIENT and role != roles - 1 and storage_of(st, slot).read_only:
                return READ_ONLY
            if role == roles - 1:
                if row.numel != numbers or row.dtype != FLOAT64 or not row.flags & CONTIGUOUS:
                    return BAD_ARGUMENT
                continue
            if role >= arrays:
                if row.numel != 1 or row.dtype < FLOAT32:
                    return BAD_ARGUMENT
                continue
            state.error_slot0 = model
            state.error_slot1 = slot
            state.error_value0 = row.dtype
            if row.dtype != dtype:
                return RESULT_DTYPE
            if row.ndim != slot_of(st, model).ndim:
                return SHAPE_MISMATCH
            for d in range(row.ndim):
                if shape_in(row)[d] != shape_in(slot_of(st, model))[d]:
                    state.error_value0 = d
                    return SHAPE_MISMATCH
        return 0

    infer.__qualname__ = f"infer_{arrays}_{roles}_{numbers}"  # the cache knows it by this name
    return infer


# The words of an update that is under way: what ``_drive`` is given, and what it gives to the op's own part.
_STATE, _FRAME, _ARRAYS, _ROLES, _ITEM_BYTES, _PART = range(6)
_FIRST, _ADDRESSES, _NUMBERS = 2, 8, 16


@jit
def _task(context, k, scratch):
    """Update the elements from ``CHUNK * k`` on, of all parameters in a row."""
    words = int64_at(context)
    st, frame, arrays, roles, part = words[_STATE], words[_FRAME], words[_ARRAYS], words[_ROLES], words[_PART]
    own_address = stack_words(32)
    own = int64_at(own_address)
    own[_STATE] = st
    own[_FRAME] = frame
    low = k * CHUNK
    start = 0
    for first in range(0, input_count(frame), roles):
        count = slot_of(st, input_slot(frame, first)).numel
        begin = max(low - start, 0)
        end = min(low + CHUNK - start, count)
        start += count
        if begin < end:
            own[_FIRST] = first
            call2(part, own_address, 0)
            flags = types.int64(CONTIGUOUS)
            for role in range(arrays):
                flags &= slot_of(st, input_slot(frame, first + role)).flags
            whole = flags & CONTIGUOUS != 0
            for i in range(begin, end, end - begin if whole else 1):
                for role in range(arrays):
                    slot = input_slot(frame, first + role)
                    offset = i if whole else offset_of(slot_of(st, slot), i)
                    own[_ADDRESSES + role] = data_address(st, slot) + offset * words[_ITEM_BYTES]
                call2(part, own_address, end - begin if whole else 1)
        if start >= low + CHUNK:
            break
    return 0


def _drive(st, frame, context):
    """Do an update's tasks. Compiled once, not into each update: it is most of what there is to compile."""
    total = 0
    for first in range(0, input_count(frame), int64_at(context)[_ROLES]):
        total += slot_of(st, input_slot(frame, first)).numel
    return parallel_for(state_of(st).pool, _task, context, (total + CHUNK - 1) // CHUNK)


@intrinsic
def _address_of_part(typing_context, helper):
    """Return the address of an op's own part, a ``jit`` helper of two int64 that is named in the source."""
    typing_context.resolve_function_type(helper, (types.int64,) * 2, {})

    def build(context, builder, signature, args):
        return address_of_helper(context, builder, helper, 2)

    return types.int64(helper), build


def _make_part(update: Update, dtype: int) -> Any:
    """Return the op's own part: with n = 0 it prepares the numbers of a parameter, else it updates n elements."""
    arrays, last = len(update.arrays), len(update.roles) - 1
    prepare, run = update.prepare, update.make(dtype)

    @jit
    def part(words_address, n):
        words = int64_at(words_address)
        numbers = float64_at(words_address + 8 * _NUMBERS)
        if n > 0:
            run(int64_at(words_address + 8 * _ADDRESSES), n, numbers)
            return 0
        st, frame, first = words[_STATE], words[_FRAME], words[_FIRST]
        options = float64_at(data_address(st, input_slot(frame, first + last)))
        prepare(st, frame, first, first + arrays, options, numbers)
        return 0

    return part


def _make_kernel(update: Update, dtype: int) -> Callable[..., int]:
    need(UPDATE_DRIVER, _drive, "update_driver", "int64(int64, int64, int64)")
    arrays, roles, item_bytes = len(update.arrays), len(update.roles), ITEM_BYTES[dtype]
    before, after, part = update.before, update.after, _make_part(update, dtype)

    def kernel(st, frame):
        for first in range(0, input_count(frame), roles):
            before(st, frame, first + arrays, float64_at(data_address(st, input_slot(frame, first + roles - 1))))
        context = stack_words(8)
        words = int64_at(context)
        words[_STATE] = st
        words[_FRAME] = frame
        words[_ARRAYS] = arrays
        words[_ROLES] = roles
        words[_ITEM_BYTES] = item_bytes
        words[_PART] = _address_of_part(part)
        status = call3(address_of(st, UPDATE_DRIVER), st, frame, context)
        for first in range(0, input_count(frame), roles):
            after(st, frame, first + arrays, float64_at(data_address(st, input_slot(frame, first + roles - 1))))
        return status

    return kernel


def declare_update(update: Update, reads: Sequence[str] = ()) -> Op:
    """Enter an update into the registry; ``reads`` are roles, besides gradient and numbers, that it does not write."""
    roles = update.roles
    unwritten = (roles[_GRADIENT], "*numbers", *reads)
    return declare(
        Op(
            name=update.name,
            valid=checks_itself,
            inputs=roles,
            kind=GENERAL,
            dtypes=FLOATS,
            outputs=0,
            infer=_make_infer(update),
            kernel=lambda dtype, _: _make_kernel(update, dtype),
            unpromoted=roles,
            contiguous=(roles[_GRADIENT],),
            writes=tuple(role for role in roles if role not in unwritten),
            public=False,
            samples="writes into its operands: tests/test_optim.py, against formulas and torch",
            math=update.math,
        )
    )
