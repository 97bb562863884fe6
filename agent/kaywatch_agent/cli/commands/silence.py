"""`kaywatch silence`: mute notifications for a time."""

from __future__ import annotations

import datetime as dt
import getpass
from typing import Any
from urllib.parse import quote

import click

from kaywatch.query import fetch, send
from kaywatch_agent.cli.commands import options, output
from kaywatch_agent.cli.commands.output import Json
from kaywatch_agent.cli.help import OrderedGroup, epilog
from kaywatch_agent.rules.matchers import Matcher, parse
from kaywatch_agent.units import clock_time, duration

__all__ = ["silence"]

PATH = "/api/v1/silences"


@click.group(cls=OrderedGroup)
def silence() -> None:
    """Mute the notifications of some alerts for a time.

    Their rules are still evaluated, and `kaywatch alerts` shows them as silenced.
    """


@silence.command(
    epilog=epilog(
        "kaywatch silence add node=Draft",
        "kaywatch silence add graph=SupportDesk --for 2h --comment migration",
        "kaywatch silence add 'node=~Draft|Send' severity=warning --for 1d",
    )
)
@click.argument("matchers", nargs=-1, required=True, metavar="MATCHER...")
@click.option(
    "--for",
    "seconds",
    type=options.duration(0.001),
    # The default of amtool.
    default="1h",
    show_default=True,
    metavar="DURATION",
    help="How long the silence lasts.",
)
@click.option("--comment", default="", metavar="TEXT", help="The reason.")
@click.option("--by", metavar="NAME", help="Your name.  [default: your user name]")
@options.agent
def add(
    matchers: tuple[str, ...],
    seconds: float,
    comment: str,
    by: str | None,
    url: str,
    as_json: bool,
) -> None:
    """Mute alerts whose labels match every MATCHER.

    A MATCHER is graph=checkout, node!=pay, node=~"a|b.*" or alertname=slow. Receivers
    that were notified of a firing alert are still notified when it resolves.
    """
    end = dt.datetime.now(dt.UTC) + dt.timedelta(seconds=seconds)
    body = {
        "matchers": [_matcher_json(text) for text in matchers],
        "endsAt": end.isoformat(),
        "comment": comment,
        "createdBy": _user_name() if by is None else by,
    }
    output.print_result(send("POST", PATH, body, url), as_json, _show_created)


@silence.command("list", epilog=epilog("kaywatch silence list --expired"))
@click.option("--expired", is_flag=True, help="Include expired silences.")
@options.agent
def list_(expired: bool, url: str, as_json: bool) -> None:
    """List silences."""
    answer = fetch(PATH, url=url)
    answer["silences"] = [
        row for row in answer["silences"] if expired or not _is_expired(row)
    ]
    output.print_result(answer, as_json, _show_silences)


@silence.command(
    epilog=epilog("kaywatch silence expire --all  # or an ID of kaywatch silence list")
)
@click.argument("silence_id", metavar="[ID]", required=False)
@click.option(
    "--all",
    "everything",
    is_flag=True,
    help="Expire all silences that are not configured.",
)
@options.url
def expire(silence_id: str | None, everything: bool, url: str) -> None:
    """Expire a silence now.

    ID is an id from `kaywatch silence list`, or its first characters.
    """
    options.check_target("ID", silence_id, everything)
    rows = fetch(PATH, url=url)["silences"]
    # The ids of expired silences would only make prefixes ambiguous.
    ids = [row["id"] for row in rows if not _is_expired(row)]
    if everything:
        ids = [
            row["id"] for row in rows if not _is_expired(row) and not row["configured"]
        ]
    if silence_id is not None:
        ids = [options.expand_id(silence_id, ids, "silence", "kaywatch silence list")]
    for name in ids:
        send(
            "DELETE",
            f"{PATH}/{quote(name, safe='', errors='surrogateescape')}",
            url=url,
        )
        click.echo(f"expired {name}")


# -- inside --------------------------------------------------------------------------


def _show_created(answer: Json) -> None:
    row = answer["silence"]
    end = clock_time(_timestamp(row["endsAt"]), _timestamp(row["startsAt"]))
    click.echo(f"{row['id']} until {end}")
    click.echo(f"  mutes {output.plural(row['alerts'], 'firing alert')}")
    for text in answer.get("warnings", ()):
        output.print_wrapped(f"  warning: {text}")


def _show_silences(answer: Json) -> None:
    if not answer["silences"]:
        click.echo("No silences.")
        return
    columns = {
        # Enough to be unique in practice, and `expire` accepts a prefix.
        "id": lambda row: row["id"][:8],
        "state": lambda row: row["status"]["state"],
        "ends": lambda row: _format_end(row, answer["timestamp"]),
        "alerts": lambda row: f"{row['alerts']:,}",
        "matchers": _format_matchers,
    }
    output.print_table(
        columns,
        answer["silences"],
        words=("state", "matchers"),
        ratios={"matchers": 1},
        wrapped=("matchers",),
    )


def _format_end(row: Json, now: float) -> str:
    remaining = _timestamp(row["endsAt"]) - now
    return (
        f"in {duration(remaining)}" if remaining > 0 else f"{duration(-remaining)} ago"
    )


def _format_matchers(row: Json) -> str:
    matchers = [
        str(Matcher(m["name"], m["value"], m["isRegex"], m["isEqual"]))
        for m in row["matchers"]
    ]
    origin = ", ".join(filter(None, (row["createdBy"], row["comment"])))
    return " ".join(matchers) + (f" ({origin})" if origin else "")


def _matcher_json(text: str) -> dict[str, Any]:
    try:
        matcher = parse(text)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    return {
        "name": matcher.name,
        "value": matcher.value,
        "isRegex": matcher.is_regex,
        "isEqual": matcher.is_equal,
    }


def _is_expired(row: Json) -> bool:
    return bool(row["status"]["state"] == "expired")


def _timestamp(text: str) -> float:
    return dt.datetime.fromisoformat(text).timestamp()


def _user_name() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container's user without an entry in passwd
        return ""
