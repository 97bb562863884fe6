"""Alerts, rules and silences over HTTP, of an agent whose rules are evaluated."""

from __future__ import annotations

import html
import http.client
import json
import re
import shlex
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from tests.agent.rules.harness import AlertHarness
from tests.agent.web.serving import Answer, Served, evaluate, serving
from tests.agent.web.test_stream import reading
from tests.agents import DEADLINE, until

from kaywatch_agent.model.alerts import Subject
from kaywatch_agent.rules.load import load
from kaywatch_agent.rules.matchers import matches, parse
from kaywatch_agent.web.api.episodes import episodes_of

RULES = [
    {
        "name": "fails",
        "metric": "error_rate",
        "op": ">",
        "value": 0.5,
        "for": "0",
        "keep_firing_for": "0",
        "min_executions": 2,
        "severity": "critical",
        "runbook_url": "https://wiki/x",
    },
    {"name": "slow", "when": "latency_avg > 9 and executions > 1", "per": ["graph"]},
]


@pytest.fixture
def alerted() -> Iterator[Served]:
    """An agent with two rules, one of which fires for one node."""
    with serving() as result:
        settings = load({"rule": RULES}, receivers=["ops"])
        result.call(lambda: result.source.alerting.use(settings, {}))
        good = {"graph": "g", "node": "good", "seconds": 0.1}
        bad = {**good, "node": "bad", "outcome": "error", "error": "KeyError"}
        result.send_rows(bad, bad, good)
        evaluate(result)
        yield result
        result.call(result.source.alerting.stop)


def evaluate_until(served: Served, state: str) -> Any:
    """Evaluate until an alert is in a state; return it."""

    def find_alerts() -> Any:
        evaluate(served)
        return served.get("/api/v1/alerts", state=state)["alerts"]

    return until(find_alerts, f"an alert is {state}")[0]


def send(
    served: Served,
    method: str,
    path: str,
    body: Any = None,
    **headers: str,
) -> Answer:
    """Send JSON, or bytes as they are."""
    connection = http.client.HTTPConnection(served.host, served.port, timeout=DEADLINE)
    options = {"Content-Type": "application/json"} if body is not None else {}
    options |= {name.replace("_", "-"): value for name, value in headers.items()}
    data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
    try:
        connection.request(method, path, data, options)
        response = connection.getresponse()
        return Answer(response.status, response.headers, response.read())
    finally:
        connection.close()


def silence(**keys: Any) -> dict[str, Any]:
    end = datetime.now(UTC) + timedelta(hours=1)
    return {
        "matchers": [{"name": "node", "value": "bad"}],
        "endsAt": end.isoformat(),
        "createdBy": "ann",
        "comment": "migration",
        **keys,
    }


def test_an_alert_is_listed_with_all_that_is_known(alerted: Served) -> None:
    response = alerted.get("/api/v1/alerts")
    (alert,) = response["alerts"]

    assert response["matching"] == 1
    assert response["states"]["firing"] == 1
    assert alert["rule"] == "fails"
    assert (alert["state"], alert["severity"]) == ("firing", "critical")
    place = {"service": "shop", "graph": "g", "node": "bad"}
    assert alert["labels"] == place
    assert (alert["value"], alert["threshold"], alert["unit"]) == (1.0, 0.5, "ratio")
    assert (alert["executions"], alert["errors"], alert["episode"]) == (2, 2, 1)
    assert alert["since"] == alert["fired"] == pytest.approx(time.time(), abs=30)
    assert alert["receivers"] == ["ops"]
    assert alert["notified"]["ops"]["last"] == "firing"
    assert alert["notified"]["ops"]["at"] == pytest.approx(time.time(), abs=30)
    assert [notice.receiver for notice in alerted.source.requests] == ["ops"]


@pytest.mark.parametrize(
    ("query", "count"),
    [
        ({"state": "active"}, 1),
        ({"state": "firing"}, 1),
        ({"state": "ok"}, 0),
        ({"rule": "fails", "severity": "critical"}, 1),
        ({"rule": "slow"}, 0),
        ({"severity": "info"}, 0),
        ({"graph": "g", "node": "bad"}, 1),
        ({"node": "good"}, 0),
    ],
)
def test_alerts_are_filtered(
    alerted: Served, query: dict[str, str], count: int
) -> None:
    assert alerted.get("/api/v1/alerts", **query)["matching"] == count


