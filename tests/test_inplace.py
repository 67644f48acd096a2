"""In-place writes through views, into bases whose views live, into buffers; versions, errors, ``out=``."""

import numpy as np
import pytest
from torch_oracle import array, torch

import tapegrad as tg
from tapegrad.ops import functions
from tapegrad.runtime.machine import machine

DATA = np.arange(1.0, 7.0).reshape(2, 3)


def run(library, program):
    """Run a program on a leaf; return what it returns, and the leaf's gradient of the sum of its weighted results."""
    x = library.tensor(DATA)
    x.requires_grad_()
    results = program(library, x)
    loss = sum((k + 1) * (r * r).sum() for k, r in enumerate(results))
    loss.backward()
    return [array(r) for r in results], array(x.grad)


def through_view(t, x):
    y = x * 1
    v = y[0]
    v.mul_(2)
    return y, v


def through_a_chain_of_views(t, x):
    y = x * 1
    v = y.T[1:]
    w = v[0]
    w.mul_(x[:, 2])
    return y, v, w


def into_the_base(t, x):
    y = x * 1
    v, w = y[0], y[:, 1]
    y.mul_(x)
    return y, v, w


def twice(t, x):
    y = x * 1
    v, w = y[0], y[:, 1:]
    v.mul_(3)
    w.add_(x[:, :2])
    v.sub_(w[1, 0])
    return y, v, w


def base_and_view_in_turn(t, x):
    y = x * 1
    v = y.view(-1)
    y.mul_(2)
    v.add_(1)
    y.mul_(x)
    v[2:4].mul_(v[0:2].clone())
    return y, v


def dead_base(t, x):
    v = (x * 1)[0]
    w = v[1:]
    w.mul_(2)
    v.mul_(3)
    return v, w


def buffer(t, x):
    b = t.zeros(2, 3, dtype=t.float64)
    b[0] = x[0] * 2
    v = b[1]
    v.copy_(x[1])
    v[0].mul_(5)
    return b, v


def buffer_whole(t, x):
    b = t.zeros(4, 2, 3, dtype=t.float64)
    for k in range(4):
        b[k] = x * k
    return (b,)


def mask(t, x):
    y = x * 1
    y[x > 3] = x[0, 0]
    y[y < 2] = 7.0
    return (y,)


def mask_values(t, x):
    y = x * 1
    y[x > 3] = x[0] * 3
    return (y,)


def index_put(t, x):
    y = x * 1
    v = y[1]
    y[:, [0, 2]] = x[:, :2] * x[:, 1:]
    y[1, t.tensor([1, 1])] *= 2
    return y, v


def transposed_index_put(t, x):
    y = x * 1
    y.T[t.tensor([0, 2])] = x.T[1:]
    return (y,)


def augmented(t, x):
    y = x * 1
    y[0] += x[1]
    y[:, 1] *= 4
    y[[0, 1], [0, 2]] -= x[0, :2]
    return (y,)


def broadcast_copy(t, x):
    y = x * 1
    y.copy_(x[0])
    y[:, 1:].copy_(x[1, 0])
    return (y,)


def cast_copy(t, x):
    b = t.zeros(2, 3, dtype=t.float32)
    b.copy_(x)
    return (b.to(t.float64),)


def filled(t, x):
    y = x * 1
    v = y[0]
    v.fill_(x[1, 1])
    y[1].zero_()
    return y, v


def diagonal(t, x):
    y = x * 1
    y.diagonal().mul_(x[0, :2])
    return (y,)


def strided(t, x):
    y = x * 1
    y[:, ::2].exp_()
    return (y,)


def split_parts(t, x):
    y = x * 1
    a = y.narrow(1, 0, 2)
    b = y.narrow(1, 1, 2)
    a.mul_(2)
    b.mul_(x[:, 1:])
    return y, a, b


def scatter_family(t, x):
    y = x * 1
    v = y[0]
    y.scatter_add_(1, t.tensor([[0, 0, 1], [2, 1, 1]]), x)
    y.index_add_(0, t.tensor([1]), x[:1])
    y.index_copy_(1, t.tensor([2]), x[:, :1])
    y.index_fill_(1, t.tensor([1]), 2.0)
    y.masked_scatter_(x > 4, x[0] * 2)
    y.masked_fill_(x < 2, 0.5)
    return y, v


def triangles(t, x):
    y = x * 1
    y.tril_()
    return (y,)


PROGRAMS = [through_view, through_a_chain_of_views, into_the_base, twice, base_and_view_in_turn, dead_base, buffer]
PROGRAMS += [buffer_whole, mask, mask_values, index_put, transposed_index_put, augmented, broadcast_copy, cast_copy]
PROGRAMS += [filled, diagonal, strided, split_parts, scatter_family, triangles]


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.__name__)
def test_like_torch(program):
    (mine, gradient), (theirs, expected) = run(tg, program), run(torch, program)
    for a, b in zip(mine, theirs, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)
    np.testing.assert_allclose(gradient, expected, rtol=1e-12)


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.__name__)
def test_second_derivatives(program):
    def twice_derived(library):
        x = library.tensor(DATA)
        x.requires_grad_()
        loss = sum((r * r * r).sum() for r in program(library, x))
        (g,) = library.autograd.grad(loss, [x], create_graph=True)
        (second,) = library.autograd.grad((g * g).sum(), [x])
        return array(second)

    np.testing.assert_allclose(twice_derived(tg), twice_derived(torch), rtol=1e-10)


def leaf(t, x):
    x.add_(1)


def view_of_a_leaf(t, x):
    x[0].add_(1)


def set_into_a_leaf(t, x):
    x[0] = 1.0


def set_mask_of_a_leaf(t, x):
    x[x > 2] = 1.0


