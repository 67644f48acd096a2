"""Capture and replay: a function's run as a program."""

from tapegrad.capture.compiled import Compiled, compile
from tapegrad.capture.errors import CaptureError
from tapegrad.capture.memory import draw_memory, memory_text
from tapegrad.capture.native import NativeFunction
from tapegrad.capture.passes import PASSES
from tapegrad.capture.profiling import Profile, measure_limits, profile, tracing, write_trace
from tapegrad.capture.program import Program
from tapegrad.capture.pure import with_njit
from tapegrad.capture.saved import SavedProgram, load_program, save_program

__all__ = [
    "PASSES",
    "CaptureError",
    "Compiled",
    "NativeFunction",
    "Profile",
    "Program",
    "SavedProgram",
    "compile",
    "draw_memory",
    "load_program",
    "measure_limits",
    "memory_text",
    "profile",
    "save_program",
    "tracing",
    "with_njit",
    "write_trace",
]
