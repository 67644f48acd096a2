"""A run's folder: each file is written beside its place and renamed, so a reader never finds half a file."""

import csv
import os
from collections.abc import Callable, Iterable
from dataclasses import asdict, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tapegrad.demo.train import Best, Epoch


class RunFolder:
    """Writes a run's files into ``path``, which is made if it is not there."""

    def __init__(self, path: Path) -> None:
        path.mkdir(parents=True, exist_ok=True)
        self.path = path
        self.rows: list[Epoch] = []

    def keep(self, row: Epoch, best: Best) -> None:
        """Add an epoch to ``metrics.csv``; if it is the best so far, put its weights in ``model.safetensors``."""
        self.rows.append(row)
        self.write_metrics(self.rows)
        if best.epoch == row.epoch:
            self.write_weights(best.weights)

    def write(self, name: str, writer: Callable[[Path], object]) -> None:
        """Put the file that ``writer(path)`` writes in the folder as ``name``, whole or not at all."""
        temporary = self.path / f".{os.getpid()}.{name}"
        try:
            writer(temporary)
            os.replace(temporary, self.path / name)
        finally:
            temporary.unlink(missing_ok=True)

    def write_weights(self, weights: dict[str, NDArray[np.float32]]) -> None:
        """Write ``model.safetensors``."""
        from safetensors.numpy import save

        # Not its save_file, which keeps everybody but the owner from reading the file.
        self.write("model.safetensors", lambda path: path.write_bytes(save(weights)))

    def write_metrics(self, rows: Iterable[Epoch]) -> None:
        """Write ``metrics.csv``: a header and a row per epoch."""

        def write(path: Path) -> None:
            with path.open("w", newline="") as file:
                table = csv.DictWriter(file, [field.name for field in fields(Epoch)])
                table.writeheader()
                table.writerows(asdict(row) for row in rows)

        self.write("metrics.csv", write)
