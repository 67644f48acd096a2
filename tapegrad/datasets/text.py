"""A text of half a million characters: what Python's help() says about the language."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from tapegrad.runtime.handle import Tensor
from tapegrad.tensor.construct import tensor


@dataclass(frozen=True)
class Text:
    """A text, and the characters in it.

    Attributes:
        text: the text.
        characters: each character of it once, sorted: a character's code is its place here.
        codes: int64 [len(text)].
    """

    text: str
    characters: str
    codes: Tensor

    def encode(self, text: str) -> Tensor:
        """Return the codes of a text as int64 [len(text)]; ValueError for a character that is not in ``characters``."""
        return tensor([self.characters.index(character) for character in text])

    def decode(self, codes: Any) -> str:
        """Return the text of a sequence of codes."""
        return "".join(self.characters[int(code)] for code in codes)


def text() -> Text:
    """Return the topics of `pydoc_data.topics`, of the standard library, one after the other in order of their names.

    About 465,000 characters (another release of Python has other words).

    Example:
        >>> import tapegrad as tg
        >>> found = tg.datasets.text()
        >>> found.decode(found.codes[:22])
        'The "assert" statement'
    """
    from pydoc_data.topics import topics

    whole = "\n\n".join(topics[name].strip() for name in sorted(topics)) + "\n"
    points = np.frombuffer(whole.encode("utf-32-le"), np.uint32)
    used, codes = np.unique(points, return_inverse=True)
    return Text(whole, "".join(map(chr, used)), tensor(codes.astype(np.int64)))
