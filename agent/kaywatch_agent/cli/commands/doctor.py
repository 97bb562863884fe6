"""`kaywatch doctor`: diagnose the agent and its environment, and suggest fixes."""

from __future__ import annotations

import textwrap
from collections import Counter
from typing import Final

import click

from kaywatch_agent.cli.commands import options, output
from kaywatch_agent.cli.doctor.result import SECTIONS, CheckResult, CheckStatus, worst
from kaywatch_agent.cli.help import epilog

__all__ = ["doctor"]

FAILED: Final = 1
WIDTH: Final = 80
COLUMN: Final = 2 + max(map(len, CheckStatus)) + 2
COLOURS: Final = {
    CheckStatus.OK: "green",
    CheckStatus.WARNING: "yellow",
    CheckStatus.PROBLEM: "red",
    CheckStatus.UNCHECKED: "cyan",
}


@click.command(
    epilog=epilog(
        "kaywatch doctor",
        "kaywatch doctor --config /etc/kaywatch/kaywatch.toml  # as root: all checks",
        "kaywatch doctor receivers store",
        "kaywatch doctor --json | jq .status",
        exits="0 no problems, possibly with warnings; 1 a problem; 2 usage error.",
    )
)
@click.argument(
    "sections", nargs=-1, type=click.Choice(SECTIONS), metavar="[SECTION]..."
)
@options.config
@click.option(
    "--socket",
    metavar="PATH",
    default="",
    help="The agent's socket.  [default: as configured, or where clients look]",
)
@click.option(
    "--store",
    metavar="PATH",
    default="",
    help="The agent's database.  [default: as configured]",
)
@click.option(
    "--url",
    metavar="URL",
    default="",
    help="The agent's HTTP address.  [default: KAYWATCH_URL, or as configured]",
)
@options.json
def doctor(sections: tuple[str, ...], as_json: bool, **values: str) -> None:
    """Diagnose the agent and its environment, and suggest fixes.

    Check the agent, its configuration, socket, clients, clock, store, receivers,
    brokers, exports, service and host, and the environment of applications started
    here. With SECTION, run only the checks of these sections. The checks
    change nothing, and need no running agent. They connect to receivers, but send no
    message. They send a canary to each export, and read it back from remote write.

    Some checks need the agent's user or root. Checks that are skipped are listed with
    the reason.
    """
    # Imported here, because these modules import the whole agent.
    from kaywatch_agent.cli.doctor.checks import run_checks
    from kaywatch_agent.cli.doctor.context import Options, gather

    # Gathered once, so that all checks judge the same state.
    context = gather(Options(**values))
    if context.health is None and not as_json:
        click.echo(f"No agent answers at {context.url}; only some checks are possible:")
    everything: list[tuple[str, CheckResult]] = []
    for section, results in run_checks(context, sections or SECTIONS):
        everything += [(section, result) for result in results]
        if results and not as_json:
            _show(section, results)
    all_results = [result for _, result in everything]
    if as_json:
        answer = {
            "status": worst(all_results),
            "url": context.url,
            "socket": context.socket,
            "store": str(context.store) if context.store else None,
            "results": [{"section": s, **r._asdict()} for s, r in everything],
        }
        output.print_json(answer)
    else:
        click.echo(f"\n{_summary(all_results)}")
    if worst(all_results) is CheckStatus.PROBLEM:
        raise click.exceptions.Exit(FAILED)


def _show(section: str, results: list[CheckResult]) -> None:
    click.secho(f"\n{section}", bold=True)
    for status, text, fix in results:
        label = click.style(str(status).ljust(COLUMN - 2), COLOURS[status])
        first, *rest = [*_lines(text), *_lines(fix)]
        click.echo(f"  {label}{first}")
        for line in rest:
            click.echo(" " * COLUMN + line)


def _lines(text: str) -> list[str]:
    return textwrap.wrap(
        text, WIDTH - COLUMN, break_long_words=False, break_on_hyphens=False
    )


def _summary(results: list[CheckResult]) -> str:
    count = Counter(result.status for result in results)
    return ", ".join(
        output.plural(count[status], status)
        if status in (CheckStatus.WARNING, CheckStatus.PROBLEM)
        else f"{count[status]} {status}"
        for status in CheckStatus
    )
