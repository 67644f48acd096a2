"""Capture and replay: a function's run as a program."""

from tapegrad.capture.compiled import Compiled, compile
from tapegrad.capture.errors import CaptureError

__all__ = ["CaptureError", "Compiled", "compile"]
