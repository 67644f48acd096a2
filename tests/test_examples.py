"""The programs in docs/examples run from the command line: a short run ends well and leaves its files."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("matplotlib")
pytest.importorskip("tqdm")
EXAMPLES = Path(__file__).parent.parent / "docs" / "examples"

# program: packages that carry its data or what it is compared with, files that it leaves
PROGRAMS = [
    ("cartpole", [], ["checkpoint.safetensors", "cartpole.png"]),
    ("char_lstm", [], ["checkpoint.safetensors", "sample.txt", "bits.png"]),
    ("char_transformer", [], ["checkpoint.safetensors", "sample.txt", "bits.png"]),
    ("dcgan", ["mlxtend"], ["checkpoint.safetensors", "dcgan.png"]),
    ("dehaze", ["PIL", "skimage", "sklearn"], ["checkpoint.safetensors", "dehaze.png", "netG.safetensors"]),
    ("digits_cnn", ["mlxtend"], ["checkpoint.safetensors", "digits.png"]),
    ("vae", ["mlxtend"], ["checkpoint.safetensors", "vae.png"]),
    ("logistic_lbfgs", ["sklearn"], ["weights.png"]),
    ("pinn", [], ["checkpoint.safetensors", "solution.png"]),
    ("tabular", ["sklearn"], ["diabetes.png"]),
]
# programs that leave no files, and what they print
PRINTING = [
    ("cartpole_njit", "steps on average"),
    ("hmc_njit", "standard errors"),
    ("minimize_scipy", "largest error"),
]


def run(name, *options):
    command = [sys.executable, "-W", "error::UserWarning", str(EXAMPLES / f"{name}.py"), "--quick"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    return subprocess.run(
        [*command, *options], env=environment, capture_output=True, text=True, timeout=600, check=False
    )


@pytest.mark.parametrize(("name", "packages", "files"), PROGRAMS, ids=[program[0] for program in PROGRAMS])
def test_a_short_run_leaves_its_files(name, packages, files, tmp_path):
    for package in packages:
        pytest.importorskip(package)
    done = run(name, "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr
    for file in files:
        assert (tmp_path / file).stat().st_size > 0
    if "checkpoint.safetensors" in files:
        again = run(name, "--out", str(tmp_path), "--resume")
        assert again.returncode == 0, again.stderr


@pytest.mark.parametrize(("name", "printed"), PRINTING, ids=[program[0] for program in PRINTING])
def test_a_short_run_prints_its_quality(name, printed):
    done = run(name)
    assert done.returncode == 0, done.stderr
    assert printed in done.stdout
