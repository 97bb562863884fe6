"""The account of every figure: received, lost by reason, late and overflow."""

from __future__ import annotations

from typing import Any

import pytest
from tests.agent.web.serving import Served, serving

from kaywatch_agent.aggregate.registry import Limits

NOW = 1_700_000_025.0
HOUR = 3600.0


def push(
    served: Served, service: str, rows: list[Any], pid: int = 1, **more: Any
) -> None:
    client = service.ljust(16).encode()
    message = {"type": "batch", "v": 1, "client": client, "service": service}
    message |= {"events": rows, **more}
    served.receive([message], service, pid=pid, megabytes=0)


def row(node: str = "n", age: float = 0.0) -> dict[str, Any]:
    return {"graph": "g", "node": node, "seconds": 1.0, "end": NOW - age}


@pytest.fixture
def clock() -> list[float]:
    return [NOW]


@pytest.fixture
def served(clock: list[float]) -> Any:
    with serving(lambda: clock[0]) as result:
        yield result


def test_an_account_covers_every_event(served: Served) -> None:
    registry = served.source.pipeline.aggregator.registry
    registry.limit(Limits(series_per_client=2))
    rows = [row(), row(age=2 * HOUR), row(age=3 * HOUR), row("second")]
    rows += [row("third"), row("fourth"), {"node": "n", "seconds": -1}]
    push(served, "shop", rows, drops={"buffer_full": 4, "pending_full": 1})
    push(served, "cron", [row()], pid=2)

    shop = {
        "received": 6,
        "dropped": {"buffer_full": 4, "pending_full": 1, "refused": 1},
        "late": 2,
        "overflow": 2,
        "deaths": 0,
        "unknown_seconds": 0.0,
        "ratio": 0.5,
    }
    cron = shop | {"received": 1, "dropped": {}, "late": 0, "overflow": 0, "ratio": 1.0}
    answer = served.get("/api/v1/completeness")
    assert answer["services"] == {"cron": cron, "shop": shop}
    assert answer["total"] == {**shop, "received": 7, "ratio": 7 / 13}
    assert served.get("/api/v1/completeness", service="cron")["total"] == cron
    assert served.node("n", service="shop")["account"] == shop
    assert served.graph("g", service="shop")["account"] == shop
    assert served.get("/api/v1/graphs")["account"] == answer["total"]
    assert served.get("/api/v1/nodes", service="cron")["account"] == cron

    # A window has no late events, but reports their number.
    window = {**shop, "received": 4, "ratio": 0.4}
    for output in (
        served.node("n", service="shop", window="5m"),
        served.get("/api/v1/nodes", service="shop", window="5m"),
        served.get("/api/v1/query", metric="executions", node="n", service="shop"),
    ):
        assert output["account"] == window

    (client,) = served.get("/api/v1/clients", service="shop")["clients"]
    assert client["dropped"] == {"buffer_full": 4, "pending_full": 1}
    assert (client["late"], client["overflow"]) == (2, 2)


def test_a_window_counts_a_loss_when_it_was_reported(
    served: Served, clock: list[float]
) -> None:
    push(served, "shop", [row()], drops={"buffer_full": 4})
    clock[0] += 600
    push(served, "shop", [row(age=-600)])
    assert served.node("n", window="5m")["account"]["ratio"] == 1.0
    assert served.node("n", window="20m")["account"]["dropped"] == {"buffer_full": 4}
    earlier = served.get(
        "/api/v1/query", metric="executions", start="-11m", end="-9m", step="10"
    )
    assert earlier["account"]["ratio"] == 0.2


def test_events_a_client_never_sent_are_missing(served: Served) -> None:
    push(
        served,
        "shop",
        [row(), {"node": "n", "seconds": -1}],
        seq=1,
        recorded=9,
        drops={"buffer_full": 3},
    )
    (result,) = served.get("/api/v1/clients")["clients"]
    # Of 9, 1 arrived, 1 was refused, and 3 are known to be lost.
    assert result["missing"] == 4


def test_the_metrics_have_the_accounts(served: Served) -> None:
    push(served, "shop", [row(), row(age=2 * HOUR)], drops={"buffer_full": 4})
    text = served.ask("/metrics").body.decode()
    for line in (
        'kaywatch_series_received_total{service="shop"} 2',
        'kaywatch_series_dropped_total{service="shop",reason="buffer_full"} 4',
        'kaywatch_series_late_total{service="shop"} 1',
        'kaywatch_series_overflow_total{service="shop"} 0',
    ):
        assert line in text.splitlines()


def test_nothing_has_no_ratio(served: Served) -> None:
    answer = served.get("/api/v1/completeness", window="5m")
    assert answer["total"] == {
        "received": 0,
        "dropped": {},
        "late": 0,
        "overflow": 0,
        "deaths": 0,
        "unknown_seconds": 0.0,
        "ratio": None,
    }
    assert answer["services"] == {}
