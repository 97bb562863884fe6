"""Options that several commands have."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import click

from kaywatch.query import DEFAULT_URL
from kaywatch_agent import durations

__all__ = ["LENGTH", "one_of", "reading", "url_option"]

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


class _Length(click.ParamType):  # type: ignore[type-arg]
    """A length of time, in seconds."""

    name = "length"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        if isinstance(value, float):
            return value
        try:
            return durations.seconds(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


LENGTH = _Length()


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
