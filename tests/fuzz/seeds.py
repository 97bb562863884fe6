"""Valid inputs to mutate: mutations of them reach more code than noise."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path

from tests.bench.fuzz_frames import mutate, sound_messages

from kaywatch import wire

__all__ = ["mutated", "seeds"]

ROOT = Path(__file__).parent.parent.parent

TOML = re.compile(r"```toml\n(.*?)```", re.DOTALL)

QUERIES = (
    b"\x04pay?window=5m&graph=checkout&service=shop",
    b"\x08?metric=p95&node=pay&start=-15m&end=now&step=10s",
    b"\x09?type=KeyError&limit=10",
    b"\x1f?outcome=error&outcome=ok&failures=true&slower_than=0.5&rate=10",
    b"\x00Bearer abcdefghijklmnop",
    b"\x00Basic YTpi",
    b"\x00[::1]:9477",
)
MATCHERS = (
    b'graph="checkout"\ncheckout',
    b'node!~"debug_.*|(a+)+b"\naaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaac\n',
    b'service=~"[[:alpha:]]{1,900}x?"\n' + b"a" * 900,
    b'alertname!="a \\"quoted\\" \\\\ name"\nx',
    b"severity=page",
)
SILENCES = (
    {"matchers": [{"name": "node", "value": "x"}], "endsAt": "2027-01-15T09:00:00Z"},
    {
        "matchers": [
            {"name": "graph", "value": "a.*b", "isRegex": True, "isEqual": False},
            {"name": "node", "value": "load|pay", "isRegex": True},
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


# What replaces a string or a number of a text, so that the result is often valid.
TEXTS = (
    *("", "x", "pay", "(a+)+b", "(a|a)*c", "(x{1,500}){2}", "a{1000}", "[", "(?i)Ä.*"),
    *("\\\\d+", ".*", "node", "alertname", "latency_p95 > 1", "success_rate < 50%"),
    *(
        "0",
        "1",
        "1e308",
        "-1",
        "0.5",
        "5m",
        "1h30m",
        "365d",
        "nan",
        "é\u2028\U0001f4a9",
    ),
    *("x" * 1000, "firing", "page", "executions", "above", "2027-01-15T08:30:00Z"),
)
# A string after a colon, an equals sign or a bracket, so not a key; or a number.
VALUE = re.compile(rb"""(?:(?<=[:=][ ]["'])|(?<=\[["']))[^"'\n]*(?=["'])|\b[0-9.]+\b""")


def mutated(valid: list[bytes], chance: random.Random) -> bytes:
    """Return one of the inputs with some bytes, or a string or number, replaced."""
    if chance.random() < 0.5:
        return mutate(valid, chance)
    data = chance.choice(valid)
    for _ in range(chance.choice((1, 1, 2, 4))):
        values = list(VALUE.finditer(data))
        if values:
            start, end = chance.choice(values).span()
            data = data[:start] + chance.choice(TEXTS).encode() + data[end:]
    return data


def seeds(target: str) -> list[bytes]:
    """Return sound inputs for one of the targets."""
    if target == "messages":
        return sound_messages()
    if target == "frames":
        return [wire.frame(message) for message in sound_messages()]
    if target == "queries":
        return list(QUERIES)
    if target == "matchers":
        return list(MATCHERS)
    if target == "silences":
        return [json.dumps(body).encode() for body in SILENCES]
    if target == "rules":
        examples = (ROOT / "docs" / "alerts.md").read_text()
        return [text.encode() for text in TOML.findall(examples)]
    text = (ROOT / "deploy" / "kaywatch.toml").read_bytes()
    parts = [b"[" + part for part in text.split(b"\n[")]
    return [RECEIVERS, text, *parts]
