"""Random tensors: generators, rand and its kin, in-place fills, bernoulli, multinomial, dropout.

The numbers are Philox's and not torch's: the same seed gives other numbers than there, but always the same ones here,
on any number of threads and on any machine.
"""

from __future__ import annotations

import ctypes
import secrets
import threading
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from tapegrad.native.dtypes import BOOL, FLOAT32, FLOAT64, INT32, INT64, UINT8
from tapegrad.ops import random_ops
from tapegrad.ops.calls import (
    call,
    call_in_place,
    expect_tensor,
    function,
    functions,
    honours_out,
    ndim_of,
    shape_of,
    tensor_method,
)
from tapegrad.ops.creation import check_device, code_of, finish, shape_argument
from tapegrad.ops.registry import Op
from tapegrad.ops.views import expand as _expand
from tapegrad.runtime.dtype import DTYPES
from tapegrad.runtime.entry_points import FIELDS
from tapegrad.runtime.errors import raise_status, refuse_change
from tapegrad.runtime.handle import Tensor
from tapegrad.runtime.layout import BAD_ARGUMENT, CONTIGUOUS, REQUIRES_GRAD
from tapegrad.runtime.machine import machine

_ADDRESS = FIELDS.index("address")
_TYPE_NAMES = ("Bool", "Byte", "Int", "Long", "Float", "Double")
_LARGEST = {BOOL: 1, UINT8: 255, INT32: 2**31 - 1, INT64: 2**63 - 1, FLOAT32: 2**24, FLOAT64: 2**53}


_OUTSIDE = "do it outside"


def _wrapped(number: int) -> int:
    """Return a 64-bit word as int64."""
    return (number + 2**63) % 2**64 - 2**63


class Generator:
    """A source of random numbers: a seed, and how many blocks of the stream it has used.

    Args:
        device: only ``"cpu"``.

    Example:
        >>> import tapegrad as tg
        >>> g = tg.Generator().manual_seed(0)
        >>> bool((tg.rand(3, generator=g) == tg.rand(3, generator=g.manual_seed(0))).all())
        True
    """

    __slots__ = ("_state", "_words")

    _DEFAULT_SEED = 67280421310721  # torch's

    def __init__(self, device: Any = "cpu") -> None:
        check_device(device)
        self._state = finish(machine.new_tensor(INT64, 2))
        self._words = (ctypes.c_int64 * 2).from_address(machine.fields_of(self._state._handle)[_ADDRESS])
        self.manual_seed(self._DEFAULT_SEED)

    @property
    def device(self) -> Any:
        """Where the state is: the CPU."""
        return self._state.device

    def manual_seed(self, seed: int) -> Generator:
        """Set the seed (of 64 bits, negative ones too) and begin its stream; return the generator.

        Args:
            seed: the seed, an int of 64 bits.
        """
        if machine.capturing:
            refuse_change("setting a generator's seed", _OUTSIDE)
        seed = int(seed)
        if not -(2**63) <= seed < 2**64:
            raise RuntimeError(f"Overflow when unpacking long: the seed {seed} has more than 64 bits")
        self._words[0], self._words[1] = _wrapped(seed), 0
        return self

    def seed(self) -> int:
        """Set a seed that the operating system has drawn; return it."""
        seed = secrets.randbits(64)
        self.manual_seed(seed)
        return seed

    def initial_seed(self) -> int:
        """Return the seed, as a number from 0 to 2**64 - 1."""
        return self._words[0] % 2**64

    def get_state(self) -> Tensor:
        """Return the state as uint8 [16]: the seed and the place in its stream."""
        if machine.capturing:
            refuse_change("reading a generator's state", _OUTSIDE)
        state = finish(machine.new_tensor(UINT8, 16))
        ctypes.memmove(machine.fields_of(state._handle)[_ADDRESS], self._words, 16)
        return state

    def set_state(self, new_state: Tensor) -> Generator:
        """Go to a state that ``get_state`` returned; return the generator.

        Args:
            new_state: the state, a uint8 tensor [16].
        """
        if machine.capturing:
            refuse_change("setting a generator's state", _OUTSIDE)
        if not isinstance(new_state, Tensor):
            raise TypeError(f"expected a torch.ByteTensor, but got {type(new_state).__name__}")
        fields = machine.fields_of(new_state._handle)
        if fields[FIELDS.index("dtype")] != UINT8 or shape_of(new_state) != (16,) or not fields[5] & CONTIGUOUS:
            raise RuntimeError("RNG state must be a torch.ByteTensor of 16 elements, as get_state returns it")
        ctypes.memmove(self._words, fields[_ADDRESS], 16)
        return self

    def clone_state(self) -> Generator:
        """Return a generator in the same state."""
        return Generator().set_state(self.get_state())

    def __getstate__(self) -> tuple[int, int]:
        return (self._words[0], self._words[1])

    def __setstate__(self, state: tuple[int, int]) -> None:
        self.__init__()  # type: ignore[misc]
        self._words[0], self._words[1] = state


