"""torch.cuda's questions, answered: there is no such device, so scripts that ask take the CPU."""

from typing import Any


def is_available() -> bool:
    """Return False: tapegrad computes on the CPU.

    Example:
        >>> import tapegrad as tg
        >>> tg.device("cuda" if tg.cuda.is_available() else "cpu")
        device(type='cpu')
    """
    return False


def device_count() -> int:
    """Return 0."""
    return 0


def manual_seed(seed: int) -> None:
    """Do nothing, as torch does without CUDA.

    Args:
        seed: left unread.
    """


def manual_seed_all(seed: int) -> None:
    """Do nothing, as torch does without CUDA.

    Args:
        seed: left unread.
    """


def empty_cache() -> None:
    """Do nothing, as torch does without CUDA."""


def synchronize(device: Any = None) -> None:
    """Raise RuntimeError: there is no such device.

    Args:
        device: left unread.
    """
    raise RuntimeError("tapegrad computes on the CPU only: there is nothing to wait for")


__all__ = ["device_count", "empty_cache", "is_available", "manual_seed", "manual_seed_all", "synchronize"]
