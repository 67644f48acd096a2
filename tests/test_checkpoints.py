"""Checkpoints: values come back as they were; damaged, hostile and foreign files give errors and run nothing."""

import io
import json
import math
import os
import stat
import struct
import warnings
from collections import Counter, OrderedDict

import numpy as np
import pytest
from safetensors.numpy import load_file
from safetensors.numpy import save_file as save_safetensors

import tapegrad as tg
from tapegrad.serialization import CheckpointError, atomic
from tapegrad.serialization.container import pack

DTYPES = ("bool", "uint8", "int32", "int64", "float32", "float64")


def through_file(value, **named):
    file = io.BytesIO()
    tg.save(value, file)
    file.seek(0)
    return tg.load(file, **named)


# ---- what comes back ----


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(), (0, 3), (5,), (2, 3, 4)])
def test_tensors_keep_dtype_shape_and_bits(dtype, shape):
    x = (tg.rand(shape) * 5).to(getattr(tg, dtype))
    y = through_file(x)
    assert y.dtype is x.dtype and y.shape == x.shape
    assert y.numpy().tobytes() == x.numpy().tobytes()


def test_plain_values_come_back_with_their_types():
    value = {
        "list": [1, -(2**70), 2.5, True, None, "ü\n", b"\x00\xff", bytearray(b"ab"), 1 + 2j],
        "floats": [math.inf, -math.inf, -0.0, 1e-310, 0.1],
        1: OrderedDict(b=1, a=2),
        (2, "x"): Counter("abca"),
        "sets": ({1, 2}, frozenset("a")),
        "torch": (tg.Size([2, 3]), tg.float64, tg.device("cpu")),
        "empty": [{}, [], (), ""],
    }
    back = through_file(value)
    assert repr(back) == repr(value) and list(back) == list(value)
    assert math.isnan(through_file(math.nan))


@pytest.mark.parametrize("dtype", ["i1", "u2", "f2", "u8", "f4", ">i4", "?"])
def test_arrays_stay_arrays(dtype):
    array = np.arange(6).astype(dtype).reshape(2, 3)[:, ::-1]
    back = through_file({"array": array, "scalar": array[0, 1], "0-d": np.asarray(array[1, 1])})
    assert back["array"].dtype == array.dtype.newbyteorder("=") and (back["array"] == array).all()
    assert back["array"].flags.writeable
    assert type(back["scalar"]) is type(array[0, 1].astype(array.dtype.newbyteorder("=")))
    assert back["0-d"].shape == ()


def test_what_is_shared_stays_shared_and_views_are_what_they_show():
    x, p = tg.arange(6.0), tg.nn.Parameter(tg.ones(3))
    back = through_file(
        {"x": x, "again": x, "same memory": x.detach(), "view": x.reshape(2, 3).t(), "p": [p, p, p.data]}
    )
    assert back["again"] is back["x"]
    back["x"][0] = 9
    assert back["same memory"][0].item() == 9 and back["view"][0, 0].item() == 0
    assert back["view"].shape == (3, 2) and back["view"].is_contiguous()
    assert back["p"][0] is back["p"][1] and isinstance(back["p"][0], tg.nn.Parameter)
    assert back["p"][0].requires_grad and not back["p"][2].requires_grad
    assert back["p"][2].data_ptr() == back["p"][0].data_ptr()


def test_a_training_state_comes_back(tmp_path):
    def make():
        model = tg.nn.Sequential(tg.nn.Linear(3, 4), tg.nn.Dropout(0.5), tg.nn.LayerNorm(4), tg.nn.Linear(4, 1))
        optimizer = tg.optim.Adam(model.parameters(), lr=0.01)
        return model, optimizer, tg.optim.lr_scheduler.StepLR(optimizer, 2)

    def step(model, optimizer, scheduler):
        optimizer.zero_grad()
        loss = (model(tg.ones(5, 3)) ** 2).mean()
        loss.backward()
        optimizer.step()
        scheduler.step()
        return loss.item()

    parts = make()
    step(*parts)
    tg.save({"parts": [part.state_dict() for part in parts], "rng": tg.get_rng_state()}, tmp_path / "a.ckpt")
    expected = [step(*parts) for _ in range(3)]
    others = make()
    state = tg.load(tmp_path / "a.ckpt")
    for part, saved in zip(others, state["parts"], strict=True):
        part.load_state_dict(saved)
    tg.set_rng_state(state["rng"])
    assert [step(*others) for _ in range(3)] == expected
    assert type(state["parts"][0]) is type(parts[0].state_dict())
    assert state["parts"][0]._metadata == parts[0].state_dict()._metadata


