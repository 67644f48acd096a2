"""Convolutions: values beside NumPy's and torch's over a grid of arguments, derivatives, errors, layers, threads."""

import itertools

import numpy as np
import pytest

import tapegrad as tg
from tapegrad import nn
from tapegrad.nn import functional as F


def windows(x, stride, padding, dilation, kernel):
    """Return [n, channels, results..., kernel...] of an array, by NumPy's sliding windows."""
    ndim = len(kernel)
    x = np.pad(x, [(0, 0), (0, 0), *[(p, p) for p in padding]])
    reach = tuple(d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True))
    found = np.lib.stride_tricks.sliding_window_view(x, reach, axis=tuple(range(2, 2 + ndim)))
    steps = [slice(None, None, s) for s in (*stride, *dilation)]
    return found[(slice(None), slice(None), *steps)]


def reference(x, w, b, stride, padding, dilation, groups):
    ndim = x.ndim - 2
    seen = windows(x, stride, padding, dilation, w.shape[2:])
    parts = np.split(seen, groups, 1)
    axes = [1, *range(2 + ndim, 2 + 2 * ndim)]
    results = [np.tensordot(p, v, (axes, range(1, 2 + ndim))) for p, v in zip(parts, np.split(w, groups), strict=True)]
    return np.moveaxis(np.concatenate(results, -1), -1, 1) + b.reshape(-1, *[1] * ndim)


def random(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape)


# image, channels of a group and results of a group, groups, kernel, stride, padding, dilation
CASES = [
    ((17,), 3, 5, 1, (3,), (1,), (1,), (1,)),
    ((40,), 1, 1, 4, (5,), (3,), (4,), (2,)),
    ((9, 11), 2, 9, 1, (3, 3), (1, 1), (1, 1), (1, 1)),
    ((9, 70), 3, 3, 2, (2, 5), (2, 1), (0, 6), (1, 2)),
    ((8, 8), 5, 17, 1, (1, 1), (1, 1), (0, 0), (1, 1)),
    ((8, 9), 4, 2, 1, (1, 1), (2, 3), (0, 0), (1, 1)),
    ((8, 8), 3, 4, 1, (8, 8), (1, 1), (0, 0), (1, 1)),
    ((13, 13), 2, 2, 1, (3, 3), (4, 4), (1, 0), (2, 1)),
    ((5, 6), 1, 2, 3, (3, 3), (1, 1), (3, 4), (1, 1)),
    ((10, 7), 2, 3, 1, (4, 4), (2, 2), (1, 1), (1, 1)),
    ((4, 3), 3, 4, 1, (4, 3), (2, 2), (0, 0), (1, 1)),
    ((7, 7), 12, 40, 1, (3, 3), (1, 1), (1, 1), (1, 1)),
    ((14, 13), 4, 80, 1, (3, 3), (1, 1), (1, 1), (1, 1)),
    ((26, 1), 1, 2, 1, (2, 3), (3, 1), (3, 3), (1, 1)),
    ((4, 5, 6), 2, 3, 2, (2, 3, 2), (1, 2, 2), (1, 1, 0), (1, 1, 2)),
]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_values_and_gradients(case, dtype):
    """The gradients are those of <y, g>, which NumPy's results at moved arguments give exactly: y is linear in each."""
    image, r, m, groups, kernel, stride, padding, dilation = case
    x, w = random(0, 3, groups * r, *image).astype(dtype), random(1, groups * m, r, *kernel).astype(dtype)
    b = random(2, groups * m).astype(dtype)
    leaves = [tg.tensor(a, requires_grad=True) for a in (x, w, b)]
    y = getattr(F, f"conv{len(image)}d")(*leaves, stride, padding, dilation, groups)
    wanted = reference(x, w, b, stride, padding, dilation, groups)
    close = {"rtol": 1e-4, "atol": 1e-4} if dtype == "float32" else {"rtol": 1e-10, "atol": 1e-10}
    np.testing.assert_allclose(y.detach().numpy(), wanted, **close)
    g = random(3, *y.shape).astype(dtype)
    y.backward(tg.tensor(g))
    for k, leaf in enumerate(leaves):
        step = random(4 + k, *leaf.shape).astype(dtype)
        moved = [a if i != k else step for i, a in enumerate((x, w, 0 * b if k < 2 else b))]
        if k == 2:
            moved[1] = 0 * w
        slope = np.sum(reference(*moved, stride, padding, dilation, groups).astype(float) * g)
        np.testing.assert_allclose(np.sum(leaf.grad.numpy().astype(float) * step), slope, rtol=1e-4, atol=1e-3)


