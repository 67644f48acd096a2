"""Lists torch's documented names with their parameters: ``python docs/torch_names.py``, where torch is installed.

Writes ``torch_names.txt`` beside this file, a name and those of its parameters a line. The documentation's table
of torch's names is made from that list, so that it builds without torch.
"""

import importlib
import inspect
import re
import types
from pathlib import Path

import torch

# Namespaces, and how their public names are found: by __all__ or, where that is missing or partial, by what is in them.
MODULES = [
    "torch",
    "torch.autograd",
    "torch.autograd.functional",
    "torch.autograd.graph",
    "torch.autograd.forward_ad",
    "torch.func",
    "torch.linalg",
    "torch.special",
    "torch.fft",
    "torch.nn",
    "torch.nn.functional",
    "torch.nn.init",
    "torch.nn.utils",
    "torch.nn.utils.rnn",
    "torch.nn.utils.parametrize",
    "torch.nn.utils.parametrizations",
    "torch.optim",
    "torch.optim.lr_scheduler",
    "torch.optim.swa_utils",
    "torch.utils.data",
    "torch.distributions",
]
BY_CONTENT = {"torch.nn", "torch.nn.functional", "torch.linalg", "torch.optim", "torch.nn.utils", "torch.autograd"}
EXTRA = {"torch": ["unique", "set_default_dtype", "set_grad_enabled", "from_dlpack", "broadcast_shapes", "strided"]}
# what is visible in torch's namespaces and is not for users: implementations, parts of its compilers, texts
INTERNAL = re.compile(
    r"(cudnn|miopen|mkldnn|mps|xnnpack|fbgemm|quantized|q_|sym_|segment_|.*_backward_|choose_q|fake_quant|bits?\d|u?int[1-7]$"
    r"|BroadcastingList|GRID_SAMPLE|has_torch_function|handle_torch_function|boolean_dispatch|factory_kwargs|.*_notes$"
    r"|AVG$|SUM$|bit$|FatalError|JITException|unify_type|init_num_threads|thread_safe|native_|import_ir|parse_|merge_type|Profiler|DeviceType|kineto|get_file_path|.*_dispatch_mode)"
)
OWN_CLASSES = {
    "Event",
    "Generator",
    "Size",
    "Stream",
    "Tag",
    "device",
    "dtype",
    "finfo",
    "iinfo",
    "layout",
    "memory_format",
}
TYPING = {"Any", "Callable", "Optional", "Union", "Literal", "TYPE_CHECKING", "DType", "Tensor", "Mapping", "Sequence"}
NOT_TENSORS = {"torch.fft": {"Tensor"}}


def documented(value):
    if isinstance(value, type) and value.__module__ in ("torch", "torch._C", "torch.jit", "torch.jit._script"):
        return value.__name__ in OWN_CLASSES or value.__name__.endswith(("Tensor", "Error"))
    return not callable(value) or bool(inspect.getdoc(value)) or isinstance(value, type)


def names_of(module):
    if module.__name__ not in BY_CONTENT:
        return [*module.__all__, *EXTRA.get(module.__name__, [])]
    return [
        name
        for name, value in vars(module).items()
        if name not in TYPING and (getattr(value, "__module__", None) or "torch").startswith("torch")
    ]


def parameters(value):
    """Return the names of what a function or class takes, from its signature or the first line of its docstring."""
    try:
        given = list(inspect.signature(value).parameters)
    except (TypeError, ValueError):
        line = re.search(r"^\s*[\w.]+\((.*?)\) *(->|$)", inspect.getdoc(value) or "", re.MULTILINE)
        parts = re.sub(r"\([^)]*\)|\[[^]]*\]", "", line[1]).split(",") if line else []
        given = [re.split(r"[=:]", part)[0].strip(" *") for part in parts]
    hidden = ("self", "args", "kwargs", "params", "")
    return [name for name in given if name not in hidden and re.fullmatch(r"[A-Za-z]\w*", name)]


def entries():
    for path in MODULES:
        module = importlib.import_module(path)
        for name in sorted(set(names_of(module))):
            value = getattr(module, name, None)
            if isinstance(value, types.ModuleType) or name.startswith("_") or INTERNAL.match(name):
                continue
            if documented(value) and name not in NOT_TENSORS.get(path, ()):
                yield f"{path}.{name}", parameters(value) if callable(value) else []
    for name in sorted(vars(torch.Tensor).keys() | set(dir(torch._C.TensorBase))):
        value = getattr(torch.Tensor, name)
        if not name.startswith("_") and not INTERNAL.match(name) and documented(value):
            yield f"torch.Tensor.{name}", parameters(value) if callable(value) else []


def main():
    lines = [" ".join([name, *found]) for name, found in entries()]
    version = torch.__version__.partition("+")[0]
    text = "\n".join([f"# torch {version}: documented names, each with the names of its parameters", *lines, ""])
    Path(__file__).with_suffix(".txt").write_text(text)


if __name__ == "__main__":
    main()
