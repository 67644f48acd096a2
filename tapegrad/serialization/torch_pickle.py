"""Reads the pickle in torch's files without Python's unpickler: a table of what may stand in it, and nothing else.

The opcodes come from `pickletools.genops`, which only takes them apart. A name in the pickle is looked up in _GLOBALS
and never imported; what is made are plain containers and `View`, a description of a tensor.
"""

from __future__ import annotations

import pickletools
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from tapegrad.nn.state import StateDict
from tapegrad.runtime.dtype import dtype_of
from tapegrad.runtime.layout import MAX_NDIM
from tapegrad.serialization.errors import CheckpointError
from tapegrad.tensor.properties import Size, device

MAX_DEPTH = 200
_PLAIN = (type(None), bool, int, float, complex, str, bytes)
_DTYPES = {
    "float32": "F32",
    "float64": "F64",
    "float16": "F16",
    "bfloat16": "BF16",
    "uint8": "U8",
    "int8": "I8",
    "int16": "I16",
    "int32": "I32",
    "int64": "I64",
    "bool": "BOOL",
    "uint16": "U16",
    "uint32": "U32",
}
_STORAGES = {
    "FloatStorage": "F32",
    "DoubleStorage": "F64",
    "HalfStorage": "F16",
    "BFloat16Storage": "BF16",
    "ByteStorage": "U8",
    "CharStorage": "I8",
    "ShortStorage": "I16",
    "IntStorage": "I32",
    "LongStorage": "I64",
    "BoolStorage": "BOOL",
}


@dataclass(frozen=True)
class Storage:
    """A record of numbers: its name in the file, the dtype and how many they are (bytes where the dtype is None)."""

    key: str
    dtype: Any
    count: int


