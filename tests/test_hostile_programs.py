"""Programs in files whose instructions were forged: each is refused, or runs within its own memory.

Run as a script, this tries altered instructions of the ops that its arguments name, after a seed and a number of tries.
"""

import math
import os
import random
import signal
import subprocess
import sys

import numpy as np
import pytest
from samples import in_dtype, samples_of

import tapegrad as tg
from tapegrad.capture import CaptureError, save_program
from tapegrad.capture.saved import SavedProgram
from tapegrad.native.dtypes import DTYPE_NAMES, FLOAT32, FLOAT64, NUMPY_DTYPES
from tapegrad.ops.calls import functions
from tapegrad.ops.registry import registry
from tapegrad.ops.validity import Operand
from tapegrad.runtime.layout import FROM_ATTRIBUTE, GENERAL, MAX_OUTPUTS
from tapegrad.serialization import CheckpointError

# Their kernels trust values, or their results' shapes are values.
REFUSED = {"ctc", "ctc_gradient", "nonzero_of", "row_order"}
TRIED = [
    "take_at", "put_at", "lookup", "lookup_backward", "add_blocks", "erase_blocks", "embedding_add", "move_rows",
    "dot_rows", "plane_gather", "plane_scatter", "index_backward", "diagonal_backward", "unfold_backward",
    "cat_block", "stack_block", "as_strided_scatter", "pad_constant", "tie_weights", "place_last", "channel_sum",
    "channel_fill", "unfold_windows", "gather_backward", "scatter_multiply", "sum_by_index",
    "norm_rows", "resample", "ce_gradient", "mm_tn", "max_unpool", "flat_index",
]  # fmt: skip
SIZES = (0, 1, 2, 3, 5, 8, 17, 64, 257)
NUMBERS = (-(2**62), -(2**31), -7, -1, 0, 1, 2, 3, 4, 5, 8, 1000, 2**31, 2**40, 2**62, 4607182418800017408)

GENERAL_OPS = {name: op for name, op in registry.items() if op.kind == GENERAL}


def word(value):
    return int(np.float64(value).view(np.int64)) if isinstance(value, float) else int(value)


def instructions(op):
    """Return the operands (arrays, None) and attributes of a private op's samples."""
    if op.name in functions or not callable(op.samples):
        return []
    found = []
    for sample in samples_of(op):
        args, _ = sample.mapped(lambda array, dtypes=sample.dtypes: in_dtype(array, dtypes[0]) if dtypes else array)
        found.append((list(args), [word(a) for a in sample.kwargs.get("attributes", ())]))
    return found


def content_of(name, operands, attributes, in_place=False):
    """Return the content of a file with one instruction, on tensors from outside."""
    storages, slots, numbers = [], [], []
    for array in operands:
        if array is None:
            numbers.append(-1)
            continue
        numbers.append(len(slots))
        storages.append({"role": "outside", "content": np.frombuffer(array.tobytes(), np.uint8)})
        strides = [math.prod(array.shape[d + 1 :]) for d in range(array.ndim)]
        slots.append([len(slots), str(array.dtype), list(array.shape), strides, 0])
    results = [numbers[0] if in_place else -1, *[-1] * (MAX_OUTPUTS - 1)]
    code = [[name, in_place, numbers, results, list(attributes), "file.py:1"]]
    shared = {"kind": "tapegrad program", "version": 1, "inputs": 0, "input_slots": [], "outputs": []}
    return {**shared, "storages": storages, "slots": slots, "code": code}


def load(name, operands, attributes, **more):
    return SavedProgram(content_of(name, operands, attributes, **more), "forged.tgp")


# ---- altered instructions ----


def altered_shape(rng, shape):
    sizes = list(shape)
    kind = rng.random()
    if kind < 0.5 and sizes:
        sizes[rng.randrange(len(sizes))] = rng.choice(SIZES)
    elif kind < 0.7 and sizes:
        del sizes[rng.randrange(len(sizes))]
    elif kind < 0.9:
        sizes.insert(rng.randrange(len(sizes) + 1), rng.choice(SIZES))
    else:
        sizes = []
    return tuple(sizes) if math.prod(sizes) < 1 << 18 else ()


def alter(rng, operands, attributes):
    kind = rng.random()
    k = rng.randrange(len(operands)) if operands else 0
    if kind < 0.5 and operands and operands[k] is not None:
        operands[k] = np.resize(operands[k], altered_shape(rng, operands[k].shape))
    elif kind < 0.6 and operands and operands[k] is not None:
        operands[k] = operands[k].astype(NUMPY_DTYPES[rng.randrange(len(DTYPE_NAMES))])
    elif kind < 0.65 and operands:
        operands[k] = None
    elif kind < 0.75 and operands and operands[k] is not None and operands[k].dtype == np.int64:
        operands[k] = np.full_like(operands[k], rng.choice(NUMBERS))
    elif attributes and kind < 0.95:
        attributes[rng.randrange(len(attributes))] = rng.choice(NUMBERS)
    elif attributes:
        del attributes[rng.randrange(len(attributes))]


def narrow(op, operands, attributes):
    """Return an instruction in float32: one kernel less to compile."""
    arrays = [a.astype(np.float32) if a is not None and a.dtype == np.float64 else a for a in operands]
    named = op.result == FROM_ATTRIBUTE and attributes[:1] == [FLOAT64]
    return arrays, [FLOAT32, *attributes[1:]] if named else list(attributes)


