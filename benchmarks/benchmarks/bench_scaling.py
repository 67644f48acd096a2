"""Cost against length: of the tape, from 10 to 10^6 entries, of captures and of models. It has to be a straight line.

The times are fitted by a + b n. What is shown is the exponent of the growth and the largest distance from the line;
where the exponent is above 1.15 the benchmark fails, as it would at 2 if anything walked a list for each entry.
"""

import timeit

import measuring
import numpy as np

import tapegrad as tg

TAPE = [10, 100, 1_000, 10_000, 100_000, 1_000_000]
CAPTURED = [100, 1_000, 10_000, 50_000]  # operations
DEPTHS = [1, 2, 4, 8, 16, 32, 64, 128, 256]
WIDTH = 16  # of layers: 256 of them, with gradients and Adam's moments, still fit the second-level cache
STEEPEST = 1.15


def straight_line(sizes, times):
    """Return the exponent of the growth from the root of the largest size on, and the distance from a line.

    The line a + b n is fitted to the relative distances, so that each size counts alike; the distance is the largest
    of |time / line - 1|.

    Raises:
        ArithmeticError: the exponent is above STEEPEST.
    """
    n, t = np.asarray(sizes, float), np.asarray(times, float)
    long = n >= n.max() ** 0.5
    exponent = float(np.polyfit(np.log(n[long]), np.log(t[long]), 1)[0])
    a, b = np.linalg.lstsq(np.stack([1 / t, n / t], 1), np.ones_like(t), rcond=None)[0]
    if exponent > STEEPEST:
        raise ArithmeticError(f"no straight line: times {t.tolist()} for sizes {n.tolist()}, exponent {exponent:.3f}")
    return measuring.four_digits(exponent), measuring.four_digits(float(np.abs(t / (a + b * n) - 1).max()))


def _chain(length):
    x = tg.tensor([1.0, 1.0, 1.0], requires_grad=True)
    y = x
    for _ in range(length):
        y = y * x
    return x, y


def _backward(length):
    ones = tg.ones(3)
    x, y = _chain(length)
    return lambda: tg.autograd.grad(y, x, ones, retain_graph=True)


def _perceptron(depth, captured):
    layers = [layer for _ in range(depth) for layer in (tg.nn.Linear(WIDTH, WIDTH), tg.nn.Tanh())]
    model = tg.nn.Sequential(*layers)
    optimizer = tg.optim.Adam(model.parameters(), lr=1e-3)
    x = tg.randn(8, WIDTH)

    def step():
        optimizer.zero_grad()
        model(x).sum().backward()
        optimizer.step()

    step()
    return tg.compile(step) if captured else step


def _capture(length):
    """Make a program of about so many operations, of two noted calls."""
    x = tg.tensor(0.5, requires_grad=True)

    def step():
        y = x
        for _ in range(length // 4):  # a sine and a product, and their derivatives
            y = tg.sin(y) * x
        return tg.autograd.grad(y, x)

    captured = tg.compile(step)
    captured()
    captured()
    return captured.variants[0].program


class Tape:
    """Recording, sweeping and freeing entries."""

    timeout = 600

    def setup_cache(self):
        return {
            "record and free": straight_line(TAPE, [measuring.shortest(lambda n=n: _chain(n)) for n in TAPE]),
            "sweep": straight_line(TAPE, [measuring.shortest(_backward(n)) for n in TAPE]),
        }

    params = [["record and free", "sweep"]]
    param_names = ["what"]

    def track_exponent(self, found, what):
        return found[what][0]

    def track_distance_from_a_line(self, found, what):
        return found[what][1]


class Capture:
    """The two calls of a captured function that are noted, and the making of its program."""

    timeout = 600

    def setup_cache(self):
        times = [
            min(timeit.repeat(lambda n=n: _capture(n), timer=measuring.PROCESSOR, number=1, repeat=5)) for n in CAPTURED
        ]
        return *straight_line(CAPTURED, times), measuring.four_digits(1e6 * times[-1] / len(_capture(CAPTURED[-1])))

    def track_exponent(self, found):
        return found[0]

    def track_distance_from_a_line(self, found):
        return found[1]

    def track_microseconds_per_operation(self, found):
        return found[2]

    track_microseconds_per_operation.unit = "us"


class Model:
    """A step of a perceptron of 1 to 256 layers."""

    timeout = 600

    def setup_cache(self):
        def times(captured):
            return [measuring.shortest(_perceptron(depth, captured)) for depth in DEPTHS]

        return {how: straight_line(DEPTHS, times(how == "captured")) for how in ("eager", "captured")}

    params = [["eager", "captured"]]
    param_names = ["how"]

    def track_exponent(self, found, how):
        return found[how][0]

    def track_distance_from_a_line(self, found, how):
        return found[how][1]


for _class in (Tape, Capture, Model):
    _class.track_exponent.unit, _class.track_distance_from_a_line.unit = "", "relative"
