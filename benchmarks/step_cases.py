"""Whole training steps, written once for tapegrad and torch: forward, backward and optimiser on fixed data.

The networks of ``docs/examples`` come without what is random in them, dropout and augmentation, so that losses can be
compared between libraries.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from contest import problems
from contest.problems import BLOCKS, CHARACTERS, CNN_CHANNELS, HEADS, LENGTH, PROBLEMS, SCALAR_TURNS, WIDTH

Step = Callable[..., Any]


@dataclass(frozen=True)
class StepCase:
    """A step.

    Args:
        key: its name in ``contest.problems`` and in the command line.
        name: what it is and on which sizes.
        make: gets a library (``tapegrad`` or ``torch``) and the weights; returns the step, a function of tensors.
        wanted: the ratio, the best peer's time over ours, that is aimed at.
        tolerance: by how much, relatively, results of the first steps may differ.
    """

    key: str
    name: str
    make: Callable[[Any, problems.Arrays], Step]
    wanted: float
    tolerance: float = 1e-4

    def build(self, library: Any) -> tuple[Step, list[Any]]:
        """Return the step in a library, uncaptured, and its arguments."""
        problem = PROBLEMS[self.key]()
        return self.make(library, problem.weights), [library.from_numpy(array) for array in problem.inputs]


def _set_weights(model: Any, library: Any, weights: problems.Arrays) -> Any:
    with library.no_grad():
        for parameter, array in zip(model.parameters(), weights, strict=True):
            parameter.copy_(library.from_numpy(array))
    return model


def _training(library: Any, model: Any, loss_of: Any, optimizer: str, **options: Any) -> Step:
    optimizer = getattr(library.optim, optimizer)(model.parameters(), fused=True, **options)

    def step(x: Any, y: Any) -> Any:
        optimizer.zero_grad()
        loss = loss_of(x, y)
        loss.backward()
        optimizer.step()
        return loss

    return step


def _mlp(library: Any, weights: problems.Arrays, activation: str) -> Any:
    """Return a perceptron of the sizes that its weights have."""
    nn = library.nn
    layers = []
    for weight in weights[::2]:
        layers += [nn.Linear(*weight.shape[::-1]), getattr(nn, activation)()]
    return _set_weights(nn.Sequential(*layers[:-1]), library, weights)


def _classifier(activation: str, optimizer: str, **options: Any) -> Callable[[Any, problems.Arrays], Step]:
    def make(library: Any, weights: problems.Arrays) -> Step:
        model = _mlp(library, weights, activation)
        loss_of = lambda x, y: library.nn.functional.cross_entropy(model(x), y)  # noqa: E731
        return _training(library, model, loss_of, optimizer, **options)

    return make


def _recurrent(kind: str) -> Callable[[Any, problems.Arrays], Step]:
    def make(library: Any, weights: problems.Arrays) -> Step:
        nn = library.nn
        (_, features), (_, hidden) = weights[0].shape, weights[1].shape
        layer, head = getattr(nn, kind)(features, hidden, batch_first=True), nn.Linear(hidden, 5)
        model = _set_weights(nn.ModuleList([layer, head]), library, weights)
        loss_of = lambda x, y: nn.functional.cross_entropy(head(layer(x)[0][:, -1]), y)  # noqa: E731
        return _training(library, model, loss_of, "Adam", lr=1e-3)

    return make


def cnn(library: Any, weights: problems.Arrays) -> Step:
    """The network of ``docs/examples/digits_cnn.py``."""
    nn = library.nn
    layers = []
    for k, (channels, width) in enumerate(CNN_CHANNELS):
        layers += [nn.Conv2d(channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
        layers += [nn.MaxPool2d(2)] if k % 2 else []
    model = _set_weights(nn.Sequential(*layers, nn.Flatten(), nn.Linear(48 * 49, 10)), library, weights)
    loss_of = lambda x, y: nn.functional.cross_entropy(model(x), y, label_smoothing=0.05)  # noqa: E731
    return _training(library, model, loss_of, "AdamW", lr=1e-3, weight_decay=0.02)


def dcgan(library: Any, weights: problems.Arrays) -> Step:
    """The step of ``docs/examples/dcgan.py``: the discriminator on real and on made pictures, then the generator."""
    nn = library.nn
    generator = nn.Sequential(
        nn.ConvTranspose2d(64, 128, 7, 1, 0, bias=False), nn.BatchNorm2d(128), nn.ReLU(True),
        nn.ConvTranspose2d(128, 64, 4, 2, 1, bias=False), nn.BatchNorm2d(64), nn.ReLU(True),
        nn.ConvTranspose2d(64, 32, 4, 2, 1, bias=False), nn.BatchNorm2d(32), nn.ReLU(True),
        nn.Conv2d(32, 1, 3, 1, 1), nn.Tanh(),
    )  # fmt: skip
    discriminator = nn.Sequential(
        nn.Conv2d(1, 32, 4, 2, 1), nn.LeakyReLU(0.2, inplace=True),
        nn.Conv2d(32, 64, 4, 2, 1, bias=False), nn.BatchNorm2d(64), nn.LeakyReLU(0.2, inplace=True),
        nn.Conv2d(64, 128, 3, 2, 1, bias=False), nn.BatchNorm2d(128), nn.LeakyReLU(0.2, inplace=True),
        nn.Conv2d(128, 1, 4, 1, 0), nn.Flatten(0), nn.Sigmoid(),
    )  # fmt: skip
    count = len(list(generator.parameters()))
    _set_weights(generator, library, weights[:count])
    _set_weights(discriminator, library, weights[count:])
    criterion, ones = nn.BCELoss(), library.ones(50)
    of_generator, of_discriminator = (
        library.optim.Adam(net.parameters(), lr=5e-4, betas=(0.5, 0.999), fused=True)
        for net in (generator, discriminator)
    )

    def step(real: Any, noise: Any) -> Any:
        discriminator.zero_grad()
        on_real = criterion(discriminator(real), 0.9 * ones)
        on_real.backward()
        fake = generator(noise)
        on_fake = criterion(discriminator(fake.detach()), 0.0 * ones)
        on_fake.backward()
        of_discriminator.step()
        generator.zero_grad()
        loss = criterion(discriminator(fake), ones)
        loss.backward()
        of_generator.step()
        return on_real + on_fake, loss

    return step


def transformer(library: Any, weights: problems.Arrays) -> Step:
    """The network of ``docs/examples/char_transformer.py``."""
    nn, F = library.nn, library.nn.functional

    class Block(nn.Module):  # type: ignore[name-defined,misc]
        def __init__(self) -> None:
            super().__init__()
            self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
            self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
            self.mlp = nn.Sequential(nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH))

        def attend(self, x: Any) -> Any:
            n, length, _ = x.shape
            q, k, v = self.qkv(x).view(n, length, 3, HEADS, WIDTH // HEADS).permute(2, 0, 3, 1, 4).unbind(0)
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            return self.out(y.transpose(1, 2).reshape(n, length, WIDTH))

        def forward(self, x: Any) -> Any:
            x = x + self.attend(self.norm1(x))
            return x + self.mlp(self.norm2(x))

    table, places = nn.Embedding(CHARACTERS, WIDTH), nn.Embedding(LENGTH, WIDTH)
    rest = nn.Sequential(*[Block() for _ in range(BLOCKS)], nn.LayerNorm(WIDTH), nn.Linear(WIDTH, CHARACTERS))
    model = _set_weights(nn.ModuleList([table, places, rest]), library, weights)
    optimizer = library.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.05, fused=True)

    def step(x: Any, y: Any) -> Any:
        optimizer.zero_grad()
        loss = F.cross_entropy(rest(table(x) + places.weight).flatten(0, 1), y.flatten())
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return loss

    return step


def physics(library: Any, weights: problems.Arrays) -> Step:
    """The step of ``docs/examples/pinn.py``: Burgers' equation, second derivatives inside the loss."""
    model = _mlp(library, weights, "Tanh")
    optimizer = library.optim.Adam(model.parameters(), lr=1e-3, fused=True)
    grad = library.autograd.grad

    def step(places: Any, times: Any) -> Any:
        optimizer.zero_grad()
        x, t = places.detach().requires_grad_(), times.detach().requires_grad_()
        u = -(math.pi * x).sin() + t * (1 - x * x) * model(library.cat([x, 2 * t - 1], 1))
        u_x, u_t = grad(u.sum(), (x, t), create_graph=True)
        (u_xx,) = grad(u_x.sum(), x, create_graph=True)
        loss = (u_t + u * u_x - 0.03 * u_xx).square().mean()
        loss.backward()
        optimizer.step()
        return loss

    return step


