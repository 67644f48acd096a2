"""The disk cache never serves an old answer, whatever was edited, and several processes may fill it."""

import subprocess
import sys

import pytest
from compile_process import CALLER, HELPER, Package, Run

from tapegrad.native import store


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


def test_two_processes_fill_one_folder_at_the_same_time(package):
    functions = 12
    processes = [package.start(functions) for _ in range(2)]
    runs = [Run(process, functions) for process in processes]
    expected = [15 + k for k in range(functions)]
    assert [run.answers for run in runs] == [expected, expected]
    names = sorted(path.suffix for path in package.cache.iterdir())
    assert names == [".bin"] * functions + [".machine"]  # and no temporary file is left
    assert package.run(functions).loaded == functions


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
    for name, size in (("a.bin", 3), ("b.bin", 4), ("left.tmp", 9), ("this.machine", 9), ("notes.txt", 5)):
        (tmp_path / name).write_bytes(b"x" * size)
    assert store.clear_cache() == (2, 7)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    assert store.clear_cache() == (0, 0)


def test_clear_cache_of_a_folder_that_is_not_there(monkeypatch, tmp_path):
    monkeypatch.setenv("TAPEGRAD_CACHE_DIR", str(tmp_path / "none"))
    assert store.clear_cache() == (0, 0)


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="these systems have their own folders for caches")
def test_cache_dir_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("TAPEGRAD_CACHE_DIR", raising=False)
    assert store.cache_dir() == tmp_path / "tapegrad"
    monkeypatch.setenv("TAPEGRAD_CACHE_DIR", str(tmp_path / "other"))
    assert store.cache_dir() == tmp_path / "other"


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
