"""Data loading: data sets, samplers, collating, batches gathered in compiled code, resuming in mid-epoch."""

import itertools
from collections import Counter, OrderedDict, UserDict, defaultdict, namedtuple

import numpy as np
import pytest

import tapegrad as tg
from tapegrad.ops.calls import call_several
from tapegrad.ops.rows import ROWS
from tapegrad.utils.data import (
    BatchSampler,
    ChainDataset,
    ConcatDataset,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    Sampler,
    SequentialSampler,
    StackDataset,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
    default_collate,
    default_convert,
    random_split,
)
from tapegrad.utils.data import dataloader as dataloader_file

Pair = namedtuple("Pair", "x y")


class Squares(Dataset):
    """Samples (k, k * k) that count how often they are asked for."""

    def __init__(self, length):
        self.length, self.asked = length, []

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        self.asked.append(index)
        return tg.tensor(index), float(index * index)


class Counting(IterableDataset):
    def __init__(self, length):
        self.length = length

    def __iter__(self):
        return iter(range(self.length))


# ---- data sets ----


def test_tensor_datasets_take_arrays_and_refuse_unequal_lengths():
    array = np.arange(12.0).reshape(6, 2)
    data = TensorDataset(tg.arange(6), array)
    number, row = data[-1]
    assert number.item() == 5 and row.tolist() == [10, 11] and len(data) == 6
    array[5, 0] = -1
    assert data[5][1].tolist() == [-1, 11]
    for wrong in ((tg.zeros(3), tg.zeros(4)), (tg.zeros(()),)):
        with pytest.raises(AssertionError, match="Size mismatch"):
            TensorDataset(*wrong)


def test_data_sets_made_of_others():
    both = ConcatDataset([range(3), range(10, 12)]) + Subset(range(100), [50, 60])
    assert [both[k] for k in range(len(both))] == [0, 1, 2, 10, 11, 50, 60] and both[-1] == 60
    with pytest.raises(ValueError, match="absolute value"):
        both[-8]
    with pytest.raises(IndexError):
        both[7]
    with pytest.raises(AssertionError, match="empty iterable"):
        ConcatDataset([])
    chain = Counting(2) + Counting(3)
    assert isinstance(chain, ChainDataset) and list(chain) == [0, 1, 0, 1, 2]
    assert StackDataset(range(3), "abc")[1] == (1, "b")
    assert StackDataset(x=range(3), y="abc")[2] == {"x": 2, "y": "c"}
    with pytest.raises(ValueError, match="Size mismatch"):
        StackDataset(range(3), range(4))
    with pytest.raises(NotImplementedError):
        Dataset()[0]


def test_random_split():
    parts = random_split(range(10), [3, 7], tg.Generator().manual_seed(0))
    assert sorted(itertools.chain(*map(list, ([p[k] for k in range(len(p))] for p in parts)))) == list(range(10))
    assert [len(part) for part in random_split(range(11), [0.5, 0.3, 0.2])] == [6, 3, 2]
    with pytest.raises(ValueError, match="Sum of input lengths"):
        random_split(range(10), [3, 6])
    with pytest.raises(ValueError, match="not between 0 and 1"):
        random_split(range(10), [1.5, -0.5])


# ---- samplers ----


def test_samplers_draw_what_they_promise():
    assert list(SequentialSampler("abc")) == [0, 1, 2]
    assert sorted(RandomSampler(range(50))) == list(range(50)) != list(RandomSampler(range(50)))
    rounds = Counter(RandomSampler(range(4), num_samples=10))
    assert sum(rounds.values()) == 10 and set(rounds.values()) <= {2, 3}
    drawn = list(RandomSampler(range(4), replacement=True, num_samples=100))
    assert len(drawn) == 100 and set(drawn) == {0, 1, 2, 3}
    assert sorted(SubsetRandomSampler([5, 7, 9])) == [5, 7, 9]
    weighted = Counter(WeightedRandomSampler([0, 1, 3], 4000))
    assert weighted[0] == 0 and 0.2 < weighted[1] / 4000 < 0.3
    assert sorted(WeightedRandomSampler([1, 0, 1], 2, replacement=False)) == [0, 2]
    assert list(BatchSampler(range(5), 2, True)) == [[0, 1], [2, 3]] and len(BatchSampler(range(5), 2, False)) == 3