def test_transposed_is_the_transpose():
    for image, r, m, groups, kernel, stride, padding, dilation in CASES:
        name, w = f"{len(image)}d", random(1, groups * m, r, *kernel)
        x = tg.tensor(random(0, 2, groups * r, *image), requires_grad=True)
        y = getattr(F, f"conv{name}")(x, tg.tensor(w), None, stride, padding, dilation, groups)
        g = tg.tensor(random(3, *y.shape))
        y.backward(g)
        rows = zip(image, kernel, stride, padding, dilation, y.shape[2:], strict=True)
        more = [n - ((o - 1) * s - 2 * p + d * (k - 1) + 1) for n, k, s, p, d, o in rows]
        if all(e < max(s, d) for e, s, d in zip(more, stride, dilation, strict=True)):
            transposed = getattr(F, f"conv_transpose{name}")
            found = transposed(g, tg.tensor(w), None, stride, padding, more, groups, dilation)
            np.testing.assert_allclose(found.numpy(), x.grad.numpy(), rtol=1e-12, atol=1e-12)


def test_gradcheck():
    x, w, b = (tg.tensor(random(k, *s), requires_grad=True) for k, s in enumerate([(2, 2, 5, 4), (2, 1, 3, 2), (2,)]))
    function = lambda x, w, b: F.conv2d(x, w, b, (2, 1), (1, 2), (1, 2), 2)  # noqa: E731
    assert tg.autograd.gradcheck(function, (x, w, b))
    assert tg.autograd.gradgradcheck(function, (x, w, b))
    function = lambda x, w, b: F.conv_transpose2d(x, w, b, (2, 1), (1, 0), (1, 0), 1)  # noqa: E731
    x, w, b = (tg.tensor(random(k, *s), requires_grad=True) for k, s in enumerate([(1, 2, 3, 2), (2, 2, 3, 2), (2,)]))
    assert tg.autograd.gradcheck(function, (x, w, b))
    assert tg.autograd.gradgradcheck(function, (x, w, b))


def test_third_derivative():
    x = tg.tensor(random(0, 1, 1, 6), requires_grad=True)
    y = F.conv1d(x, x[:, :, :3]).pow(2).sum()
    for _ in range(3):
        (y,) = tg.autograd.grad(y, x, create_graph=True)
        y = y.pow(2).sum()
    assert y.item() > 0


def test_large_blocks_are_cut():
    """Wide images, many channels and long filters take the paths that cut a sum or a block into parts."""
    for image, r, m, kernel in [
        ((1, 20000), 1, 2, (1, 3)),
        ((40, 300), 70, 3, (3, 3)),
        ((1, 3), 20000, 2, (1, 2)),
        ((2, 30000), 2, 1, (2, 20001)),
    ]:
        x, w, b = random(0, 1, r, *image), random(1, m, r, *kernel) / r, random(2, m)
        leaves = [tg.tensor(a, requires_grad=True) for a in (x, w, b)]
        y = F.conv2d(*leaves)
        got = y.detach().numpy()
        places = np.random.default_rng(0).integers(0, y.shape[3], 20)
        for place in places:
            seen = x[:, :, : kernel[0], place : place + kernel[1]]
            np.testing.assert_allclose(got[0, :, 0, place], np.einsum("nrij,mrij->m", seen, w) + b, rtol=1e-8)
        y.backward(tg.ones_like(y))
        high, wide = y.shape[2:]
        total = x.cumsum(2).cumsum(3)
        total = np.pad(total, [(0, 0), (0, 0), (1, 0), (1, 0)])
        box = (
            total[..., high:, wide:]
            - total[..., :-high, wide:]
            - total[..., high:, :-wide]
            + total[..., :-high, :-wide]
        )
        np.testing.assert_allclose(leaves[1].grad.numpy(), np.broadcast_to(box, w.shape), rtol=1e-7, atol=1e-7)
        np.testing.assert_allclose(leaves[0].grad.sum().item(), w.sum() * high * wide, rtol=1e-7, atol=1e-7)


