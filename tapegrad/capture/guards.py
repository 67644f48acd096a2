"""Guards: what a function reads besides its arguments (attributes, globals, closures), and whether it is the same."""

from __future__ import annotations

import dis
import itertools
import operator
import random
import sys
import types
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from tapegrad.capture.errors import CaptureError
from tapegrad.nn.module import Module
from tapegrad.optim.optimizer import Optimizer
from tapegrad.runtime.handle import Tensor
from tapegrad.runtime.machine import machine

PLAIN = (bool, int, float, complex, str, bytes, type(None))
_DEPTH = 8
_SKIPPED = (types.ModuleType, type, types.BuiltinFunctionType, np.ndarray, np.generic, np.dtype)


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
        self._numpy: list[tuple[np.random.Generator, Any]] = []
        for container, key, value in _names_of(function):
            self._note(container, key, value, 0)
        for value in objects:
            self._visit(value, 0)
        self._lengths = list(map(len, self._sized))
        self._flags = list(map(machine.flags_of, self._handles))
        self._random = _random_states()

    def __len__(self) -> int:
        """Return how many values are compared."""
        return len(self._values) + len(self._sized) + len(self._handles)

    def hold(self) -> bool:
        """Return whether everything is as it was; about 30 ns a value."""
        try:
            found = map(operator.getitem, self._containers, self._keys)
            if not all(map(operator.is_, found, self._values)) and not self._equal():
                return False
        except LookupError:
            return False
        if list(map(len, self._sized)) != self._lengths:
            return False
        return list(map(machine.flags_of, self._handles)) == self._flags

    def _equal(self) -> bool:
        """Return whether what is not the same object is an equal plain value."""
        for container, key, value in zip(self._containers, self._keys, self._values, strict=True):
            found = container[key]
            if found is not value and not (
                isinstance(value, PLAIN) and type(found) is type(value) and (found == value or value != value)
            ):
                return False
        return True

    def change(self) -> str:
        """Return, for a message, what is not as it was."""
        for container, key, value in zip(self._containers, self._keys, self._values, strict=True):
            try:
                found = container[key]
            except LookupError:
                return f"{key!r} is gone"
            if found is not value and not (isinstance(value, PLAIN) and found == value):
                return f"{key!r} was {_shown(value)}, now {_shown(found)}"
        for sized, length in zip(self._sized, self._lengths, strict=True):
            if len(sized) != length:
                return f"a {type(sized).__name__} of length {length} has {len(sized)} items now"
        return "a tensor's flags, such as requires_grad"

    def check_randomness(self) -> None:
        """Raise CaptureError where the call has drawn numbers from Python's or NumPy's generators."""
        if self._random != _random_states() or any(
            generator.bit_generator.state != before for generator, before in self._numpy
        ):
            raise CaptureError(
                "the function draws random numbers from NumPy or Python, which a replay would not draw anew: use "
                "tg.rand and its kin, or pass the numbers in"
            )

    def _note(self, container: Any, key: Any, value: Any, depth: int) -> None:
        if isinstance(value, _SKIPPED):
            return
        self._containers.append(container)
        self._keys.append(key)
        self._values.append(value)
        self._visit(value, depth)

    def _visit(self, value: Any, depth: int) -> None:
        if id(value) in self._seen or depth > _DEPTH or isinstance(value, (*PLAIN, *_SKIPPED)):
            return
        self._seen.add(id(value))
        if isinstance(value, Tensor):
            self._handles.append(value._handle)
            self.tensors.append(value)
        elif isinstance(value, np.random.Generator):
            self._numpy.append((value, value.bit_generator.state))
        elif isinstance(value, Optimizer):
            self._visit_optimizer(value, depth)
        elif isinstance(value, list | tuple):
            self._sized.append(value)
            for k, item in enumerate(value):
                self._note(value, k, item, depth + 1)
        elif isinstance(value, dict):
            self._sized.append(value)
            for key, item in list(value.items()):
                self._note(value, key, item, depth + 1)
        elif isinstance(value, types.FunctionType | types.MethodType):
            if not _is_of_the_program(value.__module__ or ""):
                return
            for container, key, found in _names_of(value):
                self._note(container, key, found, depth + 1)
        elif isinstance(value, Module) or (hasattr(value, "__dict__") and _is_of_the_program(type(value).__module__)):
            for key, item in list(vars(value).items()):
                self._note(vars(value), key, item, depth + 1)
            if isinstance(value, Module):
                self._note(_Attributes(value), "training", value.training, depth)

    def _visit_optimizer(self, optimizer: Optimizer, depth: int) -> None:
        """Note what may not change: its numbers (learning rates, ...) may, see Notes.refreshers."""
        for group in optimizer.param_groups:
            self._sized.append(group["params"])
            for k, param in enumerate(group["params"]):
                self._note(group["params"], k, param, depth + 1)
            for name, option in group.items():
                if isinstance(option, bool) or (isinstance(option, PLAIN) and not optimizer.keeps_numbers()):
                    self._note(group, name, option, depth + 1)


