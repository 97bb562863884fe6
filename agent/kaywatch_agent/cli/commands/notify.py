"""`kaywatch notify` and `kaywatch outbox`: receivers, and the messages to them."""

from __future__ import annotations

import time
from typing import Any, Final
from urllib.parse import quote

import click

from kaywatch.query import fetch, send
from kaywatch_agent.cli.commands import options, output
from kaywatch_agent.cli.commands.output import Json
from kaywatch_agent.cli.help import OrderedGroup, epilog
from kaywatch_agent.cli.tables import clean
from kaywatch_agent.units import duration

__all__ = ["notify", "outbox"]

PATH: Final = "/api/v1/notifications"

# How long `notify test` waits for the delivery of its two messages.
TEST_SECONDS: Final = 30.0
POLL_SECONDS: Final = 0.2

MAX_SHOWN_ALERTS: Final = 3

# The highest limit that the agent accepts: the start of an id is looked up in the list.
MAX_DEAD: Final = 10_000

_STATES: Final = {True: "up", False: "down", None: "not used yet"}
_RECEIVER_COLUMNS: Final = {
    "receiver": lambda row: row["name"],
    "type": lambda row: row["type"],
    "state": lambda row: (row["disabled"] and "disabled") or _STATES[row["up"]],
    "pending": lambda row: f"{row['waiting']:,}",
    "dead": lambda row: f"{row['dead']:,}",
    "error": lambda row: row["disabled"] or row["error"],
}


@click.group(cls=OrderedGroup)
def notify() -> None:
    """List receivers, and send test notifications.

    docs/receivers.md explains how to configure receivers.
    """


@notify.command("list", epilog=epilog("kaywatch notify list"))
@options.agent
def list_receivers(url: str, as_json: bool) -> None:
    """List receivers and whether they can be reached."""
    output.print_result(fetch("/api/v1/receivers", url=url), as_json, _show_receivers)


@notify.command(
    epilog=epilog(
        "kaywatch notify test ops",
        exits="1 the test was not delivered, or the receiver is unknown.",
    )
)
@click.argument("receiver")
@options.url
def test(receiver: str, url: str) -> None:
    """Send RECEIVER a test alert that fires and resolves.

    Both messages are marked as tests. The command waits until they are delivered.
    """
    # Earlier tests are still in the outbox; the response does not name the new ones.
    earlier = {message["id"] for message in _test_messages(receiver, url)}
    send(
        "POST",
        f"/api/v1/receivers/{quote(receiver, safe='', errors='surrogateescape')}/test",
        None,
        url,
    )
    deadline = time.monotonic() + TEST_SECONDS
    messages: list[Any] = []
    while time.monotonic() < deadline:
        messages = [m for m in _test_messages(receiver, url) if m["id"] not in earlier]
        if len(messages) == 2 and all(m["status"] != "pending" for m in messages):
            break
        time.sleep(POLL_SECONDS)
    # The list begins with the newest; people read the firing message first.
    for message in reversed(messages):
        summary = message["alerts"][0]["summary"]
        click.echo(clean(f"{summary}: {output.format_delivery(message)}"))
    # A message that is still pending after the deadline counts as not accepted.
    if not messages or any(message["status"] != "sent" for message in messages):
        raise click.ClickException(f"{receiver} did not accept the test")
    click.echo(f"{receiver} accepted the test: a firing and a resolved alert.")


@click.group(cls=OrderedGroup)
def outbox() -> None:
    """List messages, and retry or purge undelivered ones.

    A message that cannot be delivered is retried for a day. Then, or when the receiver
    rejects it, it is dead: it stays in the outbox until it is retried or purged.
    """


@outbox.command(
    "list",
    epilog=epilog(
        "kaywatch outbox list", "kaywatch outbox list --status dead --receiver ops"
    ),
)
@options.filters("receiver")
@click.option(
    "--status",
    type=click.Choice(["pending", "sent", "dead", "superseded"]),
    help="Include only messages with this status.",
)
@options.limit(20)
@options.agent
def list_messages(
    receiver: str | None, status: str | None, limit: int, url: str, as_json: bool
) -> None:
    """List messages, the newest first."""
    query = {"receiver": receiver, "status": status, "limit": limit}
    output.print_result(fetch(PATH, query, url), as_json, _show_messages)


@outbox.command(epilog=epilog("kaywatch outbox retry --all"))
@click.argument("message", required=False)
@click.option("--all", "everything", is_flag=True, help="Retry all dead messages.")
@options.url
def retry(message: str | None, everything: bool, url: str) -> None:
    """Send dead messages again.

    MESSAGE is an id from `kaywatch outbox list`, or its first characters.
    """
    _change("retry", message, everything, url)


@outbox.command(epilog=epilog("kaywatch outbox purge --all"))
@click.argument("message", required=False)
@click.option("--all", "everything", is_flag=True, help="Purge all dead messages.")
@options.url
def purge(message: str | None, everything: bool, url: str) -> None:
    """Delete dead messages.

    MESSAGE is an id from `kaywatch outbox list`, or its first characters.
    """
    _change("purge", message, everything, url)


# -- inside --------------------------------------------------------------------------


def _show_receivers(answer: Json) -> None:
    if not answer["receivers"]:
        click.echo("No receivers: add [receiver.NAME] to the configuration.")
        return
    words = ("type", "state", "error")
    output.print_table(_RECEIVER_COLUMNS, answer["receivers"], words=words)


def _show_messages(answer: Json) -> None:
    messages = answer["notifications"]
    if not messages:
        click.echo("No message matches.")
    for message in messages:
        age = duration(answer["timestamp"] - message["created"])
        click.echo(
            f"{message['id']}  {message['receiver']}  {message['kind']}, {age} ago"
        )
        output.print_wrapped(output.format_delivery(message), "    ")
        for alert in message["alerts"][:MAX_SHOWN_ALERTS]:
            click.echo(f"    {clean(alert['summary'])}")
        if len(message["alerts"]) > MAX_SHOWN_ALERTS:
            click.echo(f"    and {len(message['alerts']) - MAX_SHOWN_ALERTS} more")
    if answer["matching"] > len(messages):
        click.echo(f"and {answer['matching'] - len(messages):,} more: --limit N")


def _test_messages(receiver: str, url: str) -> list[Any]:
    query = {"receiver": receiver, "limit": 1000}
    messages: list[Any] = fetch(PATH, query, url)["notifications"]
    return [message for message in messages if message["kind"] == "test"]


def _change(action: str, message: str | None, everything: bool, url: str) -> None:
    options.check_target("MESSAGE", message, everything)
    name = ""
    if message is not None:
        query = {"status": "dead", "limit": MAX_DEAD}
        ids = [row["id"] for row in fetch(PATH, query, url)["notifications"]]
        command = "kaywatch outbox list --status dead"
        name = options.expand_id(message, ids, "dead message", command)
    answer = send("POST", f"{PATH}/{action}", {"id": name}, url)
    done = {"retry": "queued again", "purge": "deleted"}[action]
    click.echo(f"{output.plural(answer['count'], 'message')} {done}.")