# images, channels of a group and results of a group, groups, image, padding
TILED = [
    (3, 24, 40, 1, (9, 7), 1),
    (2, 32, 16, 2, (40, 70), 2),
    (1, 70, 20, 1, (33, 14), 0),  # channels in two parts, rows of tiles in several
    (16, 8, 9, 1, (5, 6), 1),
    (1, 16, 130, 1, (6, 6), 1),
    (2, 16, 16, 1, (2, 300), 1),
]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("case", TILED, ids=str)
def test_tiles_of_results(case, dtype):
    """Enough channels for Winograd's tiles: values and both gradients as by the sums that define them."""
    images, r, m, groups, image, padding = case
    x, w = random(1, images, r * groups, *image).astype(dtype), random(2, m * groups, r, 3, 3).astype(dtype)
    b, wide = random(3, m * groups).astype(dtype), [np.float64(each) for each in (x, w)]
    tensors = [tg.tensor(each, requires_grad=True) for each in (x, w, b)]
    y = F.conv2d(*tensors, padding=padding, groups=groups)
    grid = ((1, 1), (padding, padding), (1, 1), groups)
    g = random(4, *y.shape)
    y.backward(tg.tensor(g.astype(dtype)))
    expected = reference(*wide, np.float64(b), *grid)
    turned = np.concatenate([part.swapaxes(0, 1) for part in np.split(wide[1], groups)])[..., ::-1, ::-1]
    back = ((1, 1), (2 - padding, 2 - padding), (1, 1), groups)
    pixels = windows(wide[0], *grid[:3], (3, 3))
    taps = [
        np.tensordot(left, right, ((0, 2, 3), (0, 2, 3)))
        for left, right in zip(np.split(g, groups, 1), np.split(pixels, groups, 1), strict=True)
    ]
    wanted = [expected, reference(g, turned, np.zeros(r * groups), *back), np.concatenate(taps), g.sum((0, 2, 3))]
    for found, each in zip([y.detach(), *[t.grad for t in tensors]], wanted, strict=True):
        limit = (2e-6 if dtype == "float32" else 1e-14) * np.abs(each).max()
        np.testing.assert_allclose(found.numpy(), each, rtol=0, atol=limit)


