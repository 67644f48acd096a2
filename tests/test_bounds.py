"""The bounds-checking mode (TAPEGRAD_CHECK_BOUNDS=1) lets right programs run and finds what touches others' memory."""

import os
import signal
import subprocess
import sys

PROGRAM = """
import ctypes
import tapegrad as tg
x = tg.tensor([1.0, 2.0, 3.0], requires_grad=True)
y = x * x + 1.5
y.backward(tg.tensor([1.0, 1.0, 1.0]))
assert x.grad.tolist() == [2.0, 4.0, 6.0]
print("right program runs")
z = tg.tensor([1.0, 2.0, 3.0])
{write}
print((z + z).tolist())
"""
BEYOND = "ctypes.c_float.from_address(z.data_ptr() + 4 * {index}).value = 7.0"


def run(write: str, check: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "TAPEGRAD_CHECK_BOUNDS": check}
    command = [sys.executable, "-c", PROGRAM.format(write=write)]
    return subprocess.run(command, env=environment, capture_output=True, text=True)


def test_a_right_program_runs() -> None:
    found = run("pass", "1")
    assert found.returncode == 0, found.stderr
    assert "[2.0, 4.0, 6.0]" in found.stdout


def test_a_write_beyond_a_tensor_is_found() -> None:
    for index in (3, 9):
        found = run(BEYOND.format(index=index), "1")
        assert "right program runs" in found.stdout
        assert found.returncode != 0 and "out of bounds" in found.stderr


def test_a_read_beyond_a_block_stops_the_process() -> None:
    read = "ctypes.c_float.from_address(z.data_ptr() + 64).value"
    assert run(read, "0").returncode == 0
    assert run(read, "1").returncode == -signal.SIGSEGV


def test_a_read_of_freed_memory_stops_the_process() -> None:
    read = "address = z.data_ptr(); z = z + 1; ctypes.c_float.from_address(address).value"
    assert run(read, "0").returncode == 0
    assert run(read, "1").returncode == -signal.SIGSEGV


def test_memory_is_nan_before_it_is_written() -> None:
    assert "[nan, nan, nan]" in run("z = tg.empty(3)", "1").stdout


def test_the_mode_is_off_by_default() -> None:
    assert run(BEYOND.format(index=9), "0").returncode == 0
