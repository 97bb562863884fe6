"""A rotating log file that several processes may share.

Strategy: a line is one write to a descriptor opened with O_APPEND, which a local file
system keeps whole and apart from other processes' lines, without a lock. Before each
line, one `stat` detects whether the file is full, and whether another process or
logrotate has moved it. A process that finds the file full rotates it under a lock on
the directory. A process that does not get the lock keeps writing, and opens the new
file at its next line. So no line is lost or mixed, and a file may be a few lines over
its size.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
from typing import Final

from kaywatch._wrappers import warn_once

__all__ = ["SharedRotatingFileHandler"]

_APPEND: Final = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
_MODE: Final = 0o666  # minus the umask, as in `open`
_CLOSED: Final = -1


class SharedRotatingFileHandler(logging.Handler):
    """Appends to a file and rotates it, together with other processes.

    `logging.handlers.RotatingFileHandler` loses lines when two processes rotate. This
    one works on local file systems and across forks; on NFS, lines of different hosts
    may overwrite each other.

    Args:
        path: the file.
        max_bytes: the size in bytes at which it is rotated; 0 for no rotation.
        backups: the number of rotated files to keep; 0 for no rotation.

    Example:
        handler = kaywatch.logs.SharedRotatingFileHandler(
            folder + "/shop.log", max_bytes=10_000_000, backups=5
        )

    Raises:
        OSError: if the file cannot be opened.
    """

    def __init__(
        self, path: str | os.PathLike[str], max_bytes: int = 0, backups: int = 0
    ) -> None:
        super().__init__()
        # Absolute, since the application may change its directory.
        self.path = os.path.abspath(path)
        self.max_bytes = max_bytes
        self.backups = backups
        self._file = _CLOSED
        self._identity = (0, 0)
        try:
            self._open()
        except OSError:
            super().close()
            raise

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record; errors go to `handleError`, as in any handler."""
        try:
            line = (self.format(record) + "\n").encode("utf-8", "backslashreplace")
            self._prepare(len(line))
            written = os.write(self._file, line)
            while written < len(line):  # the disk is nearly full
                written += os.write(self._file, line[written:])
        except Exception:  # noqa: BLE001 - as logging does
            self.handleError(record)

    def close(self) -> None:
        """Close the file; a further record opens it again."""
        with self.lock or contextlib.nullcontext():
            file, self._file = self._file, _CLOSED
            if file != _CLOSED:
                os.close(file)
        super().close()

    # -- inside ----------------------------------------------------------------------

    def _prepare(self, size: int) -> None:
        """Open or rotate the file as needed before `size` bytes are written."""
        try:
            now = os.stat(self.path)
        except FileNotFoundError:
            self._open()
            return
        if (now.st_dev, now.st_ino) != self._identity or self._file == _CLOSED:
            self._open()
        elif self._is_full(now, size):
            try:
                self._rotate(size)
            except OSError:  # the line goes to the full file
                warn_once(f"the log file {self.path}", "cannot be rotated")

    def _is_full(self, now: os.stat_result, size: int) -> bool:
        limited = self.max_bytes > 0 and self.backups > 0
        return limited and now.st_size > 0 and now.st_size + size > self.max_bytes

    def _open(self) -> None:
        file = os.open(self.path, _APPEND, _MODE)
        status = os.fstat(file)
        self._identity = status.st_dev, status.st_ino
        # The old file is closed last, so that a child forked in between has one of the
        # files.
        self._file, old = file, self._file
        if old != _CLOSED:
            os.close(old)

    def _rotate(self, size: int) -> None:
        folder = os.open(os.path.dirname(self.path), os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
            try:
                # Another process may have rotated it since the check.
                if self._is_full(os.stat(self.path), size):
                    self._shift()
            finally:
                # Unlocked explicitly: after `close`, a child forked meanwhile would
                # still hold the lock.
                fcntl.flock(folder, fcntl.LOCK_UN)
        except (BlockingIOError, FileNotFoundError):
            pass  # another process or logrotate is rotating it
        finally:
            os.close(folder)
        self._open()

    def _shift(self) -> None:
        count = 0  # up to a gap, which a process killed during a rotation leaves
        while count < self.backups - 1 and os.path.exists(f"{self.path}.{count + 1}"):
            count += 1
        for number in range(count, 0, -1):
            os.replace(f"{self.path}.{number}", f"{self.path}.{number + 1}")
        os.replace(self.path, f"{self.path}.1")
