"""Finding the frame of another thread."""

from __future__ import annotations

import gc
import sys
import threading
from collections.abc import Iterator

import pytest

from pytest_plan.engine.calls.threads import frame_of


@pytest.fixture(params=[True, False], ids=["collects", "does not collect"])
def collector(request: pytest.FixtureRequest) -> Iterator[bool]:
    """Whether the garbage collector is enabled; its old state is restored after the test."""
    before = gc.isenabled()
    (gc.enable if request.param else gc.disable)()
    yield request.param
    (gc.enable if before else gc.disable)()


def test_a_frame_is_where_its_thread_is(collector: bool) -> None:
    """The garbage collector keeps its state."""
    assert frame_of(threading.get_ident()) is not None
    assert frame_of(None) is None
    assert gc.isenabled() == collector


def test_nothing_is_collected_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before Python 3.11.9 a collection at this point would deadlock."""
    collects: list[bool] = []

    def look() -> dict[int, object]:
        collects.append(gc.isenabled())
        return {}

    monkeypatch.setattr(sys, "_current_frames", look)
    assert frame_of(1) is None
    assert collects == [False]
