"""The floor of free space: looked at now and then, told once, and no reason to fail by itself."""

from pathlib import Path

import pytest

from app.domain.errors import StoreFull
from app.store.space import DiskSpace
from tests.support.clock import FakeClock
from tests.support.loglines import LineChecker


class _Free:
    """A disk with so much room."""

    def __init__(self, count: int | None) -> None:
        self.count = count
        self.asked = 0

    def __call__(self, _folder: Path) -> int:
        self.asked += 1
        if self.count is None:
            raise OSError("no such disk")
        return self.count


def test_below_the_floor(tmp_path: Path, log_lines: LineChecker) -> None:
    """Refused below the floor, taken at it; each change is told once."""
    clock, free = FakeClock(), _Free(100)
    space = DiskSpace(tmp_path, clock, floor_bytes=100, free_bytes=free)
    space.check()
    for count, low in ((99, True), (0, True), (100, False), (99, True)):
        free.count = count
        clock.move(1)
        assert space.low is low
        assert space.low is low
    with pytest.raises(StoreFull, match="100 bytes"):
        space.check()
    told = [line["event"] for line in log_lines.entries()]
    assert told == ["disk_low", "disk_recovered", "disk_low"]


def test_it_looks_once_a_second(tmp_path: Path) -> None:
    """A flood of submissions is not a flood of system calls."""
    clock, free = FakeClock(), _Free(5)
    space = DiskSpace(tmp_path, clock, floor_bytes=10, free_bytes=free)
    assert [space.low for _ in range(100)] == [True] * 100
    assert free.asked == 1
    clock.move(1.0)
    assert space.low
    assert free.asked == 2


def test_what_cannot_be_asked_is_not_full(tmp_path: Path) -> None:
    """A disk that does not tell stops nothing, and does not change what was known."""
    clock, free = FakeClock(), _Free(None)
    space = DiskSpace(tmp_path, clock, floor_bytes=10, free_bytes=free)
    assert not space.low
    free.count = 5
    clock.move(1)
    assert space.low
    free.count = None
    clock.move(1)
    assert space.low


def test_a_floor_of_nothing(tmp_path: Path) -> None:
    """0 switches it off: the disk is not looked at."""
    free = _Free(0)
    space = DiskSpace(tmp_path, FakeClock(), floor_bytes=0, free_bytes=free)
    assert not space.low
    assert free.asked == 0


def test_the_real_disk(tmp_path: Path) -> None:
    """By default the free bytes are those of the folder's own disk."""
    assert not DiskSpace(tmp_path, FakeClock(), floor_bytes=1).low
    assert DiskSpace(tmp_path, FakeClock(), floor_bytes=1 << 62).low
