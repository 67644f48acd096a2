"""Views and rearrangements: values, shapes, sharing of memory, derivatives and errors, with torch as the oracle."""

import numpy as np
import pytest
from torch_oracle import check, check_error

import tapegrad as tg
from tapegrad.ops import functions
from tapegrad.runtime.machine import machine

R = np.random.default_rng(0)


def make(*shape):
    return R.normal(size=shape)


CASES = {
    "reshape": (lambda t, x: x.reshape(4, -1), (2, 3, 4)),
    "reshape tuple": (lambda t, x: t.reshape(x, (4, 6)), (2, 3, 4)),
    "reshape transposed": (lambda t, x: x.transpose(0, 2).reshape(6, 4), (2, 3, 4)),
    "reshape to 0-d": (lambda t, x: x.reshape(()), (1, 1)),
    "reshape empty": (lambda t, x: x.reshape(3, 0, 5), (0, 3, 2)),
    "view": (lambda t, x: x.view(-1, 2), (2, 3, 4)),
    "view strided": (lambda t, x: x[:, ::2].view(2, 2, 2, 2), (2, 4, 4)),
    "view_as": (lambda t, x: x.view_as(t.ones(6, 4)), (2, 3, 4)),
    "reshape_as": (lambda t, x: x.reshape_as(t.ones(6, 4)), (2, 3, 4)),
    "flatten": (lambda t, x: x.flatten(1), (2, 3, 4)),
    "flatten 0-d": (lambda t, x: x.flatten(), ()),
    "unflatten": (lambda t, x: x.unflatten(1, (3, -1)), (2, 6)),
    "ravel": (lambda t, x: x.T.ravel(), (2, 3)),
    "squeeze": (lambda t, x: x.squeeze(), (1, 3, 1)),
    "squeeze dim": (lambda t, x: x.squeeze(1), (1, 3, 1)),
    "squeeze dims": (lambda t, x: x.squeeze((0, -1)), (1, 3, 1)),
    "unsqueeze": (lambda t, x: x.unsqueeze(-1), (2, 3)),
    "unsqueeze front": (lambda t, x: x.T.unsqueeze(0), (2, 3)),
    "transpose": (lambda t, x: x.transpose(0, -1), (2, 3, 4)),
    "swapaxes": (lambda t, x: t.swapaxes(x, 0, 1), (2, 3, 4)),
    "t": (lambda t, x: x.t(), (2, 3)),
    "t 1-d": (lambda t, x: x.t(), (3,)),
    "mT": (lambda t, x: x.mT, (2, 3, 4)),
    "T": (lambda t, x: x.T, (2, 3)),
    "permute": (lambda t, x: x.permute(2, 0, -2), (2, 3, 4)),
    "permute twice": (lambda t, x: x.permute(1, 2, 0).permute((1, 2, 0)), (2, 3, 4)),
    "movedim": (lambda t, x: x.movedim((0, 1), (-1, 0)), (2, 3, 4)),
    "moveaxis": (lambda t, x: t.moveaxis(x, 2, 0), (2, 3, 4)),
    "expand": (lambda t, x: x.expand(2, -1, 4), (3, 1)),
    "expand 0-d": (lambda t, x: x.expand(2, 3), ()),
    "expand of a transpose": (lambda t, x: x.T.expand(2, 3, 1), (1, 3)),
    "broadcast_to": (lambda t, x: t.broadcast_to(x, (2, 3)), (3,)),
    "expand_as": (lambda t, x: x.expand_as(t.ones(2, 3)), (3,)),
    "narrow": (lambda t, x: x.narrow(1, -2, 2), (2, 3, 4)),
    "select": (lambda t, x: x.select(-1, -2), (2, 3, 4)),
    "diagonal": (lambda t, x: x.diagonal(), (3, 4)),
    "diagonal offset": (lambda t, x: x.diagonal(-1, 0, 2), (3, 2, 4)),
    "diagonal of a transpose": (lambda t, x: x.transpose(0, 2).diagonal(1, -1, 0), (3, 2, 4)),
    "diagonal beyond": (lambda t, x: x.diagonal(9), (3, 4)),
    "unfold": (lambda t, x: x.unfold(1, 3, 2), (2, 7)),
    "unfold overlapping": (lambda t, x: x.T.unfold(0, 3, 1), (2, 5)),
    "unbind": (lambda t, x: x.unbind(1), (2, 3)),
    "split": (lambda t, x: x.split(2, 1), (2, 5)),
    "split sizes": (lambda t, x: t.split(x, [1, 0, 4], 1), (2, 5)),
    "chunk": (lambda t, x: x.chunk(3, -1), (2, 7)),
    "chunk empty": (lambda t, x: x.chunk(3, 0), (0, 2)),
    "tensor_split": (lambda t, x: x.tensor_split(3), (7, 2)),
    "tensor_split at": (lambda t, x: x.tensor_split((1, 3, 9), 0), (7, 2)),
    "hsplit": (lambda t, x: t.hsplit(x, 2), (3, 4)),
    "as_strided": (lambda t, x: x.as_strided((2, 2), (1, 2), 1), (3, 4)),
    "as_strided overlapping": (lambda t, x: t.as_strided(x, (3, 3), (1, 1)), (3, 4)),
    "contiguous": (lambda t, x: x.T.contiguous(), (2, 3)),
    "clone": (lambda t, x: x.T.clone(), (2, 3)),
    "repeat": (lambda t, x: x.repeat(2, 1, 3), (2, 3)),
    "repeat none": (lambda t, x: x.repeat(2, 0), (2, 3)),
    "tile": (lambda t, x: t.tile(x, (2,)), (2, 3)),
    "repeat_interleave": (lambda t, x: x.repeat_interleave(2, 1), (2, 3)),
    "repeat_interleave flat": (lambda t, x: x.repeat_interleave(3), (2, 3)),
    "repeat_interleave each": (lambda t, x: x.repeat_interleave(t.tensor([0, 2, 1]), 1), (2, 3)),
    "flip": (lambda t, x: x.flip(0, -1), (2, 3, 4)),
    "flip of a view": (lambda t, x: x.T[1:].flip(1), (2, 3)),
    "fliplr": (lambda t, x: t.fliplr(x), (2, 3)),
    "flipud": (lambda t, x: t.flipud(x), (2, 3)),
    "roll": (lambda t, x: x.roll(2), (2, 3)),
    "roll dims": (lambda t, x: t.roll(x, (-1, 5), (0, 1)), (2, 3)),
    "roll empty": (lambda t, x: t.roll(x, 1, 0), (0, 3)),
    "rot90": (lambda t, x: t.rot90(x), (2, 3)),
    "rot90 twice": (lambda t, x: t.rot90(x, 2, (1, 2)), (2, 3, 4)),
    "rot90 back": (lambda t, x: t.rot90(x, -1, (2, 0)), (2, 3, 4)),
    "tril": (lambda t, x: x.tril(), (3, 4)),
    "tril offset": (lambda t, x: t.tril(x, -1), (2, 4, 3)),
    "triu": (lambda t, x: x.T.triu(1), (3, 4)),
    "triu offset": (lambda t, x: x.triu(-9), (3, 4)),
    "trace": (lambda t, x: t.trace(x), (3, 4)),
    "diag": (lambda t, x: t.diag(x, 1), (3,)),
    "diag of a matrix": (lambda t, x: t.diag(x, -1), (3, 4)),
    "diag_embed": (lambda t, x: t.diag_embed(x, -1, 0, 2), (2, 3)),
    "diagflat": (lambda t, x: t.diagflat(x), (2, 2)),
    "atleast_3d": (lambda t, x: t.atleast_3d(x), (2, 3)),
    "atleast_2d": (lambda t, x: t.atleast_2d(x), ()),
}


