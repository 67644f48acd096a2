"""Capture and replay: a function's run as a program."""

from tapegrad.capture.compiled import Compiled, compile
from tapegrad.capture.errors import CaptureError
from tapegrad.capture.memory import draw_memory, memory_text
from tapegrad.capture.native import NativeFunction
from tapegrad.capture.profiling import Profile, measure_limits, profile, tracing, write_trace
from tapegrad.capture.program import Program
from tapegrad.capture.pure import with_njit

__all__ = [
    "CaptureError",
    "Compiled",
    "NativeFunction",
    "Profile",
    "Program",
    "compile",
    "draw_memory",
    "measure_limits",
    "memory_text",
    "profile",
    "tracing",
    "with_njit",
    "write_trace",
]
