"""What slots show of their storages: read at once for a whole recording, which a row at a time would take long."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

import numpy as np

from tapegrad.runtime.layout import CONTIGUOUS, MAX_NDIM
from tapegrad.runtime.machine import machine


class Geometry(NamedTuple):
    """What a slot shows of its storage, in elements.

    Attributes:
        contiguous: whether the elements lie one after the other, in row-major order.
        single: whether they are all the same one.
    """

    dtype: int
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    numel: int
    contiguous: bool
    single: bool


def geometries_of(slots: Collection[int]) -> dict[int, Geometry]:
    """Return what each of some slots shows; equal geometries are one object."""
    rows = machine.table("slots")[np.fromiter(slots, np.int64, len(slots))]
    used = np.arange(MAX_NDIM) < rows["ndim"][:, None]
    columns = [rows[name] for name in ("ndim", "dtype", "offset", "numel")] + [rows["flags"] & CONTIGUOUS]
    words = np.column_stack([*columns, rows["shape"] * used, rows["strides"] * used]).astype(np.int64)
    known: dict[bytes, Geometry] = {}
    found = {}
    for k, (slot, key) in enumerate(
        zip(slots, words.view(f"V{words.itemsize * words.shape[1]}").ravel().tolist(), strict=True)
    ):
        if key not in known:
            known[key] = _geometry(*words[k].tolist())
        found[slot] = known[key]
    return found


def _geometry(ndim: int, dtype: int, offset: int, numel: int, contiguous: int, *lengths: int) -> Geometry:
    shape, strides = lengths[:ndim], lengths[MAX_NDIM : MAX_NDIM + ndim]
    single = all(n == 1 or stride == 0 for n, stride in zip(shape, strides, strict=True))
    return Geometry(dtype, offset, shape, strides, numel, bool(contiguous), single)
