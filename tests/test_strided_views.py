"""Recorded writes into bases that are not row-major, gradients of as_strided, and memory read as another dtype."""

import numpy as np
import pytest

import tapegrad as tg

W = np.array([0.5, -2.0, 3.0, 1.5])


def strided(t):
    return t.from_numpy(np.arange(24.0).reshape(4, 6)[:, ::2])


def transposed(t):
    return t.from_numpy(np.arange(12.0).reshape(4, 3).T)


def detached(t):
    return t.arange(24, dtype=t.float64).view(2, 3, 4).permute(2, 0, 1)[1:].detach()


BASES = {"strided": strided, "transposed": transposed, "detached": detached}


def row(b, w):
    b[0].mul_(w[0])


def column(b, w):
    b.select(-1, 1).copy_(w[2])


def transposed_row(b, w):
    b.transpose(0, -1)[0].mul_(w[1])


def diagonal(b, w):
    b.diagonal().copy_(w[: b.diagonal().shape[-1]])


def windows(b, w):
    b.unfold(-1, 2, 2).mul_(w[:2])


def several(b, w):
    v, u = b[1], b.transpose(0, 1)
    v.mul_(w[0])
    u[1:].add_(w[1])
    v.sub_(u[0, 0].sum())


def whole(b, w):
    b.mul_(w[3])
    v = b[1]
    b.mul_(w[2])
    v.mul_(w[0])


def slices(b, w):
    b[1:, ::2] *= w[2]
    b[..., -1] = w[0] * w[1]


WRITES = [row, column, transposed_row, diagonal, windows, several, whole, slices]


def run(t, base, write):
    w = t.tensor(W, requires_grad=True)
    b = BASES[base](t)
    part = b[..., 1:]
    write(b, w)
    loss = (b * b).sum() + (part * part * part).sum() * 0.1
    (first,) = t.autograd.grad(loss, [w], create_graph=True)
    (second,) = t.autograd.grad((first * first).sum(), [w])
    return [np.array(x.detach().numpy()) for x in (b, part, first, second)], b.stride()


@pytest.mark.parametrize("write", WRITES, ids=lambda f: f.__name__)
@pytest.mark.parametrize("base", BASES)
def test_a_recorded_write_into_a_strided_base_is_torchs(base, write):
    torch = pytest.importorskip("torch")
    mine, theirs = run(tg, base, write), run(torch, base, write)
    assert mine[1] == theirs[1]
    for a, b in zip(mine[0], theirs[0], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)


def test_a_write_through_a_view_of_a_strided_base_needs_no_torch():
    base = strided(tg)
    w = tg.tensor(W[:3], requires_grad=True)
    base[1].mul_(w)
    base.sum().backward()
    np.testing.assert_allclose(w.grad.numpy(), [6.0, 8.0, 10.0])


GEOMETRIES = {
    "of a transpose": (lambda x: x.T, (2, 2), (1, 3), 1),
    "of strided rows": (lambda x: x[:, ::2], (3, 2), (4, 1), 0),
    "outside its own elements": (lambda x: x[1:], (2, 3), (1, 2), 0),
    "overlapping itself": (lambda x: x.T, (5, 3), (1, 2), 0),
    "of an expanded tensor": (lambda x: x[0].expand(3, 4), (2, 3), (0, 1), 0),
    "of windows": (lambda x: x.view(-1).unfold(0, 4, 2), (4, 2), (2, 3), 1),
    "of nothing": (lambda x: x.T, (0, 3), (1, 1), 0),
    "of nested strides that meet": (lambda x: x.as_strided((2, 3), (3, 2)), (6,), (1,), 0),
}


@pytest.mark.parametrize("name", GEOMETRIES)
def test_gradients_of_as_strided_are_torchs(name):
    torch = pytest.importorskip("torch")
    make, size, stride, offset = GEOMETRIES[name]
    found = []
    for t in (tg, torch):
        x = t.arange(1.0, 13.0, dtype=t.float64).view(3, 4).requires_grad_()
        y = make(x * 1).as_strided(size, stride, offset)
        (first,) = t.autograd.grad((y * y * y).sum(), [x], create_graph=True)
        (second,) = t.autograd.grad((first * first).sum() + 0 * x.sum(), [x])
        found.append([np.array(a.detach().numpy()) for a in (y, first, second)])
    for a, b in zip(*found, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)


def test_view_as_another_dtype_shares_memory_and_is_no_part_of_the_graph():
    x = tg.tensor([1.0, 2.0], requires_grad=True)
    bits = x.view(tg.int32)
    assert bits.tolist() == [0x3F800000, 0x40000000]
    assert not bits.requires_grad
    bits.add_(1 << 23)
    assert x.tolist() == [2.0, 4.0] and x._version == 1
    assert x.detach().view(dtype=tg.float64).shape == (1,)
    assert x.view(tg.uint8).shape == (8,)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda x: x[:, 1:3], "self.storage_offset() must be divisible by 2 to view Float as Double"),
        (lambda x: x.T, "self.stride(-1) must be 1 to view Float as Double"),
        (lambda x: x[:, :3], "self.size(-1) must be divisible by 2 to view Float as Double"),
        (lambda x: x[0, 0], "self.dim() cannot be 0 to view Float as Double"),
        (lambda x: x.view(-1)[:21].view(3, 7)[:, :4], "self.stride(0) must be divisible by 2 to view Float as Double"),
    ],
)
def test_view_as_a_wider_dtype_wants_whole_elements(make, message):
    import re

    with pytest.raises(RuntimeError, match=re.escape(message)):
        make(tg.zeros(4, 6)).view(tg.float64)