default_generator = Generator()
functions["Generator"] = Generator


class _OfThread(threading.local):
    generator = default_generator


_of_thread = _OfThread()


def use_generator(generator: Generator) -> None:
    """Make ``generator`` the default one of this thread, so that what it draws does not depend on other threads."""
    _of_thread.generator = generator


def thread_generator() -> Generator:
    """Return the default generator of this thread."""
    return _of_thread.generator


@function(method=False)
def manual_seed(seed: int) -> Generator:
    """Set the seed of the default generator and return it: what is drawn from here on is always the same.

    Args:
        seed: the seed, an int of 64 bits.

    Example:
        >>> import tapegrad as tg
        >>> _ = tg.manual_seed(0)
        >>> a = tg.randn(2)
        >>> _ = tg.manual_seed(0)
        >>> bool((tg.randn(2) == a).all())
        True
    """
    return _of_thread.generator.manual_seed(seed)


@function(method=False)
def seed() -> int:
    """Seed the default generator with a number that the operating system has drawn; return that."""
    return _of_thread.generator.seed()


@function(method=False)
def initial_seed() -> int:
    """Return the seed of the default generator."""
    return _of_thread.generator.initial_seed()


@function(method=False)
def get_rng_state() -> Tensor:
    """Return the state of the default generator as uint8 [16]."""
    return _of_thread.generator.get_state()


@function(method=False)
def set_rng_state(new_state: Tensor) -> None:
    """Bring the default generator to a state that ``get_rng_state`` returned.

    Args:
        new_state: the state, a uint8 tensor [16].
    """
    _of_thread.generator.set_state(new_state)


def _state(generator: Generator | None) -> Tensor:
    return _of_thread.generator._state if generator is None else generator._state


# ---- fills of tensors that are there ----


def _fill(op: Op, target: Tensor, generator: Generator | None, a: float, b: float) -> Tensor:
    """Overwrite a tensor with random numbers; one that is not row-major gets a copy of them."""
    if machine.flags_of(target._handle) & CONTIGUOUS:
        return call_in_place(op, target, target, _state(generator), attributes=(a, b))
    functions["copy_"](target, call(op, target, _state(generator), attributes=(a, b)))
    return target


def _expect_float(tensor: Tensor, name: str) -> None:
    if machine.dtype_of(tensor._handle) < FLOAT32:
        raise NotImplementedError(f"\"{name}\" not implemented for '{_TYPE_NAMES[machine.dtype_of(tensor._handle)]}'")


@tensor_method("uniform_")
def uniform_(self: Tensor, from_: float = 0.0, to: float = 1.0, *, generator: Any = None, **named: float) -> Tensor:
    """Fill the tensor with numbers uniform in [from, to).

    Args:
        from_: the least number; in torch ``from``.

    Raises:
        RuntimeError: ``from`` is greater than ``to``.
    """
    low = float(named.pop("from", from_))
    if named:
        raise TypeError(f"uniform_() got an unexpected keyword argument '{next(iter(named))}'")
    _expect_float(self, "check_uniform_bounds")
    if not low <= to:
        raise RuntimeError(f"uniform_ expects to return a [from, to) range, but found from={low:g} > to={to:g}")
    return _fill(random_ops.UNIFORM, self, generator, low, float(to))


@tensor_method("normal_")
def normal_(self: Tensor, mean: float = 0.0, std: float = 1.0, *, generator: Any = None) -> Tensor:
    """Fill the tensor with normal numbers.

    Args:
        mean: the mean.

    Raises:
        RuntimeError: ``std`` is negative.
    """
    _expect_float(self, "normal_kernel_cpu")
    if not std >= 0:
        raise RuntimeError(f"normal expects std >= 0.0, but found std {std:g}")
    return _fill(random_ops.NORMAL, self, generator, float(mean), float(std))


