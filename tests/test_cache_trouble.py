"""What is wrong with the cache's folder, its files or its machine costs time and one sentence, never an answer."""

import errno
import os
import resource
import shutil
import stat
import subprocess

import pytest
from compile_process import Package

from tapegrad.native import store
from tapegrad.runtime import core

IS_ROOT = hasattr(os, "geteuid") and os.geteuid() == 0
# root that heeds permissions, as every other user does
HEEDING = ["setpriv", "--bounding-set", "-dac_override,-dac_read_search,-fowner"] if IS_ROOT else []
needs_setpriv = pytest.mark.skipif(
    IS_ROOT and shutil.which("setpriv") is None, reason="permissions do not stop root, and there is no setpriv"
)
EXPECTED = [15, 16]  # what two functions answer


@pytest.fixture
def package(tmp_path):
    return Package(tmp_path)


@pytest.fixture
def folder(monkeypatch, tmp_path):
    monkeypatch.setenv("TAPEGRAD_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.delenv("TAPEGRAD_HELPER", raising=False)
    monkeypatch.setattr(store, "_said", set())
    return tmp_path / "cache"


def assert_compiles_anew(package, text, **options):
    """The answers are right, nothing was loaded, and the process said ``text`` and nothing else, once."""
    run = package.run(len(EXPECTED), **options)
    assert (run.answers, run.compiled, run.loaded) == (EXPECTED, len(EXPECTED), 0)
    assert len(run.said.splitlines()) == 1 and text in run.said


def test_a_folder_that_cannot_be_made(package):
    file = package.root.parent / "file"
    file.write_text("not a folder")
    package.cache = file / "cache"
    assert_compiles_anew(package, f"cannot keep compiled functions in {package.cache} (Not a directory)")


@needs_setpriv
def test_a_read_only_folder(package):
    package.cache.mkdir(mode=0o500)
    assert_compiles_anew(package, f"functions in {package.cache} (Permission denied)", under=HEEDING)
    assert list(package.cache.iterdir()) == []


@needs_setpriv
def test_files_and_folders_that_cannot_be_read(package):
    package.run(len(EXPECTED))
    for file in package.cache.glob("*.bin"):
        file.chmod(0)
    assert_compiles_anew(package, "(Permission denied): it is compiled anew", under=HEEDING)
    assert package.run(len(EXPECTED), under=HEEDING).loaded == len(EXPECTED)  # they were replaced
    package.cache.chmod(0)
    try:
        run = package.run(len(EXPECTED), under=HEEDING)
    finally:
        package.cache.chmod(0o700)
    assert (run.answers, run.loaded) == (EXPECTED, 0)
    assert "cannot keep compiled functions" in run.said


def test_a_disk_that_is_full_in_the_middle_of_a_file(package):
    def allow_few_bytes():
        resource.setrlimit(resource.RLIMIT_FSIZE, (600, 600))

    assert_compiles_anew(package, "(File too large): each process compiles anew", before=allow_few_bytes)
    assert list(package.cache.iterdir()) == []  # no part of a file is left
    after = package.run(len(EXPECTED))
    assert (after.answers, after.compiled, after.said) == (EXPECTED, len(EXPECTED), "")


@pytest.fixture
def small_disk(tmp_path):
    """A file system of one page."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={resource.getpagesize()}", "none", str(place)]
    if not IS_ROOT or subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip("cannot mount a file system here")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_full_disk(package, small_disk):
    small_disk.joinpath("filling").write_bytes(bytes(resource.getpagesize()))
    package.cache = small_disk
    assert_compiles_anew(package, "(No space left on device): each process compiles anew")
    assert [path.name for path in small_disk.iterdir()] == ["filling"]


def flip_a_bit(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


DAMAGES = [
    lambda data: b"",
    lambda data: data[:7],
    lambda data: data[:32],  # the checksum alone
    lambda data: data[: len(data) // 2],
    lambda data: data + b"\0",
    flip_a_bit,
]


def test_damaged_files_are_compiled_anew_and_replaced(package):
    count = len(DAMAGES)
    answers = package.run(count).answers
    for damage, file in zip(DAMAGES, sorted(package.cache.glob("*.bin")), strict=True):
        file.write_bytes(damage(file.read_bytes()))
    repaired, after = package.run(count), package.run(count)
    assert repaired.answers == after.answers == answers
    assert (repaired.compiled, repaired.loaded) == (count, 0)
    assert (after.compiled, after.loaded, after.said) == (0, count, "")
    assert repaired.said.count("is damaged") == len(repaired.said.splitlines()) == 1


@pytest.mark.skipif(not IS_ROOT, reason="only root can give files away")
def test_files_of_another_user_are_not_run(package):
    package.run(len(EXPECTED))
    for file in package.cache.glob("*.bin"):
        os.chown(file, 12345, -1)
    assert_compiles_anew(package, "belongs to user 12345, whose machine code is not run")
    assert package.run(len(EXPECTED)).loaded == len(EXPECTED)  # they were replaced


@pytest.mark.parametrize(("owner", "runs"), [(0, True), (1000, True), (1001, False)])
def test_code_is_run_if_it_is_the_user_s_or_root_s(folder, monkeypatch, owner, runs):
    store.write_code(folder / "a.bin", b"code")
    real = os.fstat
    monkeypatch.setattr(store, "_user", lambda: 1000)
    monkeypatch.setattr(os, "fstat", lambda handle: owned_by(owner, real(handle)))
    assert store.read_code(folder / "a.bin") == (b"code" if runs else None)


def owned_by(user, status):
    return os.stat_result((*status[:4], user, *status[5:]))


def test_a_folder_in_the_place_of_a_file(package):
    package.run(len(EXPECTED))
    for file in package.cache.glob("*.bin"):
        file.unlink()
        file.mkdir()
    run = package.run(len(EXPECTED))
    assert (run.answers, run.compiled, run.loaded) == (EXPECTED, len(EXPECTED), 0)
    assert run.said.count("Is a directory") == 2  # once for reading, once for writing


def test_code_for_another_processor_is_not_run(package):
    for variables in ({"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": ""}, {}):
        first, second = package.run(2, **variables), package.run(2, **variables)
        assert first.answers == second.answers == [15, 16]
        assert (first.compiled, second.loaded, second.said) == (2, 2, "")
    assert f"the compiled functions in {package.cache} are for tapegrad" in first.said
    assert "processor generic" in first.said and len(first.said.splitlines()) == 1


def test_code_of_another_version_is_named(folder, monkeypatch, caplog):
    monkeypatch.setattr(store, "machine_text", lambda: "Numba 0.67.0")
    store.write_code(folder / "a.bin", b"code")
    store.say_of_other_machines()
    assert caplog.messages == []
    monkeypatch.setattr(store, "machine_text", lambda: "Numba 0.68.0")
    store.say_of_other_machines()
    store.say_of_other_machines()
    assert caplog.messages == [
        f"tapegrad: the compiled functions in {folder} are for Numba 0.67.0; compiling for Numba 0.68.0"
    ]


def test_an_unknown_processor_is_named(folder, monkeypatch, caplog):
    monkeypatch.setattr(core, "is_known_processor", lambda: False)
    monkeypatch.setattr(core, "_helper", None)
    monkeypatch.setattr(core.subprocess, "Popen", lambda *arguments, **options: None)
    core.start_helper()
    core.start_helper()
    assert [message for message in caplog.messages if "LLVM does not know this processor" in message] == caplog.messages
    assert len(caplog.messages) == 1


def test_a_second_process_is_started_only_where_the_two_can_meet(folder, monkeypatch, caplog):
    started = []
    monkeypatch.setattr(core, "_helper", None)
    monkeypatch.setattr(core.subprocess, "Popen", lambda *arguments, **options: started.append(arguments))
    folder.write_text("not a folder")
    core.start_helper()
    assert started == [] and "cannot keep compiled functions" in caplog.text
    folder.unlink()
    core.start_helper()
    assert len(started) == 1 or os.cpu_count() == 1


def test_the_second_process_stops_when_the_disk_keeps_nothing(folder, monkeypatch):
    compiled = []
    monkeypatch.setattr(core, "compile_one", compiled.append)
    assert core.help_to_compile() is False
    assert len(compiled) == 1


def test_an_error_on_the_way_to_the_disk_leaves_no_file(folder, monkeypatch, caplog):
    def fail(*arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "replace", fail)
    store.write_code(folder / "a.bin", b"code")
    store.write_code(folder / "b.bin", b"code")
    assert list(folder.iterdir()) == []
    assert len(caplog.messages) == 1 and "No space left on device" in caplog.text


def test_others_may_read_the_files_if_the_umask_lets_them(folder):
    before = os.umask(0o022)
    try:
        store.write_code(folder / "a.bin", b"code")
    finally:
        os.umask(before)
    assert stat.S_IMODE((folder / "a.bin").stat().st_mode) == 0o644


def test_a_user_without_a_home_has_a_folder(monkeypatch):
    for name in ("TAPEGRAD_CACHE_DIR", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)

    def fail():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(store.Path, "home", fail)
    assert store.cache_dir().name == f"tapegrad-{store._user()}"


def test_the_commands_bear_a_folder_that_cannot_be_read(monkeypatch, tmp_path, capsys):
    from tapegrad.cli import main

    file = tmp_path / "file"
    file.write_text("not a folder")
    monkeypatch.setenv("TAPEGRAD_CACHE_DIR", str(file / "cache"))
    for command in (["info"], ["cache"], ["cache", "clear"]):
        assert main(command) == 0
    assert f"{file / 'cache'}: 0 compiled functions" in capsys.readouterr().out
