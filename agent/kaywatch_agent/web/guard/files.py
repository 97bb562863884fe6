"""Detects that files have changed, by their modification time, size and inode."""

from __future__ import annotations

import os
from collections.abc import Iterable

__all__ = ["FileWatch"]


class FileWatch:
    """Checks files for changes, at most once per interval."""

    def __init__(self, paths: Iterable[str], interval: float) -> None:
        """Remember the present state of the files.

        Args:
            paths: the files.
            interval: the least number of seconds between two checks.
        """
        self._stamps = {path: _stamp(path) for path in paths}
        self._interval = interval
        self._checked = 0.0

    def changed(self, now: float, *, force: bool = False) -> list[str]:
        """Return the paths of the files that changed since the last check.

        Args:
            now: monotonic seconds.
            force: check even if the interval is not over.
        """
        if now - self._checked < self._interval and not force:
            return []
        self._checked = now
        stamps = {path: _stamp(path) for path in self._stamps}
        changed = [path for path in stamps if stamps[path] != self._stamps[path]]
        self._stamps = stamps
        return changed


def _stamp(path: str) -> tuple[int, int, int] | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino
