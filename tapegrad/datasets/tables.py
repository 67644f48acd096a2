"""scikit-learn's tables, read from the files in its wheel."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tapegrad.datasets.installed import installed_file
from tapegrad.runtime.dtype import dtype_of, get_default_dtype
from tapegrad.runtime.handle import Tensor
from tapegrad.tensor.construct import tensor


def _read(name: str, delimiter: str | None = ",", header: int = 0) -> NDArray[np.float64]:
    path = installed_file("sklearn", f"datasets/data/{name}", "the tables")
    return np.loadtxt(path, delimiter=delimiter, skiprows=header)


def _features(numbers: NDArray[Any], dtype: Any) -> Tensor:
    return tensor(numbers, dtype=get_default_dtype() if dtype is None else dtype_of(dtype))


def _classes(name: str, header: int, dtype: Any) -> tuple[Tensor, Tensor]:
    """Return the features and the class, which is the last column, of a table."""
    table = _read(name, header=header)
    return _features(table[:, :-1], dtype), tensor(table[:, -1].astype(np.int64))


def iris(dtype: Any = None) -> tuple[Tensor, Tensor]:
    """Return measures of 150 irises: x [150, 4] in cm, and their species, int64 [150] from 0 to 2.

    Args:
        dtype: of x; the default dtype if None.

    Raises:
        MissingExtraError: scikit-learn is not installed.
    """
    return _classes("iris.csv", 1, dtype)


def wine(dtype: Any = None) -> tuple[Tensor, Tensor]:
    """Return analyses of 178 wines: x [178, 13], and the grower, int64 [178] from 0 to 2; see `iris`.

    Args:
        dtype: the dtype of x; by default the default float dtype.
    """
    return _classes("wine_data.csv", 1, dtype)


def breast_cancer(dtype: Any = None) -> tuple[Tensor, Tensor]:
    """Return measures of 569 tumours: x [569, 30], and int64 [569], 0 malignant, 1 benign; see `iris`.

    Args:
        dtype: the dtype of x; by default the default float dtype.
    """
    return _classes("breast_cancer.csv", 1, dtype)


def small_digits(dtype: Any = None) -> tuple[Tensor, Tensor]:
    """Return 1,797 handwritten digits of 8 x 8 pixels: x [1797, 64] from 0 to 16, and int64 [1797]; see `iris`.

    Args:
        dtype: the dtype of x; by default the default float dtype.
    """
    return _classes("digits.csv.gz", 0, dtype)


def diabetes(scaled: bool = True, dtype: Any = None) -> tuple[Tensor, Tensor]:
    """Return 442 patients: x [442, 10], and the progression of their illness after a year, y [442].

    Args:
        scaled: bring the columns of x to mean 0 and sum of squares 1, as scikit-learn does.
        dtype: of x and y; the default dtype if None.

    Raises:
        MissingExtraError: scikit-learn is not installed.
    """
    x = _read("diabetes_data_raw.csv.gz", delimiter=None)
    if scaled:
        x -= x.mean(axis=0)
        x /= np.sqrt((x**2).sum(axis=0))
    return _features(x, dtype), _features(_read("diabetes_target.csv.gz"), dtype)
