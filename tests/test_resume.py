"""Training that is killed again and again ends in the same bits as training that is left alone."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import tapegrad as tg

KILLS = int(os.environ.get("TAPEGRAD_KILLS", "4"))
PROGRAM = Path(__file__).with_name("resumable.py")
STEPS_A_LIFE = 200  # more than a quick machine takes before it is killed


def start(folder, steps):
    return subprocess.Popen([sys.executable, PROGRAM, folder, str(steps)])


def written(folder):
    """Return when the last checkpoint was written."""
    checkpoint = folder / "last.ckpt"
    return checkpoint.stat().st_mtime_ns if checkpoint.exists() else 0


def kill_in_training(folder, steps, delay):
    """Start the program, kill it ``delay`` seconds after its first checkpoint; return whether it came to that."""
    before, program = written(folder), start(folder, steps)
    while written(folder) == before and program.poll() is None:
        time.sleep(0.002)
    time.sleep(delay)
    program.send_signal(signal.SIGKILL)
    return program.wait() == -signal.SIGKILL


def test_killed_training_ends_in_the_same_bits(tmp_path):
    steps = STEPS_A_LIFE * (KILLS + 2)
    alone, killed = tmp_path / "alone", tmp_path / "killed"
    for folder in (alone, killed):
        folder.mkdir()
    assert start(alone, steps).wait() == 0
    delays = random.Random(0)
    reached = []
    while len(reached) < KILLS and kill_in_training(killed, steps, delays.uniform(0, 0.06)):
        reached.append(tg.load(killed / "last.ckpt")["step"])
    assert len(reached) == KILLS and reached == sorted(reached), reached
    assert start(killed, steps).wait() == 0
    print("killed after the steps", reached, "of", steps)
    assert (killed / "final.ckpt").read_bytes() == (alone / "final.ckpt").read_bytes()
    assert sorted(path.name for path in killed.iterdir()) == ["final.ckpt", "last.ckpt"]