def test_one_alert_has_its_timeline_and_context(alerted: Served) -> None:
    (alert,) = alerted.get("/api/v1/alerts")["alerts"]
    response = alerted.get(f"/api/v1/alerts/{alert['id']}")

    assert response["alert"]["id"] == alert["id"]
    assert [line["text"] for line in response["timeline"]] == [
        "ok -> firing",
        "ops notified: firing",
    ]
    assert response["context"]["error_classes"] == [["KeyError", 2]]
    (first, _) = response["timeline"]
    assert (first["before"], first["after"], first["episode"]) == ("ok", "firing", 1)
    assert (first["value"], first["threshold"]) == (1.0, 0.5)
    assert (first["executions"], first["errors"]) == (2, 2)
    assert (response["worst"]["value"], response["left_out"]) == (1.0, 0)
    missing = alerted.ask("/api/v1/alerts/0000000000000000")
    assert missing.status == 404
    assert missing.json["error"]["code"] == "unknown_alert"


def test_an_alert_s_timeline_has_the_status_of_its_messages(alerted: Served) -> None:
    (alert,) = alerted.get("/api/v1/alerts")["alerts"]
    path = f"/api/v1/alerts/{alert['id']}"
    (ops,) = alerted.get(path)["receivers"]
    assert (ops["receiver"], ops["type"], ops["messages"]) == ("ops", "slack", [])
    assert ops["notified"]["last"] == "firing"
    assert ops["suppressed"] is None

    key = alert["dedup_key"]
    alerted.source.delivery.about = Subject(key, 1, "firing", True, "fails: it does")
    (ops,) = alerted.get(path)["receivers"]
    newer, older = (one["message"] for one in ops["messages"])
    subject = ops["messages"][0]["subject"]
    assert (newer["id"], older["id"]) == ("msg_2", "msg_1")
    assert (subject["kind"], subject["resolved"]) == ("firing", True)
    assert older["alerts"] == [subject]
    assert (older["status"], older["reason"], older["attempts"]) == (
        "dead",
        "refused",
        3,
    )
    assert (older["code"], older["error"]) == (400, "HTTP 400: invalid_payload")


def test_a_silence_that_no_alert_can_match_is_warned_of(alerted: Served) -> None:
    matchers = [{"name": "nod", "value": "x"}, {"name": "severity", "value": "warn"}]
    made = send(alerted, "POST", "/api/v1/silences", silence(matchers=matchers)).json
    label, severity = made["warnings"]
    assert label.startswith('no alert has the label "nod"; did you mean node?')
    assert severity.startswith('no alert has severity = "warn"; did you mean warning?')
    made = send(alerted, "POST", "/api/v1/silences", silence()).json
    assert made["warnings"] == []


def test_a_suppressed_receiver_has_the_reason_and_its_end(alerted: Served) -> None:
    good = {"graph": "g", "node": "bad", "seconds": 0.1}
    made = send(alerted, "POST", "/api/v1/silences", silence()).json["silenceID"]
    alerted.send_rows(*[good] * 5)
    evaluate_until(alerted, "ok")
    alerted.send_rows(*[{**good, "outcome": "error"}] * 20)
    alert = evaluate_until(alerted, "firing")
    (ops,) = alerted.get(f"/api/v1/alerts/{alert['id']}")["receivers"]
    held = ops["suppressed"]
    assert (held["reason"], held["by"]) == ("silenced", made)
    assert held["until"] == pytest.approx(time.time() + 3600, abs=60)
    assert ops["notified"]["last"] == "resolved"


