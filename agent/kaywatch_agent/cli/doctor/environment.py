"""Whether an application that is started here, like this, would be watched."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import sys
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from kaywatch._instrument.frameworks import FRAMEWORKS, SDKS
from kaywatch._process import settings_from_environment, tags_in
from kaywatch._send import broker as _broker
from kaywatch._send.connecting import check_usable
from kaywatch.errors import ConfigurationError
from kaywatch_agent.cli.doctor.finding import Findings, ok, problem, unchecked, warning
from kaywatch_agent.cli.doctor.ground import Ground
from kaywatch_agent.cli.doctor.reach import reach

__all__ = ["CHECKS"]


def switched(_: Ground) -> Findings:
    """Nothing here switches the client off."""
    value = os.environ.get("KAYGRAPH_COLLECT_METRICS")
    if not settings_from_environment().enabled:
        yield warning(
            f"KAYGRAPH_COLLECT_METRICS={value}: applications record nothing",
            "unset it, or set it to true",
        )
    else:
        yield ok("applications record what they do")


def endpoint(ground: Ground) -> Findings:
    """It pushes where the agent is."""
    value = os.environ.get("KAYWATCH_ENDPOINT")
    if not value:
        return
    try:
        check_usable(value)
    except ConfigurationError as error:
        yield problem(f"KAYWATCH_ENDPOINT: {error}", "correct or unset it")
        return
    if urlsplit(value).scheme in _broker.SCHEMES:
        yield from _at_broker(_broker.from_environment(value))
    elif not os.path.exists(urlsplit(value).path):
        yield problem(
            f"KAYWATCH_ENDPOINT={value}: nothing is there",
            f"is it this one: unix://{ground.config.ingest.path}?",
        )
    else:
        yield ok(f"KAYWATCH_ENDPOINT={value}")


def _at_broker(broker: _broker.Broker) -> Findings:
    try:
        broker.secret()
        context = broker.context()
    except ConfigurationError as error:
        yield problem(f"KAYWATCH_ENDPOINT: {error}", "docs/mqtt.md has the variables")
        return
    where = f"KAYWATCH_ENDPOINT ({broker.url})"
    yield from reach(where, broker.host, broker.port, context=context)


def tags(_: Ground) -> Findings:
    """Tags that it is given can be read."""
    wrong = tags_in(os.environ.get("KAYWATCH_TAGS", ""))[1]
    if wrong:
        yield warning(
            f"KAYWATCH_TAGS: {', '.join(wrong)} is left out",
            "write key=value,...",
        )


def prices(_: Ground) -> Findings:
    """A file of prices is there."""
    value = os.environ.get("KAYWATCH_PRICES")
    if value and not Path(value).is_file():
        yield problem(f"KAYWATCH_PRICES={value}: no such file", "correct or unset it")


def frameworks(_: Ground) -> Findings:
    """There is something here to be watched."""
    found = [(name, _version(name)) for name in FRAMEWORKS if _importable(name)]
    sdks = [(name, _version(name)) for name in SDKS if _importable(name)]
    here = f"in this Python ({sys.prefix})"
    if found:
        yield ok(f"{_listed(found)} {here}")
    else:
        yield unchecked(
            f"neither {' nor '.join(FRAMEWORKS)} is installed {here}",
            "if the application has an environment of its own, look there",
        )
    if sdks:
        yield ok(f"calls of models are recorded: {_listed(sdks)}")


def _importable(name: str) -> bool:
    # Not imported: that may do anything.
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        return False


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "of an unknown version"


def _listed(found: list[tuple[str, str]]) -> str:
    return ", ".join(f"{name} {version}" for name, version in found)


CHECKS: Final = (switched, endpoint, tags, prices, frameworks)
