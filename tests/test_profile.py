"""Profiles, traces and memory plans of captured programs."""

import json
import xml.etree.ElementTree as ET

import numpy as np
import pytest

import tapegrad as tg
from tapegrad import nn, optim
from tapegrad.capture import draw_memory, measure_limits, memory_text, profile, tracing
from tapegrad.capture.costs import flops_of
from tapegrad.capture.memory import boxes_of
from tapegrad.capture.profiling import Limits
from tapegrad.cli import main
from tapegrad.kernels.limits import fma_peak

LIMITS = Limits({"float32": 1e11, "float64": 5e10}, 1e10)


def training_step(hidden=64):
    tg.manual_seed(0)
    net = nn.Sequential(nn.Linear(32, hidden), nn.Tanh(), nn.Linear(hidden, 8))
    opt = optim.Adam(net.parameters(), lr=0.01)

    @tg.compile
    def step(x):
        opt.zero_grad()
        loss = (net(x) ** 2).mean()
        loss.backward()
        opt.step()
        return loss

    x = tg.randn(16, 32)
    for _ in range(4):
        step(x)
    return net, step, x


def program_of(step):
    return next(variant.program for variant in step.variants if variant.program is not None)


def test_a_profile_changes_nothing_and_counts_the_products():
    net, step, x = training_step()
    weights, grads = [p.tolist() for p in net.parameters()], [p.grad.tolist() for p in net.parameters()]
    found = profile(step, x, runs=5, limits=LIMITS)
    assert [p.tolist() for p in net.parameters()] == weights
    assert [p.grad.tolist() for p in net.parameters()] == grads
    # forward 2, gradients of both weights, of the second layer's input
    assert sum(row.flops for row in found.rows) == 2 * 16 * (2 * 32 * 64 + 2 * 64 * 8 + 64 * 8)
    assert all(row.bytes > 0 and row.line.startswith("test_profile.py:") for row in found.rows)
    assert found.seconds > 0
    assert sum(seconds for _, _, seconds in found.by_op()) == pytest.approx(found.seconds)
    assert sum(count for _, count, _ in found.by_line()) == len(found.rows)
    text = str(found)
    assert "GFLOP/s" in text and "tanh" in text and "test_profile.py" in text
    before = step(x).item()
    assert np.isfinite(before)


def test_what_is_touched_is_counted_once():
    add = tg.compile(lambda x, y: x + y)
    x, y = tg.ones(1000, 8), tg.ones(8)
    for _ in range(3):
        add(x, y)
    (row,) = profile(add, x, y, runs=2, limits=LIMITS).rows
    assert (row.name, row.shape, row.bytes, row.flops) == ("add", (1000, 8), 4 * (8000 + 8000 + 8), 0)


def test_an_update_is_shown_with_what_it_writes():
    weight = tg.ones(3, 5, requires_grad=True)
    optimizer = tg.optim.SGD([weight], lr=0.1)

    @tg.compile
    def step(x):
        optimizer.zero_grad()
        (weight * x).sum().backward()
        optimizer.step()

    for _ in range(3):
        step(tg.ones(5))
    row = profile(step, tg.ones(5), runs=2, limits=LIMITS).rows[-1]
    assert (row.name, row.shape, row.dtype) == ("sgd_update", (3, 5), "float32")
    last = str(program_of(step)).splitlines()[-1]
    assert "sgd_update(" in last and "->" not in last and "=" not in last


def test_a_product_of_rows_in_several_dimensions_is_counted():
    weight = tg.randn(6, 7, requires_grad=True)
    x = tg.randn(2, 3, 5, 7)
    run = tg.compile(lambda x: tg.autograd.grad(nn.functional.linear(x, weight).sum(), weight)[0])
    for _ in range(3):
        run(x)
    assert sum(row.flops for row in profile(run, x, runs=2, limits=LIMITS).rows) == 2 * 2 * 3 * 5 * 7 * 6


def test_a_convolution_is_counted():
    weight = tg.randn(6, 3, 3, 3)
    run = tg.compile(lambda x: nn.functional.conv2d(x, weight))
    x = tg.randn(2, 3, 10, 10)
    for _ in range(3):
        run(x)
    assert sum(row.flops for row in profile(run, x, runs=2, limits=LIMITS).rows) == 2 * (2 * 6 * 8 * 8) * 27


