"""Whether what is kept is sound, and has room."""

from __future__ import annotations

import os
import shutil
import sqlite3
import time
from pathlib import Path
from typing import Final

from kaywatch_agent import units as quantities
from kaywatch_agent.cli.doctor import who
from kaywatch_agent.cli.doctor.finding import Findings, ok, problem, unchecked, warning
from kaywatch_agent.cli.doctor.ground import Ground
from kaywatch_agent.store.schema import APPLICATION_ID, VERSION

__all__ = ["CHECKS"]

# The log of changes may grow to so much beside the file; see `store.schema.WAL_BYTES`.
LEAST_ROOM: Final = 128 * 1024 * 1024
INTEGRITY_SECONDS: Final = 8.0
# An agent that works commits each second.
LATE_COMMIT: Final = 30.0


def room(ground: Ground) -> Findings:
    """There is space for what comes."""
    path = ground.store
    if path is None:
        yield warning("nothing is kept (:memory:)", "is that meant? See store.path")
        return
    folder = _existing(path.parent)
    try:
        free = shutil.disk_usage(folder).free
        size = _size(path)
    except OSError as error:
        yield unchecked(f"{path}: {error.strerror}", _as_its_user(path))
        return
    most = ground.config.store.max_bytes
    text = f"{quantities.quantity(free, 'bytes')} free on the disk of {path}"
    if free < LEAST_ROOM:
        yield problem(text, "make room: what can't be written waits in memory")
    elif free < most - size:
        yield warning(
            f"{text}, and it may grow by {quantities.quantity(most - size, 'bytes')}",
            "make room, or lower store.max_size",
        )
    else:
        yield ok(text)
    share = size / most
    text = f"{quantities.quantity(size, 'bytes')}, {share:.0%} of store.max_size"
    if share > 0.9:
        yield warning(
            text, "the oldest buckets go at 100 %: raise it, or keep fewer days"
        )
    elif path.exists():
        yield ok(text)


def rights(ground: Ground) -> Findings:
    """The agent may write it."""
    path = ground.store
    if path is None:
        return
    if not path.exists():
        folder = _existing(path.parent)
        if ground.health is not None or not os.access(folder, os.X_OK):
            yield unchecked(
                f"{path} is not to be seen", "say where the store is with --store"
            )
        elif os.access(folder, os.W_OK):
            yield ok(f"{path} is not there yet; {who.user(os.geteuid())} can make it")
        else:
            yield problem(
                f"{who.user(os.geteuid())} may not make {path}",
                f"chown {who.user(os.geteuid())} {folder}, or set store.path",
            )
        return
    found = path.stat()
    owner = found.st_uid
    runs = ground.process
    agent = runs.uid if runs is not None else os.geteuid()
    if agent not in (0, owner):
        yield problem(
            f"{path} is of {who.user(owner)}, and the agent runs as {who.user(agent)}",
            f"chown {who.user(agent)} {path}*",
        )
    elif found.st_mode & 0o007 and who.closed_folder(path) is None:
        yield warning(f"everybody may read {path}", f"chmod o= {path}")
    else:
        yield ok(f"the agent may write it ({who.user(owner)})")


def commits(ground: Ground) -> Findings:
    """What came was written, lately."""
    path = ground.store
    if path is None or not path.exists():
        return
    try:
        version, last = _last_commit(path)
    except sqlite3.OperationalError as error:
        yield unchecked(f"the last commit ({error})", _as_its_user(path))
        return
    except sqlite3.Error as error:
        yield problem(
            f"{path} can't be read: {error}",
            "an agent that starts sets it aside, and begins anew; docs/operations.md",
        )
        return
    if version > VERSION:
        yield problem(
            f"{path} is of a newer kaywatch (schema {version}, here {VERSION})",
            "install that version again, or go back to a backup",
        )
    age = time.time() - last
    if not last:
        yield ok("nothing has been committed yet")
    elif ground.health is not None and age > LATE_COMMIT:
        yield problem(
            f"the last commit was {quantities.span(age)} ago, and the agent runs",
            "its log says why: journalctl -u kaywatch; or it is another agent's store",
        )
    else:
        yield ok(f"the last commit was {quantities.span(age)} ago, schema {version}")


def integrity(ground: Ground) -> Findings:
    """Nothing in it is damaged."""
    path = ground.store
    if path is None or not path.exists():
        return
    end = time.monotonic() + INTEGRITY_SECONDS
    try:
        db = _open(path)
        try:
            db.set_progress_handler(lambda: time.monotonic() > end, 10_000)
            (found,) = db.execute("PRAGMA quick_check(1)").fetchone()
        finally:
            db.close()
    except sqlite3.OperationalError as error:
        late = time.monotonic() > end
        why = f"it takes over {INTEGRITY_SECONDS:g} s; the agent looks at each start"
        yield unchecked("whether it is damaged", why if late else str(error))
        return
    except sqlite3.DatabaseError as error:
        found = str(error)
    if found == "ok":
        yield ok("no damage in it")
    else:
        yield problem(
            f"{path} is damaged: {found}",
            "restart the agent, which sets it aside; or put a backup in its place",
        )


def _open(path: Path) -> sqlite3.Connection:
    """Open the file so that nothing is changed, nor made beside it."""
    # Without a log of changes nobody has it open, and SQLite would make one.
    quiet = "" if Path(f"{path}-wal").exists() else "&immutable=1"
    return sqlite3.connect(
        f"{path.absolute().as_uri()}?mode=ro{quiet}",
        uri=True,
        timeout=1.0,
        check_same_thread=False,
    )


def _last_commit(path: Path) -> tuple[int, float]:
    db = _open(path)
    try:
        (application,) = db.execute("PRAGMA application_id").fetchone()
        if application != APPLICATION_ID:
            raise sqlite3.DatabaseError("it is a database of another program")
        (version,) = db.execute("PRAGMA user_version").fetchone()
        row = db.execute("SELECT value FROM meta WHERE key = 'now'").fetchone()
        return version, float(row[0]) if row and row[0] else 0.0
    finally:
        db.close()


def _existing(folder: Path) -> Path:
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder


def _size(path: Path) -> int:
    """Return the bytes of the file and of its log of changes."""
    files = (path, Path(f"{path}-wal"))
    return sum(file.stat().st_size for file in files if file.exists())


def _as_its_user(path: Path) -> str:
    return f"try as root, or as the user of {path.parent}"


CHECKS: Final = (room, rights, commits, integrity)
