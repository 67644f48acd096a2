"""save and load: to and from paths and open files, our own checkpoints, safetensors, and torch's zip files."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tapegrad.runtime.handle import Tensor
from tapegrad.serialization.atomic import write_atomically
from tapegrad.serialization.container import pack, unpack
from tapegrad.serialization.decoder import Decoder
from tapegrad.serialization.encoder import Encoder
from tapegrad.serialization.errors import CheckpointError
from tapegrad.serialization.tensors import TensorMaker, widened
from tapegrad.serialization.torch_archive import read_archive
from tapegrad.tensor.construct import check_device

_LEGACY_TORCH = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."  # the pickle of torch's old magic number


def save(
    obj: Any,
    f: str | os.PathLike[str] | Any,
    pickle_module: Any = None,
    pickle_protocol: int | None = None,
    _use_new_zipfile_serialization: bool = True,
) -> None:
    """Write a value to a file: tensors, arrays, numbers, strings, bytes, and plain containers of them.

    The file is safetensors, and any reader of these can read its tensors; what the value is beyond them is in its
    metadata, with a SHA-256 over the whole file. At a path, the file is replaced by a complete one or not at all, even
    if the process is killed or the machine fails.

    Args:
        obj: the value, such as a dict of ``state_dict()`` of a module and an optimiser, numbers, and
            `get_rng_state`. Tensors that are the same object, or have the same memory and shape, stay so; other views
            are saved as what they show.
        f: a path, or an open binary file.
        pickle_module, pickle_protocol, _use_new_zipfile_serialization: accepted for torch's sake; nothing is pickled.

    Raises:
        TypeError: the value has something that is not saved in it, such as a module; the message says where.

    Example:
        >>> import io
        >>> import tapegrad as tg
        >>> file = io.BytesIO()
        >>> tg.save({"weight": tg.ones(2), "step": 3}, file)
        >>> _ = file.seek(0)
        >>> tg.load(file)
        {'weight': tensor([1., 1.]), 'step': 3}
    """
    encoder = Encoder()
    structure = json.dumps(encoder.encode(obj), separators=(",", ":"), allow_nan=False)
    parts = pack(encoder.arrays, structure)
    if isinstance(f, str | os.PathLike):
        write_atomically(Path(f), parts)
        return
    if not hasattr(f, "write"):
        raise TypeError(f"save: expected a path or an open file, got {type(f).__name__}")
    for part in parts:
        f.write(part)


def load(
    f: str | os.PathLike[str] | Any,
    map_location: Any = None,
    pickle_module: Any = None,
    *,
    weights_only: bool | None = None,
    mmap: bool | None = None,
    **pickle_load_args: Any,
) -> Any:
    """Return what `save` wrote; or the tensors, by name, of a safetensors file; or those of torch's ``.pt`` zip files.

    Nothing in a file is run: of torch's files, tensors in plain containers are read, and anything else is an error.
    dtypes that tapegrad lacks become the smallest that hold all their values: float16 and bfloat16 float32; int8,
    int16 and uint16 int32; uint32 int64.

    Args:
        f: a path, or an open binary file, which is read to its end.
        map_location: accepted for torch's sake; tensors are on the CPU, and a name of another device is an error.
        pickle_module, weights_only, pickle_load_args: accepted for torch's sake; it is always weights only.
        mmap: leave the tensors of a path on the disk until they are used (they can be written to, the file cannot).

    Raises:
        CheckpointError: (a RuntimeError and a ValueError) the file is truncated, altered or of another kind.
        FileNotFoundError: there is no file.
    """
    if isinstance(map_location, str) or type(map_location).__name__ == "device":
        check_device(map_location)
    name, data = _read(f, bool(mmap))
    beginning = data[: len(_LEGACY_TORCH)].tobytes()
    if beginning.startswith(b"PK\x03\x04"):
        return read_archive(data, name)
    _refuse_other_formats(beginning, name)
    arrays, structure = unpack(data, name)
    if structure is None:
        maker = TensorMaker(name, bool(mmap))
        return {key: _plain(maker, key, widened(stored, key, name)) for key, stored in arrays.items()}
    try:
        decoded = json.loads(structure)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{name}: its structure is no JSON: {error}") from None
    return Decoder(arrays, name, bool(mmap)).decode_all(decoded)


def _plain(maker: TensorMaker, key: str, array: NDArray[Any]) -> Tensor:
    return maker.make(key, array, requires_grad=False, parameter=False)


def _read(f: Any, mapped: bool) -> tuple[str, NDArray[np.uint8]]:
    """Return a file's name and its bytes."""
    if isinstance(f, str | os.PathLike):
        path = Path(f)
        if mapped and path.stat().st_size:
            return str(path), np.asarray(np.memmap(path, np.uint8, mode="c"))
        return str(path), np.fromfile(path, np.uint8)
    if not hasattr(f, "read"):
        raise TypeError(f"load: expected a path or an open file, got {type(f).__name__}")
    content = f.read()
    if isinstance(content, str):
        raise TypeError("load: the file is open as text: open it with mode 'rb'")
    return str(getattr(f, "name", "the file")), np.frombuffer(content, np.uint8)


def _refuse_other_formats(beginning: bytes, name: str) -> None:
    if beginning == _LEGACY_TORCH:
        raise CheckpointError(
            f"{name}: in torch's format from before version 1.6. Where torch is installed, convert it: "
            'torch.save(torch.load("old.pt", weights_only=True), "new.pt")'
        )
    if beginning[:1] == b"\x80" and beginning[1:2] in b"\x02\x03\x04\x05":
        raise CheckpointError(f"{name}: a pickle, which is not read, since it may run any code")
    if beginning.startswith(b"\x93NUMPY"):
        raise CheckpointError(f"{name}: a NumPy file: read it with numpy.load")
