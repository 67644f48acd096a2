"""Capture and replay: a function's run as a program."""

from tapegrad.capture.compiled import Compiled, compile
from tapegrad.capture.errors import CaptureError
from tapegrad.capture.native import NativeFunction
from tapegrad.capture.pure import with_njit

__all__ = ["CaptureError", "Compiled", "NativeFunction", "compile", "with_njit"]
