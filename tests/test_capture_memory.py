"""What captures and captured programs leave behind: no memory, and the collector as it was."""

import ctypes
import gc
from pathlib import Path

import pytest

import tapegrad as tg
from tapegrad.capture import CaptureError
from tapegrad.runtime.machine import machine


def free_blocks(state):
    found = set()
    for block in state["free_blocks"].tolist():
        while block:
            found.add(block)
            block = ctypes.c_int64.from_address(block).value
    return found


def test_blocks_that_a_programs_kernels_have_taken_come_back():
    draw = tg.compile(lambda weights: tg.multinomial(weights, 500))
    for _ in range(3):
        draw(tg.ones(100_000))
    mine = free_blocks(draw.variants[0].program._state[0])
    assert mine
    assert not mine & free_blocks(machine.state)
    del draw
    gc.collect()
    again = tg.compile(lambda x: x + 1)
    for _ in range(3):
        again(tg.ones(1))
    assert mine <= free_blocks(machine.state) | free_blocks(again.variants[0].program._state[0])


def test_a_recording_holds_no_large_results_that_are_gone():
    in_use = []

    def function(x):
        before = tg.memory_stats()["in_use"]
        for k in range(10):
            x = x * (1.0 + k)
        in_use.append((tg.memory_stats()["in_use"] - before) / (4 * x.numel()))
        return x.sum()

    for elements, most in ((1 << 20, 4), (1 << 10, 20)):  # small ones may become constants
        captured = tg.compile(function)
        for seed in range(3):
            assert (
                captured(tg.full((elements,), 0.5 + seed)).item() == function(tg.full((elements,), 0.5 + seed)).item()
            )
        assert max(in_use) < most
        in_use.clear()


def test_captures_that_are_dropped_leave_no_memory_behind():
    weights = tg.ones(300)

    def capture():
        draw = tg.compile(lambda w: tg.multinomial(w, 5) * 2)  # its kernel takes a small block
        for _ in range(3):
            draw(weights)

    def mapped():
        lines = Path("/proc/self/status").read_text().splitlines()
        return {line.split()[0]: int(line.split()[1]) for line in lines if line.startswith("Vm")}

    def captures(count):
        for _ in range(count):
            capture()
        gc.collect()

    captures(30)
    before, rows = mapped(), int(machine.state["slots_top"])
    captures(300)
    assert mapped()["VmData:"] - before["VmData:"] < 50 << 10  # KiB: a chunk each would be 300 MiB
    assert int(machine.state["slots_top"]) < rows + 100


@pytest.mark.parametrize("on", [True, False])
def test_the_collector_is_afterwards_as_before(on):
    """Capturing turns it off, since it would walk the instructions again and again; what raises turns it on again."""

    def escapes(x):
        kept.append(x * 2)

    def call_often(captured):
        for _ in range(20):
            captured(tg.ones(3))

    kept = []
    before = gc.isenabled()
    try:
        (gc.enable if on else gc.disable)()
        captured = tg.compile(lambda x: x * 2)
        for _ in range(3):
            captured(tg.ones(3))
            assert gc.isenabled() == on
        captured = tg.compile(escapes)
        with pytest.raises(CaptureError):
            call_often(captured)
        assert gc.isenabled() == on
    finally:
        (gc.enable if before else gc.disable)()
