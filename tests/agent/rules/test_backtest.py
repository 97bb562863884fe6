"""Rules over a past that is in a real store."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.agent.rules.history import BEGIN, HOURS, record

from kaywatch_agent.commands.backtests import as_json, episodes
from kaywatch_agent.errors import StoreError
from kaywatch_agent.rules.backtest import STAND_IN, Bucket, Past, Report, backtest
from kaywatch_agent.rules.load import load
from kaywatch_agent.store.past import reading
from kaywatch_agent.store.store import Store

HOUR = 3600.0
END = BEGIN + HOURS * HOUR


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("past") / "kaywatch.db"
    record(found)
    return found


def tried(
    path: Path,
    *rules: dict[str, Any],
    hours: float = 48,
    receivers: tuple[str, ...] = (),
) -> Report:
    settings = load({"rule": list(rules)}, receivers=receivers)
    with reading(path) as stored:
        past = Past(
            stored.registry,
            (Bucket(*found) for found in stored.buckets),
            stored.first,
            stored.last,
            stored.failures,
        )
        return backtest(settings, past, stored.last - hours * HOUR, least={})


def test_each_outage_is_an_episode_as_exact_as_the_past_is(path: Path) -> None:
    report = tried(path)
    found = [one for one in episodes(report.rehearsal) if one.rule == "error_rate_max"]

    assert len(found) == 3
    first, second, third = [(one.start - BEGIN, one.end) for one in found]
    # By the hour: noticed within ten minutes, as the bucket is all that is known.
    assert 1 * HOUR <= first[0] <= 1 * HOUR + 660
    assert 3 * HOUR <= first[1] - BEGIN <= 3 * HOUR + 720
    # By the minute, with a window of five: one minute held, and until it is clear.
    assert 20 * HOUR + 60 <= second[0] <= 20 * HOUR + 180
    assert 20 * HOUR + 900 <= second[1] - BEGIN <= 20 * HOUR + 1500
    assert 27.5 * HOUR <= third[0] <= 27.5 * HOUR + 180
    assert third[1] is None
    assert [length for _, length in report.lengths][:2] == [3600, 60]
    assert report.lengths[-1][1] == 10


def test_receivers_are_counted_as_they_would_have_been_told(path: Path) -> None:
    told = tried(path).rehearsal.told
    assert sum(told.values()) == 5  # three fired, two ended; the others are inhibited
    assert {receiver for receiver, _, _ in told} == {STAND_IN}

    named = as_json(tried(path, receivers=("ops",)))
    firing = [t for t in named["told"] if t["kind"] == "firing"]
    assert {t["receiver"] for t in firing} == {"ops"}


def test_a_cooldown_defers_what_it_would_have_deferred(path: Path) -> None:
    rule = {
        "name": "own",
        "metric": "error_rate",
        "op": ">",
        "value": 0.05,
        "cooldown": "30h",
        "repeat_interval": "0",
    }
    report = tried(path, rule, receivers=("ops",))
    mine = {
        str(k): n for (_, name, k), n in report.rehearsal.told.items() if name == "own"
    }

    assert mine == {"firing": 1, "resolved": 1}
    assert report.rehearsal.suppressed["cooldown"] == 2


def test_only_the_time_asked_for_is_judged_and_what_is_before_is_known(
    path: Path,
) -> None:
    report = tried(path, hours=0.5)

    assert report.start == END - 0.5 * HOUR
    (one,) = [e for e in episodes(report.rehearsal) if e.rule == "error_rate_max"]
    assert one.start < report.start + 200


def test_what_is_not_stored_is_said_and_not_judged(path: Path) -> None:
    report = tried(
        path,
        {"name": "stuck", "kind": "stuck"},
        {"name": "loops", "kind": "runaway", "max_visits": 3},
        {"name": "died", "kind": "process_died"},
    )

    assert set(report.unseen) == {"stuck", "loops", "died", "memory_usage_max"}
    assert not set(report.unseen) & set(report.settings.rules)


def test_the_writer_may_go_on_meanwhile(path: Path) -> None:
    writer = Store(path)
    writer.restore()
    with reading(path) as stored:
        writer.check()
        assert stored.last == END
        assert sum(int(step.executions.sum()) for _, _, step in stored.buckets) == (
            HOURS * 60 * 30
        )
    writer.close()


def test_a_file_that_is_none_is_told(tmp_path: Path) -> None:
    other = tmp_path / "other.db"
    with pytest.raises(StoreError, match="no such store"), reading(other):
        pass
    other.write_text("no database, but long enough for one to be looked for here")
    with pytest.raises(StoreError, match="not a database"), reading(other):
        pass


def test_an_empty_store_has_no_past(tmp_path: Path) -> None:
    store = Store(tmp_path / "new.db")
    store.restore()
    with reading(store.path) as stored:
        assert not stored.last
    store.close()
