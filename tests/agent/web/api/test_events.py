"""Single events to those who listen: filtered, bounded, and honest about the rest."""

from __future__ import annotations

import contextlib
import json
import re
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlencode

import pytest
from tests.agent.web.api.test_openapi import hold_to
from tests.agent.web.serving import Served
from tests.agent.web.sse import EventReader
from tests.agents import until

from kaywatch.recorder import Failure
from kaywatch.wire import EndReason, Outcome
from kaywatch_agent.aggregate import event_stream
from kaywatch_agent.web.api import events as module

SHAPES = {
    "subscribed": "Subscribed",
    "execution": "ExecutionRecord",
    "run": "RunRecord",
    "missed": "MissedEvents",
}


class Reader(EventReader):
    """One who listens, read by hand."""

    def __init__(self, served: Served, query: str = "", buffer: int = 0) -> None:
        super().__init__(served, f"/api/v1/events{query}", buffer)
        assert self.headers()[0].endswith(b"200 OK")
        assert self.block() == {"retry": "2000"}
        name, self.opening = self.event()
        assert name == "subscribed"

    def event(self) -> tuple[str, Any]:
        """Return the next event's name and data; empty ones at the end."""
        block = self.block()
        return block.get("event", ""), json.loads(block.get("data", "null"))

    def of(self, kind: str, count: int) -> list[Any]:
        """Return the data of the next events, which are of that kind."""
        result = [self.event() for _ in range(count)]
        assert {name for name, _ in result} <= {kind}
        return [data for _, data in result]

    def second(self, count: int) -> tuple[list[Any], Any]:
        """Return the next executions, and the reports of missed events among them."""
        result = [self.event() for _ in range(count + 1)]
        (left_out,) = [data for name, data in result if name == "missed"]
        return [data for name, data in result if name == "execution"], left_out


@contextlib.contextmanager
def subscribed(served: Served, buffer: int = 0, **query: object) -> Iterator[Reader]:
    text = urlencode(query, doseq=True)
    reader = Reader(served, f"?{text}" if text else "", buffer)
    try:
        yield reader
    finally:
        reader.close()


def subscriber_count(served: Served) -> float:
    value: float = served.source.telemetry.get("kaywatch_event_subscribers")
    return value


def count_missed(served: Served) -> dict[str, float]:
    return {
        reason: served.source.telemetry.get("kaywatch_event_misses_total", reason)
        for reason in ("limited", "slow")
    }


def fill(served: Served) -> None:
    """Let two services send what each filter has something to do with."""
    with served.recording("shop") as recorder:
        recorder.series("checkout", "load").record(0.25)
        pay = recorder.series("checkout", "pay").record
        pay(1.5, Outcome.ERROR, 3, "", ("KeyError", "exec"))
        recorder.add_failure(
            Failure(
                time.time(),
                *("checkout", "pay", "KeyError", "no card", "exec"),
                *(3, Outcome.ERROR, "run-7"),
            )
        )
        pay(0.5, Outcome.FALLBACK, 2, "later", ("TimeoutError", "exec"))
        pay(0.125, Outcome.CANCELLED, 1, "", ("CancelledError", "exec"))
        recorder.run_ended(
            "checkout", 2.0, Outcome.ERROR, EndReason.ERROR, "pay", "", 2
        )
    with served.recording("back") as recorder:
        recorder.series("", "load").record(3.0, Outcome.SUPPRESSED)


def test_an_execution_has_all_that_is_known_of_it(served: Served) -> None:
    with subscribed(served) as reader:
        assert set(reader.opening) == {"time", "version", "rate"}
        assert reader.opening["rate"] == event_stream.MAX_RATE
        before = time.time()
        fill(served)
        load, pay, later, cancelled, back = reader.of("execution", 5)

    client = load.pop("client")
    assert re.fullmatch("[0-9a-f]{32}", client)
    assert before <= load.pop("time") <= time.time()
    assert load == {
        "service": "shop",
        "graph": "checkout",
        "node": "load",
        "outcome": "ok",
        "seconds": 0.25,
        "attempts": 1,
        "action": "default",
        "type": "",
        "phase": "",
        "message": "",
        "run": "",
        "pid": 4711,
    }
    assert (pay["outcome"], pay["attempts"]) == ("error", 3)
    assert (pay["type"], pay["phase"]) == ("KeyError", "exec")
    assert (pay["message"], pay["run"]) == ("no card", "run-7")
    # Its details were not kept, and it isn't given another's.
    assert (later["type"], later["message"]) == ("TimeoutError", "")
    assert cancelled["outcome"] == "cancelled"
    assert (back["service"], back["graph"]) == ("back", "")
    until(lambda: subscriber_count(served) == 0, "it is forgotten")
    assert count_missed(served) == {"limited": 0, "slow": 0}


