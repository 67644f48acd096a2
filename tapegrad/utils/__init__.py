"""What stands beside models: loading data, under torch.utils' names."""

from tapegrad.utils import data

__all__ = ["data"]
