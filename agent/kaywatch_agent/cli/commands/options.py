"""Options that several commands have."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import click

from kaywatch.query import DEFAULT_URL
from kaywatch_agent.units import duration, parse_duration, parse_size

__all__ = ["Duration", "Size", "one_of", "reading", "url_option"]

F = TypeVar("F", bound=Callable[..., Any])

url_option = click.option(
    "--url",
    metavar="URL",
    envvar="KAYWATCH_URL",
    default=DEFAULT_URL,
    show_default=True,
    show_envvar=True,
    help="Where the agent serves HTTP.",
)


def reading(command: F) -> F:
    """Add the options of every command that reads from an agent."""
    command = click.option(
        "--json", "as_json", is_flag=True, help="Print the agent's JSON as it is."
    )(command)
    return url_option(command)


class Duration(click.ParamType):  # type: ignore[type-arg]
    """Seconds, written as a duration."""

    name = "duration"

    def __init__(self, least: float = 0.0) -> None:
        """Take no duration below `least` seconds."""
        self._least = least

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Return the seconds."""
        try:
            seconds = parse_duration(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)
        if seconds < self._least:
            self.fail(f"{value}: expected at least {duration(self._least)}", param, ctx)
        return seconds


class Size(click.ParamType):  # type: ignore[type-arg]
    """Bytes, written as a size; at least one."""

    name = "size"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> int:
        """Return the bytes."""
        try:
            count = parse_size(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)
        if not count:
            self.fail(f"{value}: expected at least 1 B", param, ctx)
        return count


def one_of(wanted: str, ids: Iterable[str], what: str, where: str) -> str:
    """Return the only id that begins like this.

    Raises:
        click.ClickException: there is none, or several.
    """
    found = [name for name in ids if name.startswith(wanted)]
    if len(found) == 1:
        return found[0]
    if wanted in found:
        return wanted
    if found:
        listed = ", ".join(found[:5])
        raise click.ClickException(
            f"{wanted}: {len(found)} {what}s begin so: {listed}; write more of it"
        )
    raise click.ClickException(f"{wanted}: no such {what}; {where} shows them")