# images, channels of a group and results of a group, groups, image, kernel, stride, padding, dilation
BY_PIXELS = [
    (9, 8, 33, 1, (15, 14), (4, 4), (2, 2), (1, 1), (1, 1)),
    (5, 17, 12, 2, (20, 21), (3, 5), (2, 1), (2, 0), (1, 2)),
    (4, 12, 65, 1, (6, 9, 11), (3, 2, 3), (1, 2, 2), (1, 1, 0), (1, 1, 1)),
    (1, 16, 14, 1, (3000,), (5,), (3,), (7,), (2,)),
    (1, 3, 130, 1, (90, 89), (2, 3), (1, 1), (0, 4), (1, 1)),  # rows of an image in several blocks
    (1, 2, 64, 1, (5, 30, 40), (2, 1, 1), (1, 1, 1), (1, 0, 0), (1, 1, 1)),  # and slices
    (9, 40, 16, 1, (24, 25), (1, 2), (3, 3), (0, 1), (1, 1)),  # pixels that no result sees
    (70, 16, 16, 1, (1, 2), (6, 5), (1, 1), (4, 4), (1, 1)),  # results that see no pixel
]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("case", BY_PIXELS, ids=str)
def test_results_pixel_by_pixel(case, dtype):
    """Results enough to pack the weight: values by the sums that define them, both gradients as linear maps."""
    images, r, m, groups, image, kernel, *grid = case
    x, w = random(1, images, r * groups, *image).astype(dtype), random(2, m * groups, r, *kernel).astype(dtype)
    b, limit = random(3, m * groups).astype(dtype), 2e-6 if dtype == "float32" else 1e-14
    wide = [np.float64(each) for each in (x, w, b)]
    leaves = [tg.tensor(each, requires_grad=True) for each in (x, w, b)]
    y = getattr(F, f"conv{len(image)}d")(*leaves, *grid, groups)
    expected = reference(*wide, *grid, groups)
    np.testing.assert_allclose(y.detach().numpy(), expected, rtol=0, atol=limit * np.abs(expected).max())
    g = random(4, *y.shape).astype(dtype)
    y.backward(tg.tensor(g))
    for k in range(2):
        step = random(5, *leaves[k].shape)
        moved = [step if i == k else each for i, each in enumerate(wide[:2])]
        slope = np.sum(reference(*moved, 0 * wide[2], *grid, groups) * g)
        size = np.linalg.norm(step) * np.linalg.norm(np.float64(leaves[k].grad.numpy()))
        assert abs(np.sum(leaves[k].grad.numpy() * step) - slope) < limit * size


def test_same_padding_is_longer_at_the_end():
    x, w = random(0, 1, 1, 6), random(1, 1, 1, 4)
    same = F.conv1d(tg.tensor(x), tg.tensor(w), padding="same")
    padded = np.pad(x, [(0, 0), (0, 0), (1, 2)])
    np.testing.assert_allclose(same.numpy(), reference(padded, w, np.zeros(1), (1,), (0,), (1,), 1))
    assert F.conv1d(tg.tensor(x), tg.tensor(w), padding="valid").shape == (1, 1, 3)


def test_unbatched_and_empty():
    x, w = tg.tensor(random(0, 3, 6, 6)), tg.tensor(random(1, 2, 3, 3, 3))
    assert F.conv2d(x, w).shape == (2, 4, 4)
    np.testing.assert_array_equal(F.conv2d(x, w).numpy(), F.conv2d(x.unsqueeze(0), w)[0].numpy())
    assert F.conv_transpose2d(x[:2], w).shape == (3, 8, 8)
    weight = tg.tensor(w.numpy(), requires_grad=True)
    empty = F.conv2d(tg.zeros(0, 3, 6, 6, dtype=tg.float64), weight, tg.zeros(2, dtype=tg.float64))
    assert empty.shape == (0, 2, 4, 4)
    empty.sum().backward()
    assert weight.grad.abs().sum().item() == 0
    assert F.conv_transpose2d(tg.zeros(0, 2, 6, 6, dtype=tg.float64), w).shape == (0, 3, 8, 8)


def test_strided_inputs():
    x, w = random(0, 6, 5, 3, 2), random(1, 4, 2, 3, 2)
    found = F.conv2d(tg.tensor(x).permute(3, 2, 1, 0), tg.tensor(w).permute(0, 2, 1, 3))
    wanted = reference(x.transpose(3, 2, 1, 0), w.transpose(0, 2, 1, 3), np.zeros(4), (1, 1), (0, 0), (1, 1), 1)
    np.testing.assert_allclose(found.numpy(), wanted)


