"""Which source files a function's machine code depends on: its own, and those of all that it reaches by name."""

import functools
import hashlib
import re
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator
from importlib.util import resolve_name
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any


def sources_digest(function: Callable[..., Any]) -> str | None:
    """Return a hash of the source files that the code of ``function`` comes from.

    None if one of them was edited after this process had started: what was imported may not be what stands there.

    Followed are closure variables and the globals that the code names: functions, Numba's dispatchers and intrinsics,
    and modules; then everything that the files found so import.
    """
    modules = {f"{__package__}.cache"}  # which has the compiler's options
    seen: set[int] = set()
    pending: list[Any] = [function]
    while pending:
        value = _python_function(pending.pop())
        if value is None or id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, ModuleType):
            modules.add(value.__name__)
            continue
        modules.add(value.__module__ or "")
        pending += _reached(value)
    return _digest(tuple(sorted(_with_imports(modules))))


def _python_function(value: Any) -> FunctionType | ModuleType | None:
    value = getattr(value, "py_func", getattr(value, "_defn", value))
    return value if isinstance(value, FunctionType | ModuleType) else None


def _reached(function: FunctionType) -> Iterator[Any]:
    for cell in function.__closure__ or ():
        contents = cell.cell_contents
        yield from contents if isinstance(contents, tuple | list) else (contents,)
    for name in _names(function.__code__):
        yield function.__globals__.get(name)


def _names(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)


def _with_imports(modules: set[str]) -> set[str]:
    """Add what the modules import, and so on: a constant, a record's layout or an overload leaves no other trace."""
    found = set(modules)
    pending = list(modules)
    while pending:
        new = _imports(pending.pop()) - found
        found |= new
        pending += new
    return found


# Read from the text, since a module's variables do not tell where its numbers come from; parsing takes 25 times
# as long (0.1 s for 56 files). An import that stands in a string adds a file too many, which costs nothing.
_FROM = re.compile(r"^[ \t]*from[ \t]+([\w.]+)[ \t]+import[ \t]+(\([^)]*\)|[^\n]*)", re.MULTILINE)
_IMPORT = re.compile(r"^[ \t]*import[ \t]+([^\n]+)", re.MULTILINE)
_NAME = re.compile(r"[\w.]+")


@functools.cache
def _imports(module: str) -> set[str]:
    text = _source(module).decode()
    package = getattr(sys.modules.get(module), "__package__", None) or module.rpartition(".")[0]
    names = {name for line in _IMPORT.findall(text) for name in _NAME.findall(line)}
    for origin, imported in _FROM.findall(text):
        base = resolve_name(origin, package)
        names |= {base, *(f"{base}.{name}" for name in _NAME.findall(imported))}
    return {name for name in names if _source(name)}


@functools.cache
def _digest(modules: tuple[str, ...]) -> str | None:
    digest = hashlib.sha256()
    for name in modules:
        digest.update(name.encode() + b"\0" + _source(name))
    return None if _edited.intersection(modules) else digest.hexdigest()


_PACKAGE = Path(__file__).parent.parent
_INSTALLED = sysconfig.get_path("stdlib"), "site-packages"
_STARTED = time.time()
_edited: set[str] = set()  # modules whose files were changed, or put there, after _STARTED


@functools.cache
def _source(module: str) -> bytes:
    """Return the source of a module of this package or of a user's; what is installed beside it goes by its version.

    A module of this package is looked up on the disk: what a process has imported by now must not change the answer.
    """
    if module.partition(".")[0] == _PACKAGE.name:
        place = _PACKAGE.joinpath(*module.split(".")[1:])
        file = place / "__init__.py" if place.is_dir() else place.with_suffix(".py")
        return _read(module, file) if file.is_file() else b""
    loaded = getattr(sys.modules.get(module), "__file__", None)
    if loaded is None or any(place in loaded for place in _INSTALLED):
        return b""
    return _read(module, Path(loaded))


def _read(module: str, file: Path) -> bytes:
    """Return a file's text; note whether it may differ from what was imported.

    The time is that of the last change of the file's entry, since installers and archives set the other one back.
    """
    if file.stat().st_ctime > _STARTED:
        _edited.add(module)
    return file.read_bytes()