@tensor_method("exponential_")
def exponential_(self: Tensor, lambd: float = 1.0, *, generator: Any = None) -> Tensor:
    """Fill the tensor with exponential numbers of the rate ``lambd``.

    Raises:
        RuntimeError: ``lambd`` is not positive.
    """
    _expect_float(self, "exponential")
    if not lambd > 0:
        raise RuntimeError(f"exponential_ expects lambda > 0.0, but found lambda={lambd:g}")
    return _fill(random_ops.EXPONENTIAL, self, generator, float(lambd), 0.0)


@tensor_method("random_")
def random_(self: Tensor, from_: int = 0, to: int | None = None, *, generator: Any = None, **named: int) -> Tensor:
    """Fill the tensor with integers of [from, to); one number alone is ``to``; none means all that the dtype has.

    Args:
        from_: the least number; in torch ``from``.

    Raises:
        RuntimeError: there is no integer in that range.
    """
    low = named.pop("from", from_)
    code = machine.dtype_of(self._handle)
    if to is None and low == 0:
        return _fill(random_ops.RANDINT, self, generator, 0, _LARGEST[code] + 1 if code < INT64 else _LARGEST[code])
    if to is None:
        low, to = 0, low
    return _fill(random_ops.RANDINT, self, generator, *_range("random_", low, to))


def _range(name: str, low: int, high: int) -> tuple[int, int]:
    """Return the first integer and the number of integers of a range, as int64 words."""
    if not low < high:
        raise RuntimeError(f"{name} expects 'from' to be less than 'to', but got from={low} >= to={high}")
    if low < -(2**63) or high > 2**63:
        raise RuntimeError(f"{name}: the range from {low} to {high} does not fit into 64 bits")
    return int(low), _wrapped(int(high) - int(low))


@tensor_method("bernoulli_")
def bernoulli_(self: Tensor, p: Any = 0.5, *, generator: Any = None) -> Tensor:
    """Fill the tensor with ones of probability ``p`` (a number, or a tensor that broadcasts) and zeros."""
    if isinstance(p, Tensor):
        probabilities = _expand(p, shape_of(self))
        functions["copy_"](self, _bernoulli_each(probabilities, generator))
        return self
    _check_probability(p)
    return _fill(random_ops.BERNOULLI, self, generator, float(p), 0.0)


def _check_probability(p: float) -> None:
    if not 0 <= p <= 1:
        raise RuntimeError(f"bernoulli_ expects p to be in [0, 1], but got p={p:g}")


# ---- new tensors ----


def _new(
    shape: Sequence[int],
    dtype: Any,
    device: Any,
    fill: Callable[[Tensor], Tensor],
    requires_grad: bool,
    out: Any = None,
) -> Tensor:
    check_device(device)
    result = fill(finish(machine.new_tensor(code_of(dtype, out), *shape), False, out))
    if requires_grad:
        result.requires_grad_()
    return result


def _drawn(
    op: Op, size: tuple[Any, ...], dtype: Any, device: Any, generator: Any, requires_grad: bool, out: Any
) -> Tensor:
    """Return a new tensor of standard uniform or normal numbers."""
    if device is not None:
        check_device(device)
    code = code_of(dtype, out)
    result = finish(machine.new_tensor(code, *shape_argument(size)), False, out)
    if code < FLOAT32:
        _expect_float(result, "check_uniform_bounds" if op is random_ops.UNIFORM else "normal_kernel_cpu")
    _fill(op, result, generator, 0.0, 1.0)
    if requires_grad:
        machine.set_flags(result._handle, REQUIRES_GRAD, 0)
    return result


@function(method=False)
def rand(
    *size: Any,
    generator: Generator | None = None,
    out: Any = None,
    dtype: Any = None,
    layout: Any = None,
    device: Any = None,
    requires_grad: bool = False,
    pin_memory: bool = False,
) -> Tensor:
    """Return a tensor of numbers uniform in [0, 1).

    Args:
        *size: the shape, as ints or as one sequence of them.
        generator: where the numbers come from; by default the one that ``manual_seed`` sets.
        dtype: float32 or float64; by default the default dtype.
        requires_grad: whether operations on the result are to be recorded.
        out: a tensor to write the result into.
        layout, device, pin_memory: accepted for torch's sake.
    """
    return _drawn(random_ops.UNIFORM, size, dtype, device, generator, requires_grad, out)


@function(method=False)
def randn(
    *size: Any,
    generator: Generator | None = None,
    out: Any = None,
    dtype: Any = None,
    layout: Any = None,
    device: Any = None,
    requires_grad: bool = False,
    pin_memory: bool = False,
) -> Tensor:
    """Return a tensor of normal numbers of mean 0 and standard deviation 1; the arguments are those of ``rand``."""
    return _drawn(random_ops.NORMAL, size, dtype, device, generator, requires_grad, out)


