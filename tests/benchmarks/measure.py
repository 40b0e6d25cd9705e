"""How everything here is measured and told."""

from __future__ import annotations

import gc
import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        what: what was measured.
        unit: of the samples; "x" for a ratio.
        samples: one for each repeat; none when it could not be measured.
        target: what must be reached; None where nothing must, as for what stands beside.
        judged: what is held against the target: the median, or the worst of all.
        note: why there are no samples.
    """

    what: str
    unit: str
    samples: Sequence[float] = field(default=())
    target: float | None = None
    judged: str = "median"
    note: str = ""

    @property
    def median(self) -> float:
        """The middle of the samples."""
        return statistics.median(self.samples)

    @property
    def is_met(self) -> bool | None:
        """Whether the target was reached; None without a target or samples."""
        if self.target is None or not self.samples:
            return None
        return (max(self.samples) if self.judged == "max" else self.median) <= self.target

    def cells(self) -> tuple[str, str, str, str, str]:
        """Return the line of the table, as text."""
        if not self.samples:
            return self.what, self.note, "", self._target(), ""
        low, high = _text(min(self.samples)), _text(max(self.samples))
        met = {None: "", True: "yes", False: "no"}[self.is_met]
        median = f"{_text(self.median)} {self.unit}"
        return self.what, median, f"{low} to {high}, n={len(self.samples)}", self._target(), met

    def as_json(self) -> dict[str, Any]:
        """Return the line for a program."""
        return {
            "what": self.what,
            "unit": self.unit,
            "median": self.median if self.samples else None,
            "samples": list(self.samples),
            "target": self.target,
            "judged": self.judged,
            "met": self.is_met,
            "note": self.note,
        }

    def _target(self) -> str:
        if self.target is None:
            return ""
        return f"{'all ' * (self.judged == 'max')}at most {_text(self.target)} {self.unit}"


def _text(number: float) -> str:
    digits = 2 if number == 0 else max(0, 2 - math.floor(math.log10(abs(number))))
    text = f"{number:,.{min(digits, 3)}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def seconds(function: Callable[[], object]) -> float:
    """Return how long `function` takes, without paying for the garbage of those before it.

    The garbage collector stays on: what it does to `function` is part of its cost.
    """
    gc.collect()
    begun = time.perf_counter()
    function()
    return time.perf_counter() - begun


def interleave(
    contenders: Sequence[Callable[[], float]], repeats: int, warm_up: int = 1
) -> list[list[float]]:
    """Call all contenders in turn, every other time in reverse; return the samples of each.

    What the machine does meanwhile happens to all of them. The first `warm_up` rounds count not.
    """
    samples: list[list[float]] = [[] for _ in contenders]
    for repeat in range(-warm_up, repeats):
        order = range(len(contenders))
        for index in reversed(order) if repeat % 2 else order:
            sample = contenders[index]()
            if repeat >= 0:
                samples[index].append(sample)
    return samples
