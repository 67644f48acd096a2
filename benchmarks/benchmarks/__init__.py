"""The asv suite; docs/asv.md says how to run it and what its figures mean.

What is timed is warm: it has been compiled before, and a benchmark fails if it was not. Nothing compiles beside it.
"""

import os
import sys
from pathlib import Path

for _name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_name] = "1"
os.environ["TAPEGRAD_HELPER"] = "0"  # a second process that compiles would disturb the first benchmarks
if "ASV_CONF_DIR" in os.environ:  # commits of long ago are not for the user's own cache
    os.environ.setdefault("TAPEGRAD_CACHE_DIR", str(Path(os.environ["ASV_CONF_DIR"]) / ".asv" / "cache"))

_root = Path(__file__).resolve().parent.parent.parent
sys.path += [str(_root / "benchmarks"), str(_root / "tests")]  # what the scripts beside the suite and the tests share

import tapegrad as tg

tg.set_num_threads(1)  # bench_threads uses more