def rosenbrock(x: Any) -> Any:
    """Return Rosenbrock's function of x [n], as in ``docs/examples/minimize_scipy.py``."""
    return (100 * (x[1:] - x[:-1].square()).square() + (1 - x[:-1]).square()).sum()


def function(library: Any, weights: problems.Arrays) -> Step:
    def step(x: Any) -> Any:
        x = x.detach().requires_grad_()
        value = rosenbrock(x)
        return value, library.autograd.grad(value, x)[0]

    return step


def scalars(library: Any, weights: problems.Arrays, turns: int = SCALAR_TURNS) -> Step:
    def step(x: Any) -> Any:
        x = x.detach().requires_grad_()
        y = x
        for k in range(turns):
            y = (y * 0.999 + x).sin() * (1.0 + 1e-3 * (k % 1000))
        (gradient,) = library.autograd.grad(y, x)
        return y, gradient

    return step


def jacobian(library: Any, weights: problems.Arrays) -> Step:
    model = _mlp(library, weights, "Tanh")
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    return library.func.jacrev(lambda x: model(x))  # type: ignore[no-any-return]


def hvp(library: Any, weights: problems.Arrays) -> Step:
    model = _mlp(library, weights, "Tanh")
    parameters, grad = list(model.parameters()), library.autograd.grad

    def step(x: Any, y: Any, *vectors: Any) -> Any:
        loss = (model(x) - y).square().mean()
        first = grad(loss, parameters, create_graph=True)
        along = sum((g * v).sum() for g, v in zip(first, vectors, strict=True))
        return grad(along, parameters, materialize_grads=True)

    return step


