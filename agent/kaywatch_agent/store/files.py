"""The store's files: locking, detecting changes by others, and setting files aside.

Strategy: the lock is on the database file itself, by flock(2), which is independent of
SQLite's locks; no other file has to exist for it. After each commit, the identity,
size, time and header of the file and of its log are remembered. No other program may
write to these files, so a difference before the next commit shows that one did.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
import struct
import time
from collections.abc import Iterable, Iterator
from enum import Enum
from pathlib import Path
from typing import Final, NamedTuple

from kaywatch_agent.errors import StoreError
from kaywatch_agent.store.schema import PAGE_BYTES, is_store_page

__all__ = [
    "ENDINGS",
    "FileChange",
    "LogIndex",
    "StoreFiles",
    "lock_holders",
    "set_aside",
]

# The database, its write-ahead log, and the index of the log.
ENDINGS: Final = ("", "-wal", "-shm")

HEADER: Final = 100  # bytes, of a database
LOG_HEADER: Final = 32
FRAME_HEADER: Final = 24

# The header of the log's index, which has two copies, in the machine's byte order; see
# https://sqlite.org/walformat.html.
_INDEX: Final = struct.Struct("=12xB3xI12x8s8x")


class FileChange(Enum):
    """A change of the files since the last commit."""

    NONE = "nothing"
    MOVED = "was deleted or moved"
    REPLACED = "was replaced by another file"
    LOG_LOST = "lost its -wal or -shm file"
    OVERWRITTEN = "another program wrote to it"
    TOUCHED = "has another time"


class LogIndex(NamedTuple):
    """The length of the log, as of its last transaction.

    Attributes:
        frames: how many pages are in it.
        salt: differs each time the log starts from the beginning.
    """

    frames: int
    salt: bytes

    def misses(self, before: LogIndex | None) -> bool:
        """Return whether transactions of an earlier index are not in this one."""
        if before is None or not before.frames:
            return False
        return self.salt != before.salt or self.frames < before.frames


class FileState(NamedTuple):
    """The state of one file; the last three fields are unset for the log's index."""

    device: int
    inode: int
    size: int = 0
    modified: int = 0
    header: bytes = b""


