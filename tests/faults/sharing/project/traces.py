"""Notes what steps and tests do in the log of a history."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

from tests.faults.sharing import logged

WORLD = Path(os.environ["SHARE_WORLD"])
SECONDS = float(os.environ["SHARE_SECONDS"])  # that the tests of a run take


def note(what: str, **facts: Any) -> None:
    """Append a line to the log of the history."""
    line = {
        "what": what, "at": time.monotonic(), "run": os.environ["SHARE_RUN"], "pid": os.getpid(),
        "epoch": logged.epoch(), **facts,
    }  # fmt: skip
    file = os.open(WORLD / "notes", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(file, f"{json.dumps(line)}\n".encode())
    os.close(file)
