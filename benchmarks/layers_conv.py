"""Convolutional layers: the usual filters at 1 to 512 channels, strided, transposed, depthwise, along one dimension."""

from __future__ import annotations

from typing import Any

from layer_cases import Build, Case


def _build(layer: str, image: tuple[int, ...], options: dict[str, Any]) -> Build:
    def build(library: Any, random: Any) -> Any:
        x = library.from_numpy(random.standard_normal(image).astype("float32")).requires_grad_()
        module = getattr(library.nn, layer)(image[1], **options)
        return lambda: module(x), [x, *module.parameters()]

    return build


def _case(name: str, image: tuple[int, ...], out: int, kernel: int, layer: str = "Conv2d", **options: Any) -> Case:
    """Return a case; its multiplications and additions are those of places that meet the image or its padding."""
    stride, groups = options.get("stride", 1), options.get("groups", 1)
    places = kernel ** (len(image) - 2)
    pixels = 1
    for length in image[2:]:
        pixels *= length if "Transpose" in layer else (length + 2 * options.get("padding", 0) - kernel) // stride + 1
    flops = 2.0 * image[0] * image[1] // groups * out * places * pixels
    build = _build(layer, image, {"out_channels": out, "kernel_size": kernel, **options})
    return Case(f"{name} {'x'.join(map(str, image))} -> {out}", build, 1.0, flops)


CASES = [
    _case("3x3", (64, 3, 32, 32), 32, 3, padding=1),
    _case("3x3", (16, 3, 56, 56), 64, 3, padding=1),
    _case("3x3", (32, 32, 28, 28), 32, 3, padding=1),
    _case("3x3", (16, 32, 56, 56), 64, 3, padding=1),
    _case("3x3", (32, 64, 28, 28), 64, 3, padding=1),
    _case("3x3", (16, 64, 56, 56), 64, 3, padding=1),
    _case("3x3", (16, 128, 28, 28), 128, 3, padding=1),
    _case("3x3", (32, 256, 14, 14), 256, 3, padding=1),
    _case("3x3", (16, 512, 7, 7), 512, 3, padding=1),
    _case("digits 3x3", (64, 1, 28, 28), 16, 3, padding=1),
    _case("digits 3x3", (64, 16, 14, 14), 32, 3, padding=1),
    _case("digits 3x3", (64, 1, 8, 8), 16, 3, padding=1),
    _case("1x1", (16, 64, 28, 28), 256, 1),
    _case("1x1", (32, 256, 14, 14), 64, 1),
    _case("3x3 stride 2", (16, 64, 56, 56), 128, 3, padding=1, stride=2),
    _case("1x1 stride 2", (16, 64, 56, 56), 128, 1, stride=2),
    _case("7x7 stride 2", (8, 3, 112, 112), 64, 7, padding=3, stride=2),
    _case("4x4 stride 2", (32, 64, 32, 32), 128, 4, padding=1, stride=2),
    _case("4x4 to one", (64, 512, 4, 4), 100, 4),
    _case("transposed 4x4 from one", (64, 100, 1, 1), 512, 4, "ConvTranspose2d"),
    _case("transposed 4x4 stride 2", (32, 128, 16, 16), 64, 4, "ConvTranspose2d", padding=1, stride=2),
    _case("transposed 4x4 stride 2", (32, 64, 32, 32), 3, 4, "ConvTranspose2d", padding=1, stride=2),
    _case("depthwise 3x3", (32, 64, 28, 28), 64, 3, padding=1, groups=64),
    _case("depthwise 3x3 stride 2", (16, 128, 56, 56), 128, 3, padding=1, stride=2, groups=128),
    _case("along a line 5", (16, 64, 1024), 64, 5, "Conv1d", padding=2),
    _case("3x3x3", (4, 16, 16, 16, 16), 32, 3, "Conv3d", padding=1),
]
