"""What a start costs: importing, compiling, the first step with an empty and with a full cache, bytes on the disk."""

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from measuring import four_digits

FIRST_STEP = """
import json, time
started = time.perf_counter()
import tapegrad as tg
imported = time.perf_counter()
model = tg.nn.Sequential(tg.nn.Linear(784, 256), tg.nn.ReLU(), tg.nn.Linear(256, 10))
optimizer = tg.optim.Adam(model.parameters(), lr=1e-3)
loss = tg.nn.functional.cross_entropy(model(tg.randn(64, 784)), tg.randint(0, 10, (64,)))
loss.backward()
optimizer.step()
loss.item()
done = time.perf_counter()
from tapegrad.native.cache import cache_counts
print(json.dumps({"import": imported - started, "first step": done - started, **cache_counts()}))
"""


def first_step(cache, helper="0"):
    """Return what a fresh process prints that imports, builds a perceptron and makes one step with it."""
    environment = {**os.environ, "TAPEGRAD_CACHE_DIR": str(cache), "TAPEGRAD_HELPER": helper}
    command = [sys.executable, "-c", FIRST_STEP]
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    output = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    after, found = resource.getrusage(resource.RUSAGE_CHILDREN), json.loads(output)
    found["process"] = time.perf_counter() - started
    found["processor"] = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return found


class Start:
    """The first step of a perceptron: at the first start on a machine, and at each later one."""

    timeout = 600

    def setup_cache(self):
        with tempfile.TemporaryDirectory() as folder:
            empty = first_step(folder)
            files = [path.stat().st_size for path in Path(folder).glob("*.bin")]
            full = [first_step(folder) for _ in range(5)]
        if not empty["compiled"] or any(each["compiled"] for each in full):
            raise RuntimeError(f"an empty cache must lead to compiling, a full one must not: {empty}, {full}")
        return {"empty": empty, "full": full, "files": files}

    setup_cache.timeout = 600

    def track_first_step_with_an_empty_cache(self, found):
        return four_digits(found["empty"]["first step"])

    def track_processor_time_of_compiling(self, found):
        return four_digits(found["empty"]["processor"] - min(each["processor"] for each in found["full"]))

    def track_functions_compiled(self, found):
        return found["empty"]["compiled"]

    def track_first_step_with_a_full_cache(self, found):
        return four_digits(min(each["first step"] for each in found["full"]))

    def track_import(self, found):
        return four_digits(min(each["import"] for each in found["full"]))

    def track_functions_loaded(self, found):
        return found["full"][0]["loaded"]

    def track_cache_bytes(self, found):
        return sum(found["files"])

    track_functions_compiled.unit = track_functions_loaded.unit = "functions"
    track_cache_bytes.unit = "bytes"
    for _timed in (track_first_step_with_an_empty_cache, track_processor_time_of_compiling):
        _timed.unit = "seconds"
    for _timed in (track_first_step_with_a_full_cache, track_import):
        _timed.unit = "seconds"
    del _timed


class ColdStartWithHelper:
    """The first step with an empty cache as users have it: a second process helps to compile."""

    timeout = 600

    def track_first_step_with_an_empty_cache(self):
        with tempfile.TemporaryDirectory() as folder:
            return first_step(folder, helper="1")["first step"]

    track_first_step_with_an_empty_cache.unit = "seconds"


def timeraw_import():
    """Importing, in a process of its own, timed by asv."""
    return "import tapegrad"


def timeraw_import_numba():
    """Of which importing Numba is so much."""
    return "import numba"


timeraw_import.number = timeraw_import_numba.number = 1
