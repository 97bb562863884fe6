"""Failures and clients."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from tests.agent.web.serving import Served, serving

from kaywatch_agent.model.bounds import MAX_TIME
from kaywatch_agent.model.records import FailureRecord

NOW = 1_700_000_000.0
CLIENT = b"client-16-bytes!"


def batch(**sections: Any) -> dict[str, Any]:
    return {
        "type": "batch",
        "v": 1,
        "client": CLIENT,
        "seq": 1,
        "sent": NOW - 1.5,
        "service": "shop",
        "recorded": 10,
        **sections,
    }


def failure(time: float, **more: Any) -> dict[str, Any]:
    return {"time": time, "graph": "g", "node": "n", "type": "KeyError", **more}


# -- failures ------------------------------------------------------------------------


def test_failures_come_newest_first_with_all_that_is_known(shop: Served) -> None:
    answer = shop.get("/api/v1/failures")

    assert answer["matching"] == 2
    assert [f["type"] for f in answer["failures"]] == ["KeyError", "TimeoutError"]
    newest = answer["failures"][0]
    assert len(newest.pop("client")) == 32
    assert newest == {
        "time": 1_700_000_001.0,
        "service": "shop",
        "graph": "checkout",
        "node": "pay",
        "type": "KeyError",
        "message": "message 1",
        "phase": "exec",
        "attempts": 2,
        "outcome": "error",
        "run": "run-1",
        "run_start": 0.0,
        "visits": 0,
        "path": [],
        "path_visits": [],
        "trace_id": "",
        "traceback": "",
        "seconds": 0.0,
    }


def test_a_field_of_the_model_goes_from_the_wire_to_http(served: Served) -> None:
    """`seconds` is declared in the model and named nowhere else in the agent."""
    sent = [failure(NOW, seconds=taken) for taken in (0.25, -1.0, "long")]
    served.receive([batch(failures=[*sent, failure(NOW)])])
    response = served.get("/api/v1/failures")["failures"]
    assert [f["seconds"] for f in response] == [0.0, 0.25]
    schemas = served.get("/openapi.json")["components"]["schemas"]
    described = schemas["FailureRecord"]["properties"]["seconds"]
    assert described["description"] == "duration; 0 if unknown"
    aggregator = served.source.pipeline.aggregator
    (stored, _) = aggregator.view(NOW).failures
    data = msgspec.json.encode(stored)
    assert msgspec.json.decode(data, type=FailureRecord).seconds == 0.25


@pytest.mark.parametrize(
    ("filters", "count"),
    [
        ({"type": "KeyError"}, 1),
        ({"node": "pay"}, 2),
        ({"node": "load"}, 0),
        ({"graph": "checkout", "service": "shop"}, 2),
        ({"service": "back"}, 0),
    ],
)
def test_filters_narrow_failures(
    shop: Served, filters: dict[str, str], count: int
) -> None:
    answer = shop.get("/api/v1/failures", **filters)

    assert answer["matching"] == len(answer["failures"]) == count


def test_the_limit_cuts_the_oldest_and_reports_the_total(
    served: Served,
) -> None:
    failures = [failure(NOW + n, message=str(n)) for n in range(150)]
    served.receive([batch(failures=failures)])

    answer = served.get("/api/v1/failures")
    assert (answer["matching"], len(answer["failures"])) == (150, 100)
    answer = served.get("/api/v1/failures", limit=2)
    assert [f["message"] for f in answer["failures"]] == ["149", "148"]


def test_of_failures_at_one_time_the_last_to_come_is_the_newest(served: Served) -> None:
    failures = [failure(NOW, message=str(n)) for n in range(3)]
    served.receive([batch(failures=failures)])

    response = served.get("/api/v1/failures")["failures"]
    assert [f["message"] for f in response] == ["2", "1", "0"]


def test_times_that_are_none_do_no_harm() -> None:
    """As for events, a time that is unknown or in the future is now."""
    odd = [float("nan"), float("inf"), 1e300, -1e300, 0.0, NOW - 1, MAX_TIME]
    with serving(lambda: NOW) as served:
        served.receive([batch(failures=[failure(time) for time in odd])])
        response = served.get("/api/v1/failures")["failures"]
    assert [f["time"] for f in response] == [NOW, NOW, NOW - 1]


# -- clients -------------------------------------------------------------------------


def test_a_client_is_described_in_full() -> None:
    with serving(lambda: NOW) as served:
        hello = {
            "type": "hello",
            "v": 1,
            "client": CLIENT,
            "service": "shop",
            "host": "h1",
            "pid": 99,
            "start": NOW - 100,
            "sdk": "kaywatch-python/1.0",
            "tags": {"zone": "b", "env": "test"},
        }
        rows = [{"node": "n", "seconds": 1.0}, {"node": "n", "seconds": -1.0}]
        first = batch(events=rows, in_flight=[["g", "n", NOW - 30, "r1"]])
        served.receive([hello, first, first], pid=4711, megabytes=200)
        served.receive([batch(seq=4, drops={"buffer_full": 8, "odd": 1})])

        answer = served.get("/api/v1/clients")

    assert answer["timestamp"] == NOW
    (client,) = answer["clients"]
    assert [client] == [
        {
            "client": CLIENT.hex(),
            "state": "connected",
            "pid": 4711,
            "uid": 1000,
            "host": "h1",
            "via": "",
            "service": "shop",
            "sdk": "kaywatch-python/1.0",
            "tags": {"env": "test", "zone": "b"},
            "events": 1,
            "recorded": 10,
            "completeness": 0.1,
            "dropped": {"buffer_full": 8, "other": 1},
            "rejected": {"bad_row": 1},
            "late": 0,
            "overflow": 0,
            "missing": 0,
            "duplicates": 1,
            "missing_batches": 2,
            "unknown_seconds": 0.0,
            "skew": 1.5,
            "in_flight": [
                {
                    "graph": "g",
                    "node": "n",
                    "start": NOW - 28.5,  # its clock is 1.5 s behind
                    "run": "r1",
                    "visits": 0,
                    "run_start": 0.0,
                    "failed_attempts": 0,
                    "cost_usd": 0.0,
                    "tokens": 0.0,
                    "unpriced_tokens": 0.0,
                    "trace_id": "",
                }
            ],
            "memory_mb": 200.0,
            "peak_memory_mb": 200.0,
            "cpu_percent": None,
            "start": NOW - 100,
            "first_seen": NOW,
            "last_seen": NOW,
            "since": NOW,
            "owner": client["owner"],
            "received_seq": 4,
            "committed_seq": client["committed_seq"],
            "greeting": 0,
            "first": 0,
            "batches": client["batches"],
            "loops": [],
            "sample": {"rss": 200 * 2**20, "cpu": 1.5},
            "peak_rss_bytes": 200 * 2**20,
            "sampled_at": NOW,
        }
    ]


def test_each_state_and_the_filters(served: Served) -> None:
    for name, service in (("a", "shop"), ("b", "shop"), ("c", "back"), ("d", "back")):
        client = name.encode() * 16
        rows = [{"node": "n", "seconds": 1.0}]
        served.receive([batch(client=client, service=service, events=rows)], name)
    served.receive([{"type": "bye", "v": 1, "client": b"b" * 16, "seq": 1}], "b")
    for name in "cd":
        link, conversation = served.links[name]
        link.peer.closed = name == "d"
        served.call(conversation.close)
    served.call(served.source.agent.tick)

    def listed(**filters: str) -> list[tuple[str, str]]:
        answer = served.get("/api/v1/clients", **filters)
        assert answer["socket"] == "/run/kaywatch/ingest.sock"
        result = answer["clients"]
        return [(client["client"][:2], client["state"]) for client in result]

    assert sorted(listed()) == [
        ("61", "connected"),
        ("62", "ended"),
        ("63", "disconnected"),
        ("64", "died"),
    ]
    assert listed(state="died") == [("64", "died")]
    assert len(listed(service="back")) == 2
    assert listed(service="shop", state="died") == []
    answer = served.ask("/api/v1/clients?state=dead")
    assert answer.error["message"] == "invalid state='dead'"
    assert answer.error["hint"] == (
        "expected one of connected, disconnected, ended, died"
    )


def test_numbers_from_a_client_that_are_none_do_no_harm(served: Served) -> None:
    def spoil() -> None:
        client = served.source.pipeline.clients.meet("c", 1.0)
        client.skew = float("-inf")
        client.start = float("nan")

    served.call(spoil)
    (client,) = served.get("/api/v1/clients")["clients"]
    assert client["skew"] is client["start"] is None


def test_more_clients_than_are_described_at_once(served: Served) -> None:
    for n in range(450):
        served.source.pipeline.clients.meet(f"{n:032x}", 1.0)

    assert len(served.get("/api/v1/clients")["clients"]) == 450
