"""`python -m bertconvert` is the command `bertconvert`."""

from .cli import run

run()
