"""Rules over a past that is in a real store."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from tests.agent.simulation.cases import PAGER, SLACK
from tests.agent.simulation.history import BEGIN, HOURS

from kaywatch_agent.cli.commands.backtest_view import report_json
from kaywatch_agent.config import assemble
from kaywatch_agent.errors import StoreError
from kaywatch_agent.model.alerts import NotificationKind
from kaywatch_agent.rules.built_in import BUILT_IN
from kaywatch_agent.simulation.backtest import (
    STAND_IN,
    BacktestReport,
    backtest,
    find_episodes,
)
from kaywatch_agent.store.past import read_history
from kaywatch_agent.store.schema import check_integrity
from kaywatch_agent.store.store import Store

# 28 hours take 8 s of a core, and a busy machine takes its time.
pytestmark = pytest.mark.timeout(300)

HOUR = 3600.0
END = BEGIN + HOURS * HOUR
OFF = dict.fromkeys(BUILT_IN, False)


# As many hours before the end as have two of the three outages: the second and the
# third. All 28 hours take three times as long.
TWO_OUTAGES = 9.0


def run_backtest(
    path: Path,
    *rules: dict[str, Any],
    hours: float = 48,
    receivers: dict[str, dict[str, Any]] | None = None,
    alerting: dict[str, Any] | None = None,
) -> BacktestReport:
    config = assemble(
        {"rule": list(rules), "receiver": receivers or {}, "alerting": alerting or {}}
    )
    with read_history(path) as stored:
        return backtest(
            config.alerts,
            stored,
            stored.last - hours * HOUR,
            receivers=config.notify.receivers,
        )


@pytest.fixture(scope="module")
def report(past: Path) -> BacktestReport:
    """The backtest of the built-in rules, without receivers."""
    return run_backtest(past)


def test_each_outage_is_an_episode_as_exact_as_the_past_is(
    report: BacktestReport,
) -> None:
    result = [
        one for one in find_episodes(report.simulation) if one.rule == "error_rate_max"
    ]

    assert len(result) == 3
    first, second, third = [(one.start - BEGIN, one.end) for one in result]
    # By the hour: noticed within ten minutes, as the bucket is all that is known.
    assert 1 * HOUR <= first[0] <= 1 * HOUR + 660
    assert 3 * HOUR <= first[1] - BEGIN <= 3 * HOUR + 720
    # By the minute, with a window of five: one minute held, and until it is clear.
    assert 20 * HOUR + 60 <= second[0] <= 20 * HOUR + 180
    assert 20 * HOUR + 900 <= second[1] - BEGIN <= 20 * HOUR + 1500
    assert 27.5 * HOUR <= third[0] <= 27.5 * HOUR + 180
    assert third[1] is None
    assert [length for _, length in report.resolutions][:2] == [3600, 60]
    assert report.resolutions[-1][1] == 10


def test_messages_are_counted_and_rendered_as_they_would_have_been_sent(
    past: Path, report: BacktestReport
) -> None:
    simulation = report.simulation
    # Three fired, two ended; error_rate_max is inhibited.
    assert dict(simulation.delivery.sent) == {
        (STAND_IN, "firing"): 3,
        (STAND_IN, "resolved"): 2,
    }
    assert dict(simulation.delivery.alerts) == {STAND_IN: 5}

    message = run_backtest(
        past, hours=TWO_OUTAGES, receivers={"ops": SLACK, "pager": PAGER}
    )
    result = report_json(message)
    assert [one["receiver"] for one in result["receivers"]] == ["ops", "pager"]
    bodies = [m["body"] for m in result["messages"] if m["receiver"] == "pager"]
    actions = [body["event_action"] for body in bodies]
    assert actions == ["trigger", "resolve", "trigger"]
    assert len({body["dedup_key"] for body in bodies}) == 1
    chat = next(m for m in result["messages"] if m["receiver"] == "ops")
    assert f" *{chat['title']}*\n" in chat["body"]["text"]


def test_alerts_of_a_group_are_one_message(past: Path) -> None:
    report = run_backtest(
        past,
        {"name": "all", "metric": "executions", "op": ">", "value": 0, "for": "0"},
        {"name": "some", "metric": "executions", "op": ">", "value": 1, "for": "0"},
        receivers={"ops": SLACK},
        alerting={"group_by": ["graph"], "thresholds": OFF},
        hours=1,
    )
    first = report.simulation.delivery.messages[0]

    assert first.size == 2
    assert (
        report.simulation.delivery.by_rule["ops", "all", NotificationKind.FIRING] == 1
    )
    assert report.simulation.delivery.sent["ops", NotificationKind.FIRING] == 1
    assert report_json(report)["receivers"][0]["alerts"] == 2


def test_messages_grouped_at_the_end_are_sent_after_it(past: Path) -> None:
    report = run_backtest(
        past,
        receivers={"ops": SLACK},
        # Alerts of the node's other rules may still join.
        alerting={
            "group_by": [],
            "group_wait": "1h",
            "group_interval": "1h",
        },
        hours=0.5,
    )

    (message,) = report.simulation.delivery.messages
    assert message.time > report.end


def test_a_cooldown_defers_notifications_as_in_operation(past: Path) -> None:
    rule = {
        "name": "own",
        "metric": "error_rate",
        "op": ">",
        "value": 0.05,
        "cooldown": "30h",
        "repeat_interval": "0",
    }
    report = run_backtest(
        past,
        rule,
        hours=TWO_OUTAGES,
        receivers={"ops": SLACK},
        alerting={"thresholds": OFF},
    )
    mine = {
        str(k): n
        for (_, name, k), n in report.simulation.delivery.by_rule.items()
        if name == "own"
    }

    assert mine == {"firing": 1, "resolved": 1}
    assert report.simulation.suppressed["cooldown"] == 1


def test_only_the_requested_period_is_evaluated_with_earlier_data_as_input(
    past: Path,
) -> None:
    report = run_backtest(past, hours=0.5)

    assert report.start == END - 0.5 * HOUR
    (one,) = [e for e in find_episodes(report.simulation) if e.rule == "error_rate_max"]
    assert one.start < report.start + 200


def test_metrics_that_are_not_stored_are_reported_and_skipped(past: Path) -> None:
    report = run_backtest(
        past,
        {"name": "stuck", "kind": "stuck"},
        {"name": "loops", "kind": "runaway", "max_visits": 3},
        {"name": "decides", "kind": "runaway", "max_node_visits": 3},
        {"name": "died", "kind": "process_died"},
        hours=0.5,
    )

    assert set(report.skipped) == {
        *("stuck", "loops", "decides", "died", "memory_usage_max"),
        *("process_died", "never_reached", "runaway", "unusual_loop"),
    }
    assert not set(report.skipped) & set(report.settings.rules)


def test_the_writer_works_while_history_is_read(past: Path, tmp_path: Path) -> None:
    path = Path(shutil.copy(past, tmp_path))
    writer = Store(path)
    writer.restore()
    with read_history(path) as stored:
        check_integrity(writer.database.connection)
        assert stored.last == END
        assert sum(int(step.executions.sum()) for _, _, step in stored.buckets) == (
            HOURS * 60 * 30
        )
    writer.close()


def test_an_invalid_store_file_is_an_error(tmp_path: Path) -> None:
    other = tmp_path / "other.db"
    with pytest.raises(StoreError, match="no such file"), read_history(other):
        pass
    other.write_text("no database, but long enough for one to be looked for here")
    with pytest.raises(StoreError, match="not a database"), read_history(other):
        pass


def test_an_empty_store_has_no_past(tmp_path: Path) -> None:
    store = Store(tmp_path / "new.db")
    store.restore()
    with read_history(store.path) as stored:
        assert not stored.last
    store.close()