def test_rules_have_a_description_and_the_number_of_their_alerts(
    alerted: Served,
) -> None:
    response = alerted.get("/api/v1/rules")
    rules = {rule["rule"]: rule for rule in response["rules"]}

    assert response["evaluated"] == pytest.approx(time.time(), abs=30)
    assert not response["problem"]
    assert rules["fails"]["states"]["firing"] == 1
    assert rules["fails"]["groups"] == 2
    assert rules["fails"]["for"] == 0
    assert rules["slow"]["condition"] == "latency_avg > 9 and executions > 1"
    assert rules["slow"]["receivers"] == ["ops"]
    assert rules["success_rate_min"]["built_in"]
    only = alerted.get("/api/v1/rules", severity="critical")
    assert [rule["rule"] for rule in only["rules"]] == ["fails"]


def test_a_rule_without_alerts_has_the_reason(alerted: Served) -> None:
    response = alerted.get("/api/v1/rules/slow")

    (near,) = response["nearest"]
    assert near["labels"] == {"graph": "g"}
    assert near["status"] == "unknown"
    assert near["text"] == "no data: 3 executions in 5m, 20 are needed"
    assert near["executions"] == 3
    # Nobody has looked for the whole window: how many ran in it isn't known.
    assert near["metrics"]["executions"] is None
    near = alerted.get("/api/v1/rules/fails")["nearest"]
    assert [(n["labels"]["node"], n["status"]) for n in near] == [
        ("bad", "breach"),
        ("good", "unknown"),
    ]
    missing = alerted.ask("/api/v1/rules/fial")
    assert missing.status == 404
    assert "did you mean 'fails'?" in missing.json["error"]["hint"]


def test_health_counts_firing_alerts_and_stays_healthy(alerted: Served) -> None:
    health = alerted.get("/health")

    assert health["alerts_firing"] == 1
    assert health["status"] == "healthy"


def test_prometheus_exports_firing_alerts(alerted: Served) -> None:
    body = alerted.ask("/metrics").body.decode()

    assert (
        'kaywatch_alerts_firing{alertname="fails",severity="critical",service="shop",'
        'graph="g",node="bad"} 1\n'
    ) in body
    assert "\nALERTS" not in body


def test_the_live_stream_has_alerts_until_they_end(alerted: Served) -> None:
    good = [{"graph": "g", "node": "bad", "seconds": 0.1}] * 5
    with reading(alerted) as reader:
        alerts = json.loads(reader.block()["data"])["alerts"]
        (alert,) = alerts["changed"]
        assert (alert["rule"], alert["state"], alert["value"]) == ("fails", "firing", 1)
        assert alert["labels"]["node"] == "bad"
        assert (alerts["active"], alerts["order"]) == (1, [alert["id"]])
        alerted.send_rows(*good)

        def over() -> bool:
            # A result is valid for half a second.
            evaluate(alerted)
            return bool(alerted.get("/api/v1/alerts", state="ok")["matching"])

        until(over, "the alert is over")
        alerted.call(alerted.server.publish)
        changes = json.loads(reader.block()["data"])["alerts"]

    assert changes == {"active": 0, "order": [], "changed": []}


def test_a_change_has_why_the_alert_fired_even_once_it_has_ended(
    alerted: Served,
) -> None:
    def changes() -> list[dict[str, Any]]:
        listed = alerted.get("/api/v1/changes")["changes"]
        return [change for change in listed if change["kind"] == "alert"]

    (fired,) = changes()
    assert fired["severity"] == "critical"
    assert fired["text"].startswith("fired: ")
    alerted.send_rows(*[{"graph": "g", "node": "bad", "seconds": 0.1}] * 5)
    evaluate_until(alerted, "ok")
    by_text = sorted(change["text"] for change in changes())
    assert by_text[1].startswith("resolved: ")
    assert by_text[0].startswith("fired: ")
    assert "g / bad: fails, 100.0 %, threshold 50.0 %; 2 of 2 failed" in by_text[0]


def test_an_episode_of_a_value_in_words_keeps_its_sentence() -> None:
    harness = AlertHarness(alerting={})
    harness.now += 1200
    harness.ran(100, seconds=0.1, ago=900)
    for _ in range(10):
        harness.ran(20, seconds=0.5)
        harness.wait(10)

    _, _, kind, details = harness.sent[0]
    (episode,) = episodes_of(harness.only, details)
    assert (kind, details.rule) == ("firing", "slow")
    assert episode.text == "500ms on average instead of 100ms earlier in the last hour"


