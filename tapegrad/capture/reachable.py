"""What Python code can reach: names of globals, cells, defaults, attributes of classes and modules; hidden states."""

from __future__ import annotations

import dis
import functools
import itertools
import random
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from tapegrad.nn.module import Module

Found = tuple[Any, Any, Any]  # container, key, value


class Attributes:
    """Gives an object's attributes, those of its class too, by name."""

    __slots__ = ("of",)

    def __init__(self, of: Any) -> None:
        self.of = of

    def __getitem__(self, key: str) -> Any:
        try:
            return getattr(self.of, key)
        except AttributeError:
            raise KeyError(key) from None


class Items:
    """Gives the items of a dict, None for what is not there, without making them as a defaultdict would."""

    __slots__ = ("of",)

    def __init__(self, of: dict[Any, Any]) -> None:
        self.of = of

    def __getitem__(self, key: Any) -> Any:
        return dict.get(self.of, key)


@functools.cache
def is_of_the_program(module: str) -> bool:
    """Return whether a module, by its name, is the user's own, and not Python's or an installed package's."""
    if module.split(".")[0] in (*sys.stdlib_module_names, "tapegrad"):
        return module == "__main__"
    file = getattr(sys.modules.get(module), "__file__", None) or ""
    return "site-packages" not in file and "dist-packages" not in file


def is_of_a_user(kind: type) -> bool:
    """Return whether a class is of the user's program, whose attributes the function may read."""
    return kind is types.SimpleNamespace or is_of_the_program(kind.__module__)


def names_of(function: Any) -> Iterator[Found]:
    """Yield the globals, cells, defaults and the bound object that a function reads, and what it wraps."""
    if isinstance(function, types.MethodType):
        owner = function.__self__
        yield {"self": owner}, "self", owner
        function = function.__func__
    if isinstance(function, Module):
        yield {"module": function}, "module", function
    wrapped = getattr(function, "__wrapped__", None)
    if wrapped is not None:
        yield Attributes(function), "__wrapped__", wrapped
    if isinstance(function, types.FunctionType):
        yield from _names_of_code(function)
    elif not isinstance(function, Module) and wrapped is None:
        yield {"function": function}, "function", function


def _names_of_code(function: types.FunctionType) -> Iterator[Found]:
    names, attributes = _names_in(function.__code__)
    for name in names:
        if name in function.__globals__:
            value = function.__globals__[name]
            yield function.__globals__, name, value
            yield from _names_in_module(value, attributes)
    for cell in function.__closure__ or ():
        try:
            yield Attributes(cell), "cell_contents", cell.cell_contents
            yield from _names_in_module(cell.cell_contents, attributes)
        except ValueError:  # not set yet
            continue
    for k, value in enumerate(function.__defaults__ or ()):
        yield function.__defaults__, k, value
    for name, value in (function.__kwdefaults__ or {}).items():
        yield function.__kwdefaults__, name, value


def _names_in_module(value: Any, attributes: frozenset[str]) -> Iterator[Found]:
    """Yield what code that mentions some attributes may read of a module of the user's."""
    if not isinstance(value, types.ModuleType) or not is_of_the_program(value.__name__):
        return
    for name in sorted(attributes & vars(value).keys()):
        found = vars(value)[name]
        yield vars(value), name, found
        if found is not value:
            yield from _names_in_module(found, attributes)


@functools.cache
def _names_in(code: types.CodeType) -> tuple[frozenset[str], frozenset[str]]:
    """Return the globals that code reads, and all names of attributes in it."""
    names = {instruction.argval for instruction in dis.get_instructions(code) if instruction.opname == "LOAD_GLOBAL"}
    attributes = set(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            more = _names_in(constant)
            names |= more[0]
            attributes |= more[1]
    return frozenset(names), frozenset(attributes)


def words_of(function: Any) -> frozenset[str]:
    """Return the names of attributes and the texts in a function's code."""
    function = getattr(function, "__func__", function)
    return _words_in(function.__code__) if isinstance(function, types.FunctionType) else frozenset()


@functools.cache
def _words_in(code: types.CodeType) -> frozenset[str]:
    found = {*code.co_names}
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            found |= _words_in(constant)
        elif isinstance(constant, str):
            found.add(constant)
    return frozenset(found)


def attributes_of(value: Any) -> Iterator[Found]:
    """Yield an object's own attributes, those in slots too."""
    own = getattr(value, "__dict__", {})
    for key, item in list(own.items()):
        yield own, key, item
    for kind in type(value).__mro__:
        if is_of_a_user(kind):
            slots = vars(kind).get("__slots__", ())
            for key in (slots,) if isinstance(slots, str) else tuple(slots):
                if hasattr(value, key) and not key.startswith("__"):
                    yield Attributes(value), key, getattr(value, key)


def _attributes_of_class(kind: type) -> Iterator[Found]:
    for key, item in list(vars(kind).items()):
        if key.startswith("__") and key not in ("__call__", "__getattr__"):
            continue
        plain = item.__func__ if isinstance(item, staticmethod | classmethod) else item
        if not isinstance(plain, types.MemberDescriptorType | types.GetSetDescriptorType):
            yield vars(kind), key, item


def class_attributes_of(kind: type) -> Iterator[Found]:
    """Yield the attributes of a class of the user's and of the classes that it comes from."""
    for each in kind.__mro__:
        if is_of_a_user(each):
            yield from _attributes_of_class(each)


# ---- states that change without a trace ----


def global_random_states() -> tuple[Any, ...]:
    """Return the states of Python's and of NumPy's own generators."""
    return random.getstate(), _state_of_numpys(np.random.mtrand._rand)


def _state_of_numpys(source: Any) -> Any:
    kind, keys, *rest = source.get_state()
    return kind, np.asarray(keys).tobytes(), *rest


def random_state_of(value: Any) -> Callable[[], Any] | None:
    """Return what gives the state of a generator of random numbers, None if it is none."""
    if isinstance(value, np.random.Generator):
        return lambda: value.bit_generator.state
    if isinstance(value, np.random.RandomState):
        return lambda: _state_of_numpys(value)
    if isinstance(value, random.Random) and not isinstance(value, random.SystemRandom):
        return value.getstate
    return None


def iterator_state_of(value: Any) -> Callable[[], Any] | None:
    """Return what gives an iterator's or a generator's place, None if that cannot be seen.

    A count of itertools is left out: it never gives a number twice, so no two calls in a row compute the same.
    """
    if isinstance(value, types.GeneratorType):
        return lambda: _place_of_generator(value)
    if hasattr(value, "__next__") and hasattr(value, "__length_hint__") and not isinstance(value, itertools.count):
        return value.__length_hint__
    return None


def _place_of_generator(generator: types.GeneratorType[Any, Any, Any]) -> Any:
    frame = generator.gi_frame
    if frame is None:
        return None
    hints = [
        (name, repr(value) if isinstance(value, int | float | str) else getattr(value, "__length_hint__", int)())
        for name, value in frame.f_locals.items()
    ]
    return frame.f_lasti, hints
