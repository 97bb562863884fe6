"""Checks of the agent: its health, clock and store."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from kaywatch._version import __version__
from kaywatch.errors import AgentRefused
from kaywatch_agent.cli.doctor.context import CheckContext, user_name
from kaywatch_agent.cli.doctor.result import (
    CheckResult,
    CheckResults,
    ok,
    problem,
    unchecked,
    warning,
)
from kaywatch_agent.cli.doctor.servers import MQTT_STAGE
from kaywatch_agent.cli.service.installer import find_closed_folder
from kaywatch_agent.cli.shared_names import NAME_FIX, describe_shared_names
from kaywatch_agent.store.schema import APPLICATION_ID, VERSION
from kaywatch_agent.units import duration, quantity

# From half a bucket of 10 s on, most events are counted in the wrong one.
NOTABLE_SKEW: Final = 5.0
# An event older than an hour is counted in no bucket.
SEVERE_SKEW: Final = 3600.0

# The write-ahead log may grow to this size; see `store.schema.WAL_BYTES`.
MIN_FREE_BYTES: Final = 128 * 1024 * 1024
INTEGRITY_SECONDS: Final = 8.0
# A healthy agent commits every second.
LATE_COMMIT_SECONDS: Final = 30.0

TOKEN_FIX: Final = "set KAYWATCH_TOKEN_FILE to the file of a token with read access"  # noqa: S105
CLOCK_FIX: Final = "synchronize the clock: timedatectl set-ntp true"


# -- health --------------------------------------------------------------------------


def check_health(context: CheckContext) -> CheckResults:
    """Check that the agent answers, and accepts requests of this user."""
    error = context.health_error
    if context.health is not None:
        yield ok(f"answers at {context.url}, up {duration(context.health['uptime'])}")
        if context.clients is None:
            yield problem("it answers /health only: a token is required", TOKEN_FIX)
    elif isinstance(error, AgentRefused):
        yield problem(f"{context.url}: {error}", TOKEN_FIX)
    elif "certificate verify failed" in str(error):
        yield problem(
            f"{context.url}: its certificate is not trusted here",
            f"set SSL_CERT_FILE={context.config.http.tls_certificate_file or 'FILE'},"
            " or to the certificate of its authority",
        )
    elif "uses plain HTTP" in str(error):
        plain = context.url.replace("https://", "http://", 1)
        text = f"the server at {context.url} uses plain HTTP, without TLS"
        yield problem(text, f"pass --url {plain}")
    else:
        yield problem(
            f"no agent answers at {context.url}",
            "run `kaywatch serve` or `systemctl start kaywatch`; if the agent is"
            " elsewhere, pass --url",
        )


def check_stages(context: CheckContext) -> CheckResults:
    """Check the health of each stage of the agent."""
    healthy = []
    for name, stage in context.health["stages"].items() if context.health else ():
        if name.startswith(MQTT_STAGE):
            continue
        if stage["status"] == "unhealthy":
            text = stage["problem"] or "has not reported within its deadline"
            yield problem(f"{name}: {text}", "read its log: journalctl -u kaywatch")
        elif stage["status"] == "degraded":
            yield warning(f"{name}: {stage['problem']}", "see docs/operations.md")
        else:
            healthy.append(name)
    if healthy:
        yield ok(f"healthy: {', '.join(healthy)}")


def check_names(context: CheckContext) -> CheckResults:
    """Check that nodes are not named per request."""
    answer = context.get("/api/v1/nodes")
    for line in describe_shared_names(answer["nodes"]) if answer else ():
        yield warning(line, NAME_FIX)


def check_versions(context: CheckContext) -> CheckResults:
    """Check that the agent, this command and the clients have the same version."""
    if context.health is None:
        return
    running = context.health["version"]
    if running == __version__:
        yield ok(f"version {running}, as installed here")
    else:
        yield warning(
            f"version {running} is running, but {__version__} is installed here",
            "restart the agent after an upgrade: systemctl restart kaywatch",
        )
    clients = {c["sdk"] for c in context.connected if c["sdk"].startswith("kaywatch-")}
    if others := clients - {f"kaywatch-python/{running}"}:
        yield warning(
            f"clients of other versions: {', '.join(sorted(others))}",
            "they are compatible; restart the applications to upgrade them",
        )


# -- clocks --------------------------------------------------------------------------


def check_clocks(context: CheckContext) -> CheckResults:
    """Check that the clocks of the agent, of this host and of clients agree."""
    if context.health is None:
        return
    ahead = context.health["timestamp"] - context.health_time
    if abs(ahead) < NOTABLE_SKEW:
        yield ok("the agent's clock agrees with this host's")
    else:
        skew = _describe_skew(ahead)
        yield warning(f"the agent's clock is {skew} this host's", CLOCK_FIX)
    measured = [c for c in context.connected if c["skew"] is not None]
    skewed = [c for c in measured if abs(c["skew"]) >= NOTABLE_SKEW]
    for client in skewed:
        # The agent's time minus the client's.
        behind = client["skew"]
        text = (
            f"{client['service']} (pid {client['pid']} on {client['host']}): its clock"
            f" is {_describe_skew(-behind)} the agent's"
        )
        if behind < 0:
            yield warning(f"{text}; its events are counted when they arrive", CLOCK_FIX)
        elif behind >= SEVERE_SKEW:
            yield problem(f"{text}; its events are in no bucket", CLOCK_FIX)
        else:
            yield warning(f"{text}; its events are in the wrong buckets", CLOCK_FIX)
    if measured and not skewed:
        yield ok(f"the clocks of {len(measured)} clients agree with the agent's")


def _describe_skew(ahead: float) -> str:
    return f"{duration(abs(ahead))} {'ahead of' if ahead > 0 else 'behind'}"


# -- store ---------------------------------------------------------------------------


def check_store_space(context: CheckContext) -> CheckResults:
    """Check that the disk and `store.max_size` have space for more data."""
    path = context.store
    if path is None:
        yield warning("nothing is stored (:memory:)", "set store.path to store data")
        return
    try:
        free = shutil.disk_usage(_nearest_folder(path.parent)).free
        files = (path, Path(f"{path}-wal"))
        size = sum(file.stat().st_size for file in files if file.exists())
    except OSError as error:
        yield unchecked(f"{path}: {error.strerror}", _owner_fix(path))
        return
    limit = context.config.store.max_bytes
    yield _check_free_space(path, free, growth=limit - size)
    text = f"{quantity(size, 'bytes')}, {100 * size / limit:.0f} % of store.max_size"
    if size > 0.9 * limit:
        yield warning(
            f"{text}; at 100% the oldest buckets are deleted",
            "raise store.max_size, or lower the retention",
        )
    elif path.exists():
        yield ok(text)


def _check_free_space(path: Path, free: int, growth: int) -> CheckResult:
    text = f"{quantity(free, 'bytes')} free on the disk of {path}"
    if free < MIN_FREE_BYTES:
        return problem(text, "free space: data that cannot be written stays in memory")
    if free < growth:
        return warning(
            f"{text}, but the store may grow by {quantity(growth, 'bytes')}",
            "free space, or lower store.max_size",
        )
    return ok(text)


def check_store_access(context: CheckContext) -> CheckResults:
    """Check that the agent can write the store, and that other users cannot read it."""
    path = context.store
    if path is None:
        return
    if not path.exists():
        yield _check_missing_store(context, path)
        return
    mode, owner = path.stat().st_mode, path.stat().st_uid
    agent = context.process.uid if context.process is not None else os.geteuid()
    if agent not in (0, owner):
        user = user_name(agent)
        yield problem(
            f"{path} belongs to {user_name(owner)}, but the agent runs as {user}",
            f"chown {user} {path}*",
        )
    elif mode & stat.S_IRWXO and find_closed_folder(path) is None:
        yield warning(f"every user can read {path}", f"chmod o= {path}")
    else:
        yield ok(f"the agent can write it ({user_name(owner)})")


def _check_missing_store(context: CheckContext, path: Path) -> CheckResult:
    folder, user = _nearest_folder(path.parent), user_name(os.geteuid())
    if context.health is not None or not os.access(folder, os.X_OK):
        return unchecked(f"cannot find {path}", "pass its path with --store")
    if os.access(folder, os.W_OK):
        return ok(f"{path} does not exist yet; {user} can create it")
    return problem(
        f"{user} cannot create {path}", f"chown {user} {folder}, or set store.path"
    )


def check_store_commits(context: CheckContext) -> CheckResults:
    """Check that the store can be read, and that the last commit is recent."""
    path = context.store
    if path is None or not path.exists():
        return
    try:
        with _open_database(path) as db:
            schema, last = _read_last_commit(db)
    except sqlite3.OperationalError as error:
        yield unchecked(f"the last commit ({error})", _owner_fix(path))
        return
    except sqlite3.Error as error:
        yield problem(
            f"cannot read {path}: {error}",
            "the next start renames it, and creates a new one; see docs/operations.md",
        )
        return
    if schema > VERSION:
        yield problem(
            f"{path} is from a newer kaywatch (schema {schema}, here {VERSION})",
            "install the newer version again, or restore a backup",
        )
    yield _check_commit_age(context, last, schema) if last else ok("no commit yet")


def _check_commit_age(context: CheckContext, last: float, schema: int) -> CheckResult:
    age = time.time() - last
    text = f"the last commit was {duration(age)} ago"
    if context.health is not None and age > LATE_COMMIT_SECONDS:
        return problem(
            f"{text}, although the agent is running",
            "read its log: journalctl -u kaywatch; or pass the store with --store",
        )
    return ok(f"{text}, schema {schema}")


def check_store_integrity(context: CheckContext) -> CheckResults:
    """Check the database for damage."""
    path = context.store
    if path is None or not path.exists():
        return
    end = time.monotonic() + INTEGRITY_SECONDS
    try:
        with _open_database(path) as db:
            db.set_progress_handler(lambda: time.monotonic() > end, 10_000)
            (result,) = db.execute("PRAGMA quick_check(1)").fetchone()
    except sqlite3.OperationalError as error:
        late = time.monotonic() > end
        why = f"takes over {INTEGRITY_SECONDS:g} s; the agent checks at its start"
        yield unchecked("damage of the database", why if late else str(error))
        return
    except sqlite3.DatabaseError as error:
        result = str(error)
    if result == "ok":
        yield ok("it is not damaged")
    else:
        yield problem(
            f"{path} is damaged: {result}",
            "restart the agent, which renames it; or restore a backup",
        )


@contextlib.contextmanager
def _open_database(path: Path) -> Iterator[sqlite3.Connection]:
    """Open the store read-only, without creating a file next to it."""
    # Without a write-ahead log no agent is running, and SQLite would create one.
    immutable = "" if Path(f"{path}-wal").exists() else "&immutable=1"
    uri = f"{path.absolute().as_uri()}?mode=ro{immutable}"
    with contextlib.closing(sqlite3.connect(uri, uri=True, timeout=1.0)) as db:
        yield db


def _read_last_commit(db: sqlite3.Connection) -> tuple[int, float]:
    """Return the version of the schema, and the Unix time of the last commit or 0."""
    (application,) = db.execute("PRAGMA application_id").fetchone()
    if application != APPLICATION_ID:
        raise sqlite3.DatabaseError("it is a database of another program")
    (schema,) = db.execute("PRAGMA user_version").fetchone()
    row = db.execute("SELECT value FROM meta WHERE key = 'now'").fetchone()
    return schema, float(row[0]) if row and row[0] else 0.0


def _nearest_folder(folder: Path) -> Path:
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder


def _owner_fix(path: Path) -> str:
    return f"run as root, or as the owner of {path.parent}"
