"""Exemplars in OpenMetrics; the older text format has none."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from tests.agent.web.serving import Served, serving

OPENMETRICS = {"Accept": "application/openmetrics-text;version=1.0.0"}


@pytest.fixture
def served() -> Iterator[Served]:
    place = {"graph": "checkout", "node": "pay"}
    event = {"seconds": 0.3, "outcome": "error", "error": "KeyError", "phase": "exec"}
    failure = {"type": "KeyError", "phase": "exec", "seconds": 0.3, "run": 'run "7"'}
    with serving() as result:
        result.receive(
            [
                {
                    "type": "batch",
                    "v": 1,
                    "client": b"exemplary-client",
                    "seq": 1,
                    "service": "shop",
                    "recorded": 1,
                    "events": [{**place, **event}],
                    "failures": [{**place, **failure, "time": time.time()}],
                }
            ]
        )
        yield result


def test_failures_are_exemplars_of_their_bucket_and_error(served: Served) -> None:
    text = served.ask("/metrics", headers=OPENMETRICS).body.decode()
    found = {
        sample.name: sample
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.exemplar is not None
    }
    assert found.keys() == {
        "kaygraph_errors_total",
        "kaygraph_node_duration_seconds_bucket",
    }
    bucket = found["kaygraph_node_duration_seconds_bucket"]
    # The smallest one that counts the value.
    assert (bucket.labels["node"], bucket.labels["le"]) == ("pay", "0.5")
    assert bucket.exemplar.value == 0.3
    assert found["kaygraph_errors_total"].exemplar.value == 1.0
    for sample in found.values():
        assert sample.exemplar.labels == {"run": 'run "7"'}
        assert float(sample.exemplar.timestamp) == pytest.approx(time.time(), abs=600)


def test_the_text_format_has_none(served: Served) -> None:
    text = served.ask("/metrics").body.decode()
    assert "kaygraph_errors_total{" in text
    assert " # {" not in text
