"""Pooling and resizing: values and errors by NumPy alone, and beside torch in shapes of all kinds."""

import math

import numpy as np
import pytest

import tapegrad as tg
from tapegrad import nn
from tapegrad.autograd import gradcheck, gradgradcheck
from tapegrad.nn import functional as F
from tapegrad.runtime.machine import machine


def image(*shape, seed=0):
    """Return distinct values in random order: no ties, so that a small step changes no maximum."""
    count = math.prod(shape)
    return np.random.default_rng(seed).permutation(count).reshape(shape) / max(count, 1) - 0.3


def leaf(array):
    return tg.tensor(array, requires_grad=True)


# ---- values ----


def test_maxima_of_two_by_two_windows():
    x = image(2, 3, 6, 8)
    found = F.max_pool2d(tg.tensor(x), 2)
    np.testing.assert_array_equal(found.numpy(), x.reshape(2, 3, 3, 2, 4, 2).max((3, 5)))


@pytest.mark.parametrize("dtype", ["float32", "float64", "uint8"])
def test_of_equal_maxima_the_first_is_taken_and_nan_is_the_greatest(dtype):
    x = np.zeros((1, 4, 20), dtype)
    x[0, 1, 3] = x[0, 3, 3] = x[0, 2, 17] = 2
    y, at = F.max_pool2d(tg.tensor(x), (4, 2), return_indices=True)
    assert at.tolist()[0][0] == [0, 23, 4, 6, 8, 10, 12, 14, 57, 18]
    assert y.tolist()[0][0] == [0, 2, 0, 0, 0, 0, 0, 0, 2, 0]
    if dtype != "uint8":
        x[0, 0, 0] = x[0, 2, 1] = np.nan
        y, at = F.max_pool2d(tg.tensor(x), (4, 2), return_indices=True)
        assert math.isnan(y[0, 0, 0].item()) and at[0, 0, 0].item() == 41


def test_windows_of_minus_infinity_keep_places_inside():
    x = leaf(np.full((1, 3, 9), -np.inf))
    y, at = F.max_pool2d(x, 3, 2, 1, return_indices=True)
    assert y.tolist() == [[[-math.inf] * 5] * 2]
    assert at.tolist() == [[[0, 1, 3, 5, 7], [9, 10, 12, 14, 16]]]
    y.sum().backward()
    assert x.grad.sum().item() == 10


def test_means_of_ones_are_ones():
    for size in range(1, 50):
        found = F.avg_pool1d(tg.ones(1, 1, 200), size, 1)
        assert (found == 1).all()


def test_infinity_stays_in_its_windows():
    x = np.ones((1, 1, 30))
    x[0, 0, [2, 15]] = np.inf
    found = F.avg_pool1d(tg.tensor(x), 3, 1, 1).numpy()[0, 0]
    assert sorted(np.flatnonzero(np.isinf(found))) == [1, 2, 3, 14, 15, 16]
    assert not np.isnan(found).any()


def test_means_of_the_whole_plane():
    x = image(2, 3, 5, 7)
    np.testing.assert_allclose(F.adaptive_avg_pool2d(tg.tensor(x), 1).numpy()[..., 0, 0], x.mean((2, 3)), rtol=1e-14)


def test_enlarging_by_two():
    x = image(1, 2, 3, 21)
    nearest = F.interpolate(tg.tensor(x), scale_factor=2).numpy()
    np.testing.assert_array_equal(nearest, x.repeat(2, 2).repeat(2, 3))
    linear = F.interpolate(tg.tensor(x[0]), scale_factor=2, mode="linear").numpy()
    padded = np.pad(x[0], [(0, 0), (0, 0), (1, 1)], "edge")[0]
    wanted = np.stack(
        [0.25 * padded[:, :-2] + 0.75 * padded[:, 1:-1], 0.75 * padded[:, 1:-1] + 0.25 * padded[:, 2:]], -1
    )
    np.testing.assert_allclose(linear[0], wanted.reshape(3, 42), rtol=1e-12)


