"""`kaywatch doctor`: what is wrong, and how to mend it."""

from __future__ import annotations

import json
import textwrap
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import click

from kaywatch_agent.cli.doctor.finding import FAMILIES, Finding, Verdict, worst
from kaywatch_agent.cli.manual import manual

if TYPE_CHECKING:
    from kaywatch_agent.cli.doctor.ground import Ground

__all__ = ["doctor"]

FAILED: Final = 1
WIDTH: Final = 80

COLOURS: Final = {
    Verdict.OK: "green",
    Verdict.WARNING: "yellow",
    Verdict.PROBLEM: "red",
    Verdict.UNCHECKED: "cyan",
}
COLUMN: Final = 2 + max(map(len, Verdict)) + 2

Found = list[tuple[str, list[Finding]]]


@click.command(
    epilog=manual(
        "kaywatch doctor",
        "kaywatch doctor --config /etc/kaywatch/kaywatch.toml  # as root, all of it",
        "kaywatch doctor receivers store",
        "kaywatch doctor --json | jq .verdict",
        exits="0 no problem, though maybe warnings; 1 a problem; 2 wrong usage.",
    )
)
@click.argument(
    "families",
    nargs=-1,
    type=click.Choice(FAMILIES),
    metavar="[FAMILY]...",
)
@click.option(
    "--config",
    metavar="FILE",
    default="",
    help="The configuration.  [default: /etc/kaywatch/kaywatch.toml if it exists]",
)
@click.option(
    "--socket",
    metavar="PATH",
    default="",
    help="The agent's socket.  [default: what the configuration says, or where clients"
    " look]",
)
@click.option(
    "--store",
    metavar="PATH",
    default="",
    help="The agent's file.  [default: what the configuration says]",
)
@click.option(
    "--url",
    metavar="URL",
    default="",
    help="Where the agent serves HTTP.  [default: KAYWATCH_URL, or what the"
    " configuration says]",
)
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
def doctor(families: tuple[str, ...], as_json: bool, **asked: str) -> None:
    """Look for what is wrong, and say how to mend it.

    It looks at the agent, its configuration, socket, peers, clock, store, receivers,
    brokers, service and machine, and at what an application would find here; with
    FAMILY, at these alone. Nothing is changed, and nobody is told anything: receivers
    are connected to, and hung up on. An agent need not run.

    Some of it only the agent's user or root can see. What can't be looked at is not
    checked, and says why.
    """
    # They need the whole agent.
    from kaywatch_agent.cli.doctor.examine import examine
    from kaywatch_agent.cli.doctor.ground import Asked, survey

    ground = survey(Asked(**asked))
    found: Found = []
    if not as_json:
        _begin(ground)
    for family, findings in examine(ground, families or FAMILIES):
        found.append((family, findings))
        if not as_json:
            _show(family, findings)
    everything = [finding for _, findings in found for finding in findings]
    if as_json:
        click.echo(json.dumps(_as_json(ground, found), indent=2))
    else:
        click.echo(f"\n{_summary(everything)}")
    if worst(everything) is Verdict.PROBLEM:
        raise click.exceptions.Exit(FAILED)


def _begin(ground: Ground) -> None:
    if ground.health is None:
        click.echo(f"No agent answers at {ground.url}; what can be seen without one:")


def _show(family: str, findings: Sequence[Finding]) -> None:
    if not findings:
        return
    click.secho(f"\n{family}", bold=True)
    for finding in findings:
        verdict = click.style(
            str(finding.verdict).ljust(COLUMN - 2), COLOURS[finding.verdict]
        )
        first, *rest = _lines(finding.text)
        click.echo(f"  {verdict}{first}")
        for line in (*rest, *(_lines(finding.mend) if finding.mend else ())):
            click.echo(" " * COLUMN + line)


def _lines(text: str) -> list[str]:
    return textwrap.wrap(
        text, WIDTH - COLUMN, break_long_words=False, break_on_hyphens=False
    ) or [""]


def _summary(findings: list[Finding]) -> str:
    count = Counter(finding.verdict for finding in findings)
    return ", ".join(
        f"{count[verdict]} {_word(verdict, count[verdict])}" for verdict in Verdict
    )


def _word(verdict: Verdict, count: int) -> str:
    plural = verdict in (Verdict.WARNING, Verdict.PROBLEM) and count != 1
    return f"{verdict}s" if plural else str(verdict)


def _as_json(ground: Ground, found: Found) -> dict[str, Any]:
    everything = [finding for _, findings in found for finding in findings]
    return {
        "verdict": worst(everything),
        "url": ground.url,
        "socket": ground.socket,
        "store": str(ground.store) if ground.store else None,
        "findings": [
            {"family": family, **finding._asdict()}
            for family, findings in found
            for finding in findings
        ],
    }
