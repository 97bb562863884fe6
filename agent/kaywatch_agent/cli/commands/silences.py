"""`kaywatch silence`: made, listed, ended."""

from __future__ import annotations

import datetime as dt
import getpass
import json
from typing import Any
from urllib.parse import quote

import click

from kaywatch.query import fetch, send
from kaywatch_agent.cli.commands.options import Duration, one_of, reading, url_option
from kaywatch_agent.cli.help import Ordered, manual
from kaywatch_agent.cli.tables import console, plain_table
from kaywatch_agent.rules.matchers import Matcher, parse
from kaywatch_agent.units import duration

__all__ = ["silence"]


@click.group(cls=Ordered)
def silence() -> None:
    """Tell nobody of some alerts for a while.

    Alerts go on, and `kaywatch alerts` shows them as silenced.
    """


@silence.command(
    epilog=manual(
        "kaywatch silence add graph=batch --for 2h --comment migration",
        "kaywatch silence add 'node=~load|store' severity=warning --for 1d",
    )
)
@click.argument("matchers", nargs=-1, required=True, metavar="MATCHER...")
@click.option(
    "--for",
    "seconds",
    type=Duration(0.001),
    required=True,
    metavar="DURATION",
    help="How long: 2h.",
)
@click.option("--comment", default="", metavar="TEXT", help="Why.")
@click.option("--by", default=None, metavar="NAME", help="Who; by default you.")
@reading
def add(
    matchers: tuple[str, ...],
    seconds: float,
    comment: str,
    by: str | None,
    url: str,
    as_json: bool,
) -> None:
    """Tell nobody of the alerts whose labels meet all MATCHERs.

    A MATCHER is graph=checkout, node!=pay, node=~"a|b.*" or alertname=slow. Alerts
    go on; who was told that one fires is told of its end.
    """
    end = dt.datetime.now(dt.UTC) + dt.timedelta(seconds=seconds)
    found = send(
        "POST",
        "/api/v1/silences",
        {
            "matchers": [_json(_matcher(text)) for text in matchers],
            "endsAt": end.isoformat(),
            "comment": comment,
            "createdBy": _user() if by is None else by,
        },
        url,
    )
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    made = found["silence"]
    click.echo(f"{made['id']} until {_moment(made['endsAt'])}")
    click.echo(f"  {_covers(made)}")


@silence.command("list", epilog=manual("kaywatch silence list --expired"))
@click.option("--expired", is_flag=True, help="Show those that are over, too.")
@reading
def list_(expired: bool, url: str, as_json: bool) -> None:
    """Show the silences."""
    found = fetch("/api/v1/silences", url=url)
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    rows = [
        s for s in found["silences"] if expired or s["status"]["state"] != "expired"
    ]
    if not rows:
        click.echo("No silences.")
        return
    table = plain_table(
        *("id", "state", "ends", "alerts", "matchers"),
        words=("state", "matchers"),
        ratios={"matchers": 1},
        wrapped=("matchers",),
    )
    now = found["timestamp"]
    for one in rows:
        state = one["status"]["state"]
        left = dt.datetime.fromisoformat(one["endsAt"]).timestamp() - now
        ends = f"in {duration(left)}" if left > 0 else f"{duration(-left)} ago"
        who = f" ({', '.join(filter(None, (one['createdBy'], one['comment'])))})"
        table.add_row(
            one["id"][:8], state, ends, str(one["alerts"]), _matched(one) + who
        )
    console().print(table)


@silence.command(epilog=manual("kaywatch silence expire 7cdc9c0e"))
@click.argument("silence_id", metavar="ID")
@url_option
def expire(silence_id: str, url: str) -> None:
    """End a silence now.

    ID is from `kaywatch silence list`; its first digits are enough.
    """
    known = fetch("/api/v1/silences", url=url)["silences"]
    held = [s["id"] for s in known if s["status"]["state"] != "expired"]
    name = one_of(silence_id, held, "silence", "kaywatch silence list")
    send("DELETE", f"/api/v1/silences/{quote(name, safe='')}", url=url)
    click.echo(f"{name} is over")


# -- inside --------------------------------------------------------------------------


def _matcher(text: str) -> Matcher:
    try:
        return parse(text)
    except ValueError as error:
        raise click.UsageError(str(error)) from None


def _json(matcher: Matcher) -> dict[str, Any]:
    return {
        "name": matcher.name,
        "value": matcher.value,
        "isRegex": matcher.is_regex,
        "isEqual": matcher.is_equal,
    }


def _matched(row: Any) -> str:
    found = [
        str(Matcher(m["name"], m["value"], m["isRegex"], m["isEqual"]))
        for m in row["matchers"]
    ]
    return " ".join(found)


def _covers(row: Any) -> str:
    count = row["alerts"]
    if not count:
        return "no alert that fires now is covered"
    if count == 1:
        return "1 alert that fires now is covered"
    return f"{count} alerts that fire now are covered"


def _moment(text: str) -> str:
    return f"{dt.datetime.fromisoformat(text):%Y-%m-%d %H:%M:%S} UTC"


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return ""
