"""Every check of this repository: `nox` runs them all, `nox --list` names them, `nox -s lint types` runs some.

A session has an environment of its own. With `--no-venv` it uses the one that is active and installs into it what it
needs, as `.ci/run` does, which leaves nothing out. What stands after `--` is given to the session's pytest.
"""

import glob
import os
import re
import shlex
import shutil
import subprocess
import tempfile
import tomllib
from pathlib import Path

import nox

ROOT = Path(__file__).parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
README = (ROOT / "README.md").read_text()
TORCH = "torch==2.13.0"
# Those that are run whole where torch is; of the others, the tests that have torch in their names.
_TORCH_FILE = re.compile(r"^(torch = .*importorskip|from torch_oracle )", re.MULTILINE)

nox.options.reuse_existing_virtualenvs = True
nox.options.sessions = ["lint", "types", "tests", "bounds", "doctests", "demo", "examples", "docs", "asv", "package"]
nox.options.sessions += ["bench", "torch"]


def install(session: nox.Session, *requirements: str) -> None:
    """Install into the session's environment, or into the one that is active if it has none."""
    session.run("python", "-m", "pip", "install", "--quiet", *requirements)


def run_from_readme(session: nox.Session, command: str, *more: str) -> None:
    """Run a command that the README tells people to run; fail if it does not tell them."""
    if command not in README:
        session.error(f"README.md lacks the command: {command}")
    session.run(*shlex.split(command), *more)


@nox.session
def lint(session: nox.Session) -> None:
    """Format and lint."""
    install(session, ".[dev]")
    session.run("ruff", "format", "--check")
    session.run("ruff", "check")


@nox.session
def types(session: nox.Session) -> None:
    """Types."""
    install(session, ".[dev]")
    session.run("mypy")


@nox.session
def tests(session: nox.Session) -> None:
    """The whole suite, without torch, as users have it."""
    install(session, ".[demo,test]")
    program = "import importlib.util; print(importlib.util.find_spec('torch') is None)"
    if session.run("python", "-c", program, silent=True, log=False) != "True\n":
        session.error("torch is installed: this must run without it")
    run_from_readme(session, "pytest -n 2", *session.posargs)


@nox.session
def bounds(session: nox.Session) -> None:
    """Random programs, indices and writes with guards around every block of memory."""
    install(session, ".[test]")
    files = ("tests/test_fuzz.py", "tests/test_indexing.py", "tests/test_memory.py")
    session.run("pytest", "-n", "2", *(session.posargs or files), env={"TAPEGRAD_CHECK_BOUNDS": "1"})


@nox.session
def doctests(session: nox.Session) -> None:
    """The examples in the docstrings."""
    install(session, ".[test]")
    session.run("pytest", "--doctest-modules", "--pyargs", "tapegrad", "-p", "no:cacheprovider", "-q")


@nox.session
def demo(session: nox.Session) -> None:
    """The demo, for two epochs, and what it leaves."""
    install(session, ".[demo]")
    session.run("tapegrad", "info")
    with tempfile.TemporaryDirectory() as folder:
        run_from_readme(session, "tapegrad demo", "--epochs", "2", "--out", f"{folder}/demo")
        session.run("python", ".ci/check_demo.py", f"{folder}/demo")


@nox.session
def examples(session: nox.Session) -> None:
    """A short run of each example program."""
    install(session, ".[examples,test]")
    session.run("pytest", "-n", "2", "tests/test_examples.py", *session.posargs)


@nox.session
def docs(session: nox.Session) -> None:
    """The documentation into docs/_build, warnings being errors."""
    install(session, ".[docs]")
    session.run("sphinx-build", "-W", "--keep-going", "-q", "-b", "html", "docs", "docs/_build")


@nox.session
def asv(session: nox.Session) -> None:
    """The benchmark suite: that asv can run it, without measuring."""
    install(session, ".[bench,test]")
    with session.chdir("benchmarks"):
        session.run("asv", "check", "--environment", "existing")
    session.run("pytest", "tests/test_benchmarks.py")


