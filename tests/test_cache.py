"""The disk cache never serves an old or damaged answer, and neither company nor a read-only disk makes it fail."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import tapegrad.native
from tapegrad.native import cache

HELPER = """
from tapegrad.native.cache import jit

@jit
def scaled(x):
    return 3 * x
"""

CALLER = """
import ctypes
import sys

from tapegrad.helper import scaled
from tapegrad.native.cache import cache_counts, compile_function

def plus(k):
    def function(x):
        return scaled(x) + k
    return function

call = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64)
answers = [call(compile_function(plus(k), f"plus{k}", "int64(int64)"))(5) for k in range(int(sys.argv[1]))]
print(*answers, *cache_counts().values())
"""


class Package:
    """A small package with the real compile layer, a helper and a caller, each run in a process of its own."""

    def __init__(self, folder: Path) -> None:
        self.root, self.cache = folder / "tapegrad", folder / "cache"
        shutil.copytree(Path(tapegrad.native.__file__).parent, self.root / "native")
        for name, text in (("__init__.py", ""), ("helper.py", HELPER), ("caller.py", CALLER)):
            (self.root / name).write_text(text)

    def start(self, functions: int = 1) -> subprocess.Popen[str]:
        environment = {**os.environ, "PYTHONPATH": str(self.root.parent), "TAPEGRAD_CACHE_DIR": str(self.cache)}
        command = [sys.executable, "-m", "tapegrad.caller", str(functions)]
        pipe = subprocess.PIPE
        return subprocess.Popen(command, env=environment, cwd=self.root.parent, stdout=pipe, stderr=pipe, text=True)

    def run(self, functions: int = 1) -> "Run":
        return Run(self.start(functions), functions)


class Run:
    """What one process answered, and how many functions it compiled and loaded."""

    def __init__(self, process: subprocess.Popen[str], functions: int) -> None:
        output, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
        *self.answers, self.compiled, self.loaded = (int(number) for number in output.split())
        assert len(self.answers) == functions


@pytest.fixture
def package(tmp_path):
    return Package(tmp_path)


def test_a_second_process_loads_what_the_first_compiled(package):
    first, second = package.run(2), package.run(2)
    assert first.answers == second.answers == [15, 16]
    assert (first.compiled, first.loaded) == (2, 0)
    assert (second.compiled, second.loaded) == (0, 2)


# How code in one file comes to depend on another: each way is the texts of files, the last of which is edited.
JIT = "from tapegrad.native.cache import jit\n"
SCALED = "@jit\ndef scaled(x):\n    return "
DEPENDENCES = {
    "a function": {"helper.py": HELPER},
    "a function that calls one of a third file": {
        "helper.py": f"{JIT}from tapegrad.deeper import times\n{SCALED}times(x)\n",
        "deeper.py": f"{JIT}@jit\ndef times(x):\n    return 3 * x\n",
    },
    "a function of a module": {
        "helper.py": f"{JIT}from tapegrad import deeper\n{SCALED}deeper.times(x)\n",
        "deeper.py": f"{JIT}from tapegrad.deepest import times\n",
        "deepest.py": f"{JIT}@jit\ndef times(x):\n    return 3 * x\n",
    },
    "a constant": {
        "helper.py": f"{JIT}from tapegrad.deeper import FACTOR\n{SCALED}FACTOR * x\n",
        "deeper.py": "FACTOR = 3\nUNUSED = '3 * x'\n",
    },
    "a record's layout": {
        "helper.py": f"{JIT}from tapegrad.deeper import table\n{SCALED}table() * x // 8\n",
        "deeper.py": """
import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic
from tapegrad.deepest import ROW

def size_of(dtype):
    @intrinsic
    def size(typing_context):
        def build(context, builder, signature, args):
            return ir.Constant(ir.IntType(64), dtype.itemsize)
        return types.int64(), build
    return size

