"""Small real data sets that installed packages carry: nothing is downloaded.

Functions return tensors of documented shapes; where a package is missing, the error says what to install.
"""

from tapegrad.datasets.images import PHOTOGRAPHS, digits, faces, photographs
from tapegrad.datasets.installed import MissingExtraError
from tapegrad.datasets.splitting import train_test_split
from tapegrad.datasets.tables import breast_cancer, diabetes, iris, small_digits, wine
from tapegrad.datasets.text import Text, text

__all__ = [
    "PHOTOGRAPHS",
    "MissingExtraError",
    "Text",
    "breast_cancer",
    "diabetes",
    "digits",
    "faces",
    "iris",
    "photographs",
    "small_digits",
    "text",
    "train_test_split",
    "wine",
]
