"""A small package with the real compile layer, run in processes of its own: for tests of the disk cache."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import tapegrad.native

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
from tapegrad.native.store import say_of_other_machines

say_of_other_machines()

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
        real = Path(tapegrad.native.__file__).parent
        shutil.copytree(real, self.root / "native")
        shutil.copy(real.parent / "version.py", self.root)
        for name, text in (("__init__.py", ""), ("helper.py", HELPER), ("caller.py", CALLER)):
            (self.root / name).write_text(text)

    def start(
        self,
        functions: int = 1,
        under: Sequence[str] = (),
        before: Callable[[], object] | None = None,
        **variables: str,
    ) -> subprocess.Popen[str]:
        """Start a process that calls so many functions, ``under`` another command, and first calls ``before`` there."""
        environment = {**os.environ, "PYTHONPATH": str(self.root.parent), "TAPEGRAD_CACHE_DIR": str(self.cache)}
        command = [*under, sys.executable, "-m", "tapegrad.caller", str(functions)]
        return subprocess.Popen(
            command,
            env=environment | variables,
            cwd=self.root.parent,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=before,
        )

    def run(self, functions: int = 1, **options: Any) -> "Run":
        return Run(self.start(functions, **options), functions)


class Run:
    """What one process answered and said, and how many functions it compiled and loaded."""

    def __init__(self, process: subprocess.Popen[str], functions: int) -> None:
        output, self.said = process.communicate(timeout=300)
        assert process.returncode == 0, self.said
        *self.answers, self.compiled, self.loaded = (int(number) for number in output.split())
        assert len(self.answers) == functions