table = size_of(ROW)
""",
        "deepest.py": "import numpy as np\nROW = np.dtype([(f'word{k}', 'i8') for k in range(3)])\n",
    },
}
EDITS = (("3 * x", "7 * x"), ("FACTOR = 3", "FACTOR = 7"), ("range(3)", "range(7)"))


@pytest.mark.parametrize("files", DEPENDENCES.values(), ids=DEPENDENCES.keys())
def test_an_edit_in_another_file_gives_the_new_answer(package, files):
    for name, text in files.items():
        (package.root / name).write_text(text)
    before = package.run()
    last = package.root / list(files)[-1]
    for old, new in EDITS:
        last.write_text(last.read_text().replace(old, new))
    after = package.run()
    assert (before.answers, after.answers) == ([15], [35])
    assert after.compiled == 1


def test_an_edit_in_the_compile_layer_compiles_anew(package):
    package.run()
    with (package.root / "native" / "cache.py").open("a") as file:
        file.write("# another option\n")
    assert package.run().compiled == 1


def test_an_edit_in_an_unrelated_file_does_not(package):
    package.run()
    (package.root / "unrelated.py").write_text("import tapegrad.helper\n")
    assert package.run().compiled == 0


def test_undoing_an_edit_finds_the_first_code_again(package):
    package.run()
    (package.root / "helper.py").write_text(HELPER.replace("3 * x", "7 * x"))
    package.run()
    (package.root / "helper.py").write_text(HELPER)
    again = package.run()
    assert (again.answers, again.compiled, again.loaded) == ([15], 0, 1)


def flip_a_bit(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


DAMAGES = [
    lambda data: b"",
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
    assert (after.compiled, after.loaded) == (0, count)


def test_two_processes_fill_one_folder_at_the_same_time(package):
    functions = 12
    processes = [package.start(functions) for _ in range(2)]
    runs = [Run(process, functions) for process in processes]
    expected = [15 + k for k in range(functions)]
    assert [run.answers for run in runs] == [expected, expected]
    names = sorted(path.suffix for path in package.cache.iterdir())
    assert names == [".bin"] * functions  # and no temporary file is left
    assert package.run(functions).loaded == functions


def test_a_folder_that_cannot_be_written_costs_only_time(package):
    file = package.root.parent / "file"
    file.write_text("not a folder")  # permissions would not stop root, this does
    package.cache = file / "cache"
    runs = [package.run(), package.run()]
    assert [(run.answers, run.compiled) for run in runs] == [([15], 1)] * 2


def test_an_edit_under_a_running_process_stores_nothing(package):
    edit = """
from pathlib import Path
import tapegrad.helper
text = Path(tapegrad.helper.__file__).read_text()
Path(tapegrad.helper.__file__).write_text(text.replace("3 * x", "4 * x"))
"""
    caller = package.root / "caller.py"
    caller.write_text(CALLER.replace("def plus", edit + "def plus"))
    running = package.run(2)
    assert (running.answers, running.compiled) == ([15, 16], 2)  # the code as it was imported
    assert list(package.cache.glob("*.bin")) == []
    caller.write_text(CALLER)
    after = package.run(2)
    assert (after.answers, after.compiled) == ([20, 21], 2)


def test_clear_cache_deletes_compiled_functions_and_counts_them(monkeypatch, tmp_path):
    monkeypatch.setenv("TAPEGRAD_CACHE_DIR", str(tmp_path))
    for name, size in (("a.bin", 3), ("b.bin", 4), ("notes.txt", 5)):
        (tmp_path / name).write_bytes(b"x" * size)
    assert cache.clear_cache() == (2, 7)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    assert cache.clear_cache() == (0, 0)


def test_clear_cache_of_a_folder_that_is_not_there(monkeypatch, tmp_path):
    monkeypatch.setenv("TAPEGRAD_CACHE_DIR", str(tmp_path / "none"))
    assert cache.clear_cache() == (0, 0)


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="these systems have their own folders for caches")
def test_cache_dir_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("TAPEGRAD_CACHE_DIR", raising=False)
    assert cache.cache_dir() == tmp_path / "tapegrad"
    monkeypatch.setenv("TAPEGRAD_CACHE_DIR", str(tmp_path / "other"))
    assert cache.cache_dir() == tmp_path / "other"


def test_the_key_does_not_depend_on_what_was_imported_before():
    program = """
import importlib, sys
for name in sys.argv[1:]:
    importlib.import_module(name)
import tapegrad
from tapegrad.native.sources import sources_digest
from tapegrad.ops.registry import registry
from tapegrad.runtime.emit import emit
print(sources_digest(emit), sources_digest(registry["relu"].kernel(4, 4)), sources_digest(registry["sum"].kernel(4, 4)))
"""
    keys = [
        subprocess.run([sys.executable, "-c", program, *names], capture_output=True, text=True, check=True).stdout
        for names in ([], ["tapegrad.warmup", "tapegrad.demo.train"])
    ]
    assert keys[0] == keys[1] and len(keys[0].split()) == 3
