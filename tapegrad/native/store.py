"""The files of compiled functions on the disk: read with distrust, written whole or not at all, never a reason to fail.

Files are written beside their place and renamed, so several processes may fill one folder at the same time. A damaged
file is told by its checksum and written anew. What goes wrong is said once in a process, through the logger
``tapegrad``, and costs only time: the function is compiled again.
"""

import contextlib
import hashlib
import logging
import os
import sys
import tempfile
from pathlib import Path

from tapegrad.native.stamp import machine_stamp, machine_text

_CHECKSUM_BYTES = 32
_MOVE = "TAPEGRAD_CACHE_DIR may name another folder"
_said: set[str] = set()


def cache_dir() -> Path:
    """Return the folder of the compiled functions: ``TAPEGRAD_CACHE_DIR``, or one in the user's cache folder."""
    if given := os.environ.get("TAPEGRAD_CACHE_DIR"):
        return Path(given)
    try:
        return _users_folder()
    except RuntimeError:  # no home, as for a container's nameless user
        return Path(tempfile.gettempdir()) / f"tapegrad-{_user()}"


def _users_folder() -> Path:
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home())) / "tapegrad" / "cache"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "tapegrad"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tapegrad"


def _user() -> int:
    return os.geteuid() if hasattr(os, "geteuid") else 0


def read_code(path: Path) -> bytes | None:
    """Return what was written under ``path``; None if there is nothing, or nothing that may be run."""
    try:
        with path.open("rb") as file:
            owner, data = os.fstat(file.fileno()).st_uid, file.read()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        say("read", f"cannot read the compiled function {path} ({error.strerror}): it is compiled anew")
        return None
    if owner not in (0, _user()):  # on Windows everybody is 0
        say("owner", f"{path} belongs to user {owner}, whose machine code is not run: it is compiled anew; {_MOVE}")
        return None
    code = data[_CHECKSUM_BYTES:]
    if hashlib.sha256(code).digest() != data[:_CHECKSUM_BYTES]:
        say("damage", f"the compiled function {path} is damaged ({len(data)} bytes): it is compiled anew")
        return None
    return code


def write_code(path: Path, code: bytes) -> None:
    """Write a file that others see whole or not at all; if it cannot be written, say so once and go on without."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _write(path, hashlib.sha256(code).digest() + code)
        _note_machine(path.parent)
    except OSError as error:
        _say_unwritable(path.parent, error)


def _write(path: Path, data: bytes) -> None:
    temporary = path.with_suffix(f".{os.urandom(6).hex()}.tmp")
    try:
        # Others may read it if the umask lets them: a cache that root fills in a container serves its users.
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def can_write() -> bool:
    """Return whether files can be written into the folder now; say so if not."""
    folder = cache_dir()
    trial = folder / "trial"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _write(trial, bytes(_CHECKSUM_BYTES))
        trial.unlink(missing_ok=True)
    except OSError as error:
        _say_unwritable(folder, error)
        return False
    return True


def _say_unwritable(folder: Path, error: OSError) -> None:
    say("write", f"cannot keep compiled functions in {folder} ({error.strerror}): each process compiles anew; {_MOVE}")


def say_of_other_machines() -> None:
    """Say so if the folder was filled by other processors or versions only: their functions are of no use here."""
    try:
        notes = list(cache_dir().glob("*.machine"))
        if not notes or _machine_note(cache_dir()).exists():
            return
        others = " and ".join(sorted(note.read_text() for note in notes)[:3])
    except (OSError, UnicodeDecodeError):
        return
    say("machine", f"the compiled functions in {cache_dir()} are for {others}; compiling for {machine_text()}")


def _note_machine(folder: Path) -> None:
    note = _machine_note(folder)
    if not note.exists():
        _write(note, machine_text().encode())


def _machine_note(folder: Path) -> Path:
    stamp = hashlib.sha256(f"{machine_stamp()}|{machine_text()}".encode()).hexdigest()
    return folder / f"{stamp[:40]}.machine"


def say(subject: str, text: str) -> None:
    """Give a warning to the logger ``tapegrad``, which prints it to standard error; once a process for a subject."""
    if subject not in _said:
        _said.add(subject)
        logging.getLogger("tapegrad").warning("tapegrad: %s", text)


def clear_cache() -> tuple[int, int]:
    """Delete every compiled function on the disk; return how many files and how many bytes that were."""
    folder = cache_dir()
    files = list(folder.glob("*.bin")) if folder.is_dir() else []
    size = sum(path.stat().st_size for path in files)
    rest = [*folder.glob("*.machine"), *folder.glob("*.tmp")] if folder.is_dir() else []
    for path in files + rest:
        path.unlink(missing_ok=True)
    return len(files), size


def cache_size() -> tuple[int, int]:
    """Return how many compiled functions the disk has, and their bytes."""
    folder = cache_dir()
    sizes = [path.stat().st_size for path in folder.glob("*.bin")] if folder.is_dir() else []
    return len(sizes), sum(sizes)