@pytest.mark.parametrize(
    "make",
    [
        lambda: RandomSampler(range(3), num_samples=0),
        lambda: RandomSampler(range(3), num_samples=1.5),
        lambda: WeightedRandomSampler([1.0], 0),
        lambda: WeightedRandomSampler([[1.0]], 1),
        lambda: WeightedRandomSampler([1.0], 1, replacement=1),
        lambda: BatchSampler(range(3), 0, False),
        lambda: BatchSampler(range(3), 1, 0),
    ],
)
def test_samplers_refuse(make):
    with pytest.raises(ValueError, match=r"should be"):
        make()


def test_a_generator_decides_the_order_and_the_seed_its_own():
    orders = [list(RandomSampler(range(20), generator=tg.Generator().manual_seed(3))) for _ in range(2)]
    assert orders[0] == orders[1]
    tg.manual_seed(0)
    first = list(RandomSampler(range(20)))
    tg.manual_seed(0)
    assert list(RandomSampler(range(20))) == first != list(RandomSampler(range(20)))


# ---- collating ----


def test_collating_as_torch_does():
    batch = default_collate([(tg.ones(2), 1, 0.5, "a", True), (tg.zeros(2), 2, 1.5, "b", False)])
    assert type(batch) is list and batch[3] == ["a", "b"]
    assert [part.dtype for k, part in enumerate(batch) if k != 3] == [tg.float32, tg.int64, tg.float64, tg.bool]
    assert batch[0].shape == (2, 2)
    arrays = default_collate([np.float32([1, 2]), np.float32([3, 4])])
    assert arrays.dtype is tg.float32 and arrays.tolist() == [[1, 2], [3, 4]]
    assert default_collate([np.int64(3), np.int64(4)]).tolist() == [3, 4]
    pair = default_collate([Pair(1, {"a": 2.0}), Pair(3, {"a": 4.0})])
    assert type(pair) is Pair and pair.x.tolist() == [1, 3] and pair.y["a"].dtype is tg.float64
    for kind in (OrderedDict, UserDict, lambda items: defaultdict(list, items)):
        result = default_collate([kind({"k": 1}), kind({"k": 2})])
        assert type(result) is type(kind({})) and result["k"].tolist() == [1, 2]
    assert default_collate([[1, (2, 3)], [4, (5, 6)]])[1][0].tolist() == [2, 5]


@pytest.mark.parametrize(
    ("batch", "kind", "words"),
    [
        ([{"a": [0, object()]}] * 2, TypeError, r"found <class 'object'> at sample\['a'\]\[1\]"),
        ([None, None], TypeError, "must contain tensors, numpy arrays"),
        ([np.array(["a"])], TypeError, "array of <U1"),
        ([tg.ones(2), tg.ones(3)], RuntimeError, r"got \[2\] at entry 0 and \[3\] at entry 1"),
        ([(0, np.ones(2)), (0, np.ones((2, 1)))], RuntimeError, r"entry 1 at sample\[1\]"),
        ([[1, 2], [1]], RuntimeError, "equal size"),
        ([(tg.ones(1),), ("a",)], TypeError, r"a Tensor where another has a str at sample\[0\]"),
    ],
)
def test_what_does_not_collate_is_named(batch, kind, words):
    with pytest.raises(kind, match=words):
        default_collate(batch)


def test_converting():
    converted = default_convert({"a": np.ones(2), "b": ("x", [np.float32(2)]), "c": Pair(1, object)})
    assert isinstance(converted["a"], tg.Tensor) and converted["b"][1][0].dtype is tg.float32
    assert converted["c"] == Pair(1, object) and default_convert("a") == "a"


# ---- loaders ----


def gathered(loader):
    """Return the batches as lists."""
    return [[part.tolist() for part in batch] if isinstance(batch, list) else batch.tolist() for batch in loader]


class Slow(TensorDataset):
    """A data set that the fast path does not know, since it could do something of its own."""


TENSORS = (tg.arange(23), tg.rand(23, 2, 3), np.arange(23, dtype=np.uint8), tg.rand(23) > 0.5)


