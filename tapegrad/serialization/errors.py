"""What is raised for a file that cannot be trusted."""


class CheckpointError(RuntimeError, ValueError):
    """A checkpoint is truncated, altered, hostile, or of a kind that is not read. The message names the file."""