def _shown(value: Any) -> str:
    return repr(value)[:60] if isinstance(value, PLAIN) else f"a {type(value).__name__}"


def _random_states() -> tuple[Any, ...]:
    """Return the states of Python's and of NumPy's own generators."""
    kind, keys, place, *rest = np.random.get_state()  # noqa: NPY002 (to see whether somebody has used it)
    return random.getstate(), kind, np.asarray(keys).tobytes(), place, rest


class _Attributes:
    """Gives an object's attributes, those of its class too, by name."""

    __slots__ = ("_of",)

    def __init__(self, of: Any) -> None:
        self._of = of

    def __getitem__(self, key: str) -> Any:
        return getattr(self._of, key)


def _is_of_the_program(module: str) -> bool:
    """Return whether a module, by its name, is the user's own, and not Python's or an installed package's."""
    if module.split(".")[0] in (*sys.stdlib_module_names, "tapegrad"):
        return module == "__main__"
    file = getattr(sys.modules.get(module), "__file__", None) or ""
    return "site-packages" not in file and "dist-packages" not in file


def _names_of(function: Any) -> Iterator[tuple[Any, Any, Any]]:
    """Yield (container, key, value) of the globals, cells, defaults and the bound object that a function reads."""
    if isinstance(function, types.MethodType):
        owner = function.__self__
        if not isinstance(owner, type):
            yield {"self": owner}, "self", owner
        function = function.__func__
    function = getattr(function, "__wrapped__", function)
    if isinstance(function, Module):
        yield {"module": function}, "module", function
    if not isinstance(function, types.FunctionType):
        return
    for name, attributes in _globals_read(function.__code__):
        value = function.__globals__.get(name, _SKIPPED)
        if isinstance(value, types.ModuleType):
            if attributes and attributes[0] in vars(value) and _is_of_the_program(value.__name__):
                yield vars(value), attributes[0], vars(value)[attributes[0]]
        elif value is not _SKIPPED:
            yield function.__globals__, name, value
    for cell in function.__closure__ or ():
        try:
            yield _Attributes(cell), "cell_contents", cell.cell_contents
        except ValueError:  # not set yet
            continue
    for k, value in enumerate(function.__defaults__ or ()):
        yield function.__defaults__, k, value


def _globals_read(code: types.CodeType) -> set[tuple[str, tuple[str, ...]]]:
    """Return the globals that code reads, each with the attribute that it reads of it, if it does."""
    names: set[tuple[str, tuple[str, ...]]] = set()
    instructions = [*dis.get_instructions(code)]
    for instruction, following in itertools.pairwise([*instructions, instructions[-1]]):
        if instruction.opname == "LOAD_GLOBAL":
            attribute = following.opname in ("LOAD_ATTR", "LOAD_METHOD")
            names.add((instruction.argval, (following.argval,) if attribute else ()))
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            names |= _globals_read(constant)
    return names