@pytest.mark.parametrize("threads", [2, 3])
def test_same_bits_on_any_number_of_threads(threads):
    def run():
        x = tg.tensor(random(0, 9, 12, 30, 31).astype("f4"), requires_grad=True)
        w = tg.tensor(random(1, 24, 6, 3, 3).astype("f4"), requires_grad=True)
        b = tg.zeros(24, requires_grad=True)
        y = F.conv2d(x, w, b, 1, 1, 1, 2)
        z = F.conv2d(y[:, :12], w.reshape(12, 12, 3, 3), stride=2)
        z.backward(z.detach())
        return [a.numpy() for a in (y.detach(), z.detach(), x.grad, w.grad, b.grad)]

    before = tg.get_num_threads()
    try:
        tg.set_num_threads(1)
        alone = run()
        tg.set_num_threads(threads)
        together = run()
    finally:
        tg.set_num_threads(before)
    for a, b in zip(alone, together, strict=True):
        np.testing.assert_array_equal(a, b)


X, W = tg.ones(2, 3, 8, 8), tg.ones(4, 3, 3, 3)
ERRORS = [
    (lambda: F.conv2d(tg.ones(8, 8), W), RuntimeError, r"Expected 3D \(unbatched\) or 4D \(batched\) input to conv2d"),
    (lambda: F.conv2d(X, tg.ones(4, 3, 3)), RuntimeError, "expected a weight of 4 dimensions"),
    (lambda: F.conv2d(tg.ones(2, 5, 8, 8), W), RuntimeError, r"expected input\[2, 5, 8, 8\] to have 3 channels, but"),
    (lambda: F.conv2d(X, W, groups=3), RuntimeError, "divisible by 3 at dimension 0"),
    (lambda: F.conv2d(X, tg.ones(2, 1, 3, 3), groups=3), RuntimeError, "at least 3 at dimension 0"),
    (lambda: F.conv2d(X, W, groups=0), RuntimeError, "non-positive groups"),
    (lambda: F.conv2d(X, W, stride=0), RuntimeError, "non-positive stride"),
    (lambda: F.conv2d(X, W, padding=-1), RuntimeError, "negative padding"),
    (lambda: F.conv2d(X, W, dilation=0), RuntimeError, "non-positive dilation"),
    (lambda: F.conv2d(tg.ones(2, 3, 2, 2), W), RuntimeError, r"size per channel: \(2 x 2\). Kernel size: \(3 x 3\)"),
    (lambda: F.conv2d(X, W, tg.ones(5)), RuntimeError, "1-dimensional with 4 elements"),
    (lambda: F.conv2d(X, W.double()), RuntimeError, r"Input type \(float\) and weight type \(double\)"),
    (lambda: F.conv2d(X, W, tg.ones(4).double()), RuntimeError, r"Input type \(float\) and bias type \(double\)"),
    (lambda: F.conv2d(X, W, stride=(1, 2, 3)), RuntimeError, "expected stride to be a single integer value or a list"),
    (lambda: F.conv2d(X, W, stride=1.5), TypeError, "must be"),
    (lambda: F.conv2d(X, W, padding="full"), RuntimeError, "Invalid padding string"),
    (lambda: F.conv2d(X, W, padding="same", stride=2), RuntimeError, "not supported for strided"),
    (lambda: F.conv2d(1, W), TypeError, "must be Tensor, not int"),
    (lambda: F.conv2d(tg.ones(2, 3, 8, 0), W, padding=3), RuntimeError, "Only zero batch or zero channel"),
    (lambda: F.conv_transpose2d(X, W), RuntimeError, "expected input.* to have 4 channels, but got 3"),
    (lambda: F.conv_transpose2d(X, tg.ones(3, 4, 3, 3), output_padding=1), RuntimeError, "must be smaller than either"),
    (lambda: F.conv_transpose2d(X, tg.ones(3, 4, 3, 3), padding=9), RuntimeError, "too small"),
    (lambda: nn.Conv2d(3, 4, 3, groups=2), ValueError, "in_channels must be divisible by groups"),
    (lambda: nn.Conv2d(4, 3, 3, groups=2), ValueError, "out_channels must be divisible by groups"),
    (lambda: nn.Conv2d(4, 4, 3, padding_mode="none"), ValueError, "padding_mode must be one of"),
    (lambda: nn.Conv2d(4, 4, 3, padding="full"), ValueError, "Invalid padding string"),
    (lambda: nn.ConvTranspose2d(4, 4, 3, padding_mode="reflect"), ValueError, 'Only "zeros"'),
    (
        lambda: nn.ConvTranspose2d(3, 3, 3, stride=2)(tg.ones(1, 3, 3, 3), output_size=(20, 20)),
        ValueError,
        r"requested an output size of \(20, 20\), but valid sizes range from \[7, 7\] to \[8, 8\]",
    ),
    (lambda: F.unfold(X, 9), RuntimeError, "sliding blocks"),
    (lambda: F.unfold(X, 2, stride=0), RuntimeError, "stride should be greater than zero"),
    (lambda: F.fold(tg.ones(1, 7, 9), (4, 4), 2), RuntimeError, "divisible by the product of kernel_size"),
    (lambda: F.fold(tg.ones(1, 8, 8), (4, 4), 2), RuntimeError, "number of sliding blocks 3 \\* 3 = 9"),
]