@pytest.mark.parametrize("named", [{}, {"shuffle": True}, {"shuffle": True, "drop_last": True}, {"batch_size": 23}])
@pytest.mark.parametrize("view", [lambda data: data, lambda data: Subset(Subset(data, range(20, 3, -1)), range(1, 16))])
def test_batches_gathered_in_compiled_code_are_those_of_single_samples(named, view):
    named = {"batch_size": 5} | named
    fast, slow = (
        DataLoader(view(kind(*TENSORS)), generator=tg.Generator().manual_seed(4), **named)
        for kind in (TensorDataset, Slow)
    )
    for _ in range(2):
        mine, theirs = list(fast), list(slow)
        assert len(mine) == len(theirs) == len(fast) and type(mine[0]) is type(theirs[0]) is list
        for a, b in zip(itertools.chain(*mine), itertools.chain(*theirs), strict=True):
            assert a.dtype is b.dtype and tg.equal(a, b)


def test_the_fast_path_takes_tensors_arrays_and_stacks_of_them(monkeypatch):
    monkeypatch.setattr(dataloader_file, "make_fetch", None)
    x, y = tg.rand(6, 3).t().contiguous().t(), np.arange(6.0)[::1]
    assert gathered(DataLoader(x, 4)) == [x[:4].tolist(), x[4:].tolist()]
    assert gathered(DataLoader(y, 4)) == [[0, 1, 2, 3], [4, 5]]
    assert gathered(DataLoader(StackDataset(x, y), 6)) == [[x.tolist(), y.tolist()]]
    (batch,) = DataLoader(StackDataset(x=x, pair=TensorDataset(y, x)), 6)
    assert batch["x"].tolist() == x.tolist() and batch["pair"][0].tolist() == y.tolist()
    assert gathered(DataLoader(y, sampler=[3, -1, 0], batch_size=2)) == [[3, 5], [0]]
    assert gathered(DataLoader(y, batch_sampler=[[1], [2, 2, 2], []])) == [[1], [2, 2, 2], []]
    assert gathered(DataLoader(y, batch_sampler=[np.array([1, 2]), tg.tensor([3]), (tg.tensor(0),)])) == [
        [1, 2],
        [3],
        [0],
    ]
    assert gathered(DataLoader(y, 4, num_workers=2)) == [[0, 1, 2, 3], [4, 5]]
    with pytest.raises(IndexError, match="index 6 is out of bounds"):
        list(DataLoader(TensorDataset(y), sampler=[6]))


def test_a_batch_is_a_copy():
    x = tg.zeros(4)
    for batch in DataLoader(x, 2):
        batch += 1
    assert x.sum().item() == 0


def test_what_needs_a_gradient_goes_sample_by_sample():
    x = tg.ones(4, 2, requires_grad=True)
    (batch,) = DataLoader(TensorDataset(x), 4)
    batch[0].sum().backward()
    assert x.grad.tolist() == [[1, 1]] * 4


def test_rows_are_checked_before_anything_is_read():
    x, order = tg.rand(5, 4, 3).transpose(1, 2), tg.tensor([3, -1, 0])
    (result, *_) = call_several(ROWS, order, x, None, None, attributes=(1, 2))
    np.testing.assert_array_equal(result.numpy(), x.numpy()[[-1, 0]])
    for wrong in ((0, 4), (-1, 2), (2, -1)):
        with pytest.raises(RuntimeError):
            call_several(ROWS, order, x, None, None, attributes=wrong)
    for outside in (5, -6, 2**62):
        with pytest.raises(IndexError):
            call_several(ROWS, tg.tensor([outside]), x, None, None, attributes=(0, 1))
    with pytest.raises(RuntimeError, match="not implemented for float32"):
        call_several(ROWS, tg.rand(3), x, None, None, attributes=(0, 1))


def test_single_samples_and_own_functions():
    data = Squares(5)
    assert [(k.item(), square) for k, square in DataLoader(data, batch_size=None)] == [
        (k, float(k * k)) for k in range(5)
    ]
    assert list(DataLoader(range(5), 2, collate_fn=sum)) == [1, 5, 4]
    assert gathered(DataLoader(data, 2, sampler=[4, 0, 3]))[0][0] == [4, 0]
    assert data.asked[-3:] == [4, 0, 3]

    class Several(Squares):
        def __getitems__(self, indices):
            return [-k for k in indices]

    assert gathered(DataLoader(Several(3), 3)) == [[0, -1, -2]]