def chain(library: Any, weights: problems.Arrays) -> Step:
    def step(x: Any) -> Any:
        x = x.detach().requires_grad_()
        y = (x * 1.1 + 0.3).tanh() * x
        y = ((y - 0.1).sigmoid() * y + x).relu() * 0.5
        loss = (y + 1.0).sum()
        (gradient,) = library.autograd.grad(loss, x)
        return loss, gradient

    return step


def layer_norm(library: Any, weights: problems.Arrays) -> Step:
    weight, bias = (library.from_numpy(array).requires_grad_() for array in weights)

    def step(x: Any, g: Any) -> Any:
        x = x.detach().requires_grad_()
        y = library.nn.functional.layer_norm(x, (768,), weight, bias)
        return library.autograd.grad(y, (x, weight, bias), g)

    return step


def cross_entropy(library: Any, weights: problems.Arrays) -> Step:
    def step(x: Any, y: Any) -> Any:
        x = x.detach().requires_grad_()
        loss = library.nn.functional.cross_entropy(x, y)
        return loss, library.autograd.grad(loss, x)[0]

    return step


CASES = [
    StepCase("policy", "policy MLP 16-64-64-6, tanh, batch 64, Adam", _classifier("Tanh", "Adam", lr=1e-3), 3),
    StepCase("digits", "digits MLP 784-300-100-10, batch 128, Adam", _classifier("ReLU", "Adam", lr=1e-3), 1.5),
    StepCase(
        "wide",
        "wide MLP 2048-2048-2048, batch 128, momentum",
        _classifier("ReLU", "SGD", lr=1e-2, momentum=0.9),
        1.25,
    ),
    StepCase("rnn", "tanh RNN 64, 100 steps, batch 8, Adam", _recurrent("RNN"), 3),
    StepCase("lstm", "LSTM 96, 40 steps, batch 64, Adam", _recurrent("LSTM"), 1.6),
    StepCase("cnn", "digits CNN of the examples, batch 64, AdamW", cnn, 1.6, 1e-3),
    # Rounding alone, a sign at a leaky ReLU, grows to this: with eight seeds torch's float32 was up to 7.2e-3 from its
    # float64 after five steps, as far as tapegrad's; tapegrad's float64 is 1e-15 from torch's.
    StepCase("dcgan", "DCGAN of the examples, batch 50, Adam", dcgan, 1.5, 2e-2),
    StepCase("transformer", "character transformer of the examples, AdamW", transformer, 1.7),
    StepCase("pinn", "Burgers' equation of the examples, Adam", physics, 3, 1e-3),
    StepCase("function", "Rosenbrock of 50, value and gradient, float64", function, 1.5, 1e-9),
    StepCase("scalars", "5,000 scalar operations, value and gradient, float64", scalars, 10, 1e-9),
    StepCase("jacobian", "Jacobian 24 x 24 of an MLP", jacobian, 3),
    StepCase("hvp", "Hessian-vector product of an MLP", hvp, 3, 1e-3),
    StepCase("chain", "ten elementwise operations on 2 million, value and gradient", chain, 3),
    StepCase("layer_norm", "layer norm 8192 x 768, forward and backward", layer_norm, 1.8),
    StepCase("cross_entropy", "cross entropy 8192 x 768, forward and backward", cross_entropy, 1.8),
]
STEPS = {case.key: case for case in CASES}