@pytest.mark.parametrize("number", range(len(ERRORS)))
def test_errors(number):
    function, kind, text = ERRORS[number]
    with pytest.raises(kind, match=text):
        function()


def test_layers_show_what_they_are():
    layer = nn.Conv2d(4, 6, 3, 2, 1, 2, 2, bias=False, padding_mode="circular")
    text = "Conv2d(4, 6, kernel_size=(3, 3), stride=(2, 2), padding=(1, 1), dilation=(2, 2), groups=2, bias=False, "
    assert repr(layer) == text + "padding_mode=circular)"
    assert repr(nn.Conv1d(2, 3, 3, padding="same")) == "Conv1d(2, 3, kernel_size=(3,), stride=(1,), padding=same)"
    assert layer.weight.shape == (6, 2, 3, 3)
    assert list(nn.ConvTranspose3d(4, 6, 2, groups=2).state_dict()) == ["weight", "bias"]
    assert repr(nn.Unfold(2)) == "Unfold(kernel_size=2, dilation=1, padding=0, stride=1)"


def test_parameters_begin_within_their_bounds():
    layer = nn.Conv2d(3, 50, 5)
    bound = 1 / np.sqrt(3 * 25)
    for parameter in layer.parameters():
        values = parameter.detach().numpy()
        assert 0.9 * bound < np.abs(values).max() <= bound


def test_output_size():
    layer = nn.ConvTranspose2d(2, 3, 3, stride=2, padding=1)
    x = tg.ones(1, 2, 5, 5)
    assert layer(x).shape == (1, 3, 9, 9)
    assert layer(x, output_size=(10, 9)).shape == (1, 3, 10, 9)
    assert layer(x, output_size=(1, 3, 10, 10)).shape == (1, 3, 10, 10)


def test_fold_adds_what_unfold_takes():
    x = random(0, 2, 3, 5, 6)
    columns = F.unfold(tg.tensor(x), (2, 3), padding=1)
    seen = windows(x, (1, 1), (1, 1), (1, 1), (2, 3)).transpose(0, 1, 4, 5, 2, 3)
    np.testing.assert_array_equal(columns.numpy(), seen.reshape(2, 18, -1))
    ones = nn.Fold((5, 6), (2, 3), padding=1)(nn.Unfold((2, 3), padding=1)(tg.ones(2, 3, 5, 6)))
    assert ones[0, 0, 2, 2].item() == 6
    assert F.unfold(tg.tensor(x)[0], 2).shape == (12, 20)


# ---- torch as the oracle ----

GRID = list(itertools.product([(1, 7), (6, 6), (11, 19)], [1, 2, 3], [(1, 1), (3, 2)], [1, 2], [0, 1, 3], [1, 3]))


