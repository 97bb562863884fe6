"""Sound inputs to begin from: what is mutated from them gets further than noise."""

from __future__ import annotations

import json
from pathlib import Path

from tests.bench.fuzz_frames import sound_messages

from kaywatch import wire

__all__ = ["seeds"]

ROOT = Path(__file__).parent.parent.parent

QUERIES = (
    b"\x04pay?window=5m&graph=checkout&service=shop",
    b"\x08?metric=p95&node=pay&start=-15m&end=now&step=10s",
    b"\x09?type=KeyError&limit=10",
    b"\x1f?outcome=error&outcome=ok&failures=true&slower_than=0.5&rate=10",
    b"\x00Bearer abcdefghijklmnop",
    b"\x00Basic YTpi",
    b"\x00[::1]:9477",
)
BODIES = (
    {"matchers": [{"name": "node", "value": "x"}], "endsAt": "2027-01-15T09:00:00Z"},
    {
        "id": "x",
        "matchers": [
            {"name": "graph", "value": "a.*b", "isRegex": True, "isEqual": False}
        ],
        "startsAt": "2027-01-15T08:00:00+01:00",
        "endsAt": "2027-01-15T09:00:00Z",
        "createdBy": "ann",
        "comment": "migration",
    },
)
RECEIVERS = b"""
[receiver.ops]
type = "slack"
webhook_url_env = "X"
rate = "60/m"
[receiver.am]
type = "alertmanager"
urls = ["http://127.0.0.1:9093"]
[[rule]]
name = "slow"
when = "latency_avg > 9 and executions > 1"
match = ['graph=~"a.*"']
per = ["graph"]
[[silence]]
[heartbeat]
url = "https://hc-ping.com/x"
[failures]
redact = ['order (?P<value>[0-9]{6,12})']
"""


def seeds(target: str) -> list[bytes]:
    """Return sound inputs for one of the targets."""
    if target == "messages":
        return sound_messages()
    if target == "frames":
        return [wire.frame(message) for message in sound_messages()]
    if target == "queries":
        return list(QUERIES)
    if target == "bodies":
        return [json.dumps(body).encode() for body in BODIES]
    text = (ROOT / "deploy" / "kaywatch.toml").read_bytes()
    parts = [b"[" + part for part in text.split(b"\n[")]
    return [RECEIVERS, text, *parts]