def test_unpooling_brings_maxima_back():
    x = image(2, 3, 6, 6)
    y, at = F.max_pool2d(tg.tensor(x), 2, return_indices=True)
    back = F.max_unpool2d(y, at, 2).numpy()
    assert (back != 0).sum() == 2 * 3 * 9
    np.testing.assert_array_equal(back[back != 0], x[back != 0])


def test_the_same_bits_on_any_number_of_threads():
    x = np.random.default_rng(1).standard_normal((9, 40, 40)).astype(np.float32)
    before = tg.get_num_threads()
    results = []
    try:
        for count in (1, 2):
            tg.set_num_threads(count)
            t = leaf(x)
            y = F.max_pool2d(t, 3, 2, 1).sum() + F.interpolate(F.avg_pool2d(t, 3, 1, 1)[None], 71, mode="bicubic").sum()
            y.backward()
            results.append((y.item(), t.grad.numpy().tobytes()))
    finally:
        tg.set_num_threads(before)
    assert results[0] == results[1]


def test_a_window_without_elements():
    """With a dilation of 3 one tap lies before, the other behind a row of two."""
    x = leaf(np.ones((1, 1, 2)))
    y = F.max_pool2d(x, (1, 2), (1, 1), (0, 1), (1, 3))
    assert y.tolist() == [[[-math.inf]]]
    y.sum().backward()
    assert x.grad.tolist() == [[[0.0, 0.0]]]


# ---- derivatives ----

DERIVED = {
    "max": lambda x: F.max_pool2d(x, 3, 2, 1) ** 2,
    "max by threes": lambda x: F.max_pool1d(x[0], 3) ** 2,
    "mean": lambda x: F.avg_pool2d(x, (3, 2), (2, 3), 1, count_include_pad=False, ceil_mode=True) ** 2,
    "adaptive mean": lambda x: F.adaptive_avg_pool2d(x, (2, 5)) ** 2,
    "adaptive max": lambda x: F.adaptive_max_pool2d(x, (3, 2)) ** 2,
    "norm": lambda x: F.lp_pool2d(x.abs() + 0.5, 3, 2),
    "neighbours": lambda x: F.local_response_norm(x, 2, alpha=0.5),
    "cubic": lambda x: F.interpolate(x, (9, 3), mode="bicubic", align_corners=True) ** 2,
    "antialiased": lambda x: F.interpolate(x, (2, 3), mode="bilinear", antialias=True) ** 2,
    "volume": lambda x: F.interpolate(x[None], scale_factor=(1.5, 2, 0.7), mode="trilinear") ** 2,
    "unpool": lambda x: F.max_unpool1d(x[0] ** 2, tg.tensor([[1, 0, 2, 8, 4, 5, 6]] * 5), 2),
    "reflect": lambda x: F.pad(x, (2, 1, 1, 3), "reflect") ** 2,
}


@pytest.mark.parametrize("name", DERIVED)
def test_derivatives_of_first_and_second_order(name):
    x = leaf(image(1, 2, 5, 7))
    if name in ("max by threes", "unpool"):
        x = leaf(image(1, 5, 7))
    assert gradcheck(DERIVED[name], [x])
    assert gradgradcheck(DERIVED[name], [x])


def test_only_places_are_kept_of_a_max_pooling():
    x = leaf(np.zeros((4, 16, 64, 64), np.float32))
    h = x * 1.0
    before = int(machine.state["bytes_live"])
    y = F.max_pool2d(h, 2)
    del h
    saved = int(machine.state["bytes_live"]) - before + 4 * x.numel()
    assert saved <= 2 * 4 * y.numel() + 4096  # y and its places, int32
    y.sum().backward()
    assert x.grad.sum().item() == 4 * 16 * 32 * 32


# ---- errors and empty inputs ----