@pytest.mark.parametrize("name", CASES)
def test_like_torch(name):
    function, shape = CASES[name]
    check(function, make(*shape))


@pytest.mark.parametrize("dtype", ["bool", "uint8", "int32", "int64", "float32"])
@pytest.mark.parametrize(
    "name", ["reshape transposed", "flip", "roll dims", "tril", "diag_embed", "repeat", "select", "diag"]
)
def test_other_dtypes(name, dtype):
    function, shape = CASES[name]
    check(function, (make(*shape) * 5).astype(dtype) if dtype != "uint8" else (make(*shape) ** 2 * 5).astype(dtype))


JOINS = {
    "cat": (lambda t, x, w: t.cat([x, w]), (2, 3), (4, 3)),
    "cat dim": (lambda t, x, w: t.cat((x, w, x), -1), (2, 3), (2, 1)),
    "cat transposed": (lambda t, x, w: t.cat([x.T, w], 1), (3, 2), (2, 4)),
    "cat empty": (lambda t, x, w: t.cat([x, w], 0), (0,), (2, 4)),
    "concat axis": (lambda t, x, w: t.concatenate([x, w], axis=1), (2, 1), (2, 4)),
    "stack": (lambda t, x, w: t.stack([x, w, w]), (2, 3), (2, 3)),
    "stack dim": (lambda t, x, w: t.stack([x.T, w], -1), (3, 2), (2, 3)),
    "stack 0-d": (lambda t, x, w: t.stack([x, w]), (), ()),
    "hstack": (lambda t, x, w: t.hstack([x, w]), (2, 3), (2, 1)),
    "hstack 1-d": (lambda t, x, w: t.hstack([x, w]), (2,), (3,)),
    "vstack": (lambda t, x, w: t.vstack([x, w]), (3,), (2, 3)),
    "dstack": (lambda t, x, w: t.dstack([x, w]), (2, 3), (2, 3)),
    "column_stack": (lambda t, x, w: t.column_stack([x, w]), (2,), (2, 3)),
    "broadcast_tensors": (lambda t, x, w: t.broadcast_tensors(x, w), (2, 1), (3,)),
    "meshgrid": (lambda t, x, w: t.meshgrid(x, w, indexing="ij"), (2,), (3,)),
    "meshgrid xy": (lambda t, x, w: t.meshgrid(x, w, indexing="xy"), (2,), (3,)),
    "diagonal_scatter": (lambda t, x, w: t.diagonal_scatter(x, w, 1), (3, 3), (2,)),
    "select_scatter": (lambda t, x, w: t.select_scatter(x, w, 1, -1), (2, 3), (2,)),
    "slice_scatter": (lambda t, x, w: t.slice_scatter(x, w, 0, 1, 4, 2), (4, 3), (2, 3)),
}


