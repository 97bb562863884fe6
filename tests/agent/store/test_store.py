"""The store: committed data is restored, and nothing else."""

from __future__ import annotations

import json
import random
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs
from tests.agent.aggregate.samples import Event, to_naive
from tests.agent.protocol.fakes import NOW, Agent, FakeLink
from tests.agent.store.ticks import KEYS, NAMES, START, Ticks

from kaywatch import wire
from kaywatch.wire import Phase
from kaywatch_agent.aggregate.aggregator import Aggregator
from kaywatch_agent.aggregate.bucket import EMPTY, Bucket, merge
from kaywatch_agent.aggregate.change import StoredState
from kaywatch_agent.aggregate.registry import Limits, Registry
from kaywatch_agent.errors import StoreError
from kaywatch_agent.model.client import Client
from kaywatch_agent.model.records import FailureRecord, TopologyRecord
from kaywatch_agent.store import schema
from kaywatch_agent.store.archive import Archive
from kaywatch_agent.store.store import Store
from kaywatch_agent.store.tiers import Retention

FAILURE = FailureRecord(
    time=START,
    service="shop",
    graph="checkout",
    node="pay",
    type="ValueError",
    message="nö",
    phase=Phase.EXEC,
    attempts=2,
    run="a-1",
    client="c",
    traceback="a.py:1 in f",
    seconds=0.25,
)
TOPOLOGY = TopologyRecord(
    service="shop",
    graph="checkout",
    start="pay",
    nodes=("pay",),
    edges=(("pay", "x", "pay"),),
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "kaywatch.db"


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    made = Store(path)
    made.restore()
    yield made
    made.close()


def reopen(store: Store) -> StoredState:
    """Return the state that an agent would restore now."""
    store.close()
    other = Store(store.path)
    try:
        return other.restore()
    finally:
        other.close()


def is_same(one: Bucket, other: Bucket) -> None:
    """Return whether both are equal, apart from the order of float additions."""
    assert to_naive(one).keys() == to_naive(other).keys()
    for row, stats in to_naive(one).items():
        expected = to_naive(other)[row]
        assert stats.pop("total") == pytest.approx(expected.pop("total"))
        if stats.pop("last") != expected.pop("last"):
            # Of two values at one time either may be the last.
            assert stats["last_time"] == expected["last_time"]
        assert stats == expected


def events(count: int, now: float, seed: int = 0) -> list[Event]:
    rng = random.Random(seed)
    return [
        Event(
            rng.randrange(3),
            now - rng.random() * 3,
            rng.lognormvariate(-3, 1),
            rng.randrange(5),
            rng.randint(1, 3),
            rng.randrange(3),
            rng.randrange(2),
        )
        for _ in range(count)
    ]


def test_a_new_file_knows_nothing(path: Path) -> None:
    store = Store(path)
    state = store.restore()

    assert state.now is None
    assert (state.keys, state.names, state.buckets, state.clients) == ([], {}, {}, {})
    assert not len(state.totals.rows)
    store.close()


def test_committed_data_is_restored(store: Store) -> None:
    ticks = Ticks()
    late = [Event(1, START - 9999.0, 7.0)]
    store.commit(ticks.change(START + 1, events(50, START + 1)))
    store.commit(
        ticks.change(
            START + 2,
            events(50, START + 2, 1),
            late,
            clients={"aa": b'{"seq": 3}', "bb": b"{}"},
            failures=[FAILURE],
            topologies=[TOPOLOGY],
            counters=b'{"x": 1}',
        )
    )
    store.commit(ticks.change(START + 3, [], forgotten=["bb"]))
    result = reopen(store)

    assert (result.now, result.since) == (START + 3, START)
    assert result.keys == KEYS
    assert result.names == {facet: list(map(_plain, v)) for facet, v in NAMES.items()}
    assert result.clients == {"aa": b'{"seq": 3}'}
    assert result.failures == [FAILURE]
    assert result.topologies == [TOPOLOGY]
    assert result.counters == b"{}"
    is_same(result.totals, ticks.expected())
    for n, bucket in result.buckets.items():
        is_same(bucket, ticks.expected(n * 10, n * 10 + 10))
    assert set(result.buckets) | set(result.stored) == {
        int(e.time // 10) for e in ticks.events if e.time > START - 100
    }


def _plain(value: object) -> object:
    return tuple(value) if isinstance(value, tuple) else value


def as_batch(events: list[dict[str, Any]]) -> bytes:
    batch = {"type": "batch", "v": 1, "service": "s", "events": events}
    return wire.frame(wire.pack(batch))


def test_sums_are_restored_to_the_last_bit(path: Path) -> None:
    """A sum that a restart lowers looks to Prometheus as if it had begun again."""
    agent, chance = Agent(), random.Random(3)
    rows = agent.open(FakeLink())
    store = Store(path)
    store.restore()
    for n in range(60):
        for _ in range(chance.randrange(3)):  # some commits follow several ticks
            events = [
                {
                    "node": f"n{chance.randrange(5)}",
                    "seconds": chance.random() / 3,
                    "time": agent.now - chance.choice([0, 0, 20, 9_000]),
                }
                for _ in range(chance.randrange(1, 9))
            ]
            rows.receive(as_batch(events))
            agent.intake.write(agent.pipeline.tick(agent.now))
        agent.now += chance.choice([0.2, 1.0, 7.0])
        agent.broken = n % 7 == 3
        agent.commit()
        while agent.committed:
            store.commit(agent.committed.pop(0))
        ours = agent.pipeline.aggregator.view(agent.now).durable_totals
        restored = store._read().totals
        assert restored.rows.tolist() == ours.rows.tolist()
        assert restored.total.tolist() == ours.total.tolist()
    assert ours.executions.sum() > 200
    assert reopen(store).totals.total.tolist() == ours.total.tolist()


def test_births_are_restored_and_completed(path: Path) -> None:
    agent = Agent()
    rows = agent.open(FakeLink())
    store = Store(path)
    store.restore()
    for node in ("a", "b"):
        events = [{"node": node, "seconds": 1.0}]
        rows.receive(as_batch(events))
        agent.tick()
        agent.now += 100
    for change in agent.committed:
        store.commit(change)
    state = reopen(store)

    assert state.names["births"] == [NOW, NOW]
    # As an earlier version leaves it.
    names = {**state.names, "births": state.names["births"][:1]}
    aggregator = Aggregator(Registry(Limits()), agent.now)
    aggregator.restore(state._replace(names=names))
    assert aggregator.registry.births == [NOW, state.since]


def test_hours_of_ticks_restart_by_restart(path: Path) -> None:
    """Totals, open buckets and every tier hold each event exactly once."""
    ticks, store = Ticks(), Store(path)
    store.restore()
    rng = random.Random(5)
    now = float(START)
    for n in range(900):
        now += rng.choice([1, 7, 10, 33])
        some = events(4, now, n)
        if n % 10 == 0:
            some += [Event(0, now - 3000 * rng.random(), 0.5)]  # late, in the hour
        store.commit(ticks.change(now, some, [Event(2, START, 1.0)]))
        if n % 150 == 149:
            store.close()
            store = Store(path)
            is_same(store.restore().totals, ticks.expected())
    result = reopen(store)
    archive = Archive(path, 0.0)

    is_same(result.totals, ticks.expected())
    late = [e for e in ticks.events if e.row == 2 and e.time == START]
    assert len(late) >= 900
    counts = []
    for resolution in (10, 3600):
        parts = dict.fromkeys(result.buckets, EMPTY)
        read = list(archive.read(0, now + 10, resolution))
        whole = merge(
            [bucket for start, bucket in read if start // 10 not in parts]
            + list(result.buckets.values())
        )
        expected = ticks.expected(START - 3100, now + 10).executions.sum() - 900
        assert whole.executions.sum() == expected
        starts = [start for start, _ in read]
        assert starts == sorted(starts)
        counts.append(len(starts))
    assert counts[0] > 1.5 * counts[1]
    archive.close()


def test_an_hour_is_all_of_its_events(path: Path) -> None:
    store, ticks = Store(path), Ticks()
    store.restore()
    for n in range(0, 3 * 3600, 20):
        store.commit(ticks.change(START + n, events(2, START + n + 3, n)))
    store.close()
    archive = Archive(path, 0.0)

    (first,) = [s for at, s in archive.read(START, START + 3600, 3600) if at == START]
    is_same(first, ticks.expected(START, START + 3600))
    minutes = list(archive.read(START, START + 3600, 60))
    assert [at for at, _ in minutes] == list(range(START, START + 3600, 60))
    is_same(merge([bucket for _, bucket in minutes]), first)
    (minute,) = archive.read(START + 120, START + 180, 60)
    is_same(minute[1], ticks.expected(START + 120, START + 180))
    archive.close()


def test_data_of_a_failed_commit_is_not_restored(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticks = Ticks()
    store.commit(ticks.change(START, events(5, START)))
    before = ticks.expected()
    (size,) = store.database.connection.execute("PRAGMA page_count").fetchone()
    store.database.connection.execute(f"PRAGMA max_page_count = {size}")
    with pytest.raises(StoreError, match="full"):
        store.commit(ticks.change(START + 1, events(20_000, START + 1)))
    store.database.connection.execute("PRAGMA max_page_count = 100000000")
    is_same(reopen(store).totals, before)


def test_a_change_that_failed_can_be_committed_later(store: Store) -> None:
    ticks = Ticks()
    change = ticks.change(START, events(20_000, START))
    store.database.connection.execute("PRAGMA max_page_count = 1")
    with pytest.raises(StoreError):
        store.commit(change)
    store.database.connection.execute("PRAGMA max_page_count = 100000000")
    store.commit(change)

    result = reopen(store)
    is_same(result.totals, ticks.expected())
    assert result.keys == KEYS


def test_a_locked_file_is_a_temporary_error(store: Store) -> None:
    ticks = Ticks()
    other = sqlite3.connect(store.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    change = ticks.change(START, events(5, START))
    with pytest.raises(StoreError, match="locked"):
        store.commit(change)
    other.execute("ROLLBACK")
    other.close()
    store.commit(change)

    is_same(reopen(store).totals, ticks.expected())


# -- the file ------------------------------------------------------------------------


def test_one_agent_at_a_time(store: Store) -> None:
    with pytest.raises(StoreError, match=r"another agent \(pid \d+\) uses"):
        Store(store.path)


def test_a_folder_that_can_not_be_used(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=":memory:"):
        Store(tmp_path / "file" / "kaywatch.db")


def test_another_program_s_database_is_left_alone(path: Path) -> None:
    other = sqlite3.connect(path)
    other.execute("CREATE TABLE mine (x)")
    other.commit()
    other.close()
    before = path.read_bytes()
    store = Store(path)

    with pytest.raises(StoreError, match="another program"):
        store.restore()
    store.close()
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("readable_from", "fine"), [(schema.VERSION, True), (schema.VERSION + 1, False)]
)
def test_a_newer_agent_s_file(store: Store, readable_from: int, fine: bool) -> None:
    ticks = Ticks()
    store.commit(ticks.change(START, events(5, START)))
    db = store.database.connection
    db.execute(
        "UPDATE meta SET value = ? WHERE key = 'readable_from'", (readable_from,)
    )
    db.execute("ALTER TABLE journal RENAME TO journal_2") if not fine else None
    db.execute(f"PRAGMA user_version = {schema.VERSION + 1}")
    store.close()
    before = store.path.read_bytes()
    other = Store(store.path)

    if fine:
        is_same(other.restore().totals, ticks.expected())
    else:
        with pytest.raises(StoreError, match="newer kaywatch"):
            other.restore()
        assert store.path.read_bytes() == before
    other.close()


def test_an_older_agent_s_file_is_brought_up_to_date(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticks = Ticks()
    with monkeypatch.context() as older:
        older.setattr(schema, "VERSION", 1)
        older.setattr(schema, "MIGRATIONS", schema.MIGRATIONS[:1])
        db = schema.connect(tmp_path / "old.db", "FULL", schema.WAL_BYTES)
        db.close()
    store = Store(tmp_path / "old.db")
    store.restore()
    store.commit(ticks.change(START, events(5, START)))
    (version,) = store.database.connection.execute("PRAGMA user_version").fetchone()
    store.close()
    other = Store(tmp_path / "old.db")

    assert version == schema.VERSION
    is_same(other.restore().totals, ticks.expected())
    other.close()


def test_lists_in_an_older_format_are_dropped_and_totals_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticks = Ticks()
    with monkeypatch.context() as older:
        older.setattr(schema, "VERSION", 2)
        older.setattr(schema, "MIGRATIONS", schema.MIGRATIONS[:2])
        old = Store(tmp_path / "old.db")
        old.restore()
        old.commit(ticks.change(START, events(5, START)))
        db = old.database.connection
        db.execute("INSERT INTO failures (data) VALUES ('[1.0, \"shop\"]')")
        client = {"id": "ab", "service": "shop", "received_seq": 7, "events": 9}
        lists = {"tags": [["a", "b"]], "in_flight": [["g", "n", 1.0, "r", 0]]}
        data = json.dumps({**client, **lists}).encode()
        db.execute("INSERT INTO clients VALUES ('ab', ?)", (data,))
        old.close()
    store = Store(tmp_path / "old.db")
    state = store.restore()
    store.close()

    assert not store.database.incident
    is_same(state.totals, ticks.expected())
    assert not state.failures
    # Else a batch that is sent again after the update would be counted twice.
    stored = Client.from_json(state.clients["ab"])
    assert (stored.id, stored.service, stored.events) == ("ab", "shop", 9)
    assert stored.received_seq == stored.committed_seq == 7


def test_renamed_counts_are_kept_and_fingerprints_of_rules_dropped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counters = {
        "kaywatch_folded_series_total": [[[], 30.0]],
        "kaywatch_misplaced_events_total": [[["late"], 2.0]],
        "kaywatch_events_total": [[[], 81.0]],
    }
    client = {
        "client": "ab",
        "events": 81,
        "folded": 30,
        "tags": {"folded": "ü"},
        "skew": 0.1,
    }
    with monkeypatch.context() as older:
        older.setattr(schema, "VERSION", 3)
        older.setattr(schema, "MIGRATIONS", schema.MIGRATIONS[:3])
        old = Store(tmp_path / "old.db")
        old.restore()
        old.commit(
            Ticks()
            .change(START, events(5, START))
            ._replace(counters=json.dumps(counters).encode())
        )
        db = old.database.connection
        for name in ("ab", "cd"):
            data = json.dumps({**client, "client": name}).encode()
            db.execute("INSERT INTO clients VALUES (?, ?)", (name, data))
        db.execute("INSERT INTO clients VALUES ('ef', 'damaged')")
        for name, data in (("a", b'{"meaning":"c2c4","value":0.1}'), ("b", b"damaged")):
            db.execute("INSERT INTO documents VALUES ('alert', ?, ?)", (name, data))
        old.close()
    store = Store(tmp_path / "old.db")
    state = store.restore()
    store.close()

    assert not store.database.incident
    stored = [Client.from_json(state.clients[name]) for name in ("ab", "cd")]
    assert [one.overflow for one in stored] == [30, 30]
    assert (stored[0].events, stored[0].tags, stored[0].skew) == (
        81,
        {"folded": "ü"},
        0.1,
    )
    assert state.documents["alert", "a"] == b'{"meaning":"","value":0.1}'
    assert state.documents["alert", "b"] == b"damaged"
    assert json.loads(state.counters) == {
        "kaywatch_overflow_series_total": [[["total"], 30.0]],
        "kaywatch_out_of_range_events_total": [[["late"], 2.0]],
        "kaywatch_events_total": [[[], 81.0]],
    }


def test_documents_are_kept_replaced_and_deleted(store: Store) -> None:
    ticks = Ticks()
    for documents in (
        {("alert", "a"): b'{"n":1}', ("alert", "b"): b"{}", ("outbox", "a"): b"[]"},
        {("alert", "a"): b'{"n":2}', ("alert", "b"): None, ("outbox", "zz"): None},
    ):
        change = ticks.change(START, events(1, START))
        store.commit(change._replace(documents=documents))
    store.close()
    other = Store(store.path)

    assert other.restore().documents == {
        ("alert", "a"): b'{"n":2}',
        ("outbox", "a"): b"[]",
    }
    other.close()


@pytest.mark.parametrize("damage", ["header", "page"])
def test_a_damaged_file_is_set_aside(store: Store, damage: str) -> None:
    ticks = Ticks()
    for n in range(40):
        store.commit(ticks.change(START + 10 * n, events(50, START + 10 * n, n)))
    store.close()
    data = bytearray(store.path.read_bytes())
    if damage == "header":
        data[:100] = b"x" * 100
    else:
        data[4096:] = b"\xff" * (len(data) - 4096)
    store.path.write_bytes(data)
    other = Store(store.path)
    state = other.restore()
    (aside,) = store.path.parent.glob("*.damaged-*[0-9]")

    assert state.now is None
    assert str(aside) in other.database.incident
    assert aside.read_bytes() == data
    other.commit(ticks.change(START + 400, events(5, START + 400)))
    assert "damaged" in other.database.incident  # until the agent restarts
    assert reopen(other).keys == KEYS


@pytest.mark.parametrize(
    "statement",
    ["UPDATE totals SET data = x'00'", "UPDATE failures SET data = '[]'"],
)
def test_content_that_is_not_understood_is_left_alone(
    store: Store, statement: str
) -> None:
    ticks = Ticks()
    for now in (START, START + 20):
        store.commit(ticks.change(now, events(5, now), failures=[FAILURE]))
    store.database.connection.execute(statement)
    store.close()
    before = store.path.read_bytes()
    other = Store(store.path)
    with pytest.raises(StoreError, match="was left unchanged"):
        other.restore()
    other.close()
    assert store.path.read_bytes() == before
    assert list(store.path.parent.iterdir()) == [store.path]


def test_a_number_that_exists_already_is_no_damage(store: Store) -> None:
    ticks = Ticks()
    change = ticks.change(START, events(5, START))
    store.commit(change)
    store._tick -= 1
    with pytest.raises(StoreError, match="UNIQUE constraint failed"):
        store.commit(ticks.change(START + 1, events(5, START + 1)))
    assert list(store.path.parent.glob("*.damaged-*")) == []


@pytest.mark.parametrize("content", [b"some notes\n" * 100, b"x", b"SQLite format 3"])
def test_a_file_that_is_no_database_is_left_alone(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    store = Store(path)
    with pytest.raises(StoreError, match=r"--store, or move"):
        store.restore()
    store.close()
    assert path.read_bytes() == content
    assert list(path.parent.iterdir()) == [path]


def test_a_damaged_database_of_another_program_is_left_alone(path: Path) -> None:
    other = sqlite3.connect(path)
    other.execute("CREATE TABLE mine (x)")
    other.executemany("INSERT INTO mine VALUES (randomblob(?))", [(3000,)] * 9)
    other.commit()
    other.close()
    content = bytearray(path.read_bytes())
    content[100:200] = b"\xff" * 100
    path.write_bytes(content)
    store = Store(path)
    with pytest.raises(StoreError, match="left unchanged"):
        store.restore()
    store.close()
    assert path.read_bytes() == content


def test_a_new_file_gets_a_full_snapshot(store: Store) -> None:
    ticks = Ticks()
    store.commit(ticks.change(START, events(5, START), clients={"aa": b"{}"}))
    store.start_over("a test")

    store.commit(ticks.change(START + 1, events(5, START + 1)))
    result = reopen(store)
    assert result.keys == KEYS
    assert not result.clients


# -- tiers ---------------------------------------------------------------------------


def test_buckets_go_when_they_are_too_old(path: Path) -> None:
    store = Store(path, retention=Retention(minutes=7200, hours=10 * 3600))
    store.restore()
    ticks = Ticks()
    for n in range(0, 20 * 3600, 120):
        store.commit(ticks.change(START + n, events(1, START + n, n)))
    now = START + 20 * 3600
    starts: dict[int, list[int]] = {10: [], 60: [], 3600: []}
    for tier, start in store.database.connection.execute(
        "SELECT tier, start FROM buckets"
    ):
        starts[tier].append(start)

    assert now - 3800 < min(starts[10]) < now - 3500
    assert now - 3 * 3600 <= min(starts[60]) < now - 7000
    assert now - 12 * 3600 <= min(starts[3600]) <= now - 10 * 3600
    is_same(reopen(store).totals, ticks.expected())


def test_the_oldest_goes_when_the_file_is_too_large(path: Path) -> None:
    store = Store(path, retention=Retention(max_bytes=400_000))
    store.restore()
    ticks = Ticks()
    expired, used = 0, 0
    for n in range(0, 12 * 3600, 120):
        report = store.commit(ticks.change(START + n, events(80, START + n, n)))
        expired += report.expired
        used = max(used, report.bytes)

    assert expired > 0
    assert used < 500_000
    assert path.stat().st_size < 600_000
    is_same(reopen(store).totals, ticks.expected())


def test_a_clock_that_jumps_ahead_for_a_moment_sweeps_little_away(
    store: Store,
) -> None:
    ticks = Ticks()
    for n in range(0, 30 * 3600, 600):
        store.commit(ticks.change(START + n, events(1, START + n, n)))
    hours = "SELECT count(*) FROM buckets WHERE tier = 3600"
    (before,) = store.database.connection.execute(hours).fetchone()
    year = START + 365 * 86_400
    store.commit(ticks.change(year, []))
    (after,) = store.database.connection.execute(hours).fetchone()

    assert before > 20
    assert after >= before - 2
    store.commit(ticks.change(START + 30 * 3600, events(1, START + 30 * 3600)))
    is_same(reopen(store).totals, ticks.expected())


# -- reading while writing -----------------------------------------------------------


def test_readers_in_threads_see_whole_ticks(path: Path) -> None:
    store, archive, ticks = Store(path), Archive(path, 0.0), Ticks()
    store.restore()
    store.commit(ticks.change(START, [Event(0, START, 1.0)]))
    seen: list[int] = []
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            read = archive.read(START, START + 90_000, 3600)
            seen.append(sum(int(bucket.executions.sum()) for _, bucket in read))

    threads = [threading.Thread(target=read) for _ in range(2)]
    for thread in threads:
        thread.start()
    for n in range(10, 6000, 20):
        store.commit(ticks.change(START + n, [Event(0, START + n, 1.0)]))
    done.set()
    for thread in threads:
        thread.join()
    archive.close()
    store.close()

    # Two buckets are open, and in the journal; nothing is seen twice or half moved.
    assert len(seen) > 5
    assert max(seen) <= 300


def test_a_file_that_is_gone_is_empty_and_logged(path: Path) -> None:
    archive = Archive(path, 0.0)
    with capture_logs() as logs:
        assert archive.bucket(1) is EMPTY
        assert list(archive.read(0, 100, 3600)) == []
    assert [line["event"] for line in logs] == ["stored buckets unreadable"] * 2
    assert all("unable to open" in line["error"] for line in logs)