IMAGE = tg.ones(2, 3, 4, 4)
WRONG = {
    "window larger than the input": (lambda: F.max_pool2d(IMAGE, 5), RuntimeError, "Output size is too small"),
    "mean's window larger": (lambda: F.avg_pool2d(IMAGE, 5), RuntimeError, "Output size is too small"),
    "padding": (lambda: F.max_pool2d(IMAGE, 2, padding=2), RuntimeError, "at most half"),
    "negative padding": (lambda: F.avg_pool2d(IMAGE, 2, padding=-1), RuntimeError, "non-negative"),
    "no stride": (lambda: F.max_pool2d(IMAGE, 2, stride=0), RuntimeError, "stride should be greater than zero"),
    "no window": (lambda: F.avg_pool2d(IMAGE, 0), RuntimeError, "kernel size should be greater than zero"),
    "no dilation": (lambda: F.max_pool2d(IMAGE, 2, dilation=0), RuntimeError, "dilation should be greater"),
    "three sizes": (lambda: F.max_pool2d(IMAGE, (2, 2, 2)), RuntimeError, "tuple of 2 ints"),
    "float size": (lambda: F.max_pool2d(IMAGE, 2.0), TypeError, "tuple of ints"),
    "dimensions": (lambda: F.max_pool2d(IMAGE[0, 0], 2), RuntimeError, "3D or 4D"),
    "empty plane": (lambda: F.max_pool2d(IMAGE[:, :, :0], 2), RuntimeError, "optional 0 dim batch size"),
    "divisor": (lambda: F.avg_pool2d(IMAGE, 2, divisor_override=0), RuntimeError, "divisor"),
    "bool": (lambda: F.max_pool2d(IMAGE > 0, 2), NotImplementedError, "not implemented for 'Bool'"),
    "integer mean": (lambda: F.adaptive_avg_pool2d(IMAGE.long(), 2), NotImplementedError, "'Long'"),
    "no tensor": (lambda: F.avg_pool2d([1.0], 2), TypeError, "must be Tensor"),
    "negative size": (lambda: F.adaptive_avg_pool2d(IMAGE, -1), RuntimeError, "greater than or equal to 0"),
    "adaptive sizes": (lambda: F.adaptive_max_pool2d(IMAGE, (1, 2, 3)), RuntimeError, "output_size must be 2"),
    "index": (
        lambda: F.max_unpool2d(IMAGE, tg.full((2, 3, 4, 4), 64), 2),
        RuntimeError,
        r"invalid max index: 64 \(output volumes are of size 8x8\)",
    ),
    "index shape": (lambda: F.max_unpool2d(IMAGE, tg.zeros(3, dtype=tg.int64), 2), RuntimeError, "shape of indices"),
    "index dtype": (lambda: F.max_unpool2d(IMAGE, IMAGE, 2), RuntimeError, "int64 but got: Float"),
    "unpooled size": (
        lambda: F.max_unpool2d(IMAGE, tg.zeros(2, 3, 4, 4, dtype=tg.int64), 2, output_size=(8, 10)),
        ValueError,
        "invalid output_size",
    ),
    "no goal": (lambda: F.interpolate(IMAGE), ValueError, "either size or scale_factor"),
    "two goals": (lambda: F.interpolate(IMAGE, 2, 2), ValueError, "only one of"),
    "no such mode": (lambda: F.interpolate(IMAGE, 2, mode="foo"), NotImplementedError, "got foo"),
    "mode of signals": (lambda: F.interpolate(IMAGE, 2, mode="linear"), NotImplementedError, "needs 3D input"),
    "corners": (lambda: F.interpolate(IMAGE, 2, align_corners=True), ValueError, "align_corners"),
    "size of zero": (lambda: F.interpolate(IMAGE, 0), RuntimeError, "greater than 0"),
    "antialias": (lambda: F.interpolate(IMAGE, 2, antialias=True), ValueError, "Anti-alias"),
    "neighbours": (lambda: F.local_response_norm(IMAGE[0, 0], 2), ValueError, "3D or higher"),
    "reflection": (lambda: F.pad(IMAGE, (4, 1, 1, 1), "reflect"), RuntimeError, "Padding size should be less"),
    "wrapping": (lambda: F.pad(IMAGE, (5, 1, 1, 1), "circular"), RuntimeError, "more than once"),
    "pad dims": (lambda: F.pad(IMAGE, (1, 1), "replicate"), NotImplementedError, "not supported for 4D"),
    "pad value": (lambda: F.pad(IMAGE, (1, 1, 1, 1), "reflect", 1.0), RuntimeError, "value argument"),
    "padding layer": (lambda: nn.ZeroPad2d((1, 2)), ValueError, "one number or 4"),
}


