"""Reads torch's ``.pt`` zip files: a pickle, read by torch_pickle.py, and a file of numbers for each storage."""

from __future__ import annotations

import io
import zipfile
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tapegrad.runtime.handle import Tensor
from tapegrad.serialization.container import DTYPES, Stored
from tapegrad.serialization.errors import CheckpointError
from tapegrad.serialization.tensors import TensorMaker, widened
from tapegrad.serialization.torch_pickle import PlainReader, Storage, View

_ENCRYPTED = 1  # bit of a zip entry's flags


def read_archive(data: NDArray[np.uint8], file: str) -> Any:
    """Return the tensors and plain containers in the bytes of a file that torch.save wrote.

    Raises:
        CheckpointError: it is damaged, or has anything else in it.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data.tobytes())) as archive:
            reader = _Archive(archive, file, data.size)
            return PlainReader(reader.record("data.pkl"), file, reader.tensor).read()
    except CheckpointError:
        raise
    except Exception as error:  # zipfile meets damage with exceptions of many kinds
        raise CheckpointError(f"{file}: a damaged zip file: {error}") from None


class _Archive:
    """The records of a file, and the tensors in them."""

    def __init__(self, archive: zipfile.ZipFile, file: str, size: int) -> None:
        self.archive, self.file = archive, file
        infos = archive.infolist()
        names = [info.filename for info in infos]
        if len(set(names)) != len(names):
            raise CheckpointError(f"{file}: a zip file with two records of one name")
        if any(info.compress_type != zipfile.ZIP_STORED or info.flag_bits & _ENCRYPTED for info in infos):
            raise CheckpointError(f"{file}: a zip file with packed or encrypted records, which torch does not write")
        if sum(info.file_size for info in infos) > size:
            raise CheckpointError(f"{file}: a zip file whose records overlap")
        folders = [name.removesuffix("data.pkl") for name in names if name.endswith("/data.pkl")]
        if len(folders) != 1 or f"{folders[0]}constants.pkl" in names:
            kind = "a TorchScript archive" if folders else "a zip file without data.pkl"
            raise CheckpointError(f"{file}: {kind}, not a file of torch.save")
        self.folder, self.names = folders[0], set(names)
        order = self.record("byteorder") if f"{self.folder}byteorder" in self.names else b"little"
        self.big_endian = order == b"big"
        self.storages: dict[str, NDArray[Any]] = {}
        self.maker = TensorMaker(file, mapped=False)

    def record(self, name: str) -> bytes:
        """Return the bytes of a record; its checksum is checked."""
        if f"{self.folder}{name}" not in self.names:
            raise CheckpointError(f"{self.file}: the record {name!r:.100} is not there")
        return self.archive.read(f"{self.folder}{name}")

    def tensor(self, view: View) -> Tensor:
        """Return the tensor that a view of a storage is."""
        storage = view.storage
        numbers = self._numbers(storage)
        last = view.offset + sum((n - 1) * stride for n, stride in zip(view.shape, view.strides, strict=True))
        count = int(np.prod(view.shape, dtype=object)) if view.shape else 1
        if count > numbers.size or (count and last >= numbers.size):
            raise CheckpointError(
                f"{self.file}: a tensor of shape {view.shape} and strides {view.strides} at {view.offset} in a storage "
                f"of {numbers.size} (an expanded tensor is to be made contiguous before it is saved)"
            )
        key = (storage.key, view.offset, view.shape, view.strides)
        if count == 0:
            array = np.zeros(view.shape, numbers.dtype)
        else:
            steps = [stride * numbers.itemsize for stride in view.strides]
            array = np.lib.stride_tricks.as_strided(numbers[view.offset :], view.shape, steps)
        return self.maker.make(key, array, view.requires_grad, view.parameter)

    def _numbers(self, storage: Storage) -> NDArray[Any]:
        """Return the numbers of a storage in a dtype of tapegrad."""
        if storage.key not in self.storages:
            dtype = DTYPES[storage.dtype].newbyteorder(">" if self.big_endian else "<")
            data = self.record(f"data/{storage.key}")
            if len(data) != storage.count * dtype.itemsize:
                raise CheckpointError(
                    f"{self.file}: the storage {storage.key!r} has {len(data)} bytes for {storage.count} of {dtype}"
                )
            array = np.frombuffer(data, dtype).astype(dtype.newbyteorder("="), copy=False)
            if storage.dtype == "BOOL":
                array = np.frombuffer(data, np.uint8) != 0
            self.storages[storage.key] = widened(Stored(storage.dtype, array), storage.key, self.file)
        return self.storages[storage.key]