def try_forged(seed, tries, names):
    """Load and run altered instructions; print how many were refused and how many ran."""
    counts = {"refused": 0, "ran": 0}
    for name in names:
        cases = instructions(registry[name])
        for k in range(tries):
            rng = random.Random(f"{seed} {name} {k}")
            operands, attributes = narrow(registry[name], *rng.choice(cases))
            for _ in range(rng.choice([1, 1, 2])):
                alter(rng, operands, attributes)
            said = [None if a is None else (str(a.dtype), a.shape) for a in operands]
            print(name, k, said, attributes, file=sys.stderr, flush=True)
            signal.alarm(60)
            try:
                program = load(name, operands, attributes)
                program()
                program()
                counts["ran"] += 1
            except (CheckpointError, RuntimeError, IndexError):
                counts["refused"] += 1
    assert (tg.ones(3) + 1).tolist() == [2, 2, 2]
    print(counts["refused"], counts["ran"])


def test_forged_instructions_crash_nothing():
    command = [sys.executable, "-X", "faulthandler", __file__, "0", "12", *TRIED]
    environment = {**os.environ, "TAPEGRAD_CHECK_BOUNDS": "1"}
    found = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=500)
    assert found.returncode == 0, found.stderr[-3000:]
    refused, ran = map(int, found.stdout.split())
    assert refused > len(TRIED) * 4 and ran > len(TRIED)


# ---- rules ----


def test_every_general_op_has_a_rule_or_is_refused():
    assert {name for name, op in GENERAL_OPS.items() if op.valid is None} == REFUSED


@pytest.mark.parametrize("name", [name for name, op in GENERAL_OPS.items() if op.valid and instructions(op)])
def test_a_rule_holds_for_the_samples_of_its_op(name):
    codes = {np.dtype(dtype): code for code, dtype in enumerate(NUMPY_DTYPES)}
    for arrays, attributes in instructions(registry[name]):
        operands = [a if a is None else Operand(codes[a.dtype], a.shape, fixed=True) for a in arrays]
        assert registry[name].valid(operands, attributes), (operands, attributes)


def test_most_ops_have_such_samples():
    assert sum(1 for op in GENERAL_OPS.values() if op.valid and instructions(op)) > 80


@pytest.mark.parametrize("name", [*sorted(REFUSED), "transpose", "custom_function", "nothing"])
def test_an_op_without_a_rule_is_refused_by_its_name(name):
    with pytest.raises(CheckpointError, match=f"{name}: an op that programs in files cannot have|'{name}' is unknown"):
        load(name, [np.zeros(2, np.float32)], [])


def test_an_op_without_a_rule_is_refused_when_it_is_saved(tmp_path, monkeypatch):
    run = tg.compile(lambda x: x.cumsum(0))
    for _ in range(4):
        run(tg.ones(3))
    monkeypatch.setattr(registry["cumsum"], "valid", None)
    with pytest.raises(CaptureError, match="cumsum: an op that programs in files cannot have"):
        save_program(run, tmp_path / "sums.tgp")
    assert not (tmp_path / "sums.tgp").exists()


# ---- what no rule of one op can see ----


def test_results_that_are_too_large_are_refused():
    for name, operands, attributes in [
        ("arange", [], [3, 2**40, 0, 1]),
        ("full", [], [3, 0, 2**20, 2**20]),
        ("eye", [], [3, 2**31, 2]),
    ]:
        with pytest.raises(CheckpointError, match=f"{name}: operands or attributes that do not fit"):
            load(name, operands, attributes)
    content = content_of("add", [np.zeros((1 << 17, 1), np.float32), np.zeros((1, 1 << 17), np.float32)], [])
    with pytest.raises(CheckpointError, match="add: its result is too large"):
        SavedProgram(content, "forged.tgp")


def test_an_op_that_writes_in_place_what_has_gaps_is_refused():
    content = content_of("scatter", [np.zeros(4), np.zeros(2, np.int64), np.ones(2)], [0], in_place=True)
    assert SavedProgram(content, "forged.tgp")() == ()
    content["slots"][0][2:4] = [[2], [2]]
    with pytest.raises(CheckpointError, match="scatter: it writes in place what has gaps"):
        SavedProgram(content, "forged.tgp")


def test_an_op_that_writes_over_its_own_indices_is_refused():
    content = content_of("put_blocks", [np.zeros(3, np.int64), np.zeros(3, np.int64), np.ones(3, np.int64)], [0, 1, 1])
    content["slots"].append(content["slots"][0])
    content["code"][0][1:4] = [True, [0, 3, 2], [0, -1, -1]]
    with pytest.raises(CheckpointError, match="put_blocks: it writes in place what it reads"):
        SavedProgram(content, "forged.tgp")


def test_a_random_fill_is_saved_and_loaded(tmp_path):
    run = tg.compile(lambda x: x * tg.rand(3))
    for _ in range(4):
        run(tg.ones(3))
    save_program(run, tmp_path / "fill.tgp")
    assert tg.load_program(tmp_path / "fill.tgp")(tg.ones(3))[0].tolist() == run(tg.ones(3)).tolist()


def test_tables_that_the_program_writes_to_are_refused():
    (x, rows, *rest), attributes = instructions(registry["resample"])[0]
    content = content_of("resample", [x, rows, *rest], attributes)
    assert SavedProgram(content, "forged.tgp")() == ()
    content["code"].append(["add", True, [1, 1], [1, -1, -1], [], "file.py:2"])
    with pytest.raises(CheckpointError, match="resample: operands or attributes that do not fit"):
        SavedProgram(content, "forged.tgp")


if __name__ == "__main__":
    try_forged(sys.argv[1], int(sys.argv[2]), sys.argv[3:])
