"""The digits that the demonstration learns from, and their random shifts."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from tapegrad.datasets import digits

SIDE = 28


@dataclass(frozen=True)
class Digits:
    """Images (n, 28, 28) float32 from 0 (paper) to 1 (ink), and their labels (n,) int64 from 0 to 9."""

    train_images: NDArray[np.float32]
    train_labels: NDArray[np.int64]
    held_out_images: NDArray[np.float32]
    held_out_labels: NDArray[np.int64]


def load_digits() -> Digits:
    """Return the digits; which are held out is fixed, whatever the seed, and every class has as many there."""
    return Digits(*(part.numpy() for split in ("train", "test") for part in digits(split)))


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
