"""`kaywatch demo`: an agent and a sample application."""

from __future__ import annotations

import re

import click

from kaywatch_agent.cli.commands import options
from kaywatch_agent.cli.demo.faults import FAULTS
from kaywatch_agent.cli.help import epilog

__all__ = ["demo"]


def _check_address(
    _context: click.Context, _option: click.Parameter, value: str | None
) -> str | None:
    if value is None or re.fullmatch(r"[^/]+:\d{1,5}", value, re.ASCII):
        return value
    raise click.BadParameter(f'"{value}": expected HOST:PORT, such as 127.0.0.1:9500')


@click.command(
    epilog=epilog(
        "kaywatch demo",
        "kaywatch demo --seconds 20",
        "kaywatch demo --fault runaway",
        exits="1 the counts of the agent and of the application differ, or the demo"
        " cannot start.",
    )
)
@click.option(
    "--seconds",
    metavar="DURATION",
    type=options.duration(1),
    help="Stop after this time, and print a summary.  [default: at Ctrl-C]",
)
@click.option(
    "--processes",
    metavar="N",
    default=2,
    show_default=True,
    type=click.IntRange(1, 32),
    help="Run N processes of the application.",
)
@click.option(
    "--http",
    "listen",
    metavar="HOST:PORT",
    callback=_check_address,
    help="The HTTP address of the agent; port 0 chooses a free one."
    "  [default: 127.0.0.1:9477, or a free port]",
)
@click.option(
    "--fault",
    metavar="NAME",
    type=click.Choice([*FAULTS]),
    help="Inject a fault after 30 seconds: failing, runaway, dead-end, slow or waste.",
)
def demo(
    seconds: float | None, processes: int, listen: str | None, fault: str | None
) -> None:
    """Run an agent and a sample application.

    The application uses PocketFlow, and some of its nodes fail now and then.
    Notifications are printed, and nothing is stored. The demo needs
    `pip install 'kaywatch[demo]'`.
    """
    from kaywatch_agent.cli.demo.runner import run_demo

    raise click.exceptions.Exit(run_demo(seconds, processes, listen, fault))
