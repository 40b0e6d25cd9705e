"""No step is lost that must not be, and none is missed: a few runs of the soak of watching."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.faults.watching.play import draw, play

SHORT = 3  # runs


@pytest.mark.skipif(sys.platform != "linux", reason="the project uses pidfd_open")
@pytest.mark.parametrize("seed", range(SHORT))
def test_only_steps_whose_programs_are_killed_are_lost(seed: int, tmp_path: Path) -> None:
    """Programs that end as they mean to, are paused or cleaned up are no loss; killed ones are."""
    assert play(draw(seed), tmp_path) == []
