"""No step is lost that must not be, and none is missed: a few runs of the soak of watching."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.faults.watching.play import Drawn, draw, play

SHORT = 3  # runs


pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the project uses pidfd_open")


@pytest.mark.parametrize("seed", range(SHORT))
def test_g19_only_steps_whose_programs_are_killed_are_lost(seed: int, tmp_path: Path) -> None:
    """Programs that end as they mean to, are paused or cleaned up are no loss; killed ones are."""
    assert play(draw(seed), tmp_path) == []


_IMPORT = "from pytest_plan.plugin.run.watching import Watching\n"
PLANTS = {
    "was not lost": f"{_IMPORT}Watching.lose = lambda *words: None\n",
    "was lost": (
        f"{_IMPORT}begin = Watching.begin\n"
        "Watching.begin = lambda self, run: (begin(self, run), self.lose('s0', 'p', 1, 'x'))\n"
    ),
}


@pytest.mark.parametrize("found", PLANTS)
def test_g19_the_checker_finds_planted_faults(found: str, tmp_path: Path) -> None:
    """A loss that is missed, and one that is none, are violations that name the step."""
    fates = {"s0": "stays", "s1": "is killed"}
    wrong = play(Drawn(0, fates, (), None), tmp_path, PLANTS[found])
    assert any(found in one for one in wrong), wrong
