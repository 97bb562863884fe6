"""`kaywatch notify` and `kaywatch outbox`: receivers tested, messages looked after."""

from __future__ import annotations

import json
import time
from typing import Any
from urllib.parse import quote

import click

from kaywatch.query import fetch, send
from kaywatch_agent.cli.commands.options import reading, url_option
from kaywatch_agent.cli.help import Ordered, manual
from kaywatch_agent.cli.tables import console, plain_table
from kaywatch_agent.units import duration

__all__ = ["notify", "outbox"]

PATH = "/api/v1/notifications"

# How long `notify test` waits for what becomes of its messages.
TEST_SECONDS = 30.0
POLL_SECONDS = 0.2

# Alerts of one message that are shown.
SHOWN = 3


@click.group(cls=Ordered)
def notify() -> None:
    """Show who is told, and send them a test.

    Receivers are in the configuration: docs/receivers.md.
    """


@notify.command("list", epilog=manual("kaywatch notify list"))
@reading
def receivers(url: str, as_json: bool) -> None:
    """Show the receivers, and whether they are reached."""
    found = fetch("/api/v1/receivers", {}, url)
    if as_json:
        click.echo(json.dumps(found))
        return
    if not found["receivers"]:
        click.echo("There are no receivers: add [receiver.NAME] to the configuration.")
        return
    table = plain_table(
        "receiver", "type", "state", "waiting", "dead", "", words=("type", "state", "")
    )
    for row in found["receivers"]:
        table.add_row(
            row["name"],
            row["type"],
            (row["disabled"] and "disabled") or ("up" if row["up"] else "failing"),
            str(row["waiting"]),
            str(row["dead"]),
            row["disabled"] or row["error"],
        )
    console().print(table)


@notify.command(
    epilog=manual(
        "kaywatch notify test ops",
        exits="1 it was not delivered, or there is no such receiver.",
    )
)
@click.argument("receiver")
@url_option
def test(receiver: str, url: str) -> None:
    """Send RECEIVER a test: that an alert fires, and then that it is over.

    Both are marked as tests. Waits for what becomes of them.
    """
    before = {row["id"] for row in _messages(url, receiver)}
    send("POST", f"/api/v1/receivers/{quote(receiver, safe='')}/test", None, url)
    end = time.monotonic() + TEST_SECONDS
    rows: list[Any] = []
    while time.monotonic() < end:
        rows = [row for row in _messages(url, receiver) if row["id"] not in before]
        if len(rows) == 2 and all(row["status"] != "pending" for row in rows):
            break
        time.sleep(POLL_SECONDS)
    for row in reversed(rows):
        click.echo(f"{row['alerts'][0]}: {_fate(row)}")
    if not rows or any(row["status"] != "sent" for row in rows):
        raise click.ClickException(f"{receiver} has not taken the test")
    click.echo(f"{receiver} has taken the test: that it fires, and that it is over.")


@click.group(cls=Ordered)
def outbox() -> None:
    """Show messages, and look after what wasn't delivered.

    A message that can't be delivered is tried again for a day; then, or when the
    receiver refuses it, it is dead and kept here.
    """


@outbox.command(
    "list",
    epilog=manual(
        "kaywatch outbox list", "kaywatch outbox list --status dead --receiver ops"
    ),
)
@click.option("--receiver", metavar="NAME", help="Only those to this receiver.")
@click.option(
    "--status",
    type=click.Choice(["pending", "sent", "dead", "superseded"]),
    help="Only those that wait, are sent, are given up, or have become needless.",
)
@click.option(
    "--limit",
    metavar="N",
    type=click.IntRange(1, 10_000),
    default=20,
    show_default=True,
    help="So many at most.",
)
@reading
def messages(
    receiver: str | None, status: str | None, limit: int, url: str, as_json: bool
) -> None:
    """Show messages, the newest first."""
    asked = {"receiver": receiver, "status": status, "limit": limit}
    given = {name: value for name, value in asked.items() if value is not None}
    found = fetch(PATH, given, url)
    if as_json:
        click.echo(json.dumps(found))
        return
    if not found["notifications"]:
        click.echo("There are no such messages.")
        return
    for row in found["notifications"]:
        age = duration(found["timestamp"] - row["created"])
        click.echo(f"{row['id']}  {row['receiver']}  {row['kind']}, {age} ago")
        click.echo(f"    {_fate(row)}")
        for subject in row["alerts"][:SHOWN]:
            click.echo(f"    {subject['summary']}")
        if len(row["alerts"]) > SHOWN:
            click.echo(f"    and {len(row['alerts']) - SHOWN} more")
    if found["matching"] > len(found["notifications"]):
        click.echo(f"{found['matching']} in all; --limit shows more")


@outbox.command(
    epilog=manual(
        "kaywatch outbox retry msg_01KZ9V5VE0ABCDEFGHJKMNPQRS",
        "kaywatch outbox retry --all",
    )
)
@click.argument("message", required=False)
@click.option("--all", "everything", is_flag=True, help="All that are dead.")
@url_option
def retry(message: str | None, everything: bool, url: str) -> None:
    """Send again what could not be delivered.

    MESSAGE is an id from `kaywatch outbox list`, or the first characters of it.
    """
    _done("sent again", _change("retry", message, everything, url))


@outbox.command(
    epilog=manual(
        "kaywatch outbox purge msg_01KZ9V5VE0ABCDEFGHJKMNPQRS",
        "kaywatch outbox purge --all",
    )
)
@click.argument("message", required=False)
@click.option("--all", "everything", is_flag=True, help="All that are dead.")
@url_option
def purge(message: str | None, everything: bool, url: str) -> None:
    """Forget what could not be delivered.

    MESSAGE is an id from `kaywatch outbox list`, or the first characters of it.
    """
    _done("forgotten", _change("purge", message, everything, url))


# -- inside --------------------------------------------------------------------------


def _messages(url: str, receiver: str) -> list[Any]:
    asked = {"receiver": receiver, "limit": 1000}
    found: list[Any] = fetch(PATH, asked, url)["notifications"]
    return [row for row in found if row["kind"] == "test"]


def _fate(row: dict[str, Any]) -> str:
    """Return what became of a message, in words."""
    if row["status"] == "sent":
        return "delivered"
    why = row["error"] or row["reason"]
    word = {"pending": "waiting", "dead": "given up"}.get(row["status"], row["status"])
    tries = f" after {row['attempts']} attempts" if row["attempts"] > 1 else ""
    return f"{word}{tries}: {why}" if why else f"{word}{tries}"


def _change(what: str, message: str | None, everything: bool, url: str) -> int:
    if (message is None) is not everything:
        raise click.UsageError("name a MESSAGE, or give --all")
    found = send("POST", f"{PATH}/{what}", {"id": message or ""}, url)
    return int(found["count"])


def _done(what: str, count: int) -> None:
    click.echo(f"{count} message{'' if count == 1 else 's'} {what}.")
