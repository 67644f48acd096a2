"""The cost of an op beside its arithmetic: from Python, in the sweep, in a replayed program."""

import measuring

import tapegrad as tg

LENGTH = 1000


def _three(requires_grad=False):
    return tg.tensor([1.0, 2.0, 3.0], requires_grad=requires_grad)


def chain(x, w):
    """Return a chain of LENGTH products."""
    y = x
    for _ in range(LENGTH):
        y = y * w
    return y


class Forward:
    """An op on three elements, called from Python."""

    params = [["a + b", "a + b, recorded", "a + 1", "a.sum()", "a.view(-1)", "a[1]", "matmul 2x2"]]
    param_names = ["op"]

    def setup(self, op):
        a, b = _three("recorded" in op), _three("recorded" in op)
        m = tg.ones(2, 2)
        calls = {
            "a + b": lambda: a + b,
            "a + b, recorded": lambda: a + b,
            "a + 1": lambda: a + 1,
            "a.sum()": lambda: a.sum(),
            "a.view(-1)": lambda: a.view(-1),
            "a[1]": lambda: a[1],
            "matmul 2x2": lambda: m @ m,
        }
        self.call = calls[op]

    def track_relative_time(self, op):
        return measuring.relative_time(self.call)

    track_relative_time.unit = "turns"


class Chains:
    """LENGTH products of three elements: how long each takes."""

    def setup(self):
        self.x, self.w, self.ones = _three(True), _three(True), _three()
        self.replayed = measuring.captured(lambda x: chain(x, tg.tensor([1.0, 1.0, 1.0])), self.ones)
        self.replayed_step = measuring.captured(self.forward_and_backward)

    def forward_and_backward(self):
        return tg.autograd.grad(chain(self.x, self.w), self.x, self.ones)[0]

    def track_relative_time_recording(self):
        return measuring.relative_time(lambda: chain(self.x, self.w), LENGTH)

    def track_relative_time_sweep(self):
        y = chain(self.x, self.w)
        return measuring.relative_time(lambda: tg.autograd.grad(y, self.x, self.ones, retain_graph=True), LENGTH)

    def track_relative_time_forward_and_backward(self):
        return measuring.relative_time(self.forward_and_backward, LENGTH)

    def track_relative_time_replay(self):
        return measuring.relative_time(lambda: self.replayed(self.ones), LENGTH)

    def track_relative_time_replayed_forward_and_backward(self):
        return measuring.relative_time(self.replayed_step, LENGTH)


for _name, _function in vars(Chains).items():
    if _name.startswith("track_"):
        _function.unit = "turns an op"


class Call:
    """A captured function of one op: what a call of a program costs."""

    def setup(self):
        self.x = _three()
        self.double = measuring.captured(lambda x: x + x, self.x)

    def track_relative_time_calling_a_program(self):
        return measuring.relative_time(lambda: self.double(self.x))

    track_relative_time_calling_a_program.unit = "turns"


class Control:
    """The control loop itself, in nanoseconds: what a turn is on this machine, at its speed today."""

    def track_turn(self):
        control = measuring.multiply_adds()
        return measuring.four_digits(measuring.shortest(lambda: control(1000)) * 1e6)

    track_turn.unit = "ns"

    def track_copy_bandwidth(self):
        copy = measuring.copies()
        return measuring.four_digits(2e-9 * measuring.COPIED_BYTES / measuring.shortest(lambda: copy(1), 1.0))

    track_copy_bandwidth.unit = "GB/s (more is better)"