class StoreFiles:
    """The locked database file of an agent, and its log.

    Attributes:
        existed: whether the file existed before `open`.

    SQLite locks the database and the index of the log by fcntl(2). Closing any
    descriptor of a file releases all such locks of the process on it, so descriptors of
    both stay open until SQLite has closed its own. Without its lock on the index, the
    next reader would truncate the index, and the kernel kill this process by SIGBUS.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.existed = False
        self._descriptor = -1
        self._index = -1  # of the log's index, once it was read
        self._states: dict[str, FileState | None] = {}

    def open(self) -> None:
        """Create the file if necessary, and lock it.

        Raises:
            StoreError: another agent has locked it, or the path cannot be used.
        """
        path = self.path
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o750)
            self.existed = path.exists()
            self._descriptor = os.open(
                path, os.O_RDWR | os.O_CREAT | os.O_NOCTTY, 0o600
            )
            sync_folder(path)
        except OSError as error:
            raise StoreError(
                f"store.path: cannot use {path}: {error};"
                " choose another path with --store, or store nothing: --store :memory:"
            ) from None
        # A device or a pipe must be neither read nor moved.
        if not stat.S_ISREG(os.fstat(self._descriptor).st_mode):
            self.close()
            raise StoreError(
                f"store.path: {path} is not a regular file; choose another path"
                " with --store, or store nothing: --store :memory:"
            )
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            pids = lock_holders(os.fstat(self._descriptor).st_ino, "FLOCK")
            self.close()
            raise StoreError(
                f"store.path: another agent (pid {', '.join(pids) or 'unknown'}) uses"
                f" {path}; stop it, or choose another path with --store"
            ) from None
        if not self._is_at_path():
            # Another agent has moved it since, with its lock on the new file.
            self.close()
            raise StoreError(
                f"store.path: {path} was replaced by another agent; stop that one, or"
                " choose another path with --store"
            )

    def _is_at_path(self) -> bool:
        try:
            at_path = os.stat(self.path)
        except OSError:
            return False
        return os.path.samestat(os.fstat(self._descriptor), at_path)

    def close(self) -> None:
        """Unlock the file. Idempotent."""
        for descriptor in (self._descriptor, self._index):
            if descriptor >= 0:
                os.close(descriptor)
        self._descriptor = self._index = -1

    def read_page(self) -> bytes:
        """Return the first page of the database."""
        return os.pread(self._descriptor, PAGE_BYTES, 0)

    def log_bytes(self) -> int:
        """Return the size of the write-ahead log."""
        try:
            return os.stat(f"{self.path}-wal").st_size
        except OSError:
            return 0

    def has_whole_log(self) -> bool:
        """Return whether the log is as SQLite writes it, without gaps.

        The headers of the log and of its frames must not be zero; see
        https://sqlite.org/fileformat.html.
        """
        try:
            with open(f"{self.path}-wal", "rb", buffering=0) as log:
                if log.read(LOG_HEADER)[:3] != b"\x37\x7f\x06":
                    return False
                while frame := log.read(FRAME_HEADER):
                    if not frame.strip(b"\0"):
                        return False
                    log.seek(PAGE_BYTES, os.SEEK_CUR)
        except OSError:
            return False
        return True

    def log_index(self) -> LogIndex | None:
        """Return the length of the log according to its index; None if that is invalid.

        The index survives a kill. SQLite ignores it afterwards, and reads a log that
        was truncated or overwritten as a shorter one.
        """
        try:
            if self._index < 0:
                self._index = os.open(f"{self.path}-shm", os.O_RDONLY)
            headers = os.pread(self._index, 2 * _INDEX.size, 0)
        except OSError:
            return None
        first, second = headers[: _INDEX.size], headers[_INDEX.size :]
        if len(second) < _INDEX.size or first != second:
            return None
        is_valid, frames, salt = _INDEX.unpack(first)
        return LogIndex(frames, salt) if is_valid else None

    def readers(self) -> list[str]:
        """Return the pids of other processes that read the database."""
        try:
            inode = os.stat(f"{self.path}-shm").st_ino
        except OSError:
            return []
        own = str(os.getpid())
        return [pid for pid in lock_holders(inode, "POSIX") if pid != own]

    def remember(self, *, opened: bool = False) -> None:
        """Remember the state of the files; with `opened`, also which files they are.

        A file that was deleted, replaced, cleared or truncated during a commit is still
        noticed before the next one: what counts is the file that was opened, as long as
        its header is that of a store.
        """
        new = self._look()
        if opened:
            self._states = {**new, "": self._state("", os.fstat(self._descriptor))}
            return
        for ending, state in new.items():
            if _same_file(self._states.get(ending), state) and (
                ending or _is_store(state)
            ):
                self._states[ending] = state

    def change(self) -> FileChange:
        """Return the change of the files since `remember`."""
        old, new = self._states, self._look()
        if old == new:
            return FileChange.NONE
        if new[""] is None or self.path.is_symlink():
            return FileChange.MOVED
        if not _same_file(old[""], new[""]):
            return FileChange.REPLACED
        if list(self.foreign()):
            return FileChange.LOG_LOST
        if any(_content(old[ending]) != _content(new[ending]) for ending in ENDINGS):
            return FileChange.OVERWRITTEN
        return FileChange.TOUCHED

    def foreign(self) -> Iterator[str]:
        """Yield the endings of the files that are not the remembered ones."""
        new = self._look()
        for ending in ENDINGS:
            if not _same_file(self._states.get(ending), new[ending]):
                yield ending

    def _look(self) -> dict[str, FileState | None]:
        return {ending: self._state(ending) for ending in ENDINGS}

    def _state(
        self, ending: str, known: os.stat_result | None = None
    ) -> FileState | None:
        name = f"{self.path}{ending}"
        try:
            found = known or os.stat(name, follow_symlinks=False)
            if ending == "-shm":  # written by every reader
                return FileState(found.st_dev, found.st_ino)
            header = self._header(name) if ending else self.read_page()[:HEADER]
        except OSError:
            return None
        return FileState(
            found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, header
        )

    def _header(self, name: str) -> bytes:
        # Of the log alone, which SQLite does not lock: see the docstring of the class.
        with open(name, "rb", buffering=0) as log:
            return log.read(HEADER)


def _same_file(old: FileState | None, new: FileState | None) -> bool:
    return old == new or (
        old is not None
        and new is not None
        and (old.device, old.inode) == (new.device, new.inode)
    )


def _is_store(state: FileState | None) -> bool:
    """Return whether a database has a header, and the pages that this states."""
    if state is None or not is_store_page(state.header):
        return False
    return state.size >= int.from_bytes(state.header[28:32]) * PAGE_BYTES


def _content(state: FileState | None) -> object:
    return None if state is None else (state.size, state.header)


def lock_holders(inode: int, kind: str) -> list[str]:
    """Return the pids that hold a kind of lock on a file; see proc_locks(5)."""
    pids: dict[str, None] = {}
    with contextlib.suppress(OSError), open("/proc/locks", encoding="ascii") as locks:
        for line in locks:
            fields = line.split()
            if fields[1] == kind and fields[5].rpartition(":")[2] == str(inode):
                pids[fields[4]] = None
    return list(pids)


def set_aside(path: Path, word: str, endings: Iterable[str] = ENDINGS) -> Path | None:
    """Rename a file and its log; return the new name, None if there was no file.

    Args:
        path: the path of the database.
        word: what happened to it; part of the new name.
        endings: the endings of the files to rename.
    """
    stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime())
    aside = path.with_name(f"{path.name}.{word}-{stamp}")
    number = 1
    while any(os.path.lexists(f"{aside}{ending}") for ending in ENDINGS):
        number += 1
        aside = path.with_name(f"{path.name}.{word}-{stamp}-{number}")
    moved = False
    for ending in endings:
        with contextlib.suppress(FileNotFoundError):
            os.rename(f"{path}{ending}", f"{aside}{ending}")
            moved = True
    return aside if moved else None


def sync_folder(path: Path) -> None:
    """Make a new name in a folder durable."""
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
