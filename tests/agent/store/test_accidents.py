"""Accidents of the store's files, while the agent runs and before it starts.

The table in docs/operations.md has what these tests observe.
"""

from __future__ import annotations

import fcntl
import os
import resource
import shutil
import sqlite3
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final, NamedTuple

import pytest
from structlog.testing import capture_logs
from tests.agent.aggregate.samples import Event, columns
from tests.agent.store.ticks import START, Ticks

from kaywatch_agent.aggregate.bucket import Bucket
from kaywatch_agent.aggregate.change import WriteBatch
from kaywatch_agent.aggregate.reduction import reduce
from kaywatch_agent.errors import StoreError
from kaywatch_agent.store.archive import Archive
from kaywatch_agent.store.files import ENDINGS, lock_holders
from kaywatch_agent.store.schema import PAGE_BYTES
from kaywatch_agent.store.store import Store
from kaywatch_agent.store.tiers import Retention
from kaywatch_agent.store.writer import StoreConfig, StoreDamaged, StoreWriter

OPERATIONS: Final = Path(__file__).parents[3] / "docs/operations.md"


# A copy of the database from before its last commits, in its folder.
OLDER: Final = "older.db"

# Nothing here depends on fsync.
QUICK: Final = StoreConfig(synchronous="normal")


def delete(path: Path) -> None:
    for ending in ENDINGS:
        Path(f"{path}{ending}").unlink(missing_ok=True)


def zero(path: Path, start: int = 0) -> None:
    if path.exists():
        size = path.stat().st_size
        with path.open("r+b") as file:
            file.seek(start)
            file.write(bytes(max(0, size - start)))