def test_iterable_data_sets():
    assert gathered(DataLoader(Counting(5), 2)) == [[0, 1], [2, 3], [4]]
    assert gathered(DataLoader(Counting(5), 2, drop_last=True)) == [[0, 1], [2, 3]]
    assert list(DataLoader(Counting(3), batch_size=None)) == [0, 1, 2]
    with pytest.raises(TypeError):
        len(DataLoader(Counting(5)))


def test_an_empty_data_set_has_no_batches():
    assert list(DataLoader(TensorDataset(tg.zeros(0, 3)))) == [] == list(DataLoader([]))
    assert list(DataLoader(TensorDataset(tg.zeros(0, 3)), shuffle=True)) == []


@pytest.mark.parametrize(
    ("named", "words"),
    [
        ({"num_workers": -1}, "non-negative"),
        ({"timeout": -1}, "non-negative"),
        ({"prefetch_factor": 2}, "num_workers > 0"),
        ({"persistent_workers": True}, "num_workers > 0"),
        ({"multiprocessing_context": "spawn"}, "num_workers > 0"),
        ({"multiprocessing_context": "fork", "num_workers": 1}, "'thread', 'spawn'"),
        ({"sampler": [0], "shuffle": True}, "mutually exclusive with shuffle"),
        ({"batch_sampler": [[0]], "batch_size": 2}, "mutually exclusive with batch_size"),
        ({"batch_size": None, "drop_last": True}, "disables auto-batching"),
        ({"batch_size": 0}, "positive integer"),
        ({"dataset": Counting(3), "shuffle": True}, "expected unspecified shuffle"),
        ({"dataset": Counting(3), "sampler": [1]}, "expected unspecified sampler"),
    ],
)
def test_arguments_that_make_no_sense(named, words):
    with pytest.raises(ValueError, match=words):
        DataLoader(**({"dataset": range(3)} | named))


def test_what_a_loader_is_made_of_stays():
    loader = DataLoader(range(3), pin_memory=True, pin_memory_device="cpu")
    with pytest.raises(ValueError, match="batch_size attribute should not be set"):
        loader.batch_size = 2
    assert len(loader) == 3 and len(iter(loader)) == 3


# ---- arrays on the disk ----


def test_memory_maps_stay_on_the_disk(tmp_path):
    rows, width = 3000, 16384  # 196 MB, of which 10 batches of 2 touch 1.3 MB
    source = np.memmap(tmp_path / "x", np.float32, "w+", shape=(rows, width))
    source[:, 0] = np.arange(rows)
    source.flush()
    del source
    data = TensorDataset(np.memmap(tmp_path / "x", np.float32, "r", shape=(rows, width)), tg.arange(rows))
    before = resident()
    for x, number in itertools.islice(DataLoader(data, 2, shuffle=True), 10):
        assert x[:, 0].tolist() == number.tolist()
    after = resident()
    assert after["RssAnon"] - before["RssAnon"] < 10e6
    # of the disk's cache, which it may take back, the system shows a process up to 2 MB around what it touches
    assert after["RssFile"] - before["RssFile"] < 60e6


def resident():
    """Return the bytes of a process's own memory and of files that it sees."""
    with open("/proc/self/status") as file:
        fields = [line.split() for line in file if line.startswith("Rss")]
    return {name.rstrip(":"): int(size) * 1000 for name, size, _ in fields}


# ---- resuming ----


class Own(Sampler):
    """A sampler that draws as it goes."""

    def __init__(self):
        self.generator = tg.Generator().manual_seed(2)

    def __iter__(self):
        return (int(tg.randint(0, 23, (), generator=self.generator).item()) for _ in range(17))

    def __len__(self):
        return 17


