"""Turns an endpoint into a function that connects to it."""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from collections.abc import Callable, Mapping
from typing import Final

from kaywatch._send.problems import unreachable
from kaywatch._send.transport import (
    Refused,
    Transport,
    UnixTransport,
    candidates,
    check_unix,
    scheme_of,
)
from kaywatch.errors import ConfigurationError

__all__ = ["check_endpoint", "check_usable", "connector", "finish_imports"]

# Those of `kaywatch._send.broker`, which takes as long to import as all the rest, and
# only some processes need it.
_BROKERS: Final = ("mqtt", "mqtts")

EXAMPLES: Final = (
    "unix:///run/kaywatch/ingest.sock, or mqtt://host:1883/kaywatch with a broker"
)


def check_endpoint(endpoint: str, environment: Mapping[str, str] = os.environ) -> None:
    """Validate an endpoint and the settings that belong to it.

    Args:
        endpoint: a URL.
        environment: the variables with those settings.

    Raises:
        ConfigurationError: no client could send to it.
    """
    scheme = scheme_of(endpoint)
    if scheme == "unix":
        check_unix(endpoint)
        return
    from kaywatch._send import broker

    if scheme in _BROKERS:
        broker.from_environment(endpoint, environment)
    else:
        raise ConfigurationError(
            f"endpoint {broker.without_secret(endpoint)!r}: unknown scheme"
            f" {scheme!r}; expected {EXAMPLES}"
        )


def check_usable(endpoint: str, environment: Mapping[str, str] = os.environ) -> None:
    """Validate an endpoint, and that this process has the library to send to it.

    Args:
        endpoint: as of `check_endpoint`.
        environment: as of `check_endpoint`.

    Raises:
        ConfigurationError: this process could not send to it.
    """
    check_endpoint(endpoint, environment)
    if scheme_of(endpoint) in _BROKERS and not _has_paho():
        raise ConfigurationError(
            "sending over MQTT needs paho-mqtt: pip install 'kaywatch[mqtt]'"
        )


def connector(endpoint: str | None, client: bytes) -> Callable[[], Transport]:
    """Return a function that connects to the agent.

    Args:
        endpoint: where it is; None for the first of the default sockets that exists.
        client: this process's id.
    """
    if endpoint is None:
        return lambda: _first_socket(None)
    try:
        check_usable(endpoint)
    except ConfigurationError as error:
        # It is from the environment, and must not stop the application.
        problem = str(error)
        return lambda: _fail(problem)
    if scheme_of(endpoint) == "unix":
        return lambda: _first_socket(endpoint)
    return _broker_connector(endpoint, client)


def finish_imports() -> None:
    """Wait until no other thread is in the middle of importing a transport.

    A child that is forked then could never import that module.
    """
    name = "kaywatch._send.mqtt"
    if name in sys.modules:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)  # waits for the thread that imports it


def _broker_connector(endpoint: str, client: bytes) -> Callable[[], Transport]:
    from kaywatch._send.broker import MqttVersion, PacketLimit, from_environment

    broker, version, limit = from_environment(endpoint), MqttVersion(), PacketLimit()

    def connect() -> Transport:
        # Here and not above, so that the sender's thread imports paho-mqtt and not the
        # application's.
        from kaywatch._send.mqtt import MqttTransport

        try:
            return MqttTransport(broker, version, limit, client)
        except ConfigurationError as error:
            raise Refused(str(error)) from None

    return connect


def _first_socket(endpoint: str | None) -> Transport:
    errors: dict[str, OSError] = {}
    for path in candidates(endpoint):
        try:
            return UnixTransport(path)
        except OSError as error:
            errors[path] = error
    raise unreachable(errors)


def _fail(problem: str) -> Transport:
    raise Refused(problem)


def _has_paho() -> bool:
    from importlib.util import find_spec

    try:
        return find_spec("paho.mqtt") is not None
    except ModuleNotFoundError:
        return False
