"""Many rows are written by few statements."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace
from tests.agent.store.test_store import FAILURE, TOPOLOGY
from tests.agent.store.ticks import KEYS, NAMES, START, Ticks

from kaywatch_agent.aggregate.change import WriteBatch
from kaywatch_agent.model.series import Kind, SeriesKey
from kaywatch_agent.store.bulk import ROWS_AT_ONCE, execute_rows
from kaywatch_agent.store.store import FAILURES_KEPT, Store

MANY = range(5_000)
NAME = "nö\0\U0001f600"


@pytest.fixture
def db() -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(":memory:")
    connection.execute("CREATE TABLE items (number INTEGER PRIMARY KEY, value)")
    yield connection
    connection.close()


@pytest.mark.parametrize("count", [0, 1, ROWS_AT_ONCE, 2 * ROWS_AT_ONCE + 1])
def test_all_rows_are_written_and_deleted(db: sqlite3.Connection, count: int) -> None:
    rows = [(number, f"{NAME}{number}") for number in range(count)]
    execute_rows(db, "INSERT INTO items VALUES {rows}", iter(rows))
    assert db.execute("SELECT * FROM items ORDER BY number").fetchall() == rows

    keys = [(number,) for number in range(1, count)]
    execute_rows(db, "DELETE FROM items WHERE number IN (VALUES {rows})", keys)
    assert db.execute("SELECT * FROM items").fetchall() == rows[:1]


def test_a_later_row_replaces_an_earlier_one(db: sqlite3.Connection) -> None:
    rows = [(1, "a"), (2, "b"), (1, "c")]
    execute_rows(db, "INSERT OR REPLACE INTO items VALUES {rows}", rows)
    assert db.execute("SELECT * FROM items").fetchall() == [(1, "c"), (2, "b")]


def test_a_commit_has_few_statements_however_much_is_new(tmp_path: Path) -> None:
    """In a flood, the store's thread waits for the interpreter after each of them."""
    ticks, executed = Ticks(), list[str]()
    store = Store(tmp_path / "kaywatch.db")
    store.restore()
    store.commit(ticks.change(START, []))
    store.database.connection.set_trace_callback(executed.append)
    store.commit(new_content(ticks))
    store.commit(
        ticks.change(
            START,
            [],
            forgotten=[f"c{i}" for i in MANY[1:]],
            documents={("alert", f"a{i}"): None for i in MANY[1:]},
        )
    )
    store.close()
    # Eight lists in statements of a hundred rows, and those of any two commits.
    assert len(executed) < 8 * len(MANY) / ROWS_AT_ONCE + 100

    restored = Store(store.path)
    state = restored.restore()
    restored.close()
    assert state.keys == [*KEYS, *new_series()]
    assert state.names["births"] == [START] * len(MANY)
    assert len(state.failures) == FAILURES_KEPT
    assert len(state.topologies) == len(MANY)
    assert state.clients == {"c0": b"{}"}
    assert state.documents == {("alert", "a0"): b"{}"}


def new_series() -> list[SeriesKey]:
    return [SeriesKey(Kind.NODE, f"s{i}", "g", NAME) for i in MANY]


def new_content(ticks: Ticks) -> WriteBatch:
    """Return a commit with thousands of everything."""
    keys, names = [*KEYS, *new_series()], {**NAMES, "births": [START] * len(MANY)}
    batch = ticks.change(
        START,
        [],
        failures=[FAILURE] * len(MANY),
        topologies=[replace(TOPOLOGY, graph=f"g{i}") for i in MANY],
        clients={f"c{i}": b"{}" for i in MANY},
        documents={("alert", f"a{i}"): b"{}" for i in MANY},
    )
    sizes = {kind: len(values) for kind, values in names.items()}
    changed = batch.aggregate._replace(
        keys=keys, rows=len(keys), names=names, sizes=sizes
    )
    return batch._replace(aggregate=changed)
