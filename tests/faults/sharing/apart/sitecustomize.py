"""Prepares each Python process of a run in a history.

Its clock is apart by the seconds in `CLOCK_APART`, and it logs its calls to stores in the folder
`SHARE_LOGS`. Python loads this file at start if its folder is in `PYTHONPATH`.
"""

from __future__ import annotations

import os
from pathlib import Path

from tests.faults.sharing.clocks import set_apart
from tests.faults.sharing.logged import log_all

set_apart(float(os.environ["CLOCK_APART"]))
log_all(Path(os.environ["SHARE_LOGS"]), os.environ["SHARE_PLANT"])