def test_every_schedule_s_state_is_saved():
    schedulers = tg.optim.lr_scheduler
    arguments = {
        "LambdaLR": [lambda step: 0.9**step],
        "MultiStepLR": [[1, 3]],
        "CosineAnnealingWarmRestarts": [3],
        "OneCycleLR": [0.1, 30],
        "CyclicLR": [0.01, 0.1],
        "ReduceLROnPlateau": [],
    }
    for name, given in arguments.items():

        def make(name=name, given=given):
            optimizer = tg.optim.SGD([tg.nn.Parameter(tg.ones(1))], lr=0.1, momentum=0.9)
            return optimizer, getattr(schedulers, name)(optimizer, *given)

        def step(optimizer, scheduler, name=name):
            scheduler.step(*([1.0] if name == "ReduceLROnPlateau" else []))
            return optimizer.param_groups[0]["lr"]

        with warnings.catch_warnings(action="ignore"):  # the optimiser takes no steps
            first, second = make(), make()
            for _ in range(3):
                step(*first)
            for old, new in zip(first, second, strict=True):
                new.load_state_dict(through_file(old.state_dict()))
            assert [step(*second) for _ in range(15)] == [step(*first) for _ in range(15)], name


def test_generators_come_back_where_they_were():
    generator = tg.Generator().manual_seed(7)
    tg.rand(5, generator=generator)
    back = through_file({"tapegrad": generator, "numpy": np.random.default_rng(3).bit_generator.state})
    assert tg.equal(tg.rand(4, generator=back["tapegrad"]), tg.rand(4, generator=generator))
    numpy_generator = np.random.default_rng()
    numpy_generator.bit_generator.state = back["numpy"]
    assert numpy_generator.random() == np.random.default_rng(3).random()


def test_safetensors_reads_the_tensors_by_their_names(tmp_path):
    model = tg.nn.Linear(2, 3)
    tg.save({"model": model.state_dict(), "step": 1}, tmp_path / "model.safetensors")
    found = load_file(tmp_path / "model.safetensors")
    assert sorted(found) == ["model.bias", "model.weight"]
    np.testing.assert_array_equal(found["model.weight"], model.weight.detach().numpy())


def test_safetensors_of_others_are_read_and_narrow_dtypes_widened(tmp_path):
    arrays = {"half": np.float16([0.5, 65504, np.inf]), "i1": np.int8([-128, 127]), "u2": np.uint16([0, 65535])}
    arrays |= {"u4": np.uint32([2**32 - 1]), "f8": np.float64([[0.1]])}
    save_safetensors(arrays, tmp_path / "a.safetensors", {"format": "pt"})
    back = tg.load(tmp_path / "a.safetensors")
    assert {name: x.dtype.name for name, x in back.items()} == {
        "half": "float32", "i1": "int32", "u2": "int32", "u4": "int64", "f8": "float64",
    }  # fmt: skip
    assert all(np.array_equal(back[name].numpy(), array) for name, array in arrays.items())
    save_safetensors({"a": np.uint64([1])}, tmp_path / "b.safetensors")
    with pytest.raises(CheckpointError, match="uint64"):
        tg.load(tmp_path / "b.safetensors")


def test_mapped_tensors_are_read_when_used_and_written_to_in_memory_only(tmp_path):
    tg.save({"x": tg.arange(1000.0)}, tmp_path / "a")
    before = (tmp_path / "a").read_bytes()
    x = tg.load(tmp_path / "a", mmap=True)["x"]
    x += 1
    assert x[5].item() == 6 and (tmp_path / "a").read_bytes() == before


def test_torch_s_arguments_are_accepted(tmp_path):
    tg.save(tg.ones(2), tmp_path / "a", pickle_protocol=2)
    for location in (None, "cpu", tg.device("cpu"), {"cuda:0": "cpu"}, lambda storage, where: storage):
        assert tg.load(tmp_path / "a", map_location=location, weights_only=True).shape == (2,)
    with pytest.raises(RuntimeError, match="on the CPU only"):
        tg.load(tmp_path / "a", map_location="cuda:0")


# ---- what is not saved ----


class Point(tuple):
    __slots__ = ()


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"a": [0, tg.nn.ReLU()]}, r"ReLU is not saved \(at \['a'\]\[1\]\): save its state_dict"),
        ([object()], r"builtins.object is not saved \(at \[0\]\)"),
        (lambda: 0, "function is not saved"),
        (Point([1]), "Point is not saved"),
        ({object(): 1}, "object as the key"),
        (np.array(["a"]), "array of <U1"),
        (np.array([object()]), "array of object"),
    ],
)
def test_what_is_not_saved_is_named_and_no_file_is_left(value, words, tmp_path):
    with pytest.raises(TypeError, match=words):
        tg.save(value, tmp_path / "a")
    assert list(tmp_path.iterdir()) == []


