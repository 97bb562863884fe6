"""The settings of a process, and their environment variables."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from kaywatch.errors import ConfigurationError

if TYPE_CHECKING:
    from kaywatch._send.transport import Transport

__all__ = ["Settings", "parse_tags", "settings_from_environment", "warn"]

MIN_BUFFER_BYTES: Final = 1_000_000
FAILURES: Final = ("type", "message", "traceback")
_OFF: Final = {"0", "false", "no", "off"}


class Settings(NamedTuple):
    """The settings of a process; see `Process.configure`."""

    enabled: bool = True
    endpoint: str | None = None
    service: str = ""
    tags: Mapping[str, str] = MappingProxyType({})
    buffer_bytes: int = 32 * 1024 * 1024
    exit_timeout: float = 2.0
    connect: Callable[[], Transport] | None = None
    failures: str = "message"

    def updated(self, **arguments: Any) -> Settings:
        """Return these settings with the arguments that are not None.

        Raises:
            ConfigurationError: an argument is invalid.
        """
        changes = {key: value for key, value in arguments.items() if value is not None}
        Settings()._replace(**changes).check()  # only what the caller has given
        return self._replace(**changes)

    def check(self) -> None:
        """Validate the settings that the type checker cannot.

        Raises:
            ConfigurationError: one is invalid; the text names it and what is allowed.
        """
        if self.endpoint is not None:
            from kaywatch._send.connecting import check_usable

            # Check only the endpoint: an environment variable must not raise.
            check_usable(self.endpoint, environment={})
        if self.failures not in FAILURES:
            allowed = ", ".join(map(repr, FAILURES))
            raise ConfigurationError(
                f"failures={self.failures!r}: expected one of {allowed}"
            )
        if self.buffer_bytes < MIN_BUFFER_BYTES:
            raise ConfigurationError(
                f"buffer_bytes={self.buffer_bytes}: expected at least"
                f" {MIN_BUFFER_BYTES:_}"
            )


def settings_from_environment() -> Settings:
    """Return the settings from the environment, and log invalid ones."""
    collect = os.environ.get("KAYGRAPH_COLLECT_METRICS", "true").strip().lower()
    tags, invalid = parse_tags(os.environ.get("KAYWATCH_TAGS", ""))
    if invalid:
        warn("KAYWATCH_TAGS: expected key=value,..., got %r; ignored", invalid)
    failures = os.environ.get("KAYWATCH_FAILURES", Settings().failures)
    if failures not in FAILURES:
        allowed = " or ".join(FAILURES)
        warn("KAYWATCH_FAILURES=%s: expected %s; using type", failures, allowed)
        failures = "type"  # the value that records least
    return Settings(
        enabled=collect not in _OFF,
        endpoint=os.environ.get("KAYWATCH_ENDPOINT") or None,
        service=os.environ.get("KAYWATCH_SERVICE", ""),
        tags=MappingProxyType(tags),
        failures=failures,
    )


def warn(text: str, *values: object) -> None:
    """Log a warning."""
    import logging  # rarely needed, and the import takes milliseconds

    logging.getLogger("kaywatch").warning(text, *values)


def parse_tags(text: str) -> tuple[dict[str, str], list[str]]:
    """Parse tags such as `zone=b,tier=web`.

    Returns:
        The tags, with the last value of each key, and the parts that are not key=value.
    """
    tags: dict[str, str] = {}
    invalid: list[str] = []
    for part in filter(None, map(str.strip, text.split(","))):
        key, equals, value = (word.strip() for word in part.partition("="))
        if key and equals:
            tags[key] = value
        else:
            invalid.append(part)
    return tags, invalid
