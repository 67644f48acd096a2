"""The command line: what it prints, what it says about mistakes, and that a warmed-up cache has what the demo needs."""

import os
import subprocess
import sys

import llvmlite.binding as llvm
import numba
import pytest

from tapegrad.cli import main
from tapegrad.info import vector_bits
from tapegrad.native.stamp import machine_stamp
from tapegrad.version import __version__


def python(*arguments: str, **environment: str) -> str:
    command = [sys.executable, *arguments]
    result = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.fixture
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("TAPEGRAD_CACHE_DIR", str(tmp_path / "cache"))
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "one.bin").write_bytes(b"x" * 1_500_000)
    return tmp_path / "cache"


def test_version(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--version"])
    assert stop.value.code == 0
    assert capsys.readouterr().out == f"tapegrad {__version__}\n"


def test_info_tells_versions_processor_and_cache(capsys, cache):
    assert main(["info"]) == 0
    facts = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert facts["tapegrad"] == __version__
    assert facts["numba"] == numba.__version__
    assert facts["cpu"].startswith(llvm.get_host_cpu_name())
    assert facts["cache"] == f"{cache}: 1 compiled functions, 1.5 MB"
    assert machine_stamp().startswith(facts["stamp"])
    assert int(facts["threads"].split()[0]) >= 1


@pytest.mark.parametrize(
    ("features", "bits"),
    [({"avx512f": True, "avx": True}, 512), ({"avx": True, "sse2": True}, 256), ({"neon": True}, 128), ({}, 64)],
)
def test_vector_bits_are_those_of_the_widest_registers(features, bits):
    assert vector_bits(features) == bits


def test_cache_shows_place_and_size_and_clear_empties_it(capsys, cache):
    assert main(["cache"]) == 0
    assert capsys.readouterr().out == f"{cache}: 1 compiled functions, 1.5 MB\n"
    assert main(["cache", "clear"]) == 0
    assert capsys.readouterr().out == "deleted 1 compiled functions, 1.5 MB\n"
    assert list(cache.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the following arguments are required: COMMAND"),
        (["train"], "invalid choice: 'train'"),
        (["cache", "drop"], "invalid choice: 'drop'"),
        (["demo", "--epochs", "0"], "--epochs: expected a whole number of at least 1, got '0'"),
        (["demo", "--batch-size", "many"], "--batch-size: expected a whole number of at least 1, got 'many'"),
        (["demo", "--seed", "-1"], "--seed: expected a whole number of at least 0, got '-1'"),
    ],
)
def test_mistakes_on_the_command_line_are_told(arguments, message, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_help_names_every_command(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    text = capsys.readouterr().out
    assert all(command in text for command in ("demo", "info", "warmup", "cache"))


def test_starting_the_command_imports_nothing_heavy():
    heavy = "matplotlib", "rich", "pandas", "mlxtend", "scipy.linalg", "torch"
    program = f"import sys, tapegrad.cli; print([name for name in {heavy!r} if name in sys.modules])"
    assert python("-c", program) == "[]\n"


def test_python_m_runs_the_command():
    assert python("-m", "tapegrad", "--version") == f"tapegrad {__version__}\n"


def test_warmup_compiles_all_that_the_demo_needs(tmp_path):
    cache = str(tmp_path)
    first = python("-m", "tapegrad", "warmup", TAPEGRAD_CACHE_DIR=cache).split()
    second = python("-m", "tapegrad", "warmup", TAPEGRAD_CACHE_DIR=cache).split()
    assert int(first[0]) > 20  # "214 functions compiled, 0 loaded from the cache, in 9.9 s"
    assert int(second[0]) == 0
    assert int(second[3]) == int(first[0]) + int(first[3])  # where there is a second process, it compiles some of them
    program = """
import numpy, tapegrad as tg
from tapegrad.demo.data import Digits
from tapegrad.demo.train import Settings, Trainer, build_model
from tapegrad.native.cache import cache_counts

class Watcher:
    stop = False
    def step(self, *told): pass
    def epoch(self, *told): pass

images, labels = numpy.zeros((20, 28, 28), numpy.float32), numpy.arange(20) % 10
tg.manual_seed(0)
Trainer(build_model(), Digits(images, labels, images, labels), Settings(1, 8), Watcher()).run()
print(cache_counts()["compiled"])
"""
    assert python("-c", program, TAPEGRAD_CACHE_DIR=cache) == "0\n"
