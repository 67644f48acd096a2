"""The contestants: the library each needs, how its process is set up, and where its workloads are written."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

Call = Callable[[], Any]


class Library(Protocol):
    """A contestant in its process. ``reasons`` says for each workload that it lacks why."""

    reasons: Mapping[str, str]

    def build(self, key: str) -> Call:
        """Return what runs a workload's step; KeyError for one that is not there."""

    def settle(self) -> None:
        """Compile what else would be compiled while the workload that was built last is in use."""

    def finish(self, result: Any) -> None:
        """Wait until what steps have started is done."""

    def arrays(self, result: Any) -> list[Any]:
        """Return a step's results as NumPy arrays."""


@dataclass(frozen=True)
class Contestant:
    """A contestant.

    Args:
        package: what must be installed; its size and version are reported.
        module: of this folder; ``open_library(threads, mode)`` in it returns a ``Library``.
        mode: handed to ``open_library``.
        environment: variables for its process; ``{threads}`` is filled in.
        caches: variables that name the folder of a cache on disk: emptied for a cold start.
    """

    package: str
    module: str
    mode: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)
    caches: tuple[str, ...] = ()

    def open(self, threads: int) -> Library:
        return importlib.import_module(f"contest.{self.module}").open_library(threads, self.mode)  # type: ignore[no-any-return]


CONTESTANTS = {
    "tapegrad": Contestant("tapegrad", "torch_like", "captured", caches=("TAPEGRAD_CACHE_DIR",)),
    "tapegrad, uncaptured": Contestant("tapegrad", "torch_like", "eager", caches=("TAPEGRAD_CACHE_DIR",)),
    "torch": Contestant("torch", "torch_like", "torch"),
    "torch.compile": Contestant("torch", "torch_like", "torch.compile", caches=("TORCHINDUCTOR_CACHE_DIR",)),
    "jax": Contestant("jax", "jax_steps", environment={"JAX_PLATFORMS": "cpu"}, caches=("JAX_COMPILATION_CACHE_DIR",)),
    "autograd": Contestant("autograd", "autograd_steps"),
    "pytensor": Contestant("pytensor", "pytensor_steps"),
    "casadi": Contestant("casadi", "casadi_steps"),
    "tinygrad": Contestant("tinygrad", "tinygrad_steps", environment={"DEV": "CPU"}),
}
OURS = ("tapegrad", "tapegrad, uncaptured")
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
# leftovers of old machines that slow down current OpenBLAS; what has Python compile sources at each import
SLOWING = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE", "PYTHONDONTWRITEBYTECODE")
