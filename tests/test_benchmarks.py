"""The asv suite: its modules import, its benchmarks are what asv wants, and what goes wrong in one is seen."""

import importlib
import inspect
import itertools
import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import tapegrad as tg
from tapegrad.native.cache import cache_dir, compile_function

FOLDER = Path(__file__).resolve().parent.parent / "benchmarks"
MODULES = sorted(path.stem for path in (FOLDER / "benchmarks").glob("bench_*.py"))
BENCHMARK = re.compile("(time|timeraw|mem|peakmem|track)_.+")  # asv's own rule
if not MODULES:
    pytest.skip("the benchmarks are not beside the tests", allow_module_level=True)


@pytest.fixture(scope="module")
def suite():
    """The suite's modules by name; what importing it changes is put back."""
    environment, threads, path = dict(os.environ), tg.get_num_threads(), list(sys.path)
    sys.path.insert(0, str(FOLDER))
    yield {name: importlib.import_module(f"benchmarks.{name}") for name in MODULES}
    tg.set_num_threads(threads)
    sys.path[:] = path
    os.environ.clear()
    os.environ.update(environment)


@pytest.fixture(scope="module")
def measuring(suite):
    return importlib.import_module("measuring")


def benchmarks_of(module):
    """Yield (the class or None, the function) for each benchmark of a module."""
    for value in (value for name, value in vars(module).items() if not name.startswith("_")):
        if inspect.isclass(value):
            yield from (
                (value, f) for name, f in inspect.getmembers(value, inspect.isfunction) if BENCHMARK.match(name)
            )
        elif inspect.isfunction(value) and BENCHMARK.match(value.__name__):
            yield None, value


@pytest.mark.parametrize("name", MODULES)
def test_benchmarks_are_what_asv_wants(suite, name):
    found = list(benchmarks_of(suite[name]))
    assert found
    for owner, function in found:
        params, names = getattr(owner, "params", []), getattr(owner, "param_names", [])
        assert len(params) == len(names) and all(isinstance(values, list) and values for values in params)
        arguments = len(params) + (owner is not None) + hasattr(owner, "setup_cache")
        assert len(inspect.signature(function).parameters) == arguments, function
        for hook in ("setup", "teardown"):
            if hasattr(owner, hook):
                assert len(inspect.signature(getattr(owner, hook)).parameters) == arguments, owner
        assert (owner or function).__doc__, "what is measured must be said"
        for values in params:
            assert len(set(values)) == len(values)


def test_what_is_tracked_has_a_unit(suite):
    for module in suite.values():
        for _, function in benchmarks_of(module):
            if function.__name__.startswith("track_"):
                assert hasattr(function, "unit"), function


def test_every_op_with_samples_is_measured(suite):
    from tapegrad.ops.registry import registry

    sampled = {name for name, op in registry.items() if op.reference is not None and not isinstance(op.samples, str)}
    assert set(suite["bench_ops"].Forward.params[0]) == sampled


@pytest.mark.parametrize("name", ["add", "matmul", "cumsum", "gcd"])
def test_calls_of_ops_have_the_size_asked_for(suite, name):
    bench = suite["bench_ops"].Forward()
    combinations = set(itertools.product(*bench.params)) - set(bench.skip_params)
    for _, dtype, elements in sorted(each for each in combinations if each[0] == name and each[2] < 1_000_000):
        bench.setup(name, dtype, elements)
        result = bench.call()
        assert result.numel() > elements / 10 or elements == 100


def test_compiling_while_timing_is_an_error(measuring, tmp_path, monkeypatch):
    monkeypatch.setenv("TAPEGRAD_CACHE_DIR", str(tmp_path))
    calls = itertools.count()

    def late():
        if next(calls) == 2 * measuring.WARMING:
            compile_function(lambda x: x + 1, "a function that only this test compiles", "int64(int64)")

    with pytest.raises(measuring.CompiledWhileTimingError, match="1 compiled"):
        measuring.relative_time(late)


def test_twice_the_work_takes_twice_the_turns(measuring):
    x = tg.ones(20_000)
    once, twice = measuring.relative_time(x.exp), measuring.relative_time(lambda: (x.exp(), x.exp()))
    assert 1.6 < twice / once < 2.5