def truncate_to_half(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def database_of_another_program(path: Path) -> Path:
    other = path.with_name("other.db")
    with closing(sqlite3.connect(other)) as db:
        db.execute("CREATE TABLE mine (x)")
    return other


def replace(path: Path) -> None:
    os.replace(database_of_another_program(path), path)


def copy_over(path: Path) -> None:
    shutil.copyfile(database_of_another_program(path), path)


def drop_table(path: Path) -> None:
    with closing(sqlite3.connect(path)) as db:
        db.execute("DROP TABLE totals")


def log_of(path: Path) -> Path:
    return Path(f"{path}-wal")


def overwrite_middle(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        file.write(b"x" * 500)


def replace_by_link(path: Path) -> None:
    """Move it, and leave a symbolic link in its place."""
    moved = path.rename(f"{path}.moved")
    path.symlink_to(moved)


def replace_by_older_copy(path: Path) -> None:
    os.replace(path.with_name(OLDER), path)


def restore_older_copy(path: Path) -> None:
    shutil.copyfile(path.with_name(OLDER), path)


# The name in the table, and the accident.
ACCIDENTS: Final[dict[str, Callable[[Path], object]]] = {
    "deleted": delete,
    "only `kaywatch.db` deleted": Path.unlink,
    "folder deleted": lambda path: shutil.rmtree(path.parent),
    "moved": lambda path: path.rename(f"{path}.moved"),
    "folder moved": lambda path: path.parent.rename(f"{path.parent}.moved"),
    "replaced by another program's database": replace,
    "overwritten with another program's database": copy_over,
    "overwritten with text": lambda path: path.write_bytes(b"some notes\n" * 100),
    "truncated to nothing": lambda path: os.truncate(path, 0),
    "truncated to half": truncate_to_half,
    "truncated to its first page": lambda path: os.truncate(path, PAGE_BYTES),
    "last page cut off": lambda path: os.truncate(
        path, path.stat().st_size - PAGE_BYTES
    ),
    "folder replaced by a link to it": lambda path: replace_by_link(path.parent),
    "replaced by a link to it": replace_by_link,
    "replaced by an older copy of itself": replace_by_older_copy,
    "overwritten with an older copy of itself": restore_older_copy,
    "overwritten with zeros": zero,
    "first bytes overwritten": lambda path: _overwrite(path, b"x" * 90),
    "`-wal` deleted": lambda path: log_of(path).unlink(missing_ok=True),
    "`-wal` overwritten with zeros": lambda path: zero(log_of(path)),
    "end of `-wal` overwritten with zeros": lambda path: zero(log_of(path), 4000),
    "`-wal` truncated to half": lambda path: truncate_to_half(log_of(path)),
    "middle of `-wal` overwritten": lambda path: overwrite_middle(log_of(path)),
    "`-shm` deleted": lambda path: Path(f"{path}-shm").unlink(missing_ok=True),
    "a table dropped": drop_table,
    "time changed": os.utime,
    "`kaywatch.db.lock` deleted": lambda path: path.with_suffix(".lock").unlink(True),
}


def _overwrite(path: Path, data: bytes) -> None:
    with path.open("r+b") as file:
        file.write(data)


class Outcome(NamedTuple):
    """One cell of the table."""

    acknowledged: bool  # what arrives afterwards
    reported: str
    content: str  # after a restart

    def __str__(self) -> str:
        works = "works on" if self.acknowledged else "does not start"
        return f"{works}; {self.reported}; {self.content}"


class RunningStore:
    """A store with an old event that is only in the file, and a new one."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.ticks = Ticks()
        self.now = float(START)
        self.writer = StoreWriter(path, QUICK)
        self.writer.restore()

    async def fill(self) -> None:
        await self.commit()
        self.now += 2 * 3600
        for count in range(25):
            if count == 12:
                self._checkpoint()
                shutil.copyfile(self.path, self.path.with_name(OLDER))
            assert await self.commit() == ""
        # Most of a store is not in the log.
        self._checkpoint()
        for _ in range(3):
            assert await self.commit() == ""

    def _checkpoint(self) -> None:
        database = self.writer._store.database
        database.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        database.remember()

    async def commit(self) -> str:
        """Commit one event as the committer does; return why it is not durable."""
        self.now += 1
        batch = self.ticks.change(self.now, [Event(0, self.now, 1.0)])
        problem = ""
        for _ in range(2):
            try:
                await self.writer.commit(batch)
            except StoreDamaged:
                batch = self._full(batch)
            except StoreError as error:
                problem = str(error)
            else:
                return ""
        return problem

    def _full(self, batch: WriteBatch) -> WriteBatch:
        """Return everything that an agent has in memory: an hour and the totals."""
        recent: dict[int, list[Event]] = {}
        for event in self.ticks.events:
            if event.time > self.now - 3600:
                recent.setdefault(int(event.time // 10), []).append(event)
        buckets = {n: reduce(columns(part)) for n, part in recent.items()}
        return batch._replace(aggregate=batch.aggregate._replace(buckets=buckets))

    def close(self) -> None:
        self.writer.close()


@pytest.fixture
async def running(tmp_path: Path) -> Iterator[RunningStore]:
    store = RunningStore(tmp_path / "folder/kaywatch.db")
    await store.fill()
    yield store
    store.close()


def executions(bucket: Bucket) -> int:
    return int(bucket.executions.sum())


def content_after_restart(path: Path, copy: Path, expected: int) -> str:
    """Start on a copy of the files as they are, as after kill -9."""
    shutil.copytree(path.parent, copy)
    store = Store(copy / path.name)
    state = store.restore()
    store.close()
    archive = Archive(copy / path.name, 0.0)
    old = sum(executions(b) for _, b in archive.read(START, START + 3600, 3600))
    archive.close()
    if not executions(state.totals):
        return "nothing"
    assert executions(state.totals) == expected
    assert sum(executions(bucket) for bucket in state.buckets.values()) > 5
    return "everything" if old else "totals and the last hour"


async def outcome_while_running(
    running: RunningStore, accident: Callable[[Path], object], copy: Path
) -> Outcome:
    """Commit after an accident, then start on the files as they are."""
    with capture_logs() as logs:
        accident(running.path)
        problem = await running.commit()
    incident = running.writer.problem
    reported = bool(incident)
    assert reported == any(line["log_level"] == "error" for line in logs)
    for _ in range(3):
        assert await running.commit() == problem
    assert running.writer.problem == incident
    return Outcome(
        acknowledged=not problem,
        reported="degraded" if reported else "nothing to report",
        content=content_after_restart(running.path, copy, len(running.ticks.events)),
    )


def outcome_at_start(
    running: RunningStore, accident: Callable[[Path], object], folder: Path
) -> Outcome:
    """Start after kill -9 and an accident."""
    shutil.copytree(running.path.parent, folder)
    path, sound = folder / running.path.name, len(running.ticks.events)
    accident(path)
    before = path.read_bytes() if path.exists() else None
    with capture_logs() as logs:
        writer = StoreWriter(path, QUICK)
        try:
            state = writer.restore()
        except StoreError:
            assert before == path.read_bytes()
            return Outcome(False, "one line names the cause", "the file is unchanged")
        finally:
            writer.close()
    if writer.problem:
        reported = "degraded"
    elif any(line["event"] == "a new store begins" for line in logs):
        reported = "the log reports a new store"
    else:
        reported = "nothing to report"
    count = executions(state.totals)
    content = "without the last seconds" if count else "nothing"
    return Outcome(True, reported, "everything" if count == sound else content)


def documented() -> dict[str, tuple[str, str]]:
    """Return the cells of the table by accident."""
    rows = {}
    for line in OPERATIONS.read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split(" | ")]
        if cells[0] in ACCIDENTS and len(cells) == 3:
            rows[cells[0]] = (cells[1], cells[2])
    return rows


@pytest.mark.parametrize("name", ACCIDENTS)
async def test_each_accident_has_the_documented_outcome(
    running: RunningStore, tmp_path: Path, name: str
) -> None:
    accident = ACCIDENTS[name]
    at_start = outcome_at_start(running, accident, tmp_path / "killed/folder")
    while_running = await outcome_while_running(running, accident, tmp_path / "copy")

    assert while_running.acknowledged
    assert while_running.content != "nothing"
    assert documented()[name] == (str(while_running), str(at_start))


def moved_aside(path: Path) -> list[Path]:
    return [
        file
        for file in path.parent.glob("kaywatch.db.*-*")
        if not file.name.endswith(ENDINGS[1:])
    ]


async def test_a_replacing_file_is_kept(running: RunningStore) -> None:
    replace(running.path)
    content = running.path.read_bytes()
    assert await running.commit() == ""

    (aside,) = moved_aside(running.path)
    assert aside.read_bytes() == content


async def test_an_overwriting_file_is_kept_unchanged(running: RunningStore) -> None:
    copy_over(running.path)
    content = running.path.read_bytes()
    assert await running.commit() == ""

    (aside,) = moved_aside(running.path)
    assert aside.read_bytes() == content


async def test_files_that_are_deleted_during_a_commit_are_noticed(
    running: RunningStore,
) -> None:
    database = running.writer._store.database
    delete(running.path)
    # As at the end of a commit that was under way.
    database.remember()
    await running.commit()

    assert "was deleted or moved while the agent ran" in database.incident
    assert running.path.exists()


@pytest.mark.parametrize(
    "accident", ["overwritten with zeros", "truncated to its first page"]
)
async def test_a_file_that_is_overwritten_during_a_commit_is_noticed(
    running: RunningStore, accident: str
) -> None:
    database = running.writer._store.database
    ACCIDENTS[accident](running.path)
    # As at the end of a commit that was under way.
    database.remember()

    assert await running.commit() == ""
    assert "another program wrote to it" in database.incident
    assert moved_aside(running.path)


async def test_a_commit_that_does_not_fit_is_no_accident(running: RunningStore) -> None:
    database = running.writer._store.database
    (pages,) = database.connection.execute("PRAGMA page_count").fetchone()
    database.connection.execute(f"PRAGMA max_page_count = {pages}")
    events = [Event(0, running.now + n, 1.0) for n in range(50_000)]
    batch = running.ticks.change(running.now, events)
    with pytest.raises(StoreError, match="full"):
        await running.writer.commit(batch)
    database.connection.execute("PRAGMA max_page_count = 1000000")

    assert await running.commit() == ""
    assert database.incident == ""
    assert moved_aside(running.path) == []


async def test_the_new_file_of_another_agent_is_left_alone(
    running: RunningStore,
) -> None:
    running.path.rename(f"{running.path}.moved")
    other = Store(running.path)
    other.restore()
    inode = running.path.stat().st_ino
    assert "another agent" in await running.commit()
    assert "another agent" in running.writer.problem
    assert running.path.stat().st_ino == inode
    other.close()

    assert await running.commit() == ""
    assert "replaced" in running.writer.problem


async def test_a_folder_that_cannot_be_used_acknowledges_nothing(
    running: RunningStore,
) -> None:
    folder = running.path.parent
    folder.rename(f"{folder}.moved")
    folder.write_text("")
    assert "File exists" in await running.commit()
    folder.unlink()

    assert await running.commit() == ""


@contextmanager
def failing_disk(size: int) -> Iterator[None]:
    """Let writes beyond a file's first bytes fail with an I/O error."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


async def test_a_disk_that_fails_loses_nothing(
    running: RunningStore, tmp_path: Path
) -> None:
    running.now += 20  # so that the next commit moves the journal
    batch = running.ticks.change(running.now, [Event(0, running.now, 1.0)])
    for size in (0, PAGE_BYTES, 5 * PAGE_BYTES):
        # The log of the test is a file, too.
        with capture_logs(), failing_disk(size), pytest.raises(StoreError):
            await running.writer.commit(batch)
    assert "disk I/O error" in running.writer.problem
    await running.writer.commit(batch)

    assert running.writer.problem == ""
    assert moved_aside(running.path) == []
    copy = Path(shutil.copytree(running.path.parent, tmp_path / "copy"))
    store = Store(copy / running.path.name)
    assert executions(store.restore().totals) == len(running.ticks.events)
    store.close()


@pytest.fixture(params=["pipe", "device"])
def special_file(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "kaywatch.db"
    if request.param == "pipe":
        os.mkfifo(path)
        yield path
        return
    # A terminal of this test's own: an agent of root could move any other device.
    ends = os.openpty()
    yield Path(os.ttyname(ends[1]))
    for end in ends:
        os.close(end)


def test_what_is_no_regular_file_is_neither_read_nor_moved(special_file: Path) -> None:
    before = special_file.stat()
    with pytest.raises(StoreError, match="is not a regular file; choose another path"):
        Store(special_file)

    assert os.path.samestat(before, special_file.stat())


def test_one_of_many_agents_that_start_at_once_gets_the_store(tmp_path: Path) -> None:
    barrier = threading.Barrier(8)

    def start(_: int) -> Store | str:
        barrier.wait()
        try:
            store = Store(tmp_path / "kaywatch.db")
        except StoreError as error:
            return str(error)
        store.restore()
        return store

    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(start, range(8)))
    (store,) = (result for result in results if isinstance(result, Store))
    others = [result for result in results if isinstance(result, str)]
    assert all("another agent" in other for other in others)
    assert moved_aside(store.path) == []
    store.close()


def test_a_file_that_is_moved_while_it_is_opened_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "kaywatch.db"
    path.touch()

    def lock(descriptor: int, operation: int) -> None:
        # Another agent moves a damaged file aside, and starts a new one.
        path.rename(tmp_path / "damaged")
        path.touch()
        fcntl_lock(descriptor, operation)

    fcntl_lock = fcntl.flock
    monkeypatch.setattr(fcntl, "flock", lock)
    with pytest.raises(StoreError, match="replaced by another agent"):
        Store(path)


def test_the_log_of_a_linked_store_is_beside_the_file(tmp_path: Path) -> None:
    file, link = tmp_path / "disk/store.db", tmp_path / "kaywatch.db"
    file.parent.mkdir()
    link.symlink_to(file)
    ticks = Ticks()
    store = Store(link)
    store.restore()
    store.commit(ticks.change(START, [Event(0, START, 1.0)]))
    assert store.database.files.log_bytes() > 0
    killed = Path(
        shutil.copytree(tmp_path, tmp_path.with_name("killed"), symlinks=True)
    )
    store.close()
    link = killed / link.name
    link.unlink()
    link.symlink_to(killed / "disk/store.db")

    again = Store(link)
    assert executions(again.restore().totals) == 1
    assert again.database.incident == ""
    again.close()


def test_a_reader_or_a_lock_is_no_accident(tmp_path: Path) -> None:
    store = Store(tmp_path / "kaywatch.db")
    store.restore()
    ticks = Ticks()
    store.commit(ticks.change(START, [Event(0, START, 1.0)]))
    with closing(sqlite3.connect(store.path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        other.execute("ROLLBACK")
        other.execute("SELECT count(*) FROM journal").fetchone()
        other.execute("VACUUM INTO ?", (str(tmp_path / "backup.db"),))

    assert not store.database.follow()
    assert not store.database.incident
    store.close()


def test_a_kill_before_the_first_commit_is_no_accident(tmp_path: Path) -> None:
    path = tmp_path / "started/kaywatch.db"
    store = Store(path)
    for number in range(3):
        store.restore()
        assert not store.database.incident
        copy = shutil.copytree(path.parent, tmp_path / f"killed-{number}")
        store.close()
        store = Store(copy / path.name)
    store.close()


def test_a_reader_does_not_truncate_the_index_of_the_log(tmp_path: Path) -> None:
    """SQLite truncates an index without a lock: its process must have been killed."""
    path = tmp_path / "started/kaywatch.db"
    store = Store(path)
    store.restore()
    killed = Store(shutil.copytree(path.parent, tmp_path / "killed") / path.name)
    killed.restore()
    path.unlink()
    store.database.follow()  # the file is copied, and opened again

    for each in (store, killed):
        index = os.stat(f"{each.path}-shm")
        assert str(os.getpid()) in lock_holders(index.st_ino, "POSIX")
        each.close()


def test_the_lock_is_on_the_file_itself(tmp_path: Path) -> None:
    path = tmp_path / "kaywatch.db"
    store = Store(path)
    store.restore()
    for file in tmp_path.iterdir():
        assert not file.name.endswith(".lock")
    moved = path.rename(tmp_path / "moved.db")
    with pytest.raises(StoreError, match=rf"another agent \(pid {os.getpid()}\) uses"):
        Store(moved)
    store.close()
    with moved.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


# -- the write-ahead log ---------------------------------------------------------------


def grow(store: Store, ticks: Ticks, at: int) -> None:
    names = {str(n): b'{"filler": "%s"}' % (b"x" * 4000) for n in range(60)}
    store.commit(ticks.change(START + at, [Event(0, START + at, 1.0)], clients=names))


def test_an_open_reader_is_reported_and_the_log_bounded(tmp_path: Path) -> None:
    store = Store(tmp_path / "kaywatch.db", retention=Retention(max_bytes=8_000_000))
    store.restore()
    ticks = Ticks()
    grow(store, ticks, 0)
    reader = sqlite3.connect(store.path, isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM journal").fetchone()
    report = store.commit(ticks.change(START + 1, []))
    with pytest.raises(StoreError, match="reads the store"):  # noqa: PT012, until then
        for at in range(2, 100):
            grow(store, ticks, at)
    size = sum(file.stat().st_size for file in tmp_path.iterdir())

    assert 7_000_000 < size < 9_000_000
    assert "kaywatch.db has " in store.problem
    reader.execute("COMMIT")
    reader.close()
    for at in range(200, 203):
        store.commit(ticks.change(START + at, [Event(0, START + at, 1.0)]))
    assert store.problem == ""
    assert store.commit(ticks.change(START + 300, [])).bytes < 3_000_000
    assert report.bytes > 0
    store.close()
