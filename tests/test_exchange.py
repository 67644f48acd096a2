"""Tensors in other hands: NumPy, DLPack, pickle, copy."""

import copy
import gc
import pickle

import numpy as np
import pytest

import tapegrad as tg
from tapegrad.runtime.machine import machine


def test_from_numpy_shares_memory_both_ways() -> None:
    array = np.arange(6.0).reshape(2, 3)
    tensor = tg.from_numpy(array)
    tensor.add_(1)
    array[0, 0] = 9
    assert tensor.tolist() == [[9, 2, 3], [4, 5, 6]] and array[1, 2] == 6


def test_from_numpy_takes_strided_arrays() -> None:
    array = np.arange(12.0).reshape(3, 4)
    assert tg.from_numpy(array.T).stride() == (1, 4)
    assert tg.from_numpy(array[::2, 1::2]).tolist() == array[::2, 1::2].tolist()


@pytest.mark.parametrize(
    ("array", "error", "text"),
    [
        (np.arange(3.0)[::-1], ValueError, "negative"),
        (np.arange(3, dtype=">f4"), ValueError, "byte order"),
        (np.zeros(3, complex), TypeError, "supported types"),
        (np.zeros(3, np.float16), TypeError, "supported types"),
        (np.array(["a"]), TypeError, "supported types"),
        (np.ndarray((3,), np.float32, bytes(24), 0, (6,)), ValueError, "multiple"),
        (np.zeros((1,) * 9), RuntimeError, "at most 8 dimensions"),
    ],
)
def test_from_numpy_refuses(array: np.ndarray, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        tg.from_numpy(array)


def test_a_read_only_array_is_not_written_to() -> None:
    array = np.ones(3)
    array.flags.writeable = False
    tensor = tg.from_numpy(array)
    with pytest.raises(RuntimeError, match="not writable"):
        tensor.add_(1)
    assert (tensor + 1).tolist() == [2, 2, 2]
    assert not tensor.numpy().flags.writeable


def test_numpy_keeps_the_memory_alive() -> None:
    array = tg.tensor(np.arange(1000.0)).numpy()
    gc.collect()
    other = [tg.tensor(np.zeros(1000)) for _ in range(10)]
    assert array.sum() == 499500 and len(other) == 10


def test_a_tensor_keeps_the_array_alive_and_lets_it_go() -> None:
    before = len(machine.owners)
    tensor = tg.from_numpy(np.ones(3))
    assert len(machine.owners) == before + 1
    del tensor
    assert len(machine.owners) == before


def test_numpy_of_a_tensor_that_requires_grad() -> None:
    tensor = tg.tensor([1.0], requires_grad=True)
    with pytest.raises(RuntimeError, match=r"detach\(\).numpy\(\)"):
        tensor.numpy()
    assert tensor.numpy(force=True) == [1.0]


def test_numpy_scalars_mix() -> None:
    x = tg.tensor([1.0, 2.0], requires_grad=True)
    y = np.float64(3) * x + np.float32(1)
    assert isinstance(y, tg.Tensor) and y.requires_grad and y.tolist() == [4.0, 7.0]
    assert y.dtype is tg.float32


def test_dlpack_both_ways() -> None:
    array = np.from_dlpack(tg.tensor([1.0, 2.0]))
    assert array.tolist() == [1, 2]
    source = np.arange(3.0)
    tensor = tg.from_dlpack(source)
    source[0] = 5
    assert tensor.tolist() == [5, 1, 2]
    with pytest.raises(BufferError, match="detach"):
        np.from_dlpack(tg.tensor([1.0], requires_grad=True))
    with pytest.raises(TypeError, match="__dlpack__"):
        tg.from_dlpack([1, 2])


def test_dlpack_with_torch() -> None:
    torch = pytest.importorskip("torch")
    tensor = tg.from_dlpack(torch.arange(4).reshape(2, 2).T)
    assert tensor.tolist() == [[0, 2], [1, 3]]
    assert torch.from_dlpack(tg.tensor([1, 2])).tolist() == [1, 2]


@pytest.mark.parametrize("dtype", ["bool", "uint8", "int32", "int64", "float32", "float64"])
def test_pickle_keeps_everything(dtype: str) -> None:
    tensor = tg.tensor(np.arange(6).reshape(2, 3).astype(dtype))
    tensor.note = "kept"
    again = pickle.loads(pickle.dumps(tensor))
    assert again.dtype is tensor.dtype and again.tolist() == tensor.tolist() and again.note == "kept"


def test_copies_of_leaves() -> None:
    x = tg.tensor([1.0, 2.0], requires_grad=True)
    x.grad = tg.tensor([3.0, 4.0])
    deep = copy.deepcopy(x)
    assert deep.requires_grad and deep.tolist() == [1, 2] and deep.grad.tolist() == [3, 4]
    deep.grad.add_(1)
    assert x.grad.tolist() == [3, 4]
    shallow = copy.copy(x)
    assert shallow.requires_grad and shallow.data_ptr() == x.data_ptr()


def test_only_leaves_are_copied_and_pickled() -> None:
    y = tg.tensor([1.0], requires_grad=True) * 2
    for action in (copy.deepcopy, pickle.dumps):
        with pytest.raises(RuntimeError, match="graph leaves"):
            action(y)


@pytest.mark.parametrize(
    ("data", "error"),
    [([[1, 2], [3]], ValueError), ("abc", TypeError), ([1, "a"], TypeError), ([1, None], TypeError), (1j, TypeError)],
)
def test_tensor_refuses(data: object, error: type[Exception]) -> None:
    with pytest.raises(error):
        tg.tensor(data)


def test_tensor_takes_nested_tensors_and_defaults() -> None:
    x = tg.tensor([tg.tensor(1.0), tg.tensor(2.0)])
    assert x.tolist() == [1, 2] and x.dtype is tg.float32
    assert tg.tensor([1, 2.5]).dtype is tg.float32 and tg.tensor(np.float64(1)).dtype is tg.float64
    assert tg.tensor([0.1], dtype=tg.float64).item() == 0.1
    assert tg.tensor([True]).dtype is tg.bool and tg.tensor([]).dtype is tg.float32
    with pytest.raises(RuntimeError, match="floating point"):
        tg.tensor([1], requires_grad=True)
