"""How much memory a batch takes; the figure that --jobs counts with."""

import os
import re
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from .runs import children, models, save_bert, started

MEGABYTE = 10**6


def proportional(pid: int) -> int:
    """The bytes that a process and all below it hold, what is shared counted once."""
    total = 0
    for one in [pid, *children(pid)]:
        with suppress(OSError):
            text = Path(f"/proc/{one}/smaps_rollup").read_text()
            found = re.search(r"^Pss:\s+(\d+) kB", text, re.MULTILINE)
            total += 1024 * int(found[1]) if found else 0
    return total


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells what is shared")
def test_two_jobs_take_no_more_memory_than_is_counted_for_them(tmp_path: Path) -> None:
    first = save_bert(tmp_path / "models" / "m0", 4, 384)
    for number in range(1, 6):
        (tmp_path / "models" / f"m{number}").mkdir()
        for file in first.iterdir():
            os.link(file, tmp_path / "models" / f"m{number}" / file.name)
    out = tmp_path / "out"
    peak = samples = 0
    with started(tmp_path / "models", out, "--jobs", "2") as process:
        while process.poll() is None:
            peak = max(peak, proportional(process.pid))
            samples += len(models(out)) < 6
            time.sleep(0.01)
        assert process.returncode == 0
    assert models(out) == [f"m{number}" for number in range(6)]
    assert samples > 10
    assert 30 * MEGABYTE < peak < (2 * 128 + 100) * MEGABYTE
