"""`kaywatch report`: one file for a ticket or an e-mail."""

from __future__ import annotations

from pathlib import Path

import click

from kaywatch_agent.cli.commands import options
from kaywatch_agent.cli.help import epilog

__all__ = ["report"]


@click.command(
    epilog=epilog(
        "kaywatch report",
        "kaywatch report --since 2h -o incident.html",
        "kaywatch report -o - | gzip > report.html.gz",
        exits="1 the agent does not answer, or the file cannot be written.",
    )
)
@click.option(
    "--since",
    metavar="DURATION",
    type=options.duration(10),
    default="24h",
    show_default=True,
    help="The length of the period, which ends now.",
)
@click.option(
    "-o",
    "--output",
    metavar="FILE",
    default="kaywatch-report.html",
    show_default=True,
    help="The file to write; - for standard output.",
)
@options.url
def report(since: float, output: str, url: str) -> None:
    """Write a report as one HTML file, for a ticket or an e-mail.

    It shows health, alerts, graphs, nodes, failures, cost and processes, and needs
    neither scripts nor a connection. Error messages are redacted as in the
    agent.
    """
    # Imported here: rendering needs modules that no other command does.
    from kaywatch_agent.cli.report.content import gather
    from kaywatch_agent.cli.report.render import render

    page = render(gather(url, since))
    if output == "-":
        click.echo(page, nl=False)
        return
    try:
        Path(output).write_text(page, encoding="utf-8")
    except OSError as error:
        raise click.ClickException(
            f"cannot write {output}: {error.strerror};"
            " choose another file with --output"
        ) from None
    click.echo(output)
