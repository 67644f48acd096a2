"""What capturing a function may raise."""


class CaptureError(RuntimeError):
    """A function does what a replay could not repeat; the message says where and what to do instead."""