@function(method=False)
@honours_out
def randint(
    low: int,
    high: Any = None,
    size: Any = None,
    *,
    generator: Generator | None = None,
    out: Any = None,
    dtype: Any = None,
    layout: Any = None,
    device: Any = None,
    requires_grad: bool = False,
) -> Tensor:
    """Return integers of [low, high), int64 by default: ``randint(high, size)`` or ``randint(low, high, size)``.

    Raises:
        RuntimeError: there is no integer in that range.
    """
    if size is None:
        low, high, size = (0, low, high) if high is not None else (0, low, ())
    elif high is None:
        low, high = 0, low
    words = _range("random_", int(low), int(high))

    def fill(x: Tensor) -> Tensor:
        return _fill(random_ops.RANDINT, x, generator, *words)

    return _new(shape_argument((size,)), DTYPES[INT64] if dtype is None else dtype, device, fill, requires_grad)


def _like(input: Tensor, dtype: Any, **named: Any) -> dict[str, Any]:
    expect_tensor(input, "rand_like")
    return {"dtype": DTYPES[machine.dtype_of(input._handle)] if dtype is None else dtype, **named}


@function(method=False)
def rand_like(
    input: Tensor,
    *,
    dtype: Any = None,
    layout: Any = None,
    device: Any = None,
    requires_grad: bool = False,
    memory_format: Any = None,
    generator: Any = None,
) -> Tensor:
    """Return ``rand`` of the shape and, by default, the dtype of ``input``."""
    named = _like(input, dtype, device=device, requires_grad=requires_grad, generator=generator)
    return rand(shape_of(input), **named)


@function(method=False)
def randn_like(
    input: Tensor,
    *,
    dtype: Any = None,
    layout: Any = None,
    device: Any = None,
    requires_grad: bool = False,
    memory_format: Any = None,
    generator: Any = None,
) -> Tensor:
    """Return ``randn`` of the shape and, by default, the dtype of ``input``."""
    named = _like(input, dtype, device=device, requires_grad=requires_grad, generator=generator)
    return randn(shape_of(input), **named)


@function(method=False)
def randint_like(
    input: Tensor,
    low: int,
    high: int | None = None,
    *,
    dtype: Any = None,
    layout: Any = None,
    device: Any = None,
    requires_grad: bool = False,
    memory_format: Any = None,
    generator: Any = None,
) -> Tensor:
    """Return integers of [low, high), or of [0, low), in the shape and, by default, the dtype of ``input``.

    Args:
        low: the least integer; or, alone, what all are below.
        high: what all are below.
    """
    low, high = (0, low) if high is None else (low, high)
    named = _like(input, dtype, device=device, requires_grad=requires_grad, generator=generator)
    return randint(low, high, shape_of(input), **named)


@function(method=False)
@honours_out
def randperm(
    n: int,
    *,
    generator: Generator | None = None,
    out: Any = None,
    dtype: Any = None,
    layout: Any = None,
    device: Any = None,
    requires_grad: bool = False,
    pin_memory: bool = False,
) -> Tensor:
    """Return a random permutation of 0 .. n-1 as int64 [n].

    Raises:
        RuntimeError: ``n`` is negative.
    """
    check_device(device)
    if n < 0:
        raise RuntimeError(f"n must be non-negative, got {n}")
    result = call(random_ops.RANDPERM, _state(generator), attributes=(int(n),))
    return result if dtype is None else functions["to_dtype"](result, dtype)


@function(method=False)
@honours_out
def normal(
    mean: Any = 0.0,
    std: Any = 1.0,
    size: Any = None,
    *,
    generator: Generator | None = None,
    out: Any = None,
    dtype: Any = None,
    device: Any = None,
    requires_grad: bool = False,
) -> Tensor:
    """Return normal numbers: one for each element of the tensors ``mean`` and ``std``, or of the shape ``size``.

    Raises:
        RuntimeError: a standard deviation is negative.
    """
    tensors = [value for value in (mean, std) if isinstance(value, Tensor)]
    if not tensors:
        fill = lambda x: normal_(x, float(mean), float(std), generator=generator)  # noqa: E731
        return _new(shape_argument((size,)), dtype, device, fill, requires_grad)
    if isinstance(std, Tensor) and bool((std < 0).any()):
        raise RuntimeError("normal expects all elements of std >= 0.0")
    values = [value.detach() if isinstance(value, Tensor) else value for value in (mean, std)]
    model = values[0] + values[1]
    return randn(shape_of(model), dtype=model.dtype, generator=generator) * values[1] + values[0]


