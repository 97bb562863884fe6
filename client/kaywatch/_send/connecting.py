"""An endpoint becomes a function that connects to it; what is wrong is said once."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final
from urllib.parse import urlsplit

from kaywatch._send import broker as _broker
from kaywatch._send.transport import (
    Refused,
    Transport,
    UnixTransport,
    candidates,
    check_unix,
)
from kaywatch.errors import ConfigurationError

__all__ = ["check_endpoint", "check_usable", "connector"]

log = logging.getLogger("kaywatch")

EXAMPLES: Final = (
    "unix:///run/kaywatch/ingest.sock, or mqtt://host:1883/kaywatch with a broker"
)


def check_endpoint(endpoint: str) -> None:
    """Look whether a client could send to an endpoint.

    Raises:
        ConfigurationError: saying why not.
    """
    scheme = _scheme(endpoint)
    if scheme == "unix":
        check_unix(endpoint)
    elif scheme in _broker.SCHEMES:
        _broker.from_environment(endpoint)
    else:
        raise ConfigurationError(
            f"endpoint {_broker.without_secret(endpoint)!r}: unknown scheme"
            f" {scheme!r}; write {EXAMPLES}"
        )


def check_usable(endpoint: str) -> None:
    """Look whether this very process can send to an endpoint.

    Raises:
        ConfigurationError: saying why not.
    """
    check_endpoint(endpoint)
    if _scheme(endpoint) in _broker.SCHEMES and not _has_paho():
        raise ConfigurationError(
            "to send over MQTT, paho-mqtt is needed: pip install 'kaywatch[mqtt]'"
        )


def connector(endpoint: str | None, client: bytes) -> Callable[[], Transport]:
    """Return a function that connects to the agent.

    Args:
        endpoint: where it is; None for the first agent's socket that is there.
        client: the id that this process sends under.
    """
    if endpoint is None:
        return lambda: _first_socket(None)
    try:
        check_usable(endpoint)
    except ConfigurationError as error:
        # From the environment: the application has to run all the same.
        wrong = str(error)
        log.warning("kaywatch sends nothing: %s", wrong)
        return lambda: _refuse(wrong)
    if _scheme(endpoint) == "unix":
        return lambda: _first_socket(endpoint)
    return _broker_connector(endpoint, client)


def _broker_connector(endpoint: str, client: bytes) -> Callable[[], Transport]:
    broker = _broker.from_environment(endpoint)
    version = _broker.MqttVersion()

    def connect() -> Transport:
        # Here and not above: in the application's thread nothing is imported.
        from kaywatch._send.mqtt import MqttTransport

        try:
            return MqttTransport(broker, version, client)
        except ConfigurationError as error:
            raise Refused(str(error)) from None

    return connect


def _first_socket(endpoint: str | None) -> Transport:
    last: OSError = FileNotFoundError("no agent's socket is there")
    for path in candidates(endpoint):
        try:
            return UnixTransport(path)
        except OSError as error:
            last = error
    raise last


def _refuse(wrong: str) -> Transport:
    raise ConnectionError(wrong)


def _scheme(endpoint: str) -> str:
    try:
        return urlsplit(endpoint).scheme
    except ValueError:
        return ""


def _has_paho() -> bool:
    from importlib.util import find_spec

    try:
        return find_spec("paho.mqtt") is not None
    except ModuleNotFoundError:
        return False
