"""After each run with `--plan-reuse`, the environment is as if it was made from nothing.

`python -m tests.faults.sequences` plays many more of these sequences.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.sequences.story import Sequence

RUNS = 3  # in a sequence


@pytest.mark.parametrize("seed", [3, 6, 7])
def test_each_step_is_made_once_and_undone_once(seed: int, tmp_path: Path) -> None:
    """After edits, removals, killed programs and killed runs."""
    sequence = Sequence(seed, tmp_path)
    sequence.play(RUNS)
    assert not sequence.wrong, sequence.told()


class Careless(Sequence):
    """Leaves something behind that no step undoes."""

    def _change(self) -> set[str]:
        (self._folder / "world" / "stray").write_text("{}")
        return set()


def test_what_is_left_behind_is_found(tmp_path: Path) -> None:
    """The check can fail."""
    sequence = Careless(6, tmp_path)
    sequence.play(2)
    assert any("'stray'" in text for text in sequence.wrong), sequence.told()
    sequence.end()