LOADERS = {
    "default generator": lambda data: DataLoader(data, 4, shuffle=True),
    "own generator": lambda data: DataLoader(data, 4, shuffle=True, generator=tg.Generator().manual_seed(9)),
    "sampler's generator": lambda data: DataLoader(
        data, 4, sampler=WeightedRandomSampler(range(1, 24), 30, generator=tg.Generator().manual_seed(9))
    ),
    "own sampler": lambda data: DataLoader(data, 4, sampler=Own()),
    "workers": lambda data: DataLoader(data, 4, shuffle=True, num_workers=2),
    "in order": lambda data: DataLoader(data, 4),
}


@pytest.mark.parametrize("make", LOADERS.values(), ids=LOADERS)
@pytest.mark.parametrize("kind", [TensorDataset, Slow])
def test_an_epoch_goes_on_where_it_was_left(make, kind):
    def run(loader, epochs, stop=None):
        """Train for epochs (the loss draws random numbers too); return the batches, or the state after some of them."""
        seen = []
        for _ in range(epochs):
            for number, *_ in loader:
                seen.append((number.tolist(), tg.rand(()).item()))
                if len(seen) == stop:
                    return {"loader": loader.state_dict(), "rng": tg.get_rng_state(), "seen": seen}
        return seen

    data = kind(*TENSORS)
    tg.manual_seed(1)
    length = len(make(data))
    tg.manual_seed(1)
    whole = run(make(data), 3)
    for stop in (1, length - 1, length, length + 2, 2 * length):
        tg.manual_seed(1)
        state = run(make(data), 3, stop)
        tg.manual_seed(12345)
        loader = make(data)
        loader.load_state_dict(state["loader"])
        tg.set_rng_state(state["rng"])
        rest = run(loader, 3 - (stop - 1) // length)
        assert state["seen"] + rest == whole


def test_a_state_between_epochs():
    loader = DataLoader(range(9), 2, shuffle=True, generator=tg.Generator().manual_seed(5))
    list(loader)
    state = loader.state_dict()
    assert state["batches"] == 0 and not state["begun"]
    expected = gathered(loader)
    other = DataLoader(range(9), 2, shuffle=True, generator=tg.Generator())
    other.load_state_dict(state)
    assert gathered(other) == expected and gathered(other) == gathered(loader)
    with pytest.raises(ValueError, match="1 generators"):
        DataLoader(range(9), sampler=WeightedRandomSampler([1.0], 1, generator=tg.Generator())).load_state_dict(state)


def test_skipped_samples_are_not_fetched():
    data = Squares(10)
    loader = DataLoader(data, 2)
    loader.load_state_dict({"generators": loader.state_dict()["generators"], "batches": 3, "begun": True})
    assert [batch[0].tolist() for batch in loader] == [[6, 7], [8, 9]] and data.asked == [6, 7, 8, 9]
    iterable = DataLoader(Counting(7), 2)
    iterable.load_state_dict({"generators": iterable.state_dict()["generators"], "batches": 3, "begun": True})
    assert gathered(iterable) == [[6]]


# ---- torch beside ----


@pytest.mark.parametrize("count", [0, 1, 7, 12])
@pytest.mark.parametrize("named", [{"batch_size": 5}, {"batch_size": 5, "drop_last": True}, {"batch_size": None}])
def test_lengths_and_batches_are_torch_s(count, named):
    torch = pytest.importorskip("torch")
    mine = DataLoader([(k, {"a": float(k)}) for k in range(count)], **named)
    theirs = torch.utils.data.DataLoader([(k, {"a": float(k)}) for k in range(count)], **named)
    assert len(mine) == len(theirs)

    def plain(value):
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items()}
        return [plain(item) for item in value] if isinstance(value, list | tuple) else np.asarray(value).tolist()

    assert plain(list(mine)) == plain(list(theirs))


def test_the_names_and_defaults_are_torch_s():
    torch = pytest.importorskip("torch")
    import inspect

    for name in ("DataLoader", "random_split", "RandomSampler", "WeightedRandomSampler", "BatchSampler", "Subset"):
        mine = inspect.signature(getattr(tg.utils.data, name)).parameters
        theirs = inspect.signature(getattr(torch.utils.data, name)).parameters
        expected = {k: p.default for k, p in theirs.items() if k != "data_source" or k in mine}
        if name == "random_split":
            expected["generator"] = None
        assert {k: p.default for k, p in mine.items()} == expected, name
