"""Writes a file so that a reader, or a program that starts after a crash, finds the old one or the new one, whole."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import socket
from collections.abc import Iterable
from pathlib import Path
from typing import Any


def write_atomically(path: Path, parts: Iterable[Any]) -> None:
    """Write the bytes of ``parts`` to a temporary file beside ``path``, bring it to the disk and rename it."""
    path = Path(os.path.realpath(path))  # a link is kept: what it leads to is replaced
    _remove_leftovers(path)
    temporary = path.with_name(f".{path.name}.{_host()}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    try:
        with open(temporary, "xb") as file:
            for part in parts:
                file.write(part)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Bring the new name to the disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # not every file system can
            os.fsync(handle)
    finally:
        os.close(handle)


def _host() -> str:
    return re.sub(r"\W", "-", socket.gethostname())


def _remove_leftovers(path: Path) -> None:
    """Delete temporary files of processes of this machine that were killed while they wrote ``path``."""
    for leftover in path.parent.glob(f".{_escaped(path.name)}.{_host()}.*.*.tmp"):
        pid = leftover.name.split(".")[-3]
        if pid.isdigit() and int(pid) != os.getpid() and not _is_running(int(pid)):
            leftover.unlink(missing_ok=True)


def _escaped(name: str) -> str:
    return re.sub(r"([*?[])", r"[\1]", name)


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