@pytest.mark.parametrize("what", WRONG)
def test_errors(what):
    call, error, text = WRONG[what]
    with pytest.raises(error, match=text):
        call()


def test_empty_batches():
    empty = tg.ones(0, 3, 4, 4, requires_grad=True)
    results = [
        F.max_pool2d(empty, 2),
        F.avg_pool2d(empty, 2),
        F.adaptive_max_pool2d(empty, 2),
        F.adaptive_avg_pool2d(empty, 2),
        F.interpolate(empty, 2, mode="bilinear"),
        F.pad(empty, (-1, -1, -1, -1), "reflect"),
    ]
    assert {tuple(y.shape) for y in results} == {(0, 3, 2, 2)}
    sum(y.sum() for y in results).backward()
    assert empty.grad.shape == empty.shape
    assert F.adaptive_avg_pool2d(IMAGE, (0, 2)).shape == (2, 3, 0, 2)
    assert F.adaptive_max_pool2d(IMAGE, (0, 2)).shape == (2, 3, 0, 2)


# ---- beside torch ----

WINDOWS = [
    {"kernel_size": 2},
    {"kernel_size": 3, "stride": 2, "padding": 1},
    {"kernel_size": 3, "stride": 1, "padding": 1},
    {"kernel_size": 2, "stride": 3, "ceil_mode": True},
    {"kernel_size": 4, "stride": 3, "padding": 2, "ceil_mode": True},
]
PLANES = {1: [(2, 3, 7), (3, 40)], 2: [(2, 3, 7, 7), (2, 21, 37), (1, 2, 5, 12)], 3: [(1, 2, 5, 6, 7), (2, 4, 4, 9)]}


def calls_of(dims):
    """Return calls that a layer of so many dimensions is compared in: name, keywords, shape."""
    for k, shape in enumerate(PLANES[dims]):
        for window in WINDOWS:
            yield f"max_pool{dims}d", {**window, "return_indices": True}, shape
            yield f"avg_pool{dims}d", {**window, "count_include_pad": k % 2 == 0}, shape
        yield f"max_pool{dims}d", {"kernel_size": 2, "dilation": 2, "stride": 1}, shape
        for size in (1, 3, (None, 4, 2)[:dims]):
            yield (
                f"adaptive_avg_pool{dims}d",
                {"output_size": 4 if size == (None,) else size},
                shape,
            )
            yield f"adaptive_max_pool{dims}d", {"output_size": 3, "return_indices": True}, shape
        yield f"lp_pool{dims}d", {"norm_type": 2, "kernel_size": 2}, shape
        if len(shape) == dims + 2:
            yield from interpolations(dims, shape)
        if len(shape) > 2:
            yield "local_response_norm", {"size": 3, "alpha": 0.1}, shape
    if dims == 2:
        yield "avg_pool2d", {"kernel_size": 3, "divisor_override": 5, "padding": 1}, (2, 3, 7, 7)


