"""Sets the clock of a Python process apart by the seconds in `CLOCK_APART`.

Python loads it at start if its folder is in `PYTHONPATH`.
"""

from __future__ import annotations

import os

from tests.faults.sharing.clocks import set_apart

set_apart(float(os.environ["CLOCK_APART"]))
