"""The version, on its own, so that what writes it imports nothing else."""

__version__ = "0.1.0"
