"""The file: safetensors (github.com/huggingface/safetensors), with a SHA-256 over all of it in its metadata.

A file is 8 bytes with the length of a header, the header (JSON), and the tensors' bytes. Ours begins its header with
the checksum, so that its place is known: it is that of the whole file with 64 zeros in its own place.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tapegrad.serialization.errors import CheckpointError

MAX_HEADER = 100_000_000  # bytes; safetensors' own limit
VERSION = "1"
_PREFIX = b'{"__metadata__":{"sha256":"'
_DIGEST = slice(8 + len(_PREFIX), 8 + len(_PREFIX) + 64)
_ALIGNMENT = 64  # bytes, of the first tensor: the others follow by falling size of element
DTYPES = {
    "BOOL": np.dtype("?"),
    "U8": np.dtype("u1"),
    "I8": np.dtype("i1"),
    "U16": np.dtype("<u2"),
    "I16": np.dtype("<i2"),
    "U32": np.dtype("<u4"),
    "I32": np.dtype("<i4"),
    "U64": np.dtype("<u8"),
    "I64": np.dtype("<i8"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),
    "F32": np.dtype("<f4"),
    "F64": np.dtype("<f8"),
}
NAMES = {dtype: name for name, dtype in DTYPES.items() if name != "BF16"}


@dataclass(frozen=True)
class Stored:
    """An array as it is in a file: bfloat16 numbers are their bits."""

    dtype: str
    array: NDArray[Any]


def pack(arrays: Mapping[str, NDArray[Any]], structure: str) -> list[Any]:
    """Return the parts of a file: its beginning, and the bytes of each array.

    Args:
        arrays: contiguous, of dtypes in `NAMES`.
        structure: what says how the saved value is made of the arrays.

    Raises:
        ValueError: there are so many names that the header is too long.
    """
    ordered = sorted(arrays.items(), key=lambda item: (-item[1].itemsize, item[0]))
    entries, place = {}, 0
    for name, array in ordered:
        span = [place, place + array.nbytes]
        entries[name] = {"dtype": NAMES[array.dtype], "shape": list(array.shape), "data_offsets": span}
        place += array.nbytes
    metadata = {"sha256": "0" * 64, "format": "tapegrad", "version": VERSION, "structure": structure}
    header = json.dumps({"__metadata__": metadata, **entries}, separators=(",", ":")).encode()
    header += b" " * (-(len(header) + 8) % _ALIGNMENT)
    if len(header) > MAX_HEADER:
        raise ValueError(
            f"save: the structure takes {len(header)} bytes, more than {MAX_HEADER}: put numbers in arrays"
        )
    beginning = bytearray(len(header).to_bytes(8, "little") + header)
    data = [array.reshape(-1).view(np.uint8) for _, array in ordered]
    beginning[_DIGEST] = _digest(beginning, data).encode()
    return [bytes(beginning), *data]


def _digest(beginning: Any, data: list[Any]) -> str:
    digest = hashlib.sha256(beginning)
    for part in data:
        digest.update(part)
    return digest.hexdigest()


def unpack(data: NDArray[np.uint8], file: str) -> tuple[dict[str, Stored], str | None]:
    """Return the arrays in the bytes of a file, and its structure; None if it was not written by `pack`.

    Raises:
        CheckpointError: anything at all is wrong with it.
    """
    beginning, header = _header(data, file)
    metadata = header.pop("__metadata__", {})
    _check_metadata(metadata, file)
    ours = metadata.get("format") == "tapegrad" or "sha256" in metadata or "structure" in metadata
    if ours:
        _check_digest(data, beginning, metadata, file)
    arrays = _arrays(header, data[beginning:], file)
    return arrays, metadata["structure"] if ours else None


def _header(data: NDArray[np.uint8], file: str) -> tuple[int, dict[str, Any]]:
    """Return where the tensors' bytes begin, and the header."""
    if data.size < 8:
        raise CheckpointError(f"{file}: truncated, or no checkpoint: it has {data.size} bytes")
    length = int.from_bytes(data[:8].tobytes(), "little")
    if length > MAX_HEADER or length > data.size - 8:
        raise CheckpointError(
            f"{file}: truncated, altered, or no checkpoint: its header should have {length} bytes, the file has "
            f"{data.size}"
        )
    try:
        text = data[8 : 8 + length].tobytes().decode("utf-8")
        header = json.loads(text, object_pairs_hook=_without_duplicates, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{file}: altered, or no checkpoint: its header is no JSON: {error}") from None
    if not isinstance(header, dict):
        raise CheckpointError(f"{file}: altered, or no checkpoint: its header is no JSON object")
    return 8 + length, header


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a key is there twice")
    return result


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def _check_metadata(metadata: Any, file: str) -> None:
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise CheckpointError(f"{file}: altered: its metadata are not strings by name")


def _check_digest(data: NDArray[np.uint8], beginning: int, metadata: dict[str, str], file: str) -> None:
    if sorted(metadata) != ["format", "sha256", "structure", "version"]:
        raise CheckpointError(f"{file}: altered: its metadata are {sorted(metadata)}")
    if metadata["version"] != VERSION:
        raise CheckpointError(f"{file}: of version {metadata['version']}, this tapegrad reads version {VERSION}")
    head = bytearray(data[:beginning].tobytes())
    found = bytes(head[_DIGEST])
    head[_DIGEST] = b"0" * 64
    if metadata["sha256"].encode() != found or _digest(head, [data[beginning:]]).encode() != found:
        raise CheckpointError(f"{file}: altered or truncated: its checksum is wrong")


def _arrays(header: dict[str, Any], data: NDArray[np.uint8], file: str) -> dict[str, Stored]:
    spans = [(*_span(name, entry, data.size, file), name) for name, entry in header.items()]
    place = 0
    for begin, end, name in sorted(spans):
        if begin != place:
            raise CheckpointError(f"{file}: the tensor {name!r} begins at byte {begin}, expected {place}")
        place = end
    if place != data.size:
        raise CheckpointError(f"{file}: its tensors end at byte {place} of {data.size}")
    return {name: _stored(name, header[name], data[begin:end], file) for begin, end, name in spans}


def _span(name: str, entry: Any, size: int, file: str) -> tuple[int, int]:
    """Return where the bytes of a tensor begin and end."""
    if not isinstance(entry, dict) or sorted(entry) != ["data_offsets", "dtype", "shape"]:
        raise CheckpointError(f"{file}: the entry of the tensor {name!r} is malformed")
    if not isinstance(entry["dtype"], str) or entry["dtype"] not in DTYPES:
        raise CheckpointError(f"{file}: the tensor {name!r} is of dtype {entry['dtype']!r}, which is not read")
    for field in ("shape", "data_offsets"):
        if not isinstance(entry[field], list) or not all(type(n) is int and 0 <= n < 2**63 for n in entry[field]):
            raise CheckpointError(f"{file}: the tensor {name!r} has the {field} {entry[field]!r:.100}")
    wanted = math.prod(entry["shape"]) * DTYPES[entry["dtype"]].itemsize
    offsets = entry["data_offsets"]
    if len(offsets) != 2 or not offsets[0] <= offsets[1] <= size or offsets[1] - offsets[0] != wanted:
        raise CheckpointError(
            f"{file}: the tensor {name!r} of shape {entry['shape']!r:.100} lies at the bytes {offsets!r:.100} of {size}"
        )
    return offsets[0], offsets[1]


def _stored(name: str, entry: dict[str, Any], data: NDArray[np.uint8], file: str) -> Stored:
    if entry["dtype"] == "BOOL" and data.size and data.max() > 1:
        raise CheckpointError(f"{file}: the bool tensor {name!r} has bytes other than 0 and 1")
    try:
        return Stored(entry["dtype"], np.frombuffer(data, DTYPES[entry["dtype"]]).reshape(entry["shape"]))
    except (ValueError, OverflowError) as error:
        raise CheckpointError(f"{file}: the tensor {name!r} has the shape {entry['shape']!r:.100}: {error}") from None