@pytest.mark.parametrize("name", JOINS)
def test_joins_like_torch(name):
    function, a, b = JOINS[name]
    check(function, make(*a), make(*b))


def test_cat_promotes():
    check(lambda t, x, w, v: t.cat([x, w, v]), make(2), np.arange(3), np.ones(2, np.float32))


def test_cat_of_many():
    check(lambda t, *xs: t.cat(xs, 1), *[make(2, k % 3) for k in range(70)])


PADS = [((1, 2), "constant"), ((1, 2, 0, 3), "constant"), ((-1, 2, 3, -2), "constant"), ((2, 1, 1, 2), "reflect")]
PADS += [((2, 1, 1, 2), "replicate"), ((3, 1, 1, 2), "circular")]


@pytest.mark.parametrize(("pad", "mode"), PADS)
def test_pad(pad, mode):
    def function(t, x):
        padding = t.nn.functional.pad if t is not tg else functions["_pad"]
        return padding(x, pad, mode, 1.5 if mode == "constant" else None)

    check(function, make(2, 3, 4))


ERRORS = {
    "reshape": (lambda t, x: x.reshape(5, -1), (2, 3)),
    "reshape two open": (lambda t, x: x.reshape(-1, -1), (2, 3)),
    "view": (lambda t, x: x.T.view(6), (2, 3)),
    "view shape": (lambda t, x: x.view(7), (2, 3)),
    "permute": (lambda t, x: x.permute(0, 0), (2, 3)),
    "permute count": (lambda t, x: x.permute(0), (2, 3)),
    "permute range": (lambda t, x: x.permute(0, 5), (2, 3)),
    "transpose": (lambda t, x: x.transpose(0, 2), (2, 3)),
    "expand": (lambda t, x: x.expand(4, 3), (2, 3)),
    "expand fewer": (lambda t, x: x.expand(3), (2, 3)),
    "expand -1": (lambda t, x: x.expand(-1, 2, 3), (2, 3)),
    "narrow": (lambda t, x: x.narrow(0, 1, 2), (2, 3)),
    "narrow start": (lambda t, x: x.narrow(0, 3, 0), (2, 3)),
    "select": (lambda t, x: x.select(0, 2), (2, 3)),
    "unsqueeze": (lambda t, x: x.unsqueeze(4), (2, 3)),
    "squeeze": (lambda t, x: x.squeeze(2), (2, 3)),
    "diagonal": (lambda t, x: x.diagonal(0, 1, -1), (2, 3)),
    "unfold": (lambda t, x: x.unfold(0, 3, 1), (2, 3)),
    "split": (lambda t, x: x.split([1, 2], 0), (2, 3)),
    "chunk": (lambda t, x: x.chunk(0), (2, 3)),
    "as_strided": (lambda t, x: x.as_strided((3, 3), (3, 1)), (2, 3)),
    "flatten": (lambda t, x: x.flatten(1, 0), (2, 3)),
    "repeat": (lambda t, x: x.repeat(2), (2, 3)),
    "flip": (lambda t, x: x.flip(0, 0), (2, 3)),
    "cat": (lambda t, x: t.cat([x, x.T]), (2, 3)),
    "cat none": (lambda t, x: t.cat([]), (2, 3)),
    "cat 0-d": (lambda t, x: t.cat([x.sum()]), (2, 3)),
    "stack": (lambda t, x: t.stack([x, x.T]), (2, 3)),
    "trace": (lambda t, x: t.trace(x[0]), (2, 3)),
    "tril": (lambda t, x: x[0].tril(), (2, 3)),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors(name):
    function, shape = ERRORS[name]
    check_error(function, make(*shape))


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda x: x.reshape(4), r"shape '\[4\]' is invalid for input of size 6"),
        (lambda x: x.expand(4, 3), r"The expanded size of the tensor \(4\) must match the existing size \(2\)"),
        (lambda x: x.T.view(6), r"Use \.reshape\(\.\.\.\) instead"),
        (lambda x: x.narrow(0, 1, 2), r"start \(1\) \+ length \(2\) exceeds dimension size \(2\)"),
        (lambda x: tg.cat([x, x.T]), r"Expected size 3 but got size 2 for tensor number 1"),
        (lambda x: tg.stack([x, x.T]), r"equal size, but got \[2, 3\] at entry 0 and \[3, 2\] at entry 1"),
    ],
)
def test_error_texts(call, text):
    with pytest.raises(RuntimeError, match=text):
        call(tg.tensor(make(2, 3)))


