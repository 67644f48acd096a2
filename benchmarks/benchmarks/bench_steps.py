"""Whole training steps, those of step_cases.py: as they are and captured."""

import time

import measuring
from step_cases import STEPS

import tapegrad as tg


def step_of(name, captured):
    """Return the step, after some runs."""
    function, arguments = STEPS[name].build(tg)
    if captured:
        function = measuring.captured(function, *arguments)
    step = lambda: function(*arguments)  # noqa: E731
    for _ in range(measuring.WARMING):
        step()
    return step


class _Step:
    """What both kinds of step have in common."""

    captured = False
    params = [list(STEPS)]
    param_names = ["step"]
    timer = time.process_time  # lengthened less by busy neighbours than the wall clock

    def setup(self, step):
        if not hasattr(self, "step"):  # asv calls this before each sample
            self.step = step_of(step, self.captured)
        self.guard = measuring.nothing_compiled()
        self.guard.__enter__()

    def teardown(self, step):
        self.guard.__exit__(None, None, None)  # raises if something was compiled: asv reports a failure


class Eager(_Step):
    """Forward, backward and optimiser, op by op."""

    def time_step(self, step):
        self.step()


class Captured(_Step):
    """The same as one program, replayed."""

    captured = True

    def time_step(self, step):
        self.step()


class Relative:
    """The same, beside the control loop."""

    params = [list(STEPS), ["eager", "captured"]]
    param_names = ["step", "how"]

    def setup(self, step, how):
        self.step = step_of(step, how == "captured")

    def track_relative_time(self, step, how):
        return measuring.relative_time(self.step, wanted=0.4)

    track_relative_time.unit = "turns"
