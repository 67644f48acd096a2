"""tapegrad: PyTorch's autograd semantics on a flat tape, compiled by Numba."""

from math import e, inf, nan, pi
from typing import Any

from tapegrad import autograd, cuda, datasets, func, library, linalg, nn, optim, serialization, special, utils
from tapegrad.autograd import (
    enable_grad,
    inference_mode,
    is_grad_enabled,
    is_inference_mode_enabled,
    no_grad,
    set_grad_enabled,
)
from tapegrad.capture import compile, load_program
from tapegrad.ops import functions
from tapegrad.runtime.dtype import (
    bool_,
    dtype,
    float32,
    float64,
    get_default_dtype,
    int32,
    int64,
    set_default_dtype,
    uint8,
)
from tapegrad.serialization import load, save
from tapegrad.tensor import Tensor, as_tensor, from_dlpack, from_numpy, set_printoptions, tensor
from tapegrad.tensor.info import (
    can_cast,
    empty_cache,
    finfo,
    get_num_threads,
    iinfo,
    memory_stats,
    numel,
    promote_types,
    set_num_threads,
)
from tapegrad.tensor.legacy import BoolTensor, ByteTensor, DoubleTensor, FloatTensor, IntTensor, LongTensor
from tapegrad.tensor.properties import Size, device
from tapegrad.version import __version__
from tapegrad.viz import tape

newaxis = None

bool = bool_
float, double, int, long = float32, float64, int32, int64

# every op's function comes from its declaration
for _name, _function in functions.items():
    if not _name.startswith("_"):
        globals().setdefault(_name, _function)


def __getattr__(name: str) -> Any:
    raise AttributeError(f"module 'tapegrad' has no attribute {name!r}")


__all__ = [
    "BoolTensor",
    "ByteTensor",
    "DoubleTensor",
    "FloatTensor",
    "IntTensor",
    "LongTensor",
    "Size",
    "Tensor",
    "__version__",
    "as_tensor",
    "autograd",
    "can_cast",
    "cuda",
    "datasets",
    "compile",
    "device",
    "dtype",
    "e",
    "empty_cache",
    "enable_grad",
    "finfo",
    "float32",
    "float64",
    "from_dlpack",
    "from_numpy",
    "func",
    "get_default_dtype",
    "get_num_threads",
    "iinfo",
    "inf",
    "inference_mode",
    "int32",
    "int64",
    "is_grad_enabled",
    "is_inference_mode_enabled",
    "library",
    "linalg",
    "load",
    "load_program",
    "memory_stats",
    "nan",
    "newaxis",
    "nn",
    "no_grad",
    "numel",
    "optim",
    "pi",
    "promote_types",
    "save",
    "serialization",
    "set_default_dtype",
    "set_grad_enabled",
    "set_num_threads",
    "set_printoptions",
    "special",
    "tape",
    "tensor",
    "uint8",
    "utils",
    *(name for name in functions if not name.startswith("_")),
]