@pytest.mark.parametrize(
    "view",
    [
        lambda x: x.reshape(3, 2),
        lambda x: x.view(6),
        lambda x: x.T,
        lambda x: x.squeeze(),
        lambda x: x.unsqueeze(0),
        lambda x: x.expand(2, 2, 3),
        lambda x: x.diagonal(),
        lambda x: x[1],
        lambda x: x[:, None, ::2],
        lambda x: x.unbind(1)[2],
        lambda x: x.chunk(2, 1)[0],
        lambda x: x.unfold(1, 2, 1),
        lambda x: x.as_strided((2,), (1,), 1),
    ],
)
def test_views_share_memory(view):
    x = tg.tensor(make(2, 3))
    part = view(x)
    x.fill_(7)
    assert (part.numpy() == 7).all()


@pytest.mark.parametrize("name", ["clone", "repeat", "flip", "roll", "contiguous", "tril", "diag of a matrix"])
def test_copies_do_not(name):
    function, shape = CASES[name]
    x = tg.tensor(make(*shape))
    copy = function(tg, x)
    before = copy.numpy().copy()
    x.fill_(7)
    assert np.array_equal(copy.numpy(), before)


def test_contiguous_is_the_tensor_itself():
    x = tg.tensor(make(2, 3))
    assert x.contiguous() is x


def test_each_view_is_one_entry():
    x = tg.tensor(make(2, 3), requires_grad=True)
    for call in (lambda: x[0], lambda: x[:, 1:, None], lambda: x.T, lambda: x.reshape(6), lambda: x.expand(2, 2, 3)):
        before = int(machine.state["entries_top"])
        y = call()
        after = int(machine.state["entries_top"])
        assert after == before + 1, y


def parts_of_one_tensor(t, x):
    """Gradients of many parts are added to one buffer, in the sweep; see sweep._cotangent_to_write."""
    y = x * x
    rows = sum((k + 1) * row for k, row in enumerate(y.unbind(0)))
    windows = y[1:3] * y[2:4] + y[:2].T.T * 2
    looked_up = y[[0, 2, 0]] * y.index_select(0, t.tensor([1, 1, 3]))
    gathered = y.gather(1, t.tensor([[0, 0, 2]])) + y.diagonal()[:3]
    return rows, windows, looked_up, gathered, y.unfold(0, 2, 1).sum(-1), y


def test_gradients_of_many_parts():
    check(parts_of_one_tensor, make(4, 3))


def test_parts_with_a_hook_and_a_kept_gradient():
    x = tg.tensor(make(4, 3), requires_grad=True)
    seen = []
    y = x * 1
    y.register_hook(lambda g: seen.append(g.clone()))
    sum(row * k for k, row in enumerate(y)).sum().backward()
    expected = np.repeat(np.arange(4.0)[:, None], 3, 1)
    assert len(seen) == 1
    np.testing.assert_array_equal(seen[0].numpy(), expected)
    np.testing.assert_array_equal(x.grad.numpy(), expected)


def test_a_shared_gradient_is_not_written_into():
    x = tg.tensor(make(4, 3), requires_grad=True)
    y = x * 1
    other = tg.tensor(make(4, 3), requires_grad=True)
    first = y[0].sum()
    ((y + other).sum() + first).backward()
    np.testing.assert_array_equal(other.grad.numpy(), np.ones((4, 3)))
    np.testing.assert_array_equal(x.grad.numpy(), np.array([[2.0] * 3, [1.0] * 3, [1.0] * 3, [1.0] * 3]))
