"""Guards: what a function reads besides its arguments (attributes, globals, closures), and whether it is the same."""

from __future__ import annotations

import functools
import operator
import types
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from tapegrad.autograd.hooks import hooks_of
from tapegrad.capture.errors import CaptureError
from tapegrad.capture.reachable import (
    Attributes,
    Found,
    Items,
    attributes_of,
    class_attributes_of,
    global_random_states,
    is_of_a_user,
    is_of_the_program,
    iterator_state_of,
    names_of,
    random_state_of,
    words_of,
)
from tapegrad.capture.slots import native_slot
from tapegrad.nn.module import Module
from tapegrad.optim.lbfgs import LBFGS
from tapegrad.optim.lr_scheduler import LRScheduler
from tapegrad.optim.optimizer import Optimizer
from tapegrad.runtime import guard_entries
from tapegrad.runtime.handle import Tensor
from tapegrad.runtime.machine import machine

PLAIN = (bool, int, float, complex, str, bytes, type(None), np.generic, np.dtype)
_DEPTH = 8
_SKIPPED = (types.ModuleType, types.BuiltinFunctionType)
_WHOLE = 1 << 16  # bytes up to which an array is compared as a whole; of a larger one so many are looked at


class Guards:
    """The values that a function can reach, as they are now.

    Args:
        function: the captured function.
        objects: its arguments that are no tensors.

    Attributes:
        tensors: those that were found: parameters, buffers and others.
    """

    def __init__(self, function: Any, objects: Iterable[Any]) -> None:
        self._containers: list[Any] = []  # where each value was found, under which key, and what it was
        self._keys: list[Any] = []
        self._values: list[Any] = []
        self._sized: list[Any] = []
        self._handles: list[int] = []
        self.tensors: list[Tensor] = []
        self._seen: set[int] = set()
        self._kept: list[Any] = []  # what was seen, so that its id stays its own
        self._arrays: list[tuple[Any, bytes]] = []
        self._sets: list[tuple[Any, frozenset[Any]]] = []
        # numbers of optimisers, and whether they are 0: then less is computed
        self._zeros: list[tuple[Any, str, bool]] = []
        self._numbers: list[Any] = []  # as they were last
        self._hidden: list[tuple[str, Callable[[], Any], Any]] = []  # states that change without a trace
        self._words_in_code: set[str] = {*words_of(function)}
        self._optimizers: list[Optimizer] = []
        self._schedules: list[LRScheduler] = []
        for found in names_of(function):
            self._note(*found, 0)
        for value in objects:
            self._visit(value, 0)
        self._note_numbers()
        self._lengths = list(map(len, self._sized))
        self._flags = list(map(machine.flags_of, self._handles))
        self._random = global_random_states()
        self._words = self._write_words()
        self._address = int(self._words.ctypes.data)

    def __len__(self) -> int:
        """Return how many values are compared."""
        return len(self._values) + len(self._sized) + len(self._handles)

    def _write_words(self) -> Any:
        """Return the words that objects_hold reads; what they lead to is kept alive by the lists."""
        items = [
            (*_address_of_place(container, key), id(value))
            for container, key, value in zip(self._containers, self._keys, self._values, strict=True)
        ]
        lengths = [(id(sized), length) for sized, length in zip(self._sized, self._lengths, strict=True)]
        flags = list(zip(self._handles, self._flags, strict=True))
        self._rows = [np.array(rows, np.int64).reshape(-1) for rows in (items, lengths, flags)]
        words = np.zeros(guard_entries.GUARD_WORDS, np.int64)
        counts = (len(items), len(lengths), len(flags))
        for k, (count, array) in enumerate(zip(counts, self._rows, strict=True)):
            words[2 * k], words[2 * k + 1] = count, array.ctypes.data
        return words

    def hold(self) -> bool:
        """Return whether everything is as it was; about 10 ns a value."""
        if machine.objects_hold(self._address) >= 0:
            return self._contents_hold()
        return self._hold_slowly()

    def hold_in(self, modes: int) -> bool:
        """Return whether all objects are the same ones as before, and a thread's modes are these."""
        return bool(machine.objects_hold(self._address) == modes) and self._contents_hold()

    def _hold_slowly(self) -> bool:
        """Return whether everything is the same object as it was, or an equal plain value."""
        if list(map(len, self._sized)) != self._lengths:
            return False
        try:
            found = map(operator.getitem, self._containers, self._keys)
            if not all(map(operator.is_, found, self._values)) and not self._equal():
                return False
        except LookupError:
            return False
        return list(map(machine.flags_of, self._handles)) == self._flags and self._contents_hold()

    def _contents_hold(self) -> bool:
        if self._arrays and not all(_bytes_of(array) == content for array, content in self._arrays):
            return False
        if self._sets and not all(found == content for found, content in self._sets):
            return False
        return not self._zeros or self.numbers_hold()

    def numbers_hold(self) -> bool:
        """Return whether of the optimisers' numbers the same ones are 0."""
        numbers = [group.get(name) for group, name, _ in self._zeros]
        if numbers == self._numbers:
            return True
        if all((number == 0) == zero for number, (_, _, zero) in zip(numbers, self._zeros, strict=True)):
            self._numbers = numbers
            return True
        return False

    def _equal(self) -> bool:
        """Return whether what is not the same object is an equal plain value."""
        return all(
            _is_same(container[key], value)
            for container, key, value in zip(self._containers, self._keys, self._values, strict=True)
        )

    def change(self) -> str:
        """Return, for a message, what is not as it was."""
        for sized, length in zip(self._sized, self._lengths, strict=True):
            if len(sized) != length:
                return f"a {type(sized).__name__} of length {length} has {len(sized)} items now"
        for container, key, value in zip(self._containers, self._keys, self._values, strict=True):
            try:
                found = container[key]
            except LookupError:
                return f"{key!r} is gone"
            if not _is_same(found, value):
                return f"{key!r} was {_shown(value)}, now {_shown(found)}"
        if not self._contents_hold():
            return "an array or a set has changed"
        return "a tensor's flags, such as requires_grad"

    def check_hidden(self) -> None:
        """Raise CaptureError where the call has changed a state that a replay would not change.

        These are Python's and NumPy's generators of random numbers, and iterators.
        """
        changed = [kind for kind, state, before in self._hidden if state() != before]
        if self._random != global_random_states() or "random" in changed:
            raise CaptureError(
                "the function draws random numbers from NumPy or Python, which a replay would not draw anew: use "
                "tg.rand and its kin, or pass the numbers in"
            )
        if changed:
            raise CaptureError(
                "the function takes items from an iterator or a generator, which a replay would not do: take them "
                "outside, and pass them in as tensors"
            )

    def _note(self, container: Any, key: Any, value: Any, depth: int) -> None:
        if isinstance(value, _SKIPPED):
            return
        self._containers.append(container)
        self._keys.append(key)
        self._values.append(value)
        self._visit(value, depth)

    def _note_all(self, found: Iterable[Found], depth: int) -> None:
        for container, key, value in found:
            self._note(container, key, value, depth + 1)

    def _visit(self, value: Any, depth: int) -> None:
        if depth > _DEPTH or isinstance(value, (*PLAIN, *_SKIPPED)) or id(value) in self._seen:
            return
        self._seen.add(id(value))
        self._kept.append(value)
        for kind, state in (("random", random_state_of(value)), ("iterator", iterator_state_of(value))):
            if state is not None:
                self._hidden.append((kind, state, state()))
        if isinstance(value, Tensor):
            self._visit_tensor(value, depth)
        elif isinstance(value, np.ndarray):
            self._arrays.append((value, _bytes_of(value)))
        elif isinstance(value, Optimizer):
            self._visit_optimizer(value, depth)
        elif isinstance(value, tuple):  # which has the same items for ever
            for item in value:
                self._visit(item, depth + 1)
        elif isinstance(value, LRScheduler):  # whose steps replays take too
            self._schedules.append(value)
            self._visit(value.optimizer, depth + 1)
        elif isinstance(value, list | deque):
            self._sized.append(value)
            self._note_all(((value, k, item) for k, item in enumerate(value)), depth)
        elif isinstance(value, dict):
            self._sized.append(value)
            container = value if type(value) is dict else Items(value)
            self._note_all(((container, key, item) for key, item in list(value.items())), depth)
        elif isinstance(value, set | frozenset):
            self._sets.append((value, frozenset(value)))
        else:
            self._visit_code(value, depth)

    def _visit_code(self, value: Any, depth: int) -> None:
        """Visit a function, a class or an object of one."""
        if isinstance(value, type):
            if is_of_a_user(value):
                self._note_all(class_attributes_of(value), depth)
        elif isinstance(value, types.FunctionType | types.MethodType) or hasattr(value, "__wrapped__"):
            if is_of_the_program(value.__module__ or ""):
                self._words_in_code |= words_of(value)
                self._note_all(names_of(value), depth)
        elif isinstance(value, staticmethod | classmethod):
            self._visit(value.__func__, depth)
        elif isinstance(value, property):
            self._visit(value.fget, depth)
        elif isinstance(value, functools.partial):
            self._note_all(((Attributes(value), name, getattr(value, name)) for name in _PARTS), depth)
        elif is_of_a_user(type(value)) or isinstance(value, Module):
            if hasattr(value, "__dict__"):
                if isinstance(value, Module):
                    native_slot(value)
                self._sized.append(vars(value))
            self._note_all(attributes_of(value), depth)
            self._visit(type(value), depth)
            if isinstance(value, Module):
                self._note(Attributes(value), "training", value.training, depth)

    def _visit_tensor(self, tensor: Tensor, depth: int) -> None:
        self._handles.append(tensor._handle)
        self.tensors.append(tensor)
        for hooks in hooks_of(tensor):
            self._visit(hooks, depth + 1)

    def _visit_optimizer(self, optimizer: Optimizer, depth: int) -> None:
        """Note what may not change: its numbers (learning rates, ...) may, see Notes.refreshers."""
        self._sized.append(optimizer.param_groups)
        self._note_all(((vars(optimizer), name, vars(optimizer)[name]) for name in ("state", "param_groups")), _DEPTH)
        for hooks in optimizer._hooks.values():
            self._visit(hooks, depth + 1)
        if not isinstance(optimizer, LBFGS):  # which is not captured: what is can be its closure
            self._sized.append(optimizer.state)
            items = Items(optimizer.state)
            self._note_all(((items, param, state) for param, state in optimizer.state.items()), depth)
        for group in optimizer.param_groups:
            self._sized.append(group["params"])
            for k, param in enumerate(group["params"]):
                self._note(group["params"], k, param, depth + 1)
        self._optimizers.append(optimizer)

    def _note_numbers(self) -> None:
        """Note the optimisers' options; of numbers, which replays read anew, only what the function's code names."""
        named = self._words_in_code
        for optimizer in self._optimizers:
            for group, name in [(options, name) for options in optimizer.param_groups for name in options]:
                option = group[name]
                is_read = ("param_groups" in named and name in named) or (name == "lr" and "get_last_lr" in named)
                if isinstance(option, int | float) and not isinstance(option, bool) and optimizer.keeps_numbers():
                    self._zeros.append((group, name, option == 0))
                    if is_read:
                        self._note(group, name, option, _DEPTH)
                elif isinstance(option, PLAIN):
                    self._note(group, name, option, _DEPTH)
        for schedule in self._schedules:
            for name in vars(schedule).keys() & named - {"optimizer"}:
                self._note(vars(schedule), name, vars(schedule)[name], 0)


