"""What takes in bytes of others, as functions that raise only what nobody expects."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from functools import cache
from typing import Final
from urllib.parse import parse_qsl

from multidict import MultiDict
from tests.agent.protocol.whole import Decoder
from tests.agent.web.serving import Source

from kaywatch_agent.config import parse as parse_config
from kaywatch_agent.errors import ConfigError
from kaywatch_agent.protocol.framing import FrameReader, OutOfStep, Oversized
from kaywatch_agent.web.api.parameters import NoQuery, parse
from kaywatch_agent.web.api.silences import SilenceBody, add_silence
from kaywatch_agent.web.config import HttpConfig
from kaywatch_agent.web.guard.access import AccessControl
from kaywatch_agent.web.guard.bodies import decode
from kaywatch_agent.web.guard.tokens import given_token
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
    given_token(text)
    AccessControl(HttpConfig())._is_own_host(text)


def bodies(data: bytes) -> None:
    """Take what is sent to make a silence."""
    with contextlib.suppress(Problem):
        add_silence(_source(), NoQuery(), decode(data, SilenceBody))


def configurations(data: bytes) -> None:
    """Load a configuration."""
    with contextlib.suppress(ConfigError):
        parse_config(data.decode("utf-8", "replace"))


TARGETS: Final[dict[str, Callable[[bytes], None]]] = {
    "frames": frames,
    "messages": messages,
    "queries": queries,
    "bodies": bodies,
    "configurations": configurations,
}


@cache
def _decoder() -> Decoder:
    return Decoder()


@cache
def _source() -> Source:
    return Source(lambda: NOW)