# -- silences ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/api/v1/silences", True),
        ("DELETE", "/api/v1/silences/{}", False),
        ("POST", "/api/v1/receivers/ops/test", {}),
        ("POST", "/api/v1/notifications/retry", {"id": ""}),
        ("POST", "/api/v1/notifications/purge", {"id": ""}),
    ],
)
def test_a_change_that_is_not_durable_is_reported_as_such(
    alerted: Served, method: str, path: str, body: Any
) -> None:
    name = send(alerted, "POST", "/api/v1/silences", silence()).json["silenceID"]
    alerted.source.unkept = "disk is full"
    value = silence(id=name) if body is True else body
    value = None if value is False else value
    answer = send(alerted, method, path.format(name), value)

    assert answer.status == 503
    error = answer.error
    assert error["code"] == "not_durable"
    assert (
        "in effect, but the store cannot save it yet: disk is full" in error["message"]
    )
    assert error["message"].startswith(name) is ("silences" in path)
    assert "do not send it again" in error["hint"]
    state = "expired" if method == "DELETE" else "active"
    response = alerted.get("/api/v1/silences", state=state)["silences"]
    assert [row["id"] for row in response] == [name]


def test_a_silence_is_made_changed_and_ended(alerted: Served) -> None:
    made = send(alerted, "POST", "/api/v1/silences", silence())
    assert made.status == 200, made.body
    name = made.json["silenceID"]
    assert made.json["silence"]["status"] == {"state": "active"}
    assert made.json["silence"]["alerts"] == 1
    (alert,) = alerted.get("/api/v1/alerts")["alerts"]
    assert alert["silenced_by"] == [name]

    # What was read may be sent again, changed.
    (row,) = alerted.get("/api/v1/silences", state="active")["silences"]
    row["comment"] = "longer"
    again = send(alerted, "POST", "/api/v1/silences", row)
    assert again.json["silenceID"] == name
    (row,) = alerted.get("/api/v1/silences")["silences"]
    assert (row["comment"], row["createdBy"]) == ("longer", "ann")

    ended = send(alerted, "DELETE", f"/api/v1/silences/{name}")
    assert ended.status == 200
    assert ended.json["silence"]["status"] == {"state": "expired"}
    assert send(alerted, "DELETE", f"/api/v1/silences/{name}").status == 404
    assert alerted.get("/api/v1/silences", state="active")["silences"] == []
    assert alerted.get("/api/v1/silences", state="expired")["silences"]
    changes = alerted.source.alerting.changes(False)
    assert ("silence", name) in changes


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        (b"{", 400, "invalid JSON"),
        (b"\xff", 400, "invalid JSON"),
        (b'{"matchers": []}', 400, "matchers"),
        ({"matchers": [{"name": "a", "value": "b"}]}, 400, "endsAt"),
        (silence(endsAt="tomorrow"), 400, "$.endsAt"),
        (silence(endsAt="2000-01-01T00:00:00Z"), 400, "is in the past"),
        (silence(endsAt="2999-01-01T00:00:00Z"), 400, "more than 366 days after"),
        (silence(startsAt="2998-01-01T00:00:00Z"), 400, "endsAt: must be after"),
        (silence(matchers=[{"name": "a b", "value": "c"}]), 400, "$.matchers[0].name"),
        (silence(matchers=[{"name": "a", "value": ""}]), 400, "match every alert"),
        (
            silence(matchers=[{"name": "a", "value": "(", "isRegex": True}]),
            400,
            "missing )",
        ),
        (silence(mathcers=[]), 400, "mathcers"),
        (silence(id="nope"), 404, "unknown silence 'nope'"),
        (silence(comment="x" * 70_000), 413, "more than 65536 bytes"),
    ],
)
def test_an_invalid_silence_is_rejected_with_the_reason(
    alerted: Served, body: Any, status: int, words: str
) -> None:
    answer = send(alerted, "POST", "/api/v1/silences", body)

    assert answer.status == status, answer.body
    assert words in answer.json["error"]["message"]
    assert alerted.get("/api/v1/silences")["silences"] == []


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Content_Type": "text/plain"}, 415),
        ({"Content_Type": "application/x-www-form-urlencoded"}, 415),
        ({"Sec_Fetch_Site": "cross-site"}, 403),
        ({"Sec_Fetch_Site": "same-site"}, 403),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://["}, 403),
        # A name of theirs that leads to us.
        ({"Origin": "http://evil.example:9477", "Host": "evil.example:9477"}, 403),
        ({"Origin": "http://localhost:1", "Host": "localhost:1"}, 200),
        ({"Sec_Fetch_Site": "same-origin"}, 200),
        ({"Content_Type": "application/json; charset=utf-8"}, 200),
    ],
)
def test_other_sites_change_nothing(
    alerted: Served, headers: dict[str, str], status: int
) -> None:
    answer = send(alerted, "POST", "/api/v1/silences", silence(), **headers)

    assert answer.status == status, answer.body
    if status == 403:
        ended = send(alerted, "DELETE", "/api/v1/silences/x", **headers)
        assert ended.status == 403


