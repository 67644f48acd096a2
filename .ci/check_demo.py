"""Opens what `tapegrad demo` wrote, as its reader would: `python .ci/check_demo.py FOLDER`."""

import csv
import sys
from pathlib import Path

from matplotlib.image import imread
from safetensors.numpy import load_file


def check(folder: Path) -> None:
    """Fail unless the run folder's four files open and hold what they should."""
    weights = load_file(folder / "model.safetensors")
    assert len(weights) == 6, weights
    assert all(array.dtype.name == "float32" and array.size for array in weights.values()), weights
    with (folder / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["1", "2"], rows
    assert float(rows[-1]["held_out_accuracy"]) > 0.5, rows
    for name in ("curves.png", "digits.png"):
        picture = imread(folder / name)
        assert min(picture.shape[:2]) > 200, (name, picture.shape)
        assert picture.std() > 0.01, f"{name} is blank"
    print(f"{folder}: {len(weights)} arrays, {len(rows)} epochs, 2 pictures")


check(Path(sys.argv[1]))
