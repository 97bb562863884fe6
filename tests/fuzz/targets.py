"""The functions that parse untrusted bytes; they raise only unexpected exceptions."""

from __future__ import annotations

import contextlib
import tomllib
from collections.abc import Callable
from functools import cache
from typing import Final
from urllib.parse import parse_qsl

from multidict import MultiDict
from tests.agent.protocol.whole import Decoder
from tests.agent.rules.harness import AlertHarness, rule
from tests.agent.web.serving import Source

from kaywatch_agent.config import parse as parse_config
from kaywatch_agent.errors import ConfigError
from kaywatch_agent.model.series import ClientState
from kaywatch_agent.protocol.framing import FrameReader, OutOfStep, Oversized
from kaywatch_agent.rules.load import load
from kaywatch_agent.rules.loop import Alerting
from kaywatch_agent.rules.matchers import parse as parse_matcher
from kaywatch_agent.web.api.parameters import NoQuery, parse
from kaywatch_agent.web.api.silences import SilenceBody, add_silence
from kaywatch_agent.web.config import HttpConfig
from kaywatch_agent.web.guard.access import AccessControl
from kaywatch_agent.web.guard.bodies import decode
from kaywatch_agent.web.guard.tokens import parse_token
from kaywatch_agent.web.problems import Problem
from kaywatch_agent.web.routes import ENDPOINTS

__all__ = ["TARGETS"]

NOW: Final = 1.8e9


def frames(data: bytes) -> None:
    """Cut a stream into frames, and decode each."""
    decoder = _decoder()
    for frame in FrameReader().receive(data):
        if not isinstance(frame, Oversized | OutOfStep):
            decoder.decode(frame)


def messages(data: bytes) -> None:
    """Decode one message."""
    _decoder().decode(data)


def queries(data: bytes) -> None:
    """Take the parameters of a request, in its path and query, and its headers."""
    text = data[1:].decode("utf-8", "surrogateescape")
    route = ENDPOINTS[data[0] % len(ENDPOINTS)] if data else ENDPOINTS[0]
    name, _, rest = text.partition("?")
    parts = ("node", "graph", "id", "rule", "receiver")
    path = {part: name for part in parts if f"{{{part}}}" in route.path}
    with contextlib.suppress(Problem):
        parse(route.parameters, path, MultiDict(parse_qsl(rest, True)))
    parse_token(text)
    AccessControl(HttpConfig())._is_own_host(text)


def configurations(data: bytes) -> None:
    """Load a configuration."""
    with contextlib.suppress(ConfigError):
        parse_config(data.decode("utf-8", "replace"))


def matchers(data: bytes) -> None:
    """Parse a matcher in a line, print it, and apply it to the labels in the others."""
    line, *values = data.decode("utf-8", "surrogateescape").split("\n")
    try:
        matcher = parse_matcher(line)
    except ValueError:
        return
    assert parse_matcher(str(matcher)) == matcher
    for value in values:
        matcher.holds({matcher.name: value})


def silences(data: bytes) -> None:
    """Add a silence, evaluate with it, and restore it as after a restart."""
    try:
        body = decode(data, SilenceBody)
        source = Source(lambda: NOW)
        add_silence(source, NoQuery(), body)
    except Problem:
        return
    stored = source.alerting.changes(full=True)
    restarted = Alerting(load({}), min_severity={}, clock=lambda: NOW)
    restarted.restore({at: text for at, text in stored.items() if text is not None})
    assert restarted.silences == source.alerting.silences
    harness = _harness()
    for silence in restarted.silences.values():
        harness.engine.silences.put(silence)
    harness.evaluate()


def rules(data: bytes) -> None:
    """Load rules, evaluate them over failures, and over the time after them."""
    try:
        tables = tomllib.loads(data.decode("utf-8", "replace"))
        settings = load(tables, receivers=["chat", "ops", "pager"])
    except (ValueError, RecursionError, ConfigError):
        return
    harness = _harness()
    harness.engine.settings = settings
    harness.wait(20)


def _harness() -> AlertHarness:
    """Return an engine with a firing alert, and with values of each kind."""
    harness = AlertHarness(rule(name="failing", notify=["chat"]))
    harness.ran(50, errors=40)
    harness.ran(20, node="load", seconds=3.0, action="retry")
    harness.run_ended(visits=70)
    harness.end_looping_run("load", visits=60)
    harness.observe("depth", 3.0, 9.0, queue="a")
    harness.process(77, ClientState.DIED)
    harness.evaluate()
    return harness


TARGETS: Final[dict[str, Callable[[bytes], None]]] = {
    "frames": frames,
    "messages": messages,
    "queries": queries,
    "configurations": configurations,
    "matchers": matchers,
    "silences": silences,
    "rules": rules,
}


@cache
def _decoder() -> Decoder:
    return Decoder()