def index_put_into_a_leaf(t, x):
    x[[0, 1]] = 1.0


def saved_value(t, x):
    y = x * 1
    z = y * y
    y[0].mul_(2)
    z.sum().backward()


def saved_value_of_a_view(t, x):
    y = x * 1
    z = y[0].exp()
    z[0] = 0.0
    z.sum().backward()


def expanded(t, x):
    (x[0] * 1).expand(2, 3).add_(1)


def copy_of_another_shape(t, x):
    (x * 1).copy_(x.T)


def set_of_another_shape(t, x):
    y = x * 1
    y[0] = x[:, 0]


def set_index_of_another_shape(t, x):
    y = x * 1
    y[[0, 1]] = x[:, 0]


def partial_overlap(t, x):
    y = t.ones(5)
    y[1:].copy_(y[:-1])


def no_grad_view(t, x):
    y = x * 1
    with t.no_grad():
        v = y[0]
    v.mul_(2)


def fill_of_a_vector(t, x):
    (x * 1).fill_(x[0])


ERRORS = [leaf, view_of_a_leaf, set_into_a_leaf, set_mask_of_a_leaf, index_put_into_a_leaf, saved_value]
ERRORS += [saved_value_of_a_view, expanded, copy_of_another_shape, set_of_another_shape, set_index_of_another_shape]
ERRORS += [partial_overlap, no_grad_view, fill_of_a_vector]


@pytest.mark.parametrize("program", ERRORS, ids=lambda program: program.__name__)
def test_errors(program):
    def message(library):
        x = library.tensor(DATA)
        x.requires_grad_()
        with pytest.raises(RuntimeError) as error:
            program(library, x)
        return str(error.value)

    message(torch)
    message(tg)


@pytest.mark.parametrize(
    ("program", "text"),
    [
        (leaf, "a leaf Variable that requires grad is being used in an in-place operation"),
        (view_of_a_leaf, "a view of a leaf Variable that requires grad is being used in an in-place operation"),
        (set_into_a_leaf, "a view of a leaf Variable that requires grad is being used in an in-place operation"),
        (saved_value, "has been modified by an inplace operation"),
        (no_grad_view, "view was created in no_grad mode and is being modified inplace with grad mode enabled"),
        (expanded, "more than one element of the written-to tensor refers to a single memory location"),
        (set_index_of_another_shape, r"value tensor of shape \[2\] cannot be broadcast to indexing result of shape"),
    ],
)
def test_error_texts(program, text):
    x = tg.tensor(DATA)
    x.requires_grad_()
    with pytest.raises(RuntimeError, match=text):
        program(tg, x)


def test_no_grad_only_counts_the_write():
    x = tg.tensor(DATA)
    x.requires_grad_()
    before = x._version
    entries = int(machine.state["entries_top"])
    with tg.no_grad():
        x[0].mul_(2)
        x.fill_(3)
        x[x > 2] = 1.0
        x[[0]] = 2.0
    assert x._version == before + 4
    assert int(machine.state["entries_top"]) == entries
    assert x.requires_grad


def test_writes_into_a_parameter_under_no_grad_then_backward():
    x = tg.tensor(DATA)
    x.requires_grad_()
    with tg.no_grad():
        x[0] = 0.0
    (x * x).sum().backward()
    assert np.array_equal(x.grad.numpy(), 2 * x.detach().numpy())


@pytest.mark.parametrize(
    ("dtype", "value", "expected"), [("int64", 2.9, 2), ("bool", 3, True), ("float32", 1, 1.0), ("uint8", -1, 255)]
)
def test_fill_converts(dtype, value, expected):
    x = tg.zeros(3, dtype=getattr(tg, dtype))
    assert x.fill_(value).tolist() == [expected] * 3


def test_fill_that_overflows():
    with pytest.raises(RuntimeError, match="overflow"):
        tg.zeros(3, dtype=tg.uint8).fill_(300)


def test_overlapping_set_item_of_the_same_place():
    x = tg.tensor(DATA)
    x[0] = x[0]
    x[0] = x[1]
    assert np.array_equal(x.numpy(), DATA[[1, 1]])


def test_views_of_dead_programs_leave_nothing_behind():
    def program():
        x = tg.tensor(DATA)
        x.requires_grad_()
        loss = sum((r * r).sum() for p in (twice, base_and_view_in_turn, buffer, dead_base) for r in p(tg, x))
        loss.backward()

    def used_rows(name, link):
        rows, count, at = machine.table(name), 0, int(machine.state[f"{name}_free"])
        while at >= 0:
            count, at = count + 1, int(rows[at][link])
        return len(rows) - count

    def usage():
        return used_rows("slots", "next"), used_rows("handles", "slot"), int(machine.state["bytes_live"])

    program()
    before = usage()
    for _ in range(3):
        program()
    assert usage() == before


def test_out():
    write_out = functions["_write_out"]
    result = tg.tensor(DATA)
    out = tg.zeros(2, 3)
    assert write_out(out, result) is out
    assert np.array_equal(out.numpy(), DATA)
    empty = tg.empty(0, dtype=tg.float64)
    assert write_out(empty, result) is empty
    assert tuple(empty.shape) == (2, 3)


def test_out_errors():
    write_out = functions["_write_out"]
    result = tg.tensor(DATA)
    with pytest.raises(RuntimeError, match="result type Double can't be cast to the desired output type Long"):
        write_out(tg.zeros(2, 3, dtype=tg.int64), result)
    with pytest.raises(RuntimeError, match=r"out= has the shape \[3\]"):
        write_out(tg.zeros(3), result)
    with pytest.raises(RuntimeError, match=r"functions with out=\.\.\. arguments don't support automatic"):
        write_out(tg.zeros(2, 3).requires_grad_(), result)
