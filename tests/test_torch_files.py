"""torch's .pt files: tensors in plain containers are read; anything else is named and refused, and nothing is run."""

import io
import pickle
import zipfile
from collections import OrderedDict

import numpy as np
import pytest

import tapegrad as tg
from tapegrad.serialization import CheckpointError


def archive(pickled, records=(), compression=zipfile.ZIP_STORED, folder="model"):
    """Return a file as torch.save lays it out."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as out:
        for name, data in (("data.pkl", pickled), ("byteorder", b"little"), *records):
            out.writestr(f"{folder}/{name}", data)
    return file.getvalue()


def load_bytes(data):
    return tg.load(io.BytesIO(data))


# What torch 2.13 writes for {"w": torch.arange(6.).reshape(2, 3).t()}, protocol 2, without the memo.
STORAGE = b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x06tQ"
REBUILD = b"ctorch._utils\n_rebuild_tensor_v2\n("


def view(offset=b"K\x00", shape=b"K\x03K\x02\x86", strides=b"K\x01K\x03\x86", storage=STORAGE):
    return REBUILD + storage + offset + shape + strides + b"\x89ccollections\nOrderedDict\n)RtR"


def mapping(value):
    return b"\x80\x02}X\x01\x00\x00\x00w" + value + b"s."


NUMBERS = ("data/0", np.arange(6, dtype="<f4").tobytes())


def test_a_tensor_as_torch_writes_it():
    w = load_bytes(archive(mapping(view()), [NUMBERS]))["w"]
    np.testing.assert_array_equal(w.numpy(), np.arange(6).reshape(2, 3).T)


class Evil:
    def __reduce__(self):
        return print, ("this must not be run",)


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_nothing_is_run(protocol, capsys):
    data = archive(pickle.dumps({"a": Evil()}, protocol))
    with pytest.raises(CheckpointError, match=r"names '(builtins|__builtin__)\.print'"):
        load_bytes(data)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (view(offset=b"K\x01"), "in a storage"),
        (view(shape=b"K\x04K\x02\x86"), "in a storage"),
        (view(strides=b"K\x01M\xff\xff\x86"), "in a storage"),
        (view(strides=b"K\x01J\xff\xff\xff\xff\x86"), "impossible sizes"),
        (view(shape=b"J\xff\xff\xff\xffK\x02\x86"), "impossible sizes"),
        (view(shape=b"K\x03\x85"), "1 dimensions and 2 strides"),
        (view(shape=b"\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x0fK\x02\x86", strides=b"K\x00K\x00\x86"), "in a storage"),
        (view(offset=b"G\x00\x00\x00\x00\x00\x00\x00\x00"), "impossible sizes"),
        (view(storage=STORAGE.replace(b"K\x06", b"K\x07")), "24 bytes for 7"),
        (view(storage=STORAGE.replace(b"\x000X", b"\x001X")), "'data/1' is not there"),
        (view(storage=STORAGE.replace(b"FloatStorage", b"ComplexFloatStorage")), "names 'torch.ComplexFloatStorage'"),
        (b"(lp0\n0", "malformed|opcode"),
        (b"K\x05K\x05\x86b", "malformed"),
        (b"ctorch\nSize\nK\x05\x85R", "malformed"),
        (b"\x94h\x05", "malformed"),
        (b"(((", "malformed"),
        (b"]q\x00h\x00a", "contains itself"),
        (b"K\x05" + b"\x85" * 5000, "nested too deep"),
        (b"cos\nsystem\n", "names 'os.system'"),
        (b"ctorch._utils\n_rebuild_tensor_v2\n", "only tensors are read"),
    ],
)
def test_hostile_pickles(value, words):
    with pytest.raises(CheckpointError, match=words):
        load_bytes(archive(mapping(value), [NUMBERS]))


def test_many_references_to_one_list_cost_no_memory():
    laughs = []
    for _ in range(100):
        laughs = [laughs] * 10
    back = load_bytes(archive(pickle.dumps(laughs, 2)))
    assert len(back) == 10 and back[0] is back[9]


def test_files_that_are_no_archive_of_torch(tmp_path):
    good = archive(mapping(view()), [NUMBERS])
    for length in range(4, len(good), 7):
        with pytest.raises(CheckpointError):
            load_bytes(good[:length])
    with pytest.raises(CheckpointError, match="packed"):
        load_bytes(archive(mapping(view()), [NUMBERS], zipfile.ZIP_DEFLATED))
    with pytest.raises(CheckpointError, match="TorchScript"):
        load_bytes(archive(mapping(view()), [NUMBERS, ("constants.pkl", b"")]))
    with pytest.raises(CheckpointError, match=r"without data\.pkl"):
        load_bytes(archive(b"", folder="").replace(b"data.pkl", b"date.pkl"))
    damaged = bytearray(good)
    damaged[good.index(NUMBERS[1])] ^= 1
    with pytest.raises(CheckpointError, match="CRC"):
        load_bytes(bytes(damaged))
    with pytest.raises(CheckpointError, match="torch's format from before"):
        load_bytes(b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19." + b"\x80\x02")


def test_random_damage_never_does_more_than_an_error():
    good, random = archive(mapping(view()), [NUMBERS]), np.random.default_rng(0)
    for _ in range(1000):
        data = np.frombuffer(good, np.uint8).copy()
        data[random.integers(0, len(data), 3)] = random.integers(0, 256, 3)
        try:
            back = load_bytes(data.tobytes())
        except CheckpointError:
            continue
        # dates and the like: what is read has the records' checksums
        np.testing.assert_array_equal(next(iter(back.values())).numpy(), np.arange(6).reshape(2, 3).T)


def test_torch_writes_what_is_read(tmp_path):
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.randn(5, 3)).square().sum().backward()
    optimizer.step()
    tied = torch.ones(3)
    value = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "narrow": [torch.randn(9).to(d) for d in (torch.half, torch.bfloat16, torch.int8, torch.int16, torch.uint16)],
        "plain": (1, 2.5, None, True, "a", b"b", {1, 2}, torch.Size([2]), torch.float32, torch.device("cpu")),
        "tied": [tied, tied],
        "parameter": torch.nn.Parameter(torch.ones(2)),
        "empty": torch.zeros(0, 3),
        "ordered": OrderedDict(a=1),
    }
    torch.save(value, tmp_path / "a.pt")
    back = tg.load(tmp_path / "a.pt", map_location="cpu", weights_only=True)
    for name, tensor in value["model"].items():
        assert str(back["model"][name].dtype).split(".")[1] == str(tensor.dtype).split(".")[1]
        np.testing.assert_array_equal(back["model"][name].numpy(), tensor.numpy())
    assert back["model"]._metadata == value["model"]._metadata
    assert back["optimizer"]["param_groups"] == value["optimizer"]["param_groups"]
    moment = back["optimizer"]["state"][0]["exp_avg"]
    np.testing.assert_array_equal(moment.numpy(), value["optimizer"]["state"][0]["exp_avg"].numpy())
    for mine, theirs in zip(back["narrow"], value["narrow"], strict=True):
        np.testing.assert_array_equal(mine.numpy(), theirs.to(torch.float32).numpy())
    assert back["plain"] == (1, 2.5, None, True, "a", b"b", {1, 2}, (2,), tg.float32, back["plain"][9])
    assert back["tied"][0] is back["tied"][1]
    assert isinstance(back["parameter"], tg.nn.Parameter) and back["empty"].shape == (0, 3)


def test_torch_s_modules_and_old_files_are_refused(tmp_path):
    torch = pytest.importorskip("torch")
    torch.save(torch.nn.Linear(1, 1), tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match=r"torch\.nn\.modules\.linear\.Linear"):
        tg.load(tmp_path / "a.pt")
    torch.save([torch.ones(1)], tmp_path / "b.pt", _use_new_zipfile_serialization=False)
    with pytest.raises(CheckpointError, match="convert it"):
        tg.load(tmp_path / "b.pt")