def test_values_that_contain_themselves_or_are_too_deep():
    loop = []
    loop.append(loop)
    with pytest.raises(ValueError, match="contains itself"):
        tg.save(loop, io.BytesIO())
    deep = 0
    for _ in range(300):
        deep = [deep]
    with pytest.raises(ValueError, match="nested more than 200"):
        tg.save(deep, io.BytesIO())


# ---- writing ----


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "a.ckpt"
    tg.save({"x": 1}, path)

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(atomic.os, "fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        tg.save({"x": 2}, path)
    monkeypatch.undo()
    assert tg.load(path) == {"x": 1} and [item.name for item in tmp_path.iterdir()] == ["a.ckpt"]


def test_the_bytes_are_on_the_disk_before_the_name_is(tmp_path, monkeypatch):
    calls = []
    for name in ("fsync", "replace"):
        real = getattr(os, name)

        def noted(*args, name=name, real=real):
            folder = name == "fsync" and stat.S_ISDIR(os.fstat(args[0]).st_mode)
            calls.append(f"{name} of folder" if folder else name)
            return real(*args)

        monkeypatch.setattr(atomic.os, name, noted)
    tg.save([1], tmp_path / "a")
    assert calls == ["fsync", "replace", "fsync of folder"]


def test_leftovers_of_killed_writers_go_and_links_stay(tmp_path):
    path = tmp_path / "a[1].ckpt"
    dead = tmp_path / f".{path.name}.{atomic._host()}.999999999.ab.tmp"
    alive = tmp_path / f".{path.name}.{atomic._host()}.{os.getppid()}.ab.tmp"
    for leftover in (dead, alive):
        leftover.write_bytes(b"")
    (tmp_path / "link").symlink_to(path)
    tg.save(1, tmp_path / "link")
    assert sorted(item.name for item in tmp_path.iterdir()) == sorted([alive.name, "link", path.name])
    assert (tmp_path / "link").is_symlink() and tg.load(path) == 1
    assert path.stat().st_mode & 0o777 == 0o666 & ~_umask()


def _umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


# ---- damaged files ----


@pytest.fixture(scope="module")
def good():
    file = io.BytesIO()
    value = {"w": tg.arange(12.0).reshape(3, 4), "b": tg.tensor([True, False]), "n": [1, 2.5, "text", None], 3: (4,)}
    tg.save(value, file)
    return file.getvalue()


def load_bytes(data):
    return tg.load(io.BytesIO(bytes(data)))


def test_every_flipped_bit_is_found(good):
    random = np.random.default_rng(0)
    for place in range(len(good)):
        data = bytearray(good)
        data[place] ^= 1 << random.integers(8)
        with pytest.raises(CheckpointError):
            load_bytes(data)


def test_every_truncation_and_addition_is_found(good):
    for length in range(len(good)):
        with pytest.raises(CheckpointError):
            load_bytes(good[:length])
    with pytest.raises(CheckpointError):
        load_bytes(good + b"\0")


def test_random_damage_is_found(good):
    random = np.random.default_rng(1)
    for _ in range(1000):
        data = np.frombuffer(good, np.uint8).copy()
        first, last = sorted(random.integers(0, len(data) + 1, 2))
        data[first:last] = random.integers(0, 256, last - first)
        if data.tobytes() != good:
            with pytest.raises(CheckpointError):
                load_bytes(data)


def test_random_bytes_are_no_checkpoint():
    random = np.random.default_rng(2)
    for size in range(200):
        with pytest.raises(CheckpointError):
            load_bytes(random.integers(0, 256, size).astype(np.uint8))


def raw(header, data=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def entry(shape=(1,), offsets=(0, 4), dtype="F32"):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


HOSTILE = [
    (b"", "truncated, or no checkpoint"),
    (struct.pack("<Q", 2**63) + b"{}", "its header should have"),
    (struct.pack("<Q", 90_000_000) + b"{}", "its header should have"),
    (raw(b"[" * 50_000), "no JSON"),
    (raw(b'{"a":' * 50_000), "no JSON"),
    (raw(b"[]"), "no JSON object"),
    (raw(b'{"a":NaN}'), "NaN is no JSON"),
    (raw(b"{" + b'"a":1' + b"0" * 10_000 + b"}"), "no JSON|malformed"),
    (raw(b"\xff\xfe"), "no JSON"),
    (raw(b'{"a":{"dtype":"F32","dtype":"F32","shape":[],"data_offsets":[0,4]}}', b"0000"), "twice"),
    (raw({"a": 5}), "malformed"),
    (raw({"a": entry(dtype="F8_E4M3")}, b"0000"), "not read"),
    (raw({"a": entry(dtype=["F32"])}, b"0000"), "not read"),
    (raw({"a": entry(shape=(-1,))}, b"0000"), "shape"),
    (raw({"a": entry(shape=(1.0,))}, b"0000"), "shape"),
    (raw({"a": entry(shape=(2**62, 2**62, 0), offsets=(0, 0))}), "has the shape"),
    (raw({"a": entry(shape=(2**40,))}, b"0000"), "lies at the bytes"),
    (raw({"a": entry(offsets=(0, 400))}, b"0000"), "lies at the bytes"),
    (raw({"a": entry(offsets=(4, 0))}, b"0000"), "lies at the bytes"),
    (raw({"a": entry(offsets=(0, 4, 8))}, b"0000"), "lies at the bytes"),
    (raw({"a": entry(), "b": entry()}, b"0000"), "begins at byte 0, expected 4"),
    (raw({"a": entry(offsets=(4, 8))}, b"00000000"), "begins at byte 4, expected 0"),
    (raw({"a": entry()}, b"00000"), "end at byte 4 of 5"),
    (raw({"a": entry(shape=(1,) * 9)}, b"0000"), "9 dimensions"),
    (raw({"a": entry(dtype="BOOL", offsets=(0, 1))}, b"\x02"), "other than 0 and 1"),
    (raw({"__metadata__": 3}), "metadata"),
    (raw({"__metadata__": {"a": 3}}), "metadata"),
    (raw({"__metadata__": {"structure": "1"}}), "metadata"),
    (b"\x80\x04\x95cos\nsystem\n", "may run any code"),
    (b"\x93NUMPY\x01\x00", "numpy.load"),
]


@pytest.mark.parametrize(("data", "words"), HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_files(data, words):
    with pytest.raises(CheckpointError, match=words):
        load_bytes(data)


STRUCTURES = [
    ("[" * 5000, "no JSON|nested"),
    ('{"tuple":[' * 201 + "1" + "]}" * 201, "nested more than 200"),
    ('{"tensor":{"name":"b","requires_grad":false}}', "'b', which is not there"),
    ("5", "does not mention"),
    ('{"tensor":{"name":"a"}}', "malformed"),
    ('{"tensor":{"name":["a"],"requires_grad":false}}', "which is not there"),
    ('[{"array":"a"},{"again":7}]', "malformed"),
    ('[{"array":"a"},{"again":-1}]', "malformed"),
    ('[{"array":"a"},{"__class__":"os.system"}]', "malformed"),
    ('[{"array":"a"},{"eval":"1"}]', "malformed"),
    ('[{"array":"a"},{"dict":[[[1],2]]}]', "malformed"),
    ('[{"array":"a"},{"dict":[[1,2],[1,3]]}]', "key twice"),
    ('[{"array":"a"},{"dict":{"a":1}}]', "malformed"),
    ('[{"array":"a"},{"set":[[1]]}]', "malformed"),
    ('[{"array":"a"},{"bytes":"?"}]', "malformed"),
    ('[{"array":"a"},{"dtype":"float8"}]', "malformed"),
    ('[{"array":"a"},{"generator":[1]}]', "malformed"),
    ('[{"array":"a"},{"state_dict":[1,2]}]', "malformed"),
]


@pytest.mark.parametrize(("structure", "words"), STRUCTURES, ids=range(len(STRUCTURES)))
def test_hostile_structures_with_the_right_checksum(structure, words):
    data = b"".join(bytes(part) for part in pack({"a": np.float32([1])}, structure))
    with pytest.raises(CheckpointError, match=words):
        load_bytes(data)


def test_an_integer_tensor_cannot_be_made_to_require_a_gradient():
    data = pack({"a": np.int64([1])}, '{"tensor":{"name":"a","requires_grad":true}}')
    with pytest.raises(CheckpointError, match="cannot require a gradient"):
        load_bytes(b"".join(bytes(part) for part in data))


def test_errors_name_the_file(tmp_path):
    (tmp_path / "broken.ckpt").write_bytes(b"abc")
    with pytest.raises(CheckpointError, match=r"broken\.ckpt: truncated"):
        tg.load(tmp_path / "broken.ckpt")
    with pytest.raises(FileNotFoundError):
        tg.load(tmp_path / "absent")
    with pytest.raises(TypeError, match="'rb'"):
        tg.load(io.StringIO("a"))


def test_a_later_version_is_refused(good):
    data = good.replace(b'"version":"1"', b'"version":"2"')
    with pytest.raises(CheckpointError, match="of version 2"):
        load_bytes(data)