@function()
@honours_out
def bernoulli(input: Tensor, p: float | None = None, *, generator: Generator | None = None, out: Any = None) -> Tensor:
    """Return ones with the probabilities in ``input`` (or ``p``), otherwise zeros, in the dtype of ``input``.

    Raises:
        RuntimeError: a probability is not in [0, 1].
    """
    expect_tensor(input, "bernoulli")
    if p is not None:
        _check_probability(p)
        return call(random_ops.BERNOULLI, input, _state(generator), attributes=(float(p), 0.0))
    _expect_float(input, "bernoulli_tensor_cpu_p_")
    return _bernoulli_each(input, generator)


def _bernoulli_each(probabilities: Tensor, generator: Generator | None) -> Tensor:
    handle = machine.emit(random_ops.BERNOULLI_EACH.code, 2, probabilities._handle, _state(generator)._handle)
    if handle == BAD_ARGUMENT:
        raise RuntimeError("Expected p_in >= 0 && p_in <= 1 to be true, but got false.")
    return finish(handle)


@function()
@honours_out
def multinomial(
    input: Tensor, num_samples: int, replacement: bool = False, *, generator: Generator | None = None, out: Any = None
) -> Tensor:
    """Return column numbers drawn by the weights in each row.

    Args:
        input: [columns] or [rows, columns], not negative, of any sum.
        num_samples: how many to draw from each row.
        replacement: whether a column may be drawn more than once.

    Returns:
        int64 [num_samples] or [rows, num_samples].

    Raises:
        RuntimeError: weights that are negative or not finite, of sum 0, or fewer than samples.
    """
    expect_tensor(input, "multinomial")
    _expect_float(input, "multinomial")
    if ndim_of(input) not in (1, 2):
        raise RuntimeError("prob_dist must be 1 or 2 dim")
    if num_samples <= 0:
        raise RuntimeError("cannot sample n_sample <= 0 samples")
    if not replacement and num_samples > shape_of(input)[-1]:
        raise RuntimeError("cannot sample n_sample > prob_dist.size(-1) samples without replacement")
    words = (int(num_samples), int(replacement))
    handle = machine.emit(random_ops.MULTINOMIAL.code, 2, input._handle, _state(generator)._handle, *words)
    if handle == BAD_ARGUMENT:
        _refuse_weights(int(machine.state["error_value0"]))
    return finish(handle)


def _refuse_weights(reason: int) -> NoReturn:
    raise RuntimeError(
        {
            1: "probability tensor contains either `inf`, `nan` or element < 0",
            2: "invalid multinomial distribution (sum of probabilities <= 0)",
            3: "invalid multinomial distribution (with replacement=False, not enough non-negative category to sample)",
        }[reason]
    )


# ---- dropout ----


@function(method=False)
def dropout(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """Return ``input`` with each element put to zero with probability ``p``, the others multiplied by 1 / (1 - p).

    Args:
        input: of any shape, float32 or float64.
        p: the probability, in [0, 1].
        training: if false, ``input`` is returned as it is.
        inplace: write the result into ``input``.

    Raises:
        ValueError: ``p`` is not in [0, 1].
    """
    if not 0.0 <= p <= 1.0:
        raise ValueError(f"dropout probability has to be between 0 and 1, but got {p}")
    expect_tensor(input, "dropout")
    if not training or p == 0.0:
        return input
    handle = machine.emit(random_ops.DROPOUT.code, 2, input._handle, _state(None)._handle, float(p))
    if handle < 0:
        raise_status(handle)
    result = finish(handle)
    return functions["copy_"](input, result) if inplace else result


@function(method=False)
def feature_dropout(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """Return ``input`` [n, c, ...] with whole channels put to zero with probability ``p``, the others scaled up.

    Args:
        training: whether anything is put to zero; else the input is returned.
    """
    if not 0.0 <= p <= 1.0:
        raise ValueError(f"dropout probability has to be between 0 and 1, but got {p}")
    if not training or p == 0.0:
        return input
    shape = shape_of(input)
    ones = functions["ones"]((*shape[:2], *(1 for _ in shape[2:])), dtype=DTYPES[machine.dtype_of(input._handle)])
    result = input * dropout(ones, p)
    return functions["copy_"](input, result) if inplace else result


__all__ = ["Generator", "default_generator", "dropout", "manual_seed", "thread_generator", "use_generator"]
