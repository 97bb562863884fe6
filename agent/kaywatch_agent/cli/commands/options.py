"""Options and parameter types that several commands share."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final, TypeVar

import click

from kaywatch.query import DEFAULT_URL
from kaywatch_agent import units

__all__ = [
    "SIZE", "ParsedType", "agent", "check_target", "config", "duration", "expand_id",
    "filters", "json", "limit", "socket", "url", "window",
]  # fmt: skip

F = TypeVar("F", bound=Callable[..., Any])

url = click.option(
    "--url",
    metavar="URL",
    envvar="KAYWATCH_URL",
    default=DEFAULT_URL,
    show_default=True,
    show_envvar=True,
    help="The agent's HTTP address.",
)
json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
config = click.option(
    "--config",
    metavar="FILE",
    default="",
    help="The configuration file.  [default: /etc/kaywatch/kaywatch.toml if it exists]",
)
socket = click.option(
    "--socket",
    metavar="PATH",
    default="",
    help="The agent's socket.  [default: KAYWATCH_ENDPOINT, or the socket of the agent"
    " at --url, or where clients look]",
)


def agent(command: F) -> F:
    """Add the options of every command that reads from an agent."""
    return url(json(command))


def limit(default: int) -> Callable[[F], F]:
    """Return the option that limits how many items are shown."""
    return click.option(
        "--limit",
        metavar="N",
        type=click.IntRange(1, 10_000),
        default=default,
        show_default=True,
        help="Show at most N entries.",
    )


def window(default: str | None) -> Callable[[F], F]:
    """Return the option for the window of statistics."""
    help = "The window, such as 30s, 5m or 24h."
    return click.option(
        "--window",
        metavar="DURATION",
        default=default,
        show_default=default is not None,
        callback=_check_window,
        help=help if default else f"{help}  [default: since first seen]",
    )


def _check_window(
    ctx: click.Context, param: click.Parameter, value: str | None
) -> str | None:
    """Validate a window; return it unchanged, because the agent parses it."""
    if value is not None:
        # The agent would reject it, too, but a usage error must exit with 2, not 1.
        duration(0.001).convert(value, param, ctx)
    return value


def filters(
    *names: str, repeatable: bool = False, verb: str = "Include only"
) -> Callable[[F], F]:
    """Return the options `--service`, `--graph` and `--node`."""

    def decorate(command: F) -> F:
        # Decorators apply from the last to the first, so `--help` lists them in order.
        for name in reversed(names):
            text = f"{verb} this {name}{'; repeatable' if repeatable else ''}."
            command = click.option(
                f"--{name}", metavar="NAME", multiple=repeatable, help=text
            )(command)
        return command

    return decorate


class ParsedType(click.ParamType):  # type: ignore[type-arg]
    """A value that a function parses; its `ValueError` is the error message."""

    def __init__(self, name: str, parse: Callable[[str], Any]) -> None:
        self.name = name
        self._parse = parse

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> Any:
        """Return the value."""
        try:
            return self._parse(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


def duration(minimum: float = 0.0) -> ParsedType:
    """Return the type of durations such as `1h30m`; values are in seconds."""

    def parse(text: str) -> float:
        seconds = units.parse_duration(text)
        if seconds < minimum:
            least = units.duration(minimum)
            raise ValueError(f'invalid duration "{text}": expected at least {least}')
        return seconds

    return ParsedType("duration", parse)


def _parse_size(text: str) -> int:
    size = units.parse_size(text)
    if not size:
        raise ValueError(f'invalid size "{text}": expected at least 1 B')
    return size


# Sizes such as `100MB`; values are in bytes.
SIZE: Final = ParsedType("size", _parse_size)


def check_target(name: str, target: str | None, everything: bool) -> None:
    """Check that a command was given either a target or `--all`.

    Raises:
        click.UsageError: neither or both were given, or the target is empty. An unset
            variable in a script must not select everything.
    """
    if (target is None) is not everything or target == "":
        raise click.UsageError(f"expected either {name} or --all")


def expand_id(prefix: str, ids: Iterable[str], noun: str, command: str) -> str:
    """Return the only id that starts with a prefix.

    Args:
        prefix: the first characters of an id, or all of it.
        ids: the known ids.
        noun: what the ids identify.
        command: the command that lists them.

    Raises:
        click.ClickException: no id starts with the prefix, or several do.
    """
    matches = [name for name in ids if name.startswith(prefix)]
    # A whole id is never ambiguous, even if others start with it.
    if prefix in matches:
        return prefix
    if not matches:
        raise click.ClickException(
            f"unknown {noun} {prefix!r}; `{command}` lists the known ones"
        )
    if len(matches) > 1:
        listed = ", ".join(matches[:5])
        raise click.ClickException(
            f"{prefix} is ambiguous: {len(matches)} {noun}s start with it ({listed})"
        )
    return matches[0]