@dataclass(frozen=True, eq=False)
class View:
    """A tensor that is to be made of a storage; offset and strides count elements."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    requires_grad: bool
    parameter: bool = False


@dataclass(frozen=True)
class _Callable:
    """A function that a pickle may call, or a storage class or dtype that it may name."""

    call: Callable[..., Any] | None = None
    dtype: str | None = None


def _view(storage: Any, offset: Any, shape: Any, strides: Any, requires_grad: Any = False, *rest: Any) -> View:
    numbers = [offset, *shape, *strides]
    if not isinstance(storage, Storage) or not all(type(n) is int and 0 <= n < 2**62 for n in numbers):
        raise ValueError("a tensor of impossible sizes")
    if len(shape) != len(strides) or len(shape) > MAX_NDIM:
        raise ValueError(f"a tensor with {len(shape)} dimensions and {len(strides)} strides")
    return View(storage, offset, tuple(shape), tuple(strides), bool(requires_grad))


def _view_of_bytes(storage: Any, offset: Any, shape: Any, strides: Any, grad: Any, hooks: Any, dtype: Any) -> View:
    size = {"U16": 2, "U32": 4}[dtype.dtype]
    return _view(replace(storage, dtype=dtype.dtype, count=storage.count // size), offset, shape, strides, grad)


def _parameter(data: Any, requires_grad: Any = True, *rest: Any) -> View:
    if not isinstance(data, View):
        raise ValueError("a parameter that is no tensor")
    return replace(data, requires_grad=bool(requires_grad), parameter=True)


def _ordered(items: Any = ()) -> OrderedDict[Any, Any]:
    result: OrderedDict[Any, Any] = OrderedDict()
    for key, value in items:
        result[_key(key)] = value
    return result


def _latin(text: Any, encoding: Any) -> bytes:
    if type(text) is not str or encoding not in ("latin1", "latin-1"):
        raise ValueError("bytes in an unknown encoding")
    return text.encode("latin1")


_GLOBALS = {
    "collections OrderedDict": _Callable(_ordered),
    "torch._utils _rebuild_tensor": _Callable(_view),
    "torch._utils _rebuild_tensor_v2": _Callable(_view),
    "torch._utils _rebuild_tensor_v3": _Callable(_view_of_bytes),
    "torch._utils _rebuild_parameter": _Callable(_parameter),
    "torch Size": _Callable(lambda lengths: Size(lengths)),
    "torch device": _Callable(lambda *args: device("cpu")),
    "torch.storage UntypedStorage": _Callable(dtype="U8"),
    "_codecs encode": _Callable(_latin),
    "builtins set": _Callable(lambda items: set(map(_key, items))),
    "__builtin__ set": _Callable(lambda items: set(map(_key, items))),
    **{f"torch {name}": _Callable(dtype=dtype) for name, dtype in (_STORAGES | _DTYPES).items()},
}


def _key(value: Any) -> Any:
    """Return a key of a dict, or an element of a set: a plain value or a flat tuple of them."""
    if type(value) in _PLAIN or (type(value) is tuple and all(type(part) in _PLAIN for part in value)):
        return value
    raise ValueError(f"a {type(value).__name__} as a key")


class PlainReader:
    """Reads one pickle.

    Args:
        pickle: its bytes.
        file: for messages.
        make_tensor: makes the tensor that a View describes.
    """

    def __init__(self, pickle: bytes, file: str, make_tensor: Callable[[View], Any]) -> None:
        self.pickle, self.file, self.make_tensor = pickle, file, make_tensor
        self.stack: list[Any] = []
        self.marks: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        self.finished: dict[int, Any] = {}
        self.open: set[int] = set()
        self.metadata: dict[int, Any] = {}  # by the id of the OrderedDict

    def read(self) -> Any:
        """Return the value.

        Raises:
            CheckpointError: it is malformed, or names something that is not in the table.
        """
        try:
            for opcode, argument, _ in pickletools.genops(self.pickle):
                if opcode.name == "STOP":
                    break
                self._step(opcode.name, argument)
            (result,) = self.stack
        except CheckpointError:
            raise
        except Exception as error:  # of whatever kind: these are the bytes of a stranger
            raise CheckpointError(f"{self.file}: its pickle is malformed: {type(error).__name__}: {error}") from None
        return self._finish(result, 0)

    def _step(self, name: str, argument: Any) -> None:
        if name in _CONSTANTS:
            self.stack.append(_CONSTANTS[name]())
        elif name in _LITERALS:
            self.stack.append(argument)
        elif name in ("PROTO", "FRAME"):
            return
        elif name in _STEPS:
            _STEPS[name](self, argument)
        else:
            raise CheckpointError(f"{self.file}: its pickle has the opcode {name}, which is not read")

    def _marked(self) -> list[Any]:
        """Return what was pushed since the last mark."""
        items, self.stack = self.stack, self.marks.pop()
        return items

    def _mark(self, _: Any) -> None:
        self.marks.append(self.stack)
        self.stack = []

    def _push(self, value: Any) -> None:
        self.stack.append(value)

    def _global(self, argument: str) -> None:
        found = _GLOBALS.get(argument)
        if found is None:
            raise CheckpointError(
                f"{self.file}: its pickle names {argument.replace(' ', '.')!r:.200}, and only tensors in plain "
                "containers are read: save a state_dict() with torch.save instead"
            )
        self.stack.append(found)

    def _stack_global(self, _: Any) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        self._global(f"{module} {name}")

    def _reduce(self, _: Any) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        if not isinstance(function, _Callable) or function.call is None or type(arguments) is not tuple:
            raise ValueError("a call of what is no function")
        self.stack.append(function.call(*arguments))

    def _build(self, _: Any) -> None:
        """Note the versions of modules that torch has in an attribute of a state_dict."""
        attributes = self.stack.pop()
        if type(self.stack[-1]) is not OrderedDict or type(attributes) is not dict or set(attributes) != {"_metadata"}:
            raise ValueError("attributes other than a state_dict's _metadata")
        self.metadata[id(self.stack[-1])] = attributes["_metadata"]

    def _persistent(self, _: Any) -> None:
        kind, storage, key, _location, count = self.stack.pop()
        if kind != "storage" or not isinstance(storage, _Callable) or type(key) is not str or type(count) is not int:
            raise ValueError("a reference to something else than a storage")
        self.stack.append(Storage(key, storage.dtype, count))

    def _put(self, number: Any) -> None:
        self.memo[len(self.memo) if number is None else number] = self.stack[-1]

    def _get(self, number: Any) -> None:
        self.stack.append(self.memo[number])

    def _append(self, items: list[Any]) -> None:
        if type(self.stack[-1]) is not list:
            raise ValueError("elements are added to something else than a list")
        self.stack[-1].extend(items)

    def _set_items(self, items: list[Any]) -> None:
        if type(self.stack[-1]) not in (dict, OrderedDict) or len(items) % 2:
            raise ValueError("keys are set in something else than a dict")
        for key, value in zip(items[::2], items[1::2], strict=True):
            self.stack[-1][_key(key)] = value

    def _add_items(self, _: Any) -> None:
        items = self._marked()
        if type(self.stack[-1]) is not set:
            raise ValueError("elements are added to something else than a set")
        self.stack[-1].update(map(_key, items))

    def _tuple_of(self, count: int) -> None:
        items = self.stack[len(self.stack) - count :]
        if len(items) != count:
            raise IndexError("the stack is empty")
        del self.stack[len(self.stack) - count :]
        self.stack.append(tuple(items))

    def _two(self) -> list[Any]:
        value, key = self.stack.pop(), self.stack.pop()
        return [key, value]

    def _dict_of(self, items: list[Any]) -> None:
        self.stack.append({})
        self._set_items(items)

    # ---- from descriptions to tensors ----

    def _finish(self, value: Any, depth: int) -> Any:
        """Return a value with tensors in the places of their descriptions; what is there twice stays one object."""
        if type(value) in _PLAIN or isinstance(value, Size | device):
            return value
        if isinstance(value, _Callable) and value.dtype in _TENSOR_DTYPES:
            return dtype_of(_TENSOR_DTYPES[value.dtype])
        if id(value) in self.finished:
            return self.finished[id(value)]
        if depth > MAX_DEPTH or id(value) in self.open:
            raise CheckpointError(f"{self.file}: its value contains itself, or is nested too deep")
        self.open.add(id(value))
        self.finished[id(value)] = result = self._convert(value, depth + 1)
        self.open.discard(id(value))
        return result

    def _convert(self, value: Any, depth: int) -> Any:
        if isinstance(value, View):
            return self.make_tensor(value)
        if type(value) in (dict, OrderedDict):
            items = type(value)((key, self._finish(item, depth)) for key, item in value.items())
            return self._state_dict(items, value) if id(value) in self.metadata else items
        if type(value) in (list, tuple):
            return type(value)(self._finish(item, depth) for item in value)
        if type(value) is set:
            return set(value)
        raise CheckpointError(f"{self.file}: its value has a {type(value).__name__} in it, and only tensors are read")

    def _state_dict(self, items: Any, value: Any) -> StateDict:
        result = StateDict(items)
        result._metadata = OrderedDict(self._finish(self.metadata[id(value)], 1))
        return result


_TENSOR_DTYPES = {
    "F32": "float32",
    "F64": "float64",
    "F16": "float32",
    "BF16": "float32",
    "U8": "uint8",
    "I8": "int32",
    "I16": "int32",
    "I32": "int32",
    "I64": "int64",
    "U16": "int32",
    "U32": "int64",
    "BOOL": "bool",
}
_CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_TUPLE": tuple,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
    "EMPTY_SET": set,
}
_LITERALS = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "SHORT_BINBYTES", "BINBYTES", "BINBYTES8"),
}
_STEPS: dict[str, Callable[[PlainReader, Any], None]] = {
    "MARK": PlainReader._mark,
    "GLOBAL": PlainReader._global,
    "STACK_GLOBAL": PlainReader._stack_global,
    "REDUCE": PlainReader._reduce,
    "BUILD": PlainReader._build,
    "BINPERSID": PlainReader._persistent,
    "PUT": PlainReader._put,
    "BINPUT": PlainReader._put,
    "LONG_BINPUT": PlainReader._put,
    "MEMOIZE": PlainReader._put,
    "GET": PlainReader._get,
    "BINGET": PlainReader._get,
    "LONG_BINGET": PlainReader._get,
    "APPEND": lambda self, _: self._append([self.stack.pop()]),
    "APPENDS": lambda self, _: self._append(self._marked()),
    "SETITEM": lambda self, _: self._set_items(self._two()),
    "SETITEMS": lambda self, _: self._set_items(self._marked()),
    "ADDITEMS": PlainReader._add_items,
    "TUPLE": lambda self, _: self._push(tuple(self._marked())),
    "TUPLE1": lambda self, _: self._tuple_of(1),
    "TUPLE2": lambda self, _: self._tuple_of(2),
    "TUPLE3": lambda self, _: self._tuple_of(3),
    "LIST": lambda self, _: self._push(self._marked()),
    "DICT": lambda self, _: self._dict_of(self._marked()),
}