@pytest.mark.parametrize(
    ("query", "nodes"),
    [
        ({"service": "back"}, ["load"]),
        ({"service": ["back", "shop"], "node": "load"}, ["load", "load"]),
        ({"graph": "checkout", "outcome": "ok"}, ["load"]),
        ({"graph": ""}, ["load"]),
        ({"node": "pay"}, ["pay", "pay", "pay"]),
        ({"node": ["pay", "load"], "service": "shop"}, ["load", "pay", "pay", "pay"]),
        ({"outcome": "error"}, ["pay"]),
        ({"outcome": ["error", "cancelled"]}, ["pay", "pay"]),
        ({"failures": "true"}, ["pay", "pay", "load"]),
        ({"failures": "true", "outcome": "cancelled"}, ["pay", "pay", "pay", "load"]),
        ({"slower_than": "0.5"}, ["pay", "load"]),
        ({"slower_than": "1500ms"}, ["load"]),
        ({"node": "nobody"}, []),
    ],
)
def test_a_filter_passes_matching_events(
    served: Served, query: dict[str, object], nodes: list[str]
) -> None:
    with subscribed(served, **query) as reader, subscribed(served) as all_of_it:
        fill(served)
        assert len(all_of_it.of("execution", 5)) == 5
        # Something that every filter asks for, to know where the others end.
        last = {
            "graph": query.get("graph", "end"),
            "node": query.get("node", "end"),
            "outcome": query.get("outcome", "error"),
        }
        last = {k: v[0] if isinstance(v, list) else v for k, v in last.items()}
        service = query.get("service", "shop")
        name = service[0] if isinstance(service, list) else str(service)
        served.send_rows({**last, "seconds": 99.0}, service=name)
        result = reader.of("execution", len(nodes) + 1)

    assert [event["node"] for event in result[:-1]] == nodes
    assert result[-1]["seconds"] == 99.0


def test_a_time_that_cannot_be_is_that_of_the_arrival(served: Served) -> None:
    rows = [
        {"node": "n", "seconds": 1.0, "end": end} for end in (0.0, time.time() + 900)
    ]
    rows.append({"node": "n", "seconds": 1.0, "end": 1_700_000_000.5})
    with subscribed(served) as reader:
        before = time.time()
        served.send_rows(*rows)
        times = sorted(event["time"] for event in reader.of("execution", 3))

    assert times[0] == 1_700_000_000.5
    assert before <= times[1] <= times[2] <= time.time()


def test_runs_come_when_asked_for(served: Served) -> None:
    with subscribed(served, runs="true", node="pay", outcome="error") as reader:
        fill(served)
        kinds = [reader.event() for _ in range(2)]

    (run,) = [data for name, data in kinds if name == "run"]
    assert (run["graph"], run["node"], run["reason"]) == ("checkout", "pay", "error")
    assert (run["seconds"], run["visits"], run["outcome"]) == (2.0, 2, "error")


def test_events_match_the_openapi_document(served: Served) -> None:
    document = served.get("/openapi.json")
    (operation,) = document["paths"]["/api/v1/events"].values()
    with subscribed(served, runs="true", rate=5) as reader:
        result = {"subscribed": reader.opening}
        fill(served)
        served.send_rows(*({"node": "n", "seconds": 1.0} for _ in range(6)))
        while "missed" not in result:
            name, data = reader.event()
            result[name] = data

    assert set(result) == set(SHAPES)
    for name, data in result.items():
        reference = {"$ref": f"#/components/schemas/{SHAPES[name]}"}
        hold_to(data, reference, document)
        described = operation["responses"]["200"]["description"]
        assert f"`{name}` is a {SHAPES[name]} as JSON" in described


def test_it_ends_after_the_limit(served: Served) -> None:
    with subscribed(served, limit=2) as reader:
        fill(served)
        assert len(reader.of("execution", 2)) == 2
        assert reader.event() == ("", None)