class Watched:
    """A benchmark as those that the quick suite is made of."""

    def track_exp(self):
        return sys.modules["measuring"].relative_time(tg.ones(1000).exp)

    def track_bad(self):
        raise ValueError("no such op")


def test_quick_suite_has_windows_or_what_went_wrong(suite, monkeypatch):
    quick = suite["bench_quick"]
    monkeypatch.setattr(quick, "CASES", {"exp": (Watched, "track_exp", ()), "bad": (Watched, "track_bad", ())})
    found = quick.windows_of_all()
    assert len(found["exp"]) == quick.SWEEPS and all(0 < each < math.inf for each in found["exp"])
    assert found["bad"] == "ValueError: no such op"
    watched = quick.Quick().track_watched
    assert min(found["exp"]) * 0.99 < watched([found, found], "exp") < max(found["exp"]) * 1.01
    with pytest.raises(RuntimeError, match="no such op"):
        watched([found, found], "bad")


def test_what_is_put_off_is_measured_later(measuring):
    with measuring.put_off() as found:
        assert math.isnan(measuring.relative_time(tg.ones(20_000).exp, operations=2))
    (beside,) = found
    beside.prepare()
    whole = measuring.relative_time(tg.ones(20_000).exp)
    assert 1.6 < whole / min(beside.window() for _ in range(4)) < 2.5


def test_captured_functions_do_not_compile_later(measuring, tmp_path, monkeypatch):
    monkeypatch.setenv("TAPEGRAD_CACHE_DIR", str(tmp_path))
    x = tg.ones(1 << 18)  # about as long as a loop takes to compile, after a thousand replays
    replayed = measuring.captured(lambda x: (x * 1.5 + 0.25) * x - x / 3, x)
    with measuring.nothing_compiled():
        for _ in range(3000):
            replayed(x)


def test_what_is_no_straight_line_is_an_error(suite):
    straight_line, sizes = suite["bench_scaling"].straight_line, [10, 100, 1000, 10_000]
    exponent, distance = straight_line(sizes, [5e-6 + 4e-7 * n for n in sizes])
    assert 0.9 < exponent < 1.01 and distance < 1e-3
    with pytest.raises(ArithmeticError, match="exponent 2"):
        straight_line(sizes, [1e-9 * n * n for n in sizes])


FAILING = """
import itertools
import measuring
from tapegrad.native.cache import compile_function

_calls = itertools.count()

def _late():
    if next(_calls) == 2 * measuring.WARMING:
        compile_function(lambda x: x + 1, "a function that only this benchmark compiles", "int64(int64)")

def track_compiling():
    return measuring.relative_time(_late)

def track_sound():
    return measuring.relative_time(lambda: None)
"""


def test_asv_reports_a_failure_as_failed(tmp_path):
    pytest.importorskip("asv")
    (tmp_path / "suite").mkdir()
    (tmp_path / "suite" / "__init__.py").write_text(
        (FOLDER / "benchmarks" / "__init__.py")
        .read_text()
        .replace("Path(__file__).resolve().parent.parent.parent", f"Path({str(FOLDER.parent)!r})")
    )
    (tmp_path / "suite" / "bench_failing.py").write_text(FAILING)
    settings = {"version": 1, "project": "failing", "repo": ".", "benchmark_dir": "suite"}
    settings |= {"environment_type": "virtualenv", "launch_method": "forkserver"}
    (tmp_path / "asv.conf.json").write_text(json.dumps(settings))
    environment = {**os.environ, "HOME": str(tmp_path), "ASV_PYTHONPATH": str(Path(tg.__file__).parent.parent)}
    environment.setdefault("TAPEGRAD_CACHE_DIR", str(cache_dir()))
    command = [sys.executable, "-m", "asv", "run", "--quick", "--environment", "existing"]
    subprocess.run(
        [sys.executable, "-m", "asv", "machine", "--yes"],
        cwd=tmp_path,
        env=environment,
        check=True,
        stdout=subprocess.DEVNULL,
    )
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done
    assert re.search(r"track_compiling +failed", done.stdout) and re.search(r"track_sound +[\d.]+", done.stdout)
