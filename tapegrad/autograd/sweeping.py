"""Runs one sweep of the machine at a time, and answers what compiled code asks of Python meanwhile."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from tapegrad.autograd import anomaly, hooks
from tapegrad.autograd.context import run_backward
from tapegrad.runtime.errors import raise_status
from tapegrad.runtime.handle import Tensor, wrap
from tapegrad.runtime.layout import CALL_AFTER_ACCUMULATION, CALL_CHECK, CALL_HOOKS, CALL_RULE, HOOKED
from tapegrad.runtime.machine import machine

SLOT, _PRODUCER = 0, 6  # among fields_of


@dataclass
class Sweep:
    """A sweep that is running: what reaches these slots is handed to the caller."""

    captured: dict[int, Tensor | None] = field(default_factory=dict)
    inputs: list[int] = field(default_factory=list)  # the slots in the caller's order; hooks may rebind the tensors


_one_at_a_time = threading.RLock()  # another thread that calls backward() waits, its own nested ones do not
_running: list[Sweep] = []


def _forget_others() -> None:
    """Leave the sweep that a thread was in which a forked process has not; that of the forking thread goes on."""
    global _one_at_a_time
    if _one_at_a_time.acquire(blocking=False):
        _one_at_a_time.release()
        return
    _one_at_a_time = threading.RLock()
    _running.clear()
    machine.abandon(int(machine.state["entries_top"]) - 1)
    around = machine.begin_sweep(0)  # for this thread's modes
    machine.end_sweep(0, around[1], 0, -1, 0, *around[5:])


os.register_at_fork(after_in_child=_forget_others)


def _answer(kind: int, a: int, b: int) -> int:
    """Do what compiled code asks for; see the CALL_ constants of runtime/layout.py."""
    if kind == CALL_HOOKS:
        return _finish_cotangent(a, b)
    if kind == CALL_RULE:
        return run_backward(a, b)
    if kind == CALL_AFTER_ACCUMULATION:
        hooks.run_after_accumulation(a)
        return 0
    return anomaly.check_slot(a, b) if kind == CALL_CHECK else anomaly.note_site()


machine.python_callbacks = _answer


def _finish_cotangent(slot: int, cotangent: int) -> int:
    """Run a slot's hooks on its finished cotangent and note it for the caller; return the slot that replaces it."""
    gradient = wrap(machine.handle_of_slot(cotangent))
    replaced = hooks.run_hooks(slot, gradient)
    captured = _running[-1].captured
    if slot in captured:
        captured[slot] = replaced
    if replaced is gradient:
        return cotangent
    return machine.retain_slot(replaced._handle)


class _Stash:
    """What the sweep around a nested one has noted in the slots, taken out and put back."""

    def __init__(self, around: int) -> None:
        slots = machine.table("slots")
        self._around = around
        self._waiting = np.flatnonzero((slots["cotangent"] >= 0) & (slots["serial"] >= 0))
        self._cotangents, self._following = (slots[name][self._waiting] for name in ("cotangent", "next"))
        self._needed = np.flatnonzero(slots["needed"] == around)
        slots["cotangent"][self._waiting] = -1

    def restore(self) -> None:
        slots = machine.table("slots")
        slots["cotangent"][self._waiting] = self._cotangents
        slots["next"][self._waiting] = self._following
        slots["needed"][self._needed] = self._around
        slots["flags"][list(_running[-1].captured)] |= HOOKED


def _select(sweep: Sweep, inputs: Sequence[Tensor], top: int) -> None:
    """Restrict the sweep to what the inputs need, and have what reaches them noted."""
    slots = machine.table("slots")
    for tensor in inputs:
        slot = machine.fields_of(tensor._handle)[SLOT]
        sweep.captured[slot] = None
        sweep.inputs.append(slot)
        slots["needed"][slot] = machine.state["sweep_id"]
        machine.set_flags(tensor._handle, HOOKED, 0)
    machine.state["selective"] = 1
    machine.mark_needed(top)


def run_sweep(
    roots: Sequence[Tensor],
    gradients: Sequence[Tensor],
    inputs: Sequence[Tensor] | None,
    retain_graph: bool,
    create_graph: bool,
    accumulate: bool,
) -> Sweep:
    """Give the roots their cotangents and sweep; one that runs inside of another's hook leaves the other as it was."""
    with _one_at_a_time:
        around = machine.begin_sweep(int(create_graph))
        stash = _Stash(around[1]) if around[0] else None
        sweep = Sweep()
        _running.append(sweep)
        try:
            _go(sweep, roots, gradients, inputs, int(retain_graph), int(accumulate))
        finally:
            _running.pop()
            machine.end_sweep(*around)
            if stash is not None:
                stash.restore()
    return sweep


def _go(
    sweep: Sweep,
    roots: Sequence[Tensor],
    gradients: Sequence[Tensor],
    inputs: Sequence[Tensor] | None,
    retain_graph: int,
    accumulate: int,
) -> None:
    places = [machine.fields_of(root._handle) for root in roots]
    top = max([place[_PRODUCER] for place in places])
    if inputs is not None:
        _select(sweep, inputs, top)
    sweep_tape = machine.sweep  # compiled, if need be, before any cotangent waits
    status = 0
    try:
        for place, gradient in zip(places, gradients, strict=True):
            status = status or machine.give(place[SLOT], gradient._handle)
        status = status or sweep_tape(top, retain_graph, accumulate)
    finally:
        machine.abandon(top)  # what waits after an error or an interrupt; nothing otherwise
        for tensor in inputs or ():
            hooks.update_flag(tensor)
    if status < 0:
        if anomaly.is_anomaly_enabled():
            anomaly.warn_of_visited()
        raise_status(status)
