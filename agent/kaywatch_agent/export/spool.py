"""Keeps snapshots of all metrics on disk until a server has accepted them.

Strategy: one file per snapshot, named by the time of its samples. It is durable before
its first request is sent, so that a retry, even by another process, sends identical
samples, which a server stores once. The last accepted snapshot is kept: it has the
series that the server knows.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final

import cramjam

from kaywatch_agent.protobuf import varint

__all__ = ["SnapshotDamaged", "Spool"]

UNSENT: Final = ".unsent"
SENT: Final = ".sent"
PARTIAL: Final = ".partial"


class SnapshotDamaged(Exception):
    """A snapshot's file cannot be read."""


class Spool:
    """The snapshots for one server.

    Attributes:
        folder: their files.
    """

    def __init__(self, folder: Path) -> None:
        """Find the snapshots of an earlier process.

        Raises:
            OSError: the folder cannot be used.
        """
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.folder = folder
        for path in folder.glob(f"*{PARTIAL}"):
            path.unlink()
        self._unsent = {_time(path): _size(path) for path in folder.glob(f"*{UNSENT}")}
        self._sent = sorted(map(_time, folder.glob(f"*{SENT}")))
        self._forget_sent()

    @property
    def size(self) -> int:
        """How much disk the snapshots take that were not sent."""
        return sum(self._unsent.values())

    @property
    def oldest(self) -> int | None:
        """The time of the oldest snapshot that was not sent; None if all were."""
        return min(self._unsent, default=None)

    @property
    def newest(self) -> int | None:
        """The time of the newest snapshot, sent or not; None if there is none."""
        return max([*self._unsent, *self._sent], default=None)

    @property
    def last_sent(self) -> int | None:
        """The time of the snapshot that was sent last; None if none was."""
        return self._sent[-1] if self._sent else None

    def add(self, snapshots: Mapping[int, Iterable[bytes]]) -> None:
        """Keep snapshots, durably: all of them, or after a crash only the newest.

        Args:
            snapshots: their encoded messages by the time of their samples, in Unix
                milliseconds, which is later than that of all others.

        Raises:
            OSError: they could not be written; nothing has changed.
        """
        sizes: dict[int, int] = {}
        try:
            for time in sorted(snapshots, reverse=True):
                sizes[time] = self._write(time, snapshots[time])
        except OSError:
            for time in sizes:
                self._path(time, UNSENT).unlink(missing_ok=True)
            raise
        self._unsent.update(sizes)

    def requests(self, time: int) -> Iterator[bytes]:
        """Yield the encoded messages of a snapshot.

        Raises:
            SnapshotDamaged: its file cannot be read.
        """
        path = self._path(time, UNSENT if time in self._unsent else SENT)
        try:
            yield from _read(path)
        except (OSError, IndexError, cramjam.DecompressionError) as error:
            raise SnapshotDamaged(f"{path}: {error}") from None

    def mark_sent(self, time: int) -> None:
        """Record that the server has answered all requests of a snapshot."""
        with contextlib.suppress(FileNotFoundError):
            self._path(time, UNSENT).rename(self._path(time, SENT))
        del self._unsent[time]
        self._sent.append(time)
        self._forget_sent()

    # -- inside ------------------------------------------------------------------------

    def _write(self, time: int, requests: Iterable[bytes]) -> int:
        """Write a snapshot; return its size."""
        partial = self._path(time, PARTIAL)
        try:
            with partial.open("wb") as file:
                for request in requests:
                    data = bytes(cramjam.snappy.compress_raw(request))
                    file.write(varint(len(data)) + data)
                file.flush()
                os.fsync(file.fileno())
                size = file.tell()
            partial.rename(self._path(time, UNSENT))
            self._sync_folder()
        except OSError:
            partial.unlink(missing_ok=True)
            raise
        return size

    def _forget_sent(self) -> None:
        """Delete the sent snapshots but the last one."""
        while len(self._sent) > 1:
            self._path(self._sent.pop(0), SENT).unlink(missing_ok=True)

    def _sync_folder(self) -> None:
        folder = os.open(self.folder, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def _path(self, time: int, suffix: str) -> Path:
        return self.folder / f"{time:015d}{suffix}"


def _read(path: Path) -> Iterator[bytes]:
    """Yield the encoded messages in a snapshot's file."""
    with path.open("rb") as file:
        while first := file.read(1):
            size = shift = 0
            byte = first[0]
            while byte & 0x80:
                size |= (byte & 0x7F) << shift
                shift += 7
                byte = file.read(1)[0]
            size |= byte << shift
            yield bytes(cramjam.snappy.decompress_raw(file.read(size)))


def _time(path: Path) -> int:
    return int(path.name.partition(".")[0])


def _size(path: Path) -> int:
    return path.stat().st_size