def test_over_the_rate_failures_come_first_and_the_rest_is_counted(
    served: Served,
) -> None:
    rows = [{"node": f"n{n % 2}", "seconds": float(n)} for n in range(500)]
    for row in rows[100::200]:
        row["outcome"] = "error"
    with subscribed(served, rate=10) as reader:
        served.send_rows(*rows)
        result, left_out = reader.second(10)
        assert left_out == {"limited": 490, "slow": 0}

        # Thinned from the start of the next second: room is left for others.
        served.send_rows(*rows[:5])
        _, left_out = reader.second(1)
        assert left_out == {"limited": 4, "slow": 0}

    assert [e["seconds"] for e in result if e["outcome"] == "error"] == [100.0, 300.0]
    fine = [e["seconds"] for e in result if e["outcome"] == "ok"]
    # Spread over the batch, in order.
    assert fine == sorted(fine)
    assert fine[0] < 100 and fine[-1] > 350
    assert count_missed(served) == {"limited": 494, "slow": 0}


def test_a_slow_reader_gets_a_gap_and_delays_no_other(served: Served) -> None:
    rows = [
        {"node": "n" * 200, "graph": "g" * 200, "seconds": 1.0}
    ] * event_stream.QUEUE
    times = 30
    with subscribed(served, buffer=4096) as slow, subscribed(served) as quick:
        for _ in range(times):
            served.send_rows(*rows)
            seen = 0
            while seen < event_stream.QUEUE:
                name, data = quick.event()
                seen += 1 if name == "execution" else data["slow"]
        assert count_missed(served)["slow"] > event_stream.QUEUE

        counts: Counter[str] = Counter()
        while counts["execution"] + counts["slow"] < times * event_stream.QUEUE:
            name, data = slow.event()
            counts[name] += 1
            if name == "missed":
                assert data["limited"] == 0
                counts["slow"] += data["slow"]
    # Each event was sent or said to be missed, once.
    assert counts["execution"] + counts["slow"] == times * event_stream.QUEUE
    assert counts["execution"] < times * event_stream.QUEUE / 2


def test_without_listeners_the_feed_is_not_even_called(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[object] = []
    real = event_stream.EventStream.take

    def take(self: event_stream.EventStream, *batch: Any) -> None:
        calls.append(batch)
        real(self, *batch)

    monkeypatch.setattr(event_stream.EventStream, "take", take)
    fill(served)
    assert not calls
    with subscribed(served) as reader:
        fill(served)
        reader.of("execution", 5)
    assert len(calls) == 2


def test_duplicates_are_not_shown_again(served: Served) -> None:
    batch = {
        "type": "batch",
        "v": 1,
        "client": b"one-client-00001",
        "seq": 1,
        "service": "shop",
        "events": [{"node": "once", "seconds": 1.0}],
    }
    with subscribed(served) as reader:
        served.receive([batch, batch])
        served.receive(
            [{**batch, "seq": 2, "events": [{"node": "next", "seconds": 1.0}]}]
        )
        assert [e["node"] for e in reader.of("execution", 2)] == ["once", "next"]


def test_beyond_twenty_listeners_the_next_is_refused(served: Served) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(module.MAX_SUBSCRIBERS):
            stack.enter_context(subscribed(served))
        answer = served.ask("/api/v1/events?limit=1")

        assert answer.status == 503
        assert answer.error["code"] == "too_many_subscribers"
    until(lambda: subscriber_count(served) == 0, "all are gone")
    with subscribed(served) as reader:
        fill(served)
        reader.of("execution", 5)


def test_a_head_request_leaves_no_subscription(served: Served) -> None:
    assert served.ask("/api/v1/events", method="HEAD").status == 200
    until(lambda: not served.source.event_stream.subscribers, "nobody listens")


@pytest.mark.parametrize(
    ("query", "hint"),
    [
        ("outcome=fine", "expected one of ok, error, suppressed, fallback, cancelled"),
        ("outcome=ok&outcome=", "expected one of ok, error, suppressed"),
        ("failures=perhaps", "expected true or false"),
        ("slower_than=2x", "expected a duration such as 90s, 5m, 1h30m or 500ms"),
        ("slower_than=nan", "expected a duration such as"),
        ("slower_than=-1", "expected a duration such as"),
        ("rate=0", "expected a whole number from 1 to 1000"),
        ("node=" + "x" * 201, "expected a text of at most 200 characters"),
        ("limit=1&limit=2", "give it once"),
    ],
)
def test_a_wrong_filter_is_refused(served: Served, query: str, hint: str) -> None:
    answer = served.ask(f"/api/v1/events?{query}")

    assert answer.status == 400
    assert hint in answer.error["hint"]
