"""Checkpoints: `save` and `load`; a file is safetensors with the structure of the saved value in its metadata."""

from tapegrad.serialization.errors import CheckpointError
from tapegrad.serialization.files import load, save

__all__ = ["CheckpointError", "load", "save"]
