"""What parameters mean that many functions share: written once, and added to docstrings that say nothing of them."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Mapping
from types import CodeType
from typing import Any

MEANINGS = {
    "input": "a tensor.",
    "other": "a tensor or a number; it is broadcast with ``input``.",
    "out": "a tensor that the result is written into and that is returned: of the result's shape, or empty; "
    "no gradient may be asked for then.",
    "dim": "the dimension; a negative one counts from the end.",
    "keepdim": "whether the dimensions that are reduced stay, with length 1.",
    "dtype": "the result's dtype.",
    "device": "``cpu`` or None: there is no other.",
    "layout": "accepted for torch's sake.",
    "pin_memory": "accepted for torch's sake.",
    "memory_format": "accepted for torch's sake: memory is row-major.",
    "requires_grad": "whether operations on the result are to be recorded.",
    "generator": "the ``Generator`` that the random numbers come from; by default the one that ``manual_seed`` sets.",
    "size_average": "an old form of ``reduction``.",
    "reduce": "an old form of ``reduction``.",
    "reduction": "``mean``, ``sum`` or ``none`` of the elements' losses.",
    "inplace": "whether the result is written into the input.",
    "A": "a tensor whose last two dimensions are matrices; those before them are a batch.",
    "tensors": "tensors, each an argument, or one sequence of them.",
}

# Where the parameters of a family mean something else, or it has more of them: by the file that the family is in
_SHAPED = "a tensor of any shape and dtype."
_WINDOWS = {
    "input": "[batch, channels, ...] with the one to three dimensions of the windows last, or without batch; floats.",
    "kernel_size": "the windows' size: one number, or one for each dimension.",
    "stride": "from one window to the next; by default ``kernel_size``.",
    "padding": "how far windows may begin before, and end behind, the input; at most half a window.",
    "dilation": "how far apart a window's elements are.",
    "ceil_mode": "whether a last window may end beyond the padding; it must begin before it.",
    "count_include_pad": "whether zeros in the padding count.",
    "divisor_override": "what sums are divided by, in place of the number of elements.",
    "return_indices": "whether to return also where in its plane each maximum is, as int64.",
    "output_size": "the size of the result: one number, or one for each dimension.",
    "indices": "what ``return_indices`` gave, int64 of the input's shape.",
}
_CONVOLUTION = {
    "stride": "how far apart the kernel's places are: one number, or one for each dimension.",
    "padding": "zeros added on both sides: one number, or one for each dimension.",
    "dilation": "how far apart the elements are that the kernel meets.",
    "groups": "in how many groups the channels are; no group sees the others.",
    "bias": "[out], or None.",
    "output_padding": "how much longer the result is made on one side, to choose among the sizes that fit.",
}
_PLACES = {
    "index": "the indices, int64 or int32.",
    "indices": "a tuple of index tensors, as in square brackets.",
    "source": "the values, in the input's dtype: a slice along ``dim`` for each index.",
    "src": "the values, in the input's dtype, of at least the shape of ``index``.",
    "value": "a number.",
    "values": "a tensor that broadcasts to the places.",
    "accumulate": "whether the values are added to what is there; equal indices add up then.",
    "alpha": "a factor of the source.",
    "mask": "a tensor of bool that broadcasts with the input.",
    "include_self": "whether what is there counts among what is reduced.",
    "reduce": "how several values for one place, and what is there, become one.",
}
_LOSS = {
    "input": "a tensor of floats.",
    "target": "a tensor that broadcasts with the input; see the formula.",
    "weight": "a tensor of factors of the elements' losses, or None.",
    "margin": "the margin in the formula.",
}
_DIAGONAL = "which diagonal: 0 is the main one, k is k above it, -k is k below."
LAYERS = {
    "dtype": "the dtype of parameters and buffers; by default the default float dtype.",
    "bias": "whether there is a bias.",
    "inplace": "whether the result is written into the input.",
}
_LAYER = {
    "in_channels": "the input's number of channels.",
    "out_channels": "the result's number of channels.",
    "kernel_size": "the kernel's length along each dimension: one number, or one for each.",
    "padding_mode": "what the padding has: zeros, reflect, replicate or circular.",
}
_NORM = {
    "num_features": "the number of channels, which are dimension 1.",
    "eps": "added to the variance.",
    "momentum": "the share of a batch in the running mean and variance; None for the mean of all batches.",
    "affine": "whether there are a weight and a bias for each channel.",
    "track_running_stats": "whether there are a running mean and variance, for evaluation.",
}
MEANINGS_IN: dict[str, dict[str, str]] = {
    "activation_functions": {
        "input": "a tensor of floats of any shape.",
        "dtype": "the dtype that the input is converted to first.",
        "training": "whether the slopes are drawn; else they are the middle of their range.",
        "lower": "the least slope.",
        "upper": "the greatest slope.",
    },
    "batch_norm": _NORM,
    "comparisons": {"input": _SHAPED, "other": "another tensor."},
    "conv": {**_CONVOLUTION, **_LAYER, "bias": "whether there is a bias."},
    "convolution": {
        "input": "[n, channels, ...] with the one to three dimensions of the kernel last, or without n; floats.",
        "weight": "the kernels, in the input's dtype: [out, channels / groups, ...].",
        **_CONVOLUTION,
    },
    "creation": {"input": "the tensor whose shape the result gets.", "size": "the shape: ints, or a sequence of them."},
    "dropout": {"p": "the probability of a channel to be put to zero."},
    "dropouts": {
        "p": "the probability of a channel to be put to zero.",
        "training": "whether anything is put to zero; else the input is returned.",
    },
    "index_functions": {"input": _SHAPED, **_PLACES},
    "init": {
        "tensor": "the tensor to fill, which is returned.",
        "gain": "a factor of the standard deviation.",
        "a": "the least number.",
        "b": "the number that all are below.",
        "mean": "the mean.",
        "std": "the standard deviation.",
        "val": "the number.",
    },
    "joining": {"tensors": "a sequence of tensors, whose dtypes are promoted to one."},
    "linalg_more": {"check_errors": "whether to raise LinAlgError instead."},
    "linalg_norms": {
        "other": "a tensor that broadcasts with ``input``.",
        "tensors": "a sequence of matrices; the first and the last may be vectors.",
    },
    "losses": _LOSS,
    "margin_losses": {
        **_LOSS,
        "input": "a tensor of scores, floats.",
        "target": "a tensor of labels; see the formula.",
    },
    "matmul": {"other": "a tensor of the same dtype."},
    "padding": {
        "padding": "how many elements to put: one number for all sides, or two for each dimension, the last one first.",
        "value": "the number that is put around.",
    },
    "parts": {
        "input": _SHAPED,
        "indices_or_sections": "into how many parts, or, a sequence, at which indices to cut.",
        "offset": _DIAGONAL,
    },
    "pooling": {**_WINDOWS, "norm_type": "the p of the norm."},
    "probability_losses": _LOSS,
    "random": {"input": "the tensor whose shape the result gets.", "size": "the shape: ints, or a sequence of them."},
    "ranking": {
        "input": "a tensor of any shape; nan counts as the largest number.",
        "k": "how many elements, or which, counted from 1.",
        "largest": "whether the largest are taken; else the smallest.",
        "sorted": "accepted for torch's sake: they are always in order.",
    },
    "reductions": {
        "input": _SHAPED,
        "dim": "the dimension or dimensions; by default all.",
        "dtype": "the dtype that the input is converted to first.",
    },
    "reshaping": {
        "input": _SHAPED,
        "dims": "dimensions; negative ones count from the end.",
        "diagonal": _DIAGONAL,
        "offset": _DIAGONAL,
        "dim1": "the dimension that is the matrices' rows.",
        "dim2": "the dimension that is the matrices' columns.",
        "index": "the index along ``dim``.",
        "start": "where the slice begins.",
        "end": "where the slice ends; this one is left out.",
        "step": "from one index of the slice to the next.",
    },
    "scans": {
        "input": _SHAPED,
        "dtype": "the dtype that the input is converted to first.",
        "prepend": "a tensor put before the input along ``dim``.",
        "append": "a tensor put behind the input along ``dim``.",
        "y": "the samples.",
    },
    "scatter": {
        "input": _SHAPED,
        **_PLACES,
        "index": "the indices, int64, with as many dimensions as the input.",
        "indices": "the indices, int64, with as many dimensions as the input where ``dim`` is given.",
    },
    "softmax": {"input": "a tensor of floats.", "dtype": "the dtype that the input is converted to first."},
    "sorting": {
        "descending": "whether the order is falling.",
        "stable": "accepted for torch's sake: equal elements always keep their order.",
    },
    "special": {"input": "a tensor of floats.", "other": "a tensor that broadcasts with the input."},
    "statistics": {
        "input": "a tensor of floats.",
        "dim": "the dimension or dimensions; by default all.",
        "correction": "what is subtracted from the number of elements that the sum is divided by; by default 1.",
        "unbiased": "an older form of ``correction``: 1 for true, 0 for false.",
        "interpolation": "between two elements: linear, lower, higher, midpoint or nearest.",
    },
    "views": {"input": _SHAPED},
    "windows": {
        "window_length": "the number of samples.",
        "periodic": "whether the window is one period, so that a further sample would be the first one again.",
        "alpha": "the constant in the formula.",
        "beta": "the shape in the formula.",
    },
}
_LATER = re.compile(r"^(?:Returns|Raises|Yields|Examples?|Differs from torch):$", re.MULTILINE)
_PHRASES = re.compile(r"``(.+?)``|^ +((?:\*{0,2}\w+(?: \([^)\n]*\))?, *)*\*{0,2}\w+(?: \([^)\n]*\))?):\s", re.MULTILINE)
_WORDS = re.compile(r"\w+")


def mentioned(doc: str) -> set[str]:
    """Return the words that a docstring has in backticks or explains in a section such as Args."""
    return set(_WORDS.findall(" ".join(quoted or explained for quoted, explained in _PHRASES.findall(doc))))


def completed(doc: str, names: Iterable[str], meanings: Mapping[str, str] = MEANINGS) -> str:
    """Return a docstring with the parameters of which it says nothing added to its section Args.

    Example:
        >>> print(completed("Return the sum.", ["input", "out"], {"input": "a tensor."}))
        Return the sum.
        <BLANKLINE>
        Args:
            input: a tensor.
    """
    known = mentioned(doc)
    missing = [name for name in names if name in meanings and name not in known]
    return with_entries(doc, {name: meanings[name] for name in missing}) if missing else doc


def with_entries(doc: str, entries: Mapping[str, str]) -> str:
    """Return a docstring with entries at the end of its section Args, which comes before Returns and Raises."""
    doc = inspect.cleandoc(doc)
    lines = "".join(f"    {name}: {meaning}\n" for name, meaning in entries.items())
    found = _LATER.search(doc)
    head, later = (doc[: found.start()], "\n" + doc[found.start() :]) if found else (doc, "")
    title = "\n" if "\nArgs:\n" in head else "\n\nArgs:\n"
    return f"{head.rstrip()}{title}{lines}{later}".rstrip()


def complete(function: Any) -> None:
    """Complete the docstring of a function, or of a class, by what the parameters mean in its family."""
    doc = function.__dict__.get("__doc__") if isinstance(function, type) else function.__doc__
    body = inspect.unwrap(function.__init__ if isinstance(function, type) else function)  # type: ignore[misc]
    if doc and hasattr(body, "__code__"):
        function.__doc__ = completed(doc, _parameter_names(body.__code__), _meanings(body.__module__))


def explain(doc: str, body: Any, names: Iterable[str]) -> str:
    """Return the docstring of a function that ``body``, whose file tells the family, is made into."""
    return completed(doc, names, _meanings(body.__module__))


def _meanings(module: str) -> dict[str, str]:
    layers = LAYERS if module.startswith("tapegrad.nn.") else {}
    return {**MEANINGS, **layers, **MEANINGS_IN.get(module.rpartition(".")[2], {})}


def _parameter_names(code: CodeType) -> tuple[str, ...]:
    has_others = bool(code.co_flags & inspect.CO_VARARGS)
    return code.co_varnames[: code.co_argcount + code.co_kwonlyargcount + has_others]