_PARTS = ("func", "args", "keywords")  # of a functools.partial


def _address_of_place(container: Any, key: Any) -> tuple[int, int, int]:
    """Return how compiled code finds a value, and the addresses of what it finds it in and by."""
    if isinstance(container, Attributes):
        return guard_entries.IN_ATTRIBUTE, id(container.of), id(key)
    if isinstance(container, Items):
        return guard_entries.IN_DICT, id(container.of), id(key)
    return guard_entries.IN_DICT if type(container) is dict else guard_entries.IN_OTHER, id(container), id(key)


def _is_same(found: Any, value: Any) -> bool:
    """Return whether a value is the one that was found before, or an equal plain one; 0.0 is not -0.0."""
    if found is value:
        return True
    if not isinstance(value, PLAIN) or type(found) is not type(value):
        return False
    if isinstance(value, float | complex | np.generic):
        return repr(found) == repr(value)
    return bool(found == value)


def _bytes_of(array: Any) -> bytes:
    """Return the contents of an array; of a large one a part, from all over it."""
    if array.dtype == object:
        return b""
    if array.nbytes <= _WHOLE:
        return bytes(array.tobytes())
    flat = array.reshape(-1) if array.flags.c_contiguous else array.flat
    return bytes(np.asarray(flat[:: -(-array.nbytes // _WHOLE)]).tobytes())


def _shown(value: Any) -> str:
    return repr(value)[:60] if isinstance(value, PLAIN) else f"a {type(value).__name__}"