def interpolations(dims, shape):
    smooth = {1: ["linear"], 2: ["bilinear", "bicubic"], 3: ["trilinear"]}[dims]
    for mode in ("nearest", "nearest-exact", "area", *smooth):
        for goal in ({"scale_factor": 2}, {"scale_factor": 0.6}, {"size": (5, 11, 3)[:dims]}, {"scale_factor": 1.7}):
            yield "interpolate", {"mode": mode, **goal}, shape
        if mode in smooth:
            yield "interpolate", {"mode": mode, "size": 9, "align_corners": True}, shape
            yield "interpolate", {"mode": mode, "scale_factor": 1.3, "recompute_scale_factor": True}, shape
            if dims == 2:
                yield "interpolate", {"mode": mode, "size": (3, 17), "antialias": True}, shape


def outcome(library, function, array, kwargs):
    x = library.tensor(array, requires_grad=True)
    found = function(x, **kwargs)
    results = list(found) if isinstance(found, tuple) else [found]
    results[0].backward(library.tensor(image(*results[0].shape, seed=3).astype(array.dtype)))
    return [np.asarray(y.detach().numpy()) for y in (*results, x.grad)]


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_torch_agrees(dims):
    torch = pytest.importorskip("torch")
    for name, kwargs, shape in calls_of(dims):
        for dtype, tolerance in (("float64", 1e-9), ("float32", 2e-5)):
            if dtype == "float64" and kwargs.get("mode", "").startswith("nearest") and "scale_factor" in kwargs:
                continue  # torch's gradient rounds places otherwise than its forward pass
            array = (image(*shape) + (1 if name.startswith("lp") else 0)).astype(dtype)
            theirs = outcome(torch, getattr(torch.nn.functional, name), array, kwargs)
            ours = outcome(tg, getattr(F, name), array, kwargs)
            for mine, other in zip(ours, theirs, strict=True):
                assert mine.dtype == other.dtype and mine.shape == other.shape
                np.testing.assert_allclose(
                    mine, other, rtol=tolerance, atol=tolerance, err_msg=f"{name} {kwargs} {shape}"
                )


LAYERS = {
    "MaxPool1d": ((2,), (2, 3, 8)),
    "MaxPool2d": ((3, 2, 1), (2, 3, 8, 8)),
    "MaxPool3d": ((2,), (2, 3, 4, 4, 4)),
    "AvgPool1d": ((2,), (2, 3, 8)),
    "AvgPool2d": ((3, 2, 1), (2, 3, 8, 8)),
    "AvgPool3d": ((2,), (2, 3, 4, 4, 4)),
    "AdaptiveAvgPool1d": ((3,), (2, 3, 8)),
    "AdaptiveAvgPool2d": (((1, None),), (2, 3, 8, 8)),
    "AdaptiveAvgPool3d": ((2,), (2, 3, 4, 4, 4)),
    "AdaptiveMaxPool1d": ((3,), (2, 3, 8)),
    "AdaptiveMaxPool2d": ((3,), (2, 3, 8, 8)),
    "AdaptiveMaxPool3d": ((2,), (2, 3, 4, 4, 4)),
    "LPPool1d": ((2, 3), (2, 3, 8)),
    "LPPool2d": ((2, 3), (2, 3, 8, 8)),
    "LPPool3d": ((2, 2), (2, 3, 4, 4, 4)),
    "LocalResponseNorm": ((2,), (2, 3, 8, 8)),
    "UpsamplingNearest2d": ((None, 2), (2, 3, 4, 4)),
    "UpsamplingBilinear2d": (((5, 6),), (2, 3, 4, 4)),
    "Upsample": ((None, (1.5, 2.0), "bicubic"), (2, 3, 4, 4)),
    **{
        f"{kind}Pad{d}d": ((1,), (2, 3, *[4] * d))
        for kind in ("Zero", "Reflection", "Replication", "Circular")
        for d in (1, 2, 3)
    },
    **{f"ConstantPad{d}d": ((2, 0.5), (2, 3, *[4] * d)) for d in (1, 2, 3)},
}


