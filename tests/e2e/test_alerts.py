"""A real agent notifies receivers of an application's failures."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.agents import Agent, until
from tests.e2e import episodes
from tests.receivers import Receivers, Reply, run_receivers

CONFIG = """
[alerting]
group_wait = "0"
group_interval = "0"
namespace = "test"

[defaults]
for = "0"
keep_firing_for = "0"

[[rule]]
name = "pay-fails"
metric = "error_rate"
op = ">"
value = 0.1
window = "1m"
min_executions = 5
per = ["service", "graph", "node"]
severity = "critical"

[receiver.slack]
type = "slack"
webhook_url = "{url}/services/T/B/x"

[receiver.pager]
type = "pagerduty"
routing_key = "0123456789abcdef0123456789abcdef"
url = "{url}"

[receiver.hook]
type = "webhook"
url = "{url}/hook"
"""

FAIL = """
import kaywatch, sys
kaywatch.configure(service="web")
def run(times, errors):
    for n in range(times):
        try:
            with kaywatch.execution(*(sys.argv[3:] or ["shop"]), "pay"):
                if n < errors:
                    raise TimeoutError("the bank is slow")
        except TimeoutError:
            pass
    assert kaywatch.flush(5)
run(int(sys.argv[1]), int(sys.argv[2]))
"""


@pytest.fixture
def receivers() -> Iterator[Receivers]:
    with run_receivers() as result:
        yield result


@pytest.fixture
def config(receivers: Receivers, tmp_path: Path) -> str:
    path = tmp_path / "kaywatch.toml"
    path.write_text(CONFIG.format(url=receivers.url))
    return str(path)


@pytest.fixture
def agent(stopped_agent: Agent, config: str) -> Agent:
    """An agent with the rule and the receivers."""
    stopped_agent.options = ("--config", config)
    return stopped_agent.start()


def test_all_receivers_are_notified_of_a_failing_node_and_its_recovery(
    agent: Agent, receivers: Receivers
) -> None:
    agent.run(FAIL, "20", "10")
    paths = ("/services/T/B/x", "/v2/enqueue", "/hook")
    until(lambda: all(receivers.accepted(path) for path in paths), "all are notified")
    agent.run(FAIL, "500", "0")
    until(
        lambda: all(len(receivers.accepted(path)) == 2 for path in paths),
        "all receivers are notified of the end",
    )

    slack, page, hook = (receivers.accepted(path) for path in paths)
    text = json.dumps(slack[0].json, ensure_ascii=False)
    assert "pay-fails" in text
    assert "10 of 20 failed in 1m" in text
    assert "TimeoutError" in text
    assert "TimeoutError: the bank is slow" in text
    assert "Also notified: " in text
    assert [p.json["event_action"] for p in page] == ["trigger", "resolve"]
    assert page[0].json["dedup_key"] == page[1].json["dedup_key"]
    (alert,) = hook[0].json["alerts"]
    assert alert["labels"] == {"service": "web", "graph": "shop", "node": "pay"}
    assert (alert["value"], alert["completeness"]) == (0.5, 1.0)
    assert hook[1].json["alerts"][0]["reason"] == "cleared"


def test_why_shows_the_status_of_each_message(
    agent: Agent, receivers: Receivers
) -> None:
    receivers.answer("/services/T/B/x", Reply(403, "invalid_token"))
    receivers.answer("/hook", *[Reply(503, "come later")] * 100)
    agent.run(FAIL, "20", "10")
    until(lambda: receivers.accepted("/v2/enqueue"), "the pager is notified")
    (alert,) = until(
        lambda: agent.get("/api/v1/alerts", rule="pay-fails")["alerts"], "it fires"
    )
    path = f"/api/v1/alerts/{alert['id']}"

    def fates() -> dict[str, dict[str, Any]]:
        response = agent.get(path)["receivers"]
        return {
            one["receiver"]: one["messages"][0]["message"]
            for one in response
            if one["messages"]
        }

    until(lambda: len(fates()) == 3 and fates()["hook"]["attempts"] >= 2, "it is tried")
    until(lambda: fates()["slack"]["attempts"], "one is rejected")
    hook, slack, pager = (fates()[name] for name in ("hook", "slack", "pager"))
    assert (hook["status"], hook["code"]) == ("pending", 503)
    assert "come later" in hook["error"]
    assert hook["next_attempt"] > hook["created"]
    # The agent reports that the receiver is down, and retries.
    assert (slack["code"], slack["status"]) == (403, "pending")
    assert slack["next_attempt"] - slack["created"] < 90
    down = until(lambda: agent.get("/health")["stages"]["notify"]["problem"], "down")
    assert "receiver slack is down: HTTP 403: invalid_token" in down
    assert re.search(r"slack +slack +down .*HTTP 403", agent.command("notify", "list"))
    assert (pager["status"], pager["code"]) == ("sent", 202)
    assert pager["settled"] >= pager["created"]

    text = agent.command("why", "pay-fails")
    assert "ok -> firing" in text
    assert "50.0 %, limit 10.0 %; 10/20 failed" in text
    output = " ".join(text.split())
    assert "firing: delivered at " in output
    assert "(HTTP 202)" in output
    assert "after 1 failed attempt: HTTP 403: invalid_token" in output
    assert "firing: pending, next attempt at " in output
    assert "HTTP 503: come later" in output

    # The alert's state survives a kill.
    agent.stop(signal.SIGKILL)
    agent.start()
    assert fates()["slack"]["id"] == slack["id"]
    assert fates()["slack"]["attempts"] >= 1
    assert agent.get(path)["timeline"][0]["value"] == 0.5


def test_a_restart_repeats_no_notification(agent: Agent, receivers: Receivers) -> None:
    agent.run(FAIL, "20", "10")
    until(lambda: receivers.accepted("/hook"), "the receiver is notified")
    until(lambda: episodes.count_waiting(agent) == 0, "that is known")
    commits = episodes.sum_metric(agent, "kaywatch_commits_total")
    until(
        lambda: episodes.sum_metric(agent, "kaywatch_commits_total") >= commits + 2,
        "it is written down",
    )
    agent.stop(signal.SIGKILL)
    agent.start()
    until(
        lambda: episodes.sum_metric(agent, "kaywatch_rule_evaluations_total") >= 3,
        "rules are looked at",
    )

    assert len(receivers.accepted("/hook")) == 1
    assert episodes.sum_metric(agent, 'kaywatch_alerts{state="firing"}') == 1


def test_after_a_downtime_one_message_lists_continuing_alerts(
    agent: Agent, receivers: Receivers
) -> None:
    agent.run(FAIL, "20", "10", "shop")
    agent.run(FAIL, "20", "10", "etl")
    until(lambda: len(receivers.accepted("/hook")) == 2, "both are notified")
    until(lambda: episodes.count_waiting(agent) == 0, "that is known")
    agent.stop()
    with contextlib.closing(sqlite3.connect(agent.store)) as store, store:
        store.execute(
            "UPDATE documents SET data = json_set(data, '$.wall',"
            " json_extract(data, '$.wall') - 1200) WHERE kind = 'clock'"
        )
    agent.start()
    until(lambda: len(receivers.accepted("/hook")) == 3, "all are notified")

    body = receivers.accepted("/hook")[2].json
    assert (body["kind"], len(body["alerts"])) == ("summary", 2)
    assert body["text"].startswith("kaywatch was down for 20m")
    assert len(receivers.accepted("/v2/enqueue")) == 2  # the pager is not notified


def test_a_rule_that_is_taken_away_ends_its_alerts(
    agent: Agent, receivers: Receivers, config: str
) -> None:
    agent.run(FAIL, "20", "10")
    until(lambda: receivers.accepted("/hook"), "the receiver is notified")
    text = Path(config).read_text().replace('name = "pay-fails"', 'name = "other"')
    Path(config).write_text(text.replace("value = 0.1", "value = 0.9"))
    assert agent.process is not None
    agent.process.send_signal(signal.SIGHUP)
    until(lambda: len(receivers.accepted("/hook")) == 2, "it is notified of the end")

    (alert,) = receivers.accepted("/hook")[1].json["alerts"]
    assert (alert["status"], alert["reason"]) == ("resolved", "rule_removed")


def test_a_receiver_is_tested_and_messages_are_looked_after(
    agent: Agent, receivers: Receivers
) -> None:
    output = agent.command("notify", "test", "slack")
    assert "slack accepted the test" in output
    first, second = receivers.accepted("/services/T/B/x")
    assert "TEST" in first.body.decode()
    assert "TEST" in second.body.decode()
    receivers.answer("/hook", Reply(404, "no such hook"), Reply(404, "no such hook"))
    failed = agent.command("notify", "test", "hook", code=1)
    assert "given up" in failed
    assert "Traceback" not in failed
    assert agent.command("outbox", "list", "--status", "dead").count("  hook  ") == 2
    dead = json.loads(agent.command("outbox", "list", "--status", "dead", "--json"))
    # An unset variable in a script must not select all messages.
    assert "MESSAGE or --all" in agent.command("outbox", "purge", "", code=2)
    other, chosen = (message["id"] for message in dead["notifications"][:2])
    # Ids of one millisecond may differ in their last character only.
    start = next(
        chosen[:size]
        for size in range(1, len(chosen) + 1)
        if not other.startswith(chosen[:size])
    )
    assert agent.command("outbox", "retry", start) == "1 message queued again.\n"
    assert agent.command("outbox", "retry", "--all") == "1 message queued again.\n"
    until(lambda: len(receivers.accepted("/hook")) == 2, "they arrive")
    assert agent.command("outbox", "purge", "--all") == "0 messages deleted.\n"
    assert "slack" in agent.command("notify", "list")
    assert "did you mean" in agent.command("notify", "test", "slak", code=1)


def test_without_receivers_the_page_s_thresholds_are_watched_all_the_same(
    stopped_agent: Agent,
) -> None:
    agent = stopped_agent.start()
    agent.run(FAIL, "100", "50")
    until(
        lambda: episodes.sum_metric(agent, 'kaywatch_alerts{state="pending"}') == 2,
        "success_rate_min and error_rate_max are pending",
    )


def test_receivers_on_a_bad_day_and_an_agent_that_is_killed(
    stopped_agent: Agent, tmp_path: Path
) -> None:
    outcome = episodes.run(stopped_agent, tmp_path, units=5, flips=2, kills=2)

    assert outcome.problems == []
    assert outcome.messages >= 10
