"""Training scripts as people write them for torch run unchanged under either import, and print the same numbers."""

import contextlib
import importlib
import io
import re
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest

import tapegrad as tg

SCRIPTS = sorted(Path(__file__).parent.joinpath("scripts").glob("*.py"))
NUMBER = re.compile(r"[-+]?\d+\.?\d*(?:e[-+]?\d+)?")


@contextlib.contextmanager
def tapegrad_as_torch():
    """Let ``import torch`` and ``from torch.x import y`` find tapegrad."""
    hidden = {name: module for name, module in sys.modules.items() if name.split(".")[0] == "torch"}
    for name in hidden:
        del sys.modules[name]
    for name in ("", ".cuda", ".nn", ".nn.functional", ".nn.utils", ".nn.utils.rnn", ".optim", ".utils", ".utils.data"):
        sys.modules[f"torch{name}"] = importlib.import_module(f"tapegrad{name}")
    try:
        yield
    finally:
        for name in [name for name in sys.modules if name.split(".")[0] == "torch"]:
            del sys.modules[name]
        sys.modules.update(hidden)


def printed(script, library):
    """Return what a script prints under ``import tapegrad as torch``, or under ``import torch``."""
    output = io.StringIO()
    default = library.get_default_dtype()
    try:
        with contextlib.redirect_stdout(output):
            if library is tg:
                with tapegrad_as_torch():
                    runpy.run_path(str(script), run_name="__main__")
            else:
                runpy.run_path(str(script), run_name="__main__")
    finally:
        library.set_default_dtype(default)
    return output.getvalue()


def numbers(text):
    return np.array([float(number) for number in NUMBER.findall(text)])


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_scripts_run_with_tapegrad_as_torch(script):
    found = printed(script, tg)
    assert len(found.splitlines()) > 10
    assert "nan" not in found and "inf" not in found


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_scripts_print_what_they_print_with_torch(script):
    torch = pytest.importorskip("torch")
    mine, theirs = printed(script, tg), printed(script, torch)
    assert NUMBER.sub("#", mine) == NUMBER.sub("#", theirs)
    np.testing.assert_allclose(numbers(mine), numbers(theirs), rtol=1e-9, atol=1e-9)