def _torch_pair(image, stride, kernel, dilation, padding, groups, transposed):
    """Return outputs and gradients of both libraries, or None where torch refuses."""
    torch = pytest.importorskip("torch")
    x, w, b = random(0, 2, 2 * groups, *image), random(1, 2 * groups, 2, *kernel), random(2, 2 * groups)
    found = []
    for library in (torch, tg):
        leaves = [library.tensor(a, requires_grad=True) for a in (x, w, b)]
        function = library.nn.functional.conv_transpose2d if transposed else library.nn.functional.conv2d
        more = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
        try:
            y = function(*leaves, **more)
        except RuntimeError as error:
            found.append(error)
            continue
        first = library.autograd.grad((y**3).sum(), leaves, create_graph=True)
        second = library.autograd.grad(sum((g * g).sum() for g in first), leaves)
        found.append([a.detach().numpy() for a in (y, *first, *second)])
    return found


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("groups", [1, 3])
def test_grid_beside_torch(groups, transposed):
    for image, stride, kernel, dilation, padding, g in GRID:
        if g != groups:
            continue
        theirs, mine = _torch_pair(image, stride, kernel, dilation, padding, groups, transposed)
        if isinstance(theirs, RuntimeError):
            assert isinstance(mine, RuntimeError), (image, stride, kernel, dilation, padding)
            continue
        for a, b in zip(mine, theirs, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9 * np.abs(b).max())


@pytest.mark.filterwarnings("ignore:Using padding=.same.")
@pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate", "circular"])
def test_padding_modes_beside_torch(mode):
    torch = pytest.importorskip("torch")
    for padding in ((1, 2), "same"):
        theirs = torch.nn.Conv2d(2, 3, (3, 4), padding=padding, padding_mode=mode).double()
        mine = nn.Conv2d(2, 3, (3, 4), padding=padding, padding_mode=mode, dtype=tg.float64)
        mine.load_state_dict({name: tg.tensor(value.numpy()) for name, value in theirs.state_dict().items()})
        x = random(0, 2, 2, 6, 7)
        np.testing.assert_allclose(mine(tg.tensor(x)).detach(), theirs(torch.tensor(x)).detach(), rtol=1e-10)


def test_training_beside_torch():
    torch = pytest.importorskip("torch")

    def build(library, dtype):
        nn = library.nn
        return nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1, dtype=dtype),
            nn.ReLU(),
            nn.Conv2d(8, 16, 3, stride=2, dtype=dtype),
            nn.ReLU(),
            nn.ConvTranspose2d(16, 4, 4, stride=2, padding=1, dtype=dtype),
            nn.Flatten(),
            nn.Linear(4 * 36, 5, dtype=dtype),
        )

    theirs, mine = build(torch, torch.float64), build(tg, tg.float64)
    mine.load_state_dict({name: tg.tensor(value.numpy()) for name, value in theirs.state_dict().items()})
    x, t = random(0, 6, 1, 8, 8), np.arange(6) % 5
    losses = []
    for library, model in ((torch, theirs), (tg, mine)):
        optimizer = library.optim.SGD(model.parameters(), lr=0.1)
        for _ in range(5):
            optimizer.zero_grad()
            loss = library.nn.functional.cross_entropy(model(library.tensor(x)), library.tensor(t))
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    np.testing.assert_allclose(losses[5:], losses[:5], rtol=1e-10)


def test_fold_beside_torch():
    torch = pytest.importorskip("torch")
    for arguments in [(2,), ((3, 2), 2, 1, 2), ((1, 3), 1, (0, 2), (2, 1))]:
        x = random(0, 2, 3, 7, 8)
        found = []
        for library in (torch, tg):
            leaf = library.tensor(x, requires_grad=True)
            columns = library.nn.functional.unfold(leaf, *arguments)
            image = library.nn.functional.fold(columns**2, (7, 8), *arguments)
            (image**2).sum().backward()
            found.append([a.detach().numpy() for a in (columns, image, leaf.grad)])
        for a, b in zip(*found, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-10)