def test_a_profile_without_a_program_is_refused():
    with pytest.raises(ValueError, match="no program"):
        profile(tg.compile(lambda x: x + 1), tg.ones(2), limits=LIMITS)


def test_limits_are_plausible():
    limits = measure_limits()
    assert limits.flops["float32"] > 1.5 * limits.flops["float64"] > 1e8
    assert limits.bandwidth > 1e8
    assert fma_peak("float32") > 0.1


def test_a_trace_has_every_replayed_instruction_and_stops_after_the_block(tmp_path):
    _, step, x = training_step()
    expected = tg.compile(lambda x: x * 3)
    events = []
    with tracing(events):
        losses = [step(x).item() for _ in range(3)]
        assert [expected(tg.ones(2)).tolist() for _ in range(4)] == [[3, 3]] * 4
    assert losses == sorted(losses, reverse=True)
    replays = [event for event in events if event["cat"] == "replay"]
    assert len(replays) == 3 + 2
    assert len(events) == len(replays) + 3 * len(program_of(step).spans) + 2
    step(x)
    assert len([event for event in events if event["cat"] == "replay"]) == 3 + 2
    profile(step, x, runs=2, limits=LIMITS).write_trace(tmp_path / "one.json")
    written = json.loads((tmp_path / "one.json").read_text())["traceEvents"]
    assert [event["ph"] for event in written] == ["X"] * len(program_of(step).spans)


def test_the_command_traces_a_script(tmp_path, capsys):
    script = tmp_path / "script.py"
    script.write_text(
        "import sys, tapegrad as tg\n"
        "f = tg.compile(lambda x: (x * 2).sum())\n"
        "print(f.epoch(tg.arange(40.0), batch_size=4).tolist(), sys.argv[1:])\n"
    )
    assert main(["trace", "--out", str(tmp_path / "trace.json"), str(script), "a", "--b"]) == 0
    printed = capsys.readouterr().out
    assert "[12.0, 44.0," in printed and "['a', '--b']" in printed and "8 replays" in printed
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    assert {event["name"] for event in events} >= {"replay", "sum"}
    assert {event["args"]["line"] for event in events if event["cat"] == "kernel"} == {"script.py:2"}


def test_the_plan_shares_memory_without_overlap_in_time_and_place():
    _, step, _ = training_step(hidden=100)
    program = program_of(step)
    boxes = boxes_of(program)
    for k, a in enumerate(boxes):
        assert a.offset + a.size <= program.plan.size
        for b in boxes[:k]:
            in_time = a.first <= b.last and b.first <= a.last
            in_place = a.offset < b.offset + b.size and b.offset < a.offset + a.size
            assert not (in_time and in_place)
    assert len(memory_text(program).splitlines()) == 2 + len(boxes)


def test_the_plan_names_what_made_a_group_s_results():
    step = tg.compile(lambda x: ((x * 2 + 1).tanh() ** 2).mean())
    for _ in range(3):
        step(tg.ones(2048, 16))
    assert [box.label for box in boxes_of(program_of(step))] == ["square 2048x16 float32"]


def test_work_is_counted_by_the_program_s_own_slots():
    weight = tg.ones(8, 5)
    step = tg.compile(lambda x: x @ weight)
    for _ in range(3):
        step(tg.ones(3, 8))
    others = [tg.ones(k) for k in range(1, 40)]  # some lie where the rows of the arguments that are gone were
    program = program_of(step)
    assert [flops_of(program, instruction) for instruction in program.instructions] == [2 * 3 * 8 * 5]
    assert len(others) == 39


def test_the_plan_is_drawn(tmp_path):
    _, step, _ = training_step()
    program = program_of(step)
    svg = draw_memory(program, tmp_path / "plan.svg")
    root = ET.fromstring((tmp_path / "plan.svg").read_text())
    boxes = [rect for rect in root.iter("{http://www.w3.org/2000/svg}rect") if len(rect)]
    assert len(boxes) == len(boxes_of(program)) > 0
    assert "intermediate results" in svg
