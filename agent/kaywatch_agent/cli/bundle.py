"""The files of `kaywatch bundle`: what support needs to know, without secrets."""

from __future__ import annotations

import json
import platform
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from importlib import metadata
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

from kaywatch._version import __version__
from kaywatch.errors import KaywatchError
from kaywatch.query import fetch, fetch_text
from kaywatch_agent.cli.doctor.checks import run_checks
from kaywatch_agent.cli.doctor.context import CheckContext
from kaywatch_agent.cli.doctor.result import SECTIONS
from kaywatch_agent.errors import StartError
from kaywatch_agent.protocol.redact import REDACTED, remove_secrets

__all__ = ["BundleFile", "collect"]

# The requests whose answers describe the state of an agent. None contains payloads.
REQUESTS: Final = {
    "health": "/health",
    "clients": "/api/v1/clients",
    "completeness": "/api/v1/completeness?window=24h",
    "graphs": "/api/v1/graphs?window=24h",
    "rules": "/api/v1/rules",
    "alerts": "/api/v1/alerts",
    "notifications": "/api/v1/notifications",
    "changes": "/api/v1/changes",
}
LOG_LINES: Final = "5000"

# Keys of the configuration whose values are secret, whatever they look like. Keys that
# end in one of the suffixes say where a secret is, and help to find a mistake.
SECRET_KEY: Final = re.compile(
    "password|secret|token|credential|authorization|routing_key|api_key|headers"
)
PLACE_KEY: Final = re.compile("_(file|env|credential)$")


class BundleFile(NamedTuple):
    """One file of a bundle.

    Attributes:
        name: its name.
        text: its content; empty if it is not available.
        problem: why it is not.
    """

    name: str
    text: str
    problem: str = ""


def collect(context: CheckContext) -> Iterator[BundleFile]:
    """Yield the files of a bundle, with the problem of each that is not available."""
    yield BundleFile("versions.json", _to_json(_versions()))
    yield _read("doctor.json", lambda: _to_json(_diagnose(context)))
    yield _read("configuration.json", lambda: _configuration(context))
    for name, path in REQUESTS.items():
        yield _read(f"{name}.json", partial(_answer, context, path))
    yield _read(
        "metrics.txt", lambda: remove_secrets(fetch_text("/metrics", context.url))
    )
    yield _read("log.txt", lambda: _log(context))


# -- inside --------------------------------------------------------------------------


def _read(name: str, read: Callable[[], str]) -> BundleFile:
    try:
        return BundleFile(name, read())
    except (KaywatchError, StartError, OSError, ValueError) as error:
        return BundleFile(name, "", remove_secrets(str(error)))


def _to_json(value: object) -> str:
    return json.dumps(value, indent=2) + "\n"


def _versions() -> dict[str, Any]:
    requirements = metadata.requires("kaywatch") or []
    names = sorted({re.split(r"[^\w-]", text)[0] for text in requirements})
    packages = {}
    for name in names:
        try:
            packages[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            packages[name] = "not installed"
    return {
        "kaywatch": __version__,
        "python": platform.python_version(),
        "implementation": platform.python_implementation(),
        "platform": platform.platform(),
        "packages": packages,
    }


def _diagnose(context: CheckContext) -> list[dict[str, Any]]:
    return [
        {"section": section, **_without_secrets(result._asdict())}
        for section, results in run_checks(context, SECTIONS)
        for result in results
    ]


def _configuration(context: CheckContext) -> str:
    """Return the configuration file as JSON, which has no comments."""
    if context.path is None:
        raise ValueError("there is no configuration file; the defaults apply")
    try:
        tables = tomllib.loads(context.path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{context.path}: {error}") from None
    return _to_json(_without_secrets(tables))


def _answer(context: CheckContext, path: str) -> str:
    return _to_json(_without_secrets(fetch(path, url=context.url)))


def _log(context: CheckContext) -> str:
    """Return the last lines of the service's journal."""
    manager = context.manager
    if manager is None:
        raise ValueError("no kaywatch.service: add the agent's log yourself")
    user = ("--user",) if manager.user else ()
    command = ("journalctl", *user, "--unit=kaywatch.service", f"--lines={LOG_LINES}")
    return remove_secrets(manager.run(*command, "--no-pager", "--output=short-iso"))


def _without_secrets(value: Any, key: str = "") -> Any:
    """Return a value of JSON or TOML in which no text is a secret.

    Args:
        value: a table, a list, a text or anything else.
        key: the name under which it is stored.
    """
    if isinstance(value, Mapping):
        secret = bool(SECRET_KEY.search(key))
        return {
            str(name): _without_secrets(each, key if secret else str(name))
            for name, each in value.items()
        }
    if isinstance(value, list | tuple):
        return [_without_secrets(each, key) for each in value]
    if value is None or isinstance(value, bool | int | float):
        return value
    return _text_without_secrets(str(value), key)


def _text_without_secrets(text: str, key: str) -> str:
    # Also the value of a key such as url_file, which should be a path, but may not be.
    if "url" in key and "://" in text:
        return _without_path(text)
    if SECRET_KEY.search(key) and not PLACE_KEY.search(key):
        return REDACTED
    return remove_secrets(text)


def _without_path(url: str) -> str:
    """Return a URL's scheme, host and port: paths of webhooks are secret."""
    try:
        parts = urlsplit(url)
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        return REDACTED
    return f"{parts.scheme}://{parts.hostname or ''}{port}/{REDACTED}"