@nox.session
def bench(session: nox.Session) -> None:
    """The quick benchmarks, some three minutes; results into benchmarks/.asv."""
    install(session, ".[bench]")
    with session.chdir("benchmarks"):
        session.run("asv", "machine", "--yes")
        session.run("asv", "run", "--strict", "--quick", "--environment", "existing", "--bench", "quick")


@nox.session
def torch(session: nox.Session) -> None:
    """The comparisons with torch; they are skipped where torch is not."""
    install(session, ".[demo,test]", TORCH)
    files = sorted(ROOT.glob("tests/test_*.py"))
    whole = {file for file in files if _TORCH_FILE.search(file.read_text())}
    session.run("pytest", "-n", "2", *(str(file) for file in files if file in whole))
    session.run("pytest", "-n", "2", "-k", "torch", *(str(file) for file in files if file not in whole))


@nox.session
def package(session: nox.Session) -> None:
    """Wheel and sdist: built, installed far from the checkout, and tested there with the tests of the sdist."""
    install(session, "build")
    with tempfile.TemporaryDirectory() as folder:
        session.run("python", "-m", "build", "--outdir", folder)  # the sdist, and out of it the wheel
        (wheel,), (sdist,) = Path(folder).glob("*.whl"), Path(folder).glob("*.tar.gz")
        shutil.unpack_archive(sdist, folder, filter="data")
        source = Path(folder) / sdist.name.removesuffix(".tar.gz")
        shutil.rmtree(source / "tapegrad")  # its tests must find the installed one
        test_afresh(
            session, "python", source, *([str(wheel), *runner()] if session.posargs else [f"{wheel}[demo,test]"])
        )


@nox.session(venv_backend="none")
def newest(session: nox.Session) -> None:
    """The suite on Python 3.13 with the newest version of everything."""
    wanted = [str(ROOT), *runner()] if session.posargs else [f"{ROOT}[demo,test,examples]"]
    test_afresh(session, interpreter(session, "3.13"), ROOT, "--upgrade", *wanted)


@nox.session(venv_backend="none")
def lowest(session: nox.Session) -> None:
    """The suite on Python 3.11 with the lowest allowed version of every dependency."""
    extras = PROJECT["optional-dependencies"]
    wanted = PROJECT["dependencies"] + extras["demo"] + extras["test"] + extras["examples"]
    pinned = sorted({requirement.replace(">=", "==") for requirement in wanted})
    pinned.append("pyparsing<3.3")  # which warns of names that matplotlib 3.8 uses
    test_afresh(session, interpreter(session, "3.11"), ROOT, str(ROOT), *pinned)


def runner() -> list[str]:
    """Return what runs tests, without what some of them read their data with: for a part that needs no data."""
    return [
        requirement
        for requirement in PROJECT["optional-dependencies"]["test"]
        if requirement.startswith(("pytest", "hypothesis"))
    ]


def test_afresh(session: nox.Session, python: str, folder: Path, *requirements: str) -> None:
    """Run the tests of ``folder`` in a fresh environment of ``python`` with the requirements and nothing else."""
    with tempfile.TemporaryDirectory() as venv:
        session.run(python, "-m", "venv", venv, external=True)
        programs, outside = Path(venv) / "bin", {"PYTHONPATH": None}
        session.run(f"{programs}/pip", "install", "--quiet", *requirements, external=True, env=outside)
        with session.chdir(folder):
            place = "import sys, tapegrad; assert tapegrad.__file__.startswith(sys.prefix), tapegrad.__file__"
            session.run(f"{programs}/python", "-P", "-c", place, external=True, env=outside)
            session.run(f"{programs}/pytest", "-n", "2", *session.posargs, external=True, env=outside)


def interpreter(session: nox.Session, version: str) -> str:
    """Return a Python of that version, on the path or among pyenv's; skip the session if there is none."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    for candidate in (f"python{version}", *sorted(glob.glob(f"{pyenv}/{version}.*/bin/python"), reverse=True)):
        program = "import sys; print(*sys.version_info[:2], sep='.')"
        if shutil.which(candidate) is None:
            continue
        found = subprocess.run([candidate, "-c", program], capture_output=True, text=True, check=False)
        if found.stdout.strip() == version:
            return candidate
    return session.skip(f"no Python {version} here")  # raises
