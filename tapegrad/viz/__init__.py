"""Looking at the tape: as rows, as text, as a drawing."""

from tapegrad.viz.tape import Tape, tape

__all__ = ["Tape", "tape"]