@pytest.mark.parametrize("name", LAYERS)
def test_torch_layers_agree_and_print_alike(name):
    torch = pytest.importorskip("torch")
    args, shape = LAYERS[name]
    mine, other = getattr(nn, name)(*args), getattr(torch.nn, name)(*args)
    if name != "AvgPool1d":  # torch shows tuples there
        assert repr(mine) == repr(other)
    array = image(*shape) + 0.5
    np.testing.assert_allclose(
        mine(tg.tensor(array)).numpy(), other(torch.tensor(array)).numpy(), rtol=1e-9, atol=1e-12
    )


def test_torch_unpools_alike():
    torch = pytest.importorskip("torch")
    for dims in (1, 2, 3):
        array = image(2, 2, *[6] * dims)
        for library in (tg, torch):
            pool = getattr(library.nn, f"MaxPool{dims}d")(3, 2, return_indices=True)
            unpool = getattr(library.nn, f"MaxUnpool{dims}d")(3, 2)
            x = library.tensor(array, requires_grad=True)
            y, at = pool(x)
            z = unpool(y * y, at, output_size=x.shape)
            (z * z).sum().backward()
            if library is tg:
                mine = z.detach().numpy(), x.grad.numpy()
        np.testing.assert_allclose(mine[0], z.detach().numpy(), rtol=1e-12)
        np.testing.assert_allclose(mine[1], x.grad.numpy(), rtol=1e-12)


def test_torch_pads_alike():
    torch = pytest.importorskip("torch")
    x = image(2, 3, 4, 5)
    for mode in ("reflect", "replicate", "circular"):
        for amounts in ((1, 2, 3, 0), (-1, 2, 1, -2), (2, 2, 1, 1)):
            results = []
            for library in (tg, torch):
                t = library.tensor(x, requires_grad=True)
                y = library.nn.functional.pad(t, amounts, mode)
                (y * y * y).sum().backward()
                results.append((y.detach().numpy(), t.grad.numpy()))
            for mine, other in zip(*results, strict=True):
                np.testing.assert_allclose(mine, other, rtol=1e-12)


@pytest.mark.parametrize("mode", ["bilinear", "nearest", "bicubic"])
@pytest.mark.parametrize("padding_mode", ["zeros", "border", "reflection"])
def test_torch_reads_grids_alike(mode, padding_mode):
    torch = pytest.importorskip("torch")
    corners = padding_mode == "border"
    for shape in [(2, 3, 5, 6)] + [(1, 2, 3, 4, 5)] * (mode != "bicubic"):
        dims = len(shape) - 2
        theta = np.random.default_rng(0).standard_normal((shape[0], dims, dims + 1)) * 0.8
        results = []
        for library in (tg, torch):
            x, t = (library.tensor(array, requires_grad=True) for array in (image(*shape), theta))
            functional = library.nn.functional
            grid = functional.affine_grid(t, (*shape[:2], 4, 7, 3)[: dims + 2], align_corners=corners)
            y = functional.grid_sample(x, grid, mode, padding_mode, align_corners=corners)
            (y * y).sum().backward()
            results.append([array.detach().numpy() for array in (grid, y, x.grad, t.grad)])
        for mine, other in zip(*results, strict=True):
            np.testing.assert_allclose(mine, other, rtol=1e-8, atol=1e-9)


def test_derivatives_of_reading_at_a_grid():
    x, grid = leaf(image(1, 2, 3, 4)), leaf(image(1, 2, 2, 2, seed=5))
    read = lambda x, grid: F.grid_sample(x, grid, align_corners=False) ** 2  # noqa: E731
    assert gradcheck(read, [x, grid]) and gradgradcheck(read, [x, grid])
    nowhere = F.grid_sample(x, tg.full((1, 1, 1, 2), math.nan, dtype=tg.float64), mode="nearest")
    assert nowhere.tolist() == [[[[0.0]], [[0.0]]]]
    with pytest.raises(RuntimeError, match="expected input"):
        F.grid_sample(x, grid[..., :1])
    with pytest.raises(ValueError, match="mode"):
        F.grid_sample(x, grid, mode="linear")
