"""Trains the demonstration's classifier: a small perceptron, random shifts, Adam with a one-cycle rate."""

import itertools
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

import tapegrad as tg
from tapegrad.demo.data import SIDE, Digits, shifted, windows

MARGIN = 2  # pixels that an image may be moved by
PEAK_RATE = 3e-3
LAYERS = (SIDE * SIDE, 256, 128, 10)


@dataclass(frozen=True)
class Settings:
    """What a run is determined by: with the same settings it gives the same weights."""

    epochs: int = 40
    batch_size: int = 64
    seed: int = 0


@dataclass(frozen=True)
class Epoch:
    """A row of ``metrics.csv``; loss is the mean over the epoch's steps, seconds count training, not evaluation."""

    epoch: int
    steps: int
    loss: float
    held_out_loss: float
    held_out_accuracy: float
    learning_rate: float
    samples_per_second: float


@dataclass
class Best:
    """The weights with the highest held-out accuracy so far (the earliest of equals)."""

    epoch: int = 0
    accuracy: float = -1.0
    weights: dict[str, NDArray[np.float32]] = field(default_factory=dict)


class Watcher(Protocol):
    """Who is told how training goes and may stop it."""

    stop: bool

    def step(self, epoch: int, step: int, loss: float, samples_per_second: float) -> None:
        """Be told of a finished step."""

    def epoch(self, row: Epoch, best: Best) -> None:
        """Be told of a finished, or interrupted, epoch after its evaluation."""


def one_cycle(step: int, steps: int, peak: float) -> float:
    """Return the learning rate of ``step``: up to ``peak`` over the first 30 % of the steps, then down to almost 0.

    Both parts are half a cosine, as in `torch.optim.lr_scheduler.OneCycleLR` (Smith and Topin 2018, arXiv:1708.07120).

    Examples:
        >>> [round(one_cycle(step, 20, 1.0), 3) for step in (0, 5, 19)]
        [0.04, 1.0, 0.0]
    """
    start, end = peak / 25, peak / 25e4
    turn = max(0.3 * steps - 1, 0)
    if step < turn:
        return _cosine(start, peak, step / turn)
    return _cosine(peak, end, (step - turn) / max(steps - 1 - turn, 1))


def _cosine(first: float, last: float, share: float) -> float:
    return last + (first - last) * (1 + math.cos(math.pi * share)) / 2


def build_model() -> Any:
    """Return the classifier: 784 pixels, two hidden layers with ReLU, 10 scores."""
    pairs = list(itertools.pairwise(LAYERS))
    layers: list[Any] = []
    for inputs, outputs in pairs[:-1]:
        layers += [tg.nn.Linear(inputs, outputs), tg.nn.ReLU()]
    return tg.nn.Sequential(*layers, tg.nn.Linear(*pairs[-1]))


def predict(model: Any, images: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the model's scores (n, 10) of ``images`` (n, 28, 28)."""
    with tg.no_grad():
        scores: NDArray[np.float32] = model(tg.tensor(images.reshape(len(images), -1))).numpy()
    return scores


def evaluate(model: Any, images: NDArray[np.float32], labels: NDArray[np.int64]) -> tuple[float, float]:
    """Return the mean cross-entropy and the accuracy on ``images``."""
    scores = predict(model, images)
    with tg.no_grad():
        loss = tg.nn.functional.cross_entropy(tg.tensor(scores), tg.tensor(labels)).item()
    return loss, float((scores.argmax(axis=1) == labels).mean())


def weights_of(model: Any) -> dict[str, NDArray[np.float32]]:
    """Return copies of the model's weights by their names in its ``state_dict``."""
    return {name: value.detach().numpy().copy() for name, value in model.state_dict().items()}


def batches(count: int, size: int, generator: np.random.Generator) -> Iterator[NDArray[Any]]:
    """Yield the numbers below ``count`` in a new random order, ``size`` at a time, the last of them fewer."""
    order = generator.permutation(count)
    for start in range(0, count, size):
        yield order[start : start + size]


def training_step(
    model: Any, optimizer: Any, rate: float, images: NDArray[np.float32], labels: NDArray[np.int64]
) -> float:
    """Take one step on a batch of ``images`` (batch, 784) at the learning ``rate``; return the batch's loss."""
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.zero_grad()
    loss = tg.nn.functional.cross_entropy(model(tg.tensor(images)), tg.tensor(labels))
    loss.backward()
    optimizer.step()
    return float(loss.item())


class Trainer:
    """One run: a model, its optimiser, the digits and the generator that orders and shifts them."""

    def __init__(self, model: Any, digits: Digits, settings: Settings, watcher: Watcher) -> None:
        self.model, self.digits, self.settings, self.watcher = model, digits, settings, watcher
        self.generator = np.random.default_rng(settings.seed)
        self.optimizer = tg.optim.Adam(model.parameters(), lr=PEAK_RATE)
        self.cuts = windows(digits.train_images, MARGIN)
        self.steps = settings.epochs * math.ceil(len(self.cuts) / settings.batch_size)
        self.done = 0

    def run(self) -> Best:
        """Train until the epochs are over or the watcher says stop; return the best weights."""
        best = Best()
        for epoch in range(1, self.settings.epochs + 1):
            losses, speed = self._train_epoch(epoch)
            held_out_loss, accuracy = evaluate(self.model, self.digits.held_out_images, self.digits.held_out_labels)
            if accuracy > best.accuracy:
                best = Best(epoch, accuracy, weights_of(self.model))
            rate = self.optimizer.param_groups[0]["lr"]
            row = Epoch(epoch, self.done, float(np.mean(losses)), held_out_loss, accuracy, rate, speed)
            self.watcher.epoch(row, best)
            if self.watcher.stop:
                break
        return best

    def _train_epoch(self, epoch: int) -> tuple[list[float], float]:
        losses, seen, speed, started = [], 0, 0.0, time.perf_counter()
        for rows in batches(len(self.cuts), self.settings.batch_size, self.generator):
            losses.append(self._step(rows))
            seen += len(rows)
            speed = seen / (time.perf_counter() - started)
            self.watcher.step(epoch, self.done, losses[-1], speed)
            if self.watcher.stop:
                break
        return losses, speed

    def _step(self, rows: NDArray[Any]) -> float:
        rate = one_cycle(self.done, self.steps, PEAK_RATE)
        images = shifted(self.cuts, rows, self.generator)
        self.done += 1
        return training_step(self.model, self.optimizer, rate, images, self.digits.train_labels[rows])
