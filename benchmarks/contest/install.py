"""Run by an interpreter: prints, as JSON, version and size on disk of packages, alone and with what they require."""

from __future__ import annotations

import json
import re
import sys
from importlib import metadata
from pathlib import Path


def size_of(name: str) -> int:
    """Return the bytes of an installed distribution's files."""
    distribution = metadata.distribution(name)
    return sum(path.stat().st_size for file in distribution.files or () if (path := Path(file.locate())).is_file())


def required(name: str, seen: set[str]) -> set[str]:
    """Return a distribution's name and those of all that it requires, extras left out."""
    key = re.sub(r"[-_.]+", "-", name).lower()
    if key in seen:
        return seen
    try:
        lines = metadata.requires(name) or []
    except metadata.PackageNotFoundError:  # not needed on this platform
        return seen
    seen.add(key)
    for line in lines:
        if "extra ==" not in line:
            required(re.split(r"[\s<>=!~;\[(]", line, maxsplit=1)[0], seen)
    return seen


def package(name: str) -> dict[str, object] | None:
    """Return what is known of a package, None if it is absent."""
    try:
        version = metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
    return {"version": version, "bytes": size_of(name), "with": sum(map(size_of, required(name, set())))}


def ours() -> dict[str, object]:
    """Return the same of this checkout, which need not be installed."""
    root = Path(__file__).parents[2]
    own = sum(path.stat().st_size for path in (root / "tapegrad").rglob("*.py"))
    names: set[str] = set()
    for line in re.findall(r"dependencies = \[(.*?)\]", (root / "pyproject.toml").read_text(), re.DOTALL)[0].split(","):
        if name := re.match(r'\s*"([\w-]+)', line):
            required(name[1], names)
    version = re.findall(r'__version__ = "(.+)"', (root / "tapegrad" / "version.py").read_text())[0]
    return {"version": version, "bytes": own, "with": own + sum(map(size_of, names))}


if __name__ == "__main__":
    print(json.dumps({name: ours() if name == "tapegrad" else package(name) for name in sys.argv[1:]}))
