"""`python -m bertconvert` is the command `bertconvert`."""

import os
import signal

if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    # Until the work begins; see cli.py.
    signal.signal(signal.SIGINT, lambda number, _: os._exit(128 + number))

from .cli import run

run()
