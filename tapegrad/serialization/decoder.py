"""Values of JSON and arrays: what encoder.py made JSON of, checked at every step; nothing in it is run."""

from __future__ import annotations

import base64
import math
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from tapegrad.nn.state import StateDict
from tapegrad.ops.random import Generator
from tapegrad.runtime.dtype import dtype as DType
from tapegrad.runtime.dtype import dtype_of
from tapegrad.runtime.handle import Tensor
from tapegrad.serialization.container import Stored
from tapegrad.serialization.encoder import KEYS, MAPPINGS, MAX_DEPTH, SEQUENCES
from tapegrad.serialization.errors import CheckpointError
from tapegrad.serialization.tensors import TensorMaker, widened
from tapegrad.tensor.properties import device


class Decoder:
    """Turns JSON and the arrays of a file into the value that was saved.

    Args:
        arrays: by name.
        file: for messages.
        mapped: whether tensors may lie in the memory of the arrays, instead of getting a copy.
    """

    def __init__(self, arrays: Mapping[str, Stored], file: str, mapped: bool) -> None:
        self.arrays, self.file = arrays, file
        self.maker = TensorMaker(file, mapped)
        self.met: list[Any] = []
        self.used: set[str] = set()

    def decode_all(self, value: Any) -> Any:
        """Return the saved value.

        Raises:
            CheckpointError: the structure is not what an Encoder makes, or leaves arrays over.
        """
        result = self._decode(value, 0)
        if left := set(self.arrays) - self.used:
            raise CheckpointError(f"{self.file}: its structure does not mention the tensors {sorted(left)!r:.200}")
        return result

    def _decode(self, value: Any, depth: int) -> Any:
        if depth > MAX_DEPTH:
            raise CheckpointError(f"{self.file}: its structure is nested more than {MAX_DEPTH} levels deep")
        if isinstance(value, list):
            return [self._decode(item, depth + 1) for item in value]
        if not isinstance(value, dict):
            return value
        if len(value) != 1:
            raise self._malformed(value)
        ((kind, content),) = value.items()
        if kind in MAPPINGS:
            return MAPPINGS[kind](self._pairs(content, depth))
        if kind in SEQUENCES:
            return self._sequence(kind, content, depth)
        read = getattr(self, f"_read_{kind}", None) if kind in _KINDS else None
        if read is None:
            raise self._malformed(value)
        try:
            return read(content)
        except (TypeError, KeyError, IndexError, ValueError, OverflowError) as error:
            if isinstance(error, CheckpointError):
                raise
            raise self._malformed(value) from None

    def _malformed(self, value: Any) -> CheckpointError:
        return CheckpointError(f"{self.file}: its structure has a malformed {value!r:.100}")

    def _pairs(self, content: Any, depth: int) -> dict[Any, Any]:
        if not isinstance(content, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in content):
            raise self._malformed(content)
        result: dict[Any, Any] = {}
        for pair in content:
            key = self._decode(pair[0], depth + 1)
            if not (type(key) in KEYS or (type(key) is tuple and all(type(part) in KEYS for part in key))):
                raise self._malformed(pair[0])
            result[key] = self._decode(pair[1], depth + 1)
        if len(result) != len(content):
            raise CheckpointError(f"{self.file}: a dict in its structure has a key twice")
        return result

    def _sequence(self, kind: str, content: Any, depth: int) -> Any:
        if not isinstance(content, list):
            raise self._malformed(content)
        items = [self._decode(item, depth + 1) for item in content]
        try:
            return SEQUENCES[kind](items)
        except TypeError:  # what a set cannot hold
            raise self._malformed(content) from None

    # ---- one method for each kind of object; all get what stands beside the key ----

    def _read_int(self, content: str) -> int:
        return int(content, 16)

    def _read_float(self, content: str) -> float:
        return {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}[content]

    def _read_complex(self, content: list[Any]) -> complex:
        real, imaginary = (float(self._decode(part, 0)) for part in content)
        return complex(real, imaginary)

    def _read_bytes(self, content: str) -> bytes:
        return base64.b64decode(content, validate=True)

    def _read_bytearray(self, content: str) -> bytearray:
        return bytearray(self._read_bytes(content))

    def _read_dtype(self, content: str) -> DType:
        return dtype_of(str(content))

    def _read_device(self, content: str) -> device:
        return device({"cpu": "cpu"}[content])

    def _read_generator(self, content: list[int]) -> Generator:
        seed, place = content
        generator = Generator()
        generator.__setstate__((int(seed), int(place)))
        return generator

    def _read_state_dict(self, content: list[Any]) -> StateDict:
        tensors, metadata = (self._decode(part, 1) for part in content)
        result = StateDict(OrderedDict(tensors))
        result._metadata = OrderedDict(metadata)
        return result

    def _stored(self, name: Any) -> Stored:
        if not isinstance(name, str) or name not in self.arrays:
            raise CheckpointError(f"{self.file}: its structure names the tensor {name!r:.100}, which is not there")
        self.used.add(name)
        return self.arrays[name]

    def _read_tensor(self, content: dict[str, Any], parameter: bool = False) -> Tensor:
        name, wanted = content["name"], content["requires_grad"]
        array = widened(self._stored(name), name, self.file)
        result = self.maker.make(name, array, bool(wanted), parameter)
        self.met.append(result)
        return result

    def _read_parameter(self, content: dict[str, Any]) -> Tensor:
        return self._read_tensor(content, parameter=True)

    def _read_array(self, name: str) -> NDArray[Any]:
        array = self._stored(name).array.copy()
        self.met.append(array)
        return array

    def _read_scalar(self, name: str) -> Any:
        return self._stored(name).array[()]

    def _read_again(self, number: int) -> Any:
        if type(number) is not int or number < 0:
            raise IndexError
        return self.met[number]


_KINDS = {name.removeprefix("_read_") for name in dir(Decoder) if name.startswith("_read_")}
