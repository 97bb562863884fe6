"""Snapshots on disk: whole or not at all, in order, and found again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from kaywatch_agent.export.spool import SnapshotDamaged, Spool

LARGE = bytes(range(256)) * 1_000


def test_snapshots_are_found_by_the_next_process(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "a" / "b")
    assert (spool.oldest, spool.newest, spool.size) == (None, None, 0)
    spool.add({2_000: [b"one", LARGE, b""]})
    spool.add({3_000: [b"three"]})
    size = spool.size

    other = Spool(tmp_path / "a" / "b")
    assert (other.oldest, other.newest, other.size) == (2_000, 3_000, size)
    assert list(other.requests(2_000)) == [b"one", LARGE, b""]
    other.mark_sent(2_000)
    assert (other.oldest, other.newest) == (3_000, 3_000)
    assert 0 < other.size < size


def test_the_last_snapshot_that_was_sent_stays(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    for time in (1, 2, 3):
        spool.add({time: [b"%d" % time]})
        spool.mark_sent(time)

    assert [path.name for path in tmp_path.iterdir()] == ["000000000000003.sent"]
    other = Spool(tmp_path)
    assert (other.oldest, other.newest, other.size) == (None, 3, 0)
    assert list(other.requests(3)) == [b"3"]


def test_a_snapshot_that_was_not_finished_is_none(tmp_path: Path) -> None:
    (tmp_path / "000000000000007.partial").write_bytes(b"xx")
    spool = Spool(tmp_path)
    assert spool.newest is None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("change", ["cut", "overwritten", "deleted"])
def test_damage_is_noticed(tmp_path: Path, change: str) -> None:
    spool = Spool(tmp_path)
    spool.add({1: [LARGE]})
    (path,) = tmp_path.iterdir()
    data = path.read_bytes()
    if change == "cut":
        path.write_bytes(data[: len(data) // 2])
    elif change == "overwritten":
        path.write_bytes(data[:3] + b"\xff" * (len(data) - 3))
    else:
        path.unlink()
    with pytest.raises(SnapshotDamaged):
        list(spool.requests(1))
    spool.mark_sent(1)
    assert spool.oldest is None


def test_a_full_disk_changes_nothing(tmp_path: Path) -> None:
    def fail() -> Iterator[bytes]:
        yield b"x"
        raise OSError(28, "No space left on device")

    spool = Spool(tmp_path)
    with pytest.raises(OSError, match="No space"):
        spool.add({1: [b"x"], 2: [b"y"], 0: fail()})
    assert spool.newest is None
    assert list(tmp_path.iterdir()) == []