def test_there_are_only_so_many_silences(
    alerted: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kaywatch_agent.web.api.silences.MAX_SILENCES", 2)
    answers = [send(alerted, "POST", "/api/v1/silences", silence()) for _ in range(3)]

    assert [answer.status for answer in answers] == [200, 200, 400]
    assert answers[2].json["error"]["code"] == "too_many_silences"


def test_a_silence_that_was_over_for_days_is_forgotten(alerted: Served) -> None:
    name = send(alerted, "POST", "/api/v1/silences", silence()).json["silenceID"]
    alerting = alerted.source.alerting
    alerted.call(
        lambda: alerting.engine.silences.forget_expired(time.time() + 4 * 86_400)
    )
    assert name in alerting.silences
    alerted.call(
        lambda: alerting.engine.silences.forget_expired(time.time() + 6 * 86_400)
    )
    assert name not in alerting.silences
    assert alerting.changes(False)["silence", name] is None


def test_reading_waits_for_an_evaluation_and_the_loop_does_not(alerted: Served) -> None:
    alerting = alerted.source.alerting
    # As long as it is locked, a loop that waited would respond to nothing.
    with alerting._lock:
        alerted.get("/health")
        made = send(alerted, "GET", "/health")
        assert made.status == 200
    assert alerted.get("/api/v1/alerts")["matching"] == 1


# -- the page that messages link to ----------------------------------------------------


def test_a_message_s_link_shows_how_to_silence_the_alert(alerted: Served) -> None:
    (alert,) = alerted.get("/api/v1/alerts")["alerts"]
    answer = alerted.ask("/silence", alert=alert["id"])
    assert answer.status == 200
    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    text = html.unescape(answer.body.decode())
    command = re.search(r"<pre>(.*?)</pre>", text, re.DOTALL)
    assert command is not None
    value = shlex.split(command[1])
    assert value[:3] == ["kaywatch", "silence", "add"]
    result = [parse(word) for word in value[3:7]]
    assert matches(result, {"alertname": "fails", **alert["labels"]})
    other = {**alert["labels"], "node": "good"}
    assert not matches(result, {"alertname": "fails", **other})
    assert "silenced until" not in text
    send(alerted, "POST", "/api/v1/silences", silence(comment="<b>"))
    page = alerted.ask("/silence", alert=alert["id"]).body.decode()
    assert "silenced until" in page
    assert "by ann: &lt;b&gt;" in page
    assert alerted.ask("/silence", alert="0000").status == 404


def test_labels_of_any_kind_are_quoted_for_the_shell(alerted: Served) -> None:
    odd = """a"b'$(id) <c>"""
    failed = {"graph": "g", "seconds": 0.1, "outcome": "error", "node": odd}
    alerted.send_rows(*[failed] * 5)

    def there() -> Any:
        evaluate(alerted)
        return alerted.get("/api/v1/alerts", node=odd)["alerts"]

    (alert,) = until(there, "it fires")
    page = alerted.ask("/silence", alert=alert["id"]).body.decode()
    assert "<c>" not in page
    command = re.search(r"<pre>(.*?)</pre>", page, re.DOTALL)
    assert command is not None
    options = shlex.split(html.unescape(command[1]))
    assert parse(options[6]).value == odd
