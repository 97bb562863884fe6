"""Replace the figures of docs/benchmarks.md and of the README by those of one run.

The plots of docs/benchmarks.md are drawn again, too.

python -m tests.bench.document [bench.json]
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any, Final

from tests.bench.plots import draw_plots
from tests.bench.report import format_number, format_ratio

from kaywatch._version import __version__

ROOT: Final = Path(__file__).parents[2]
PAGE: Final = ROOT / "docs" / "benchmarks.md"
README: Final = ROOT / "README.md"
TIMES: Final = "\N{MULTIPLICATION SIGN}"
HEADER: Final = "| measurement | kaywatch | promise | peers, and how many times as much"
# The sentence about the run, and the table after it.
FIGURES: Final = re.compile(
    r"Measured by `make bench.*?\n\n\| measurement.*?\n\n", re.DOTALL
)

# The rows that the README shows, and what it calls them.
HIGHLIGHTS: Final = {
    "recording call, while a thread packs and sends": "recording an event in the"
    " application",
    "instrumented visit of a PocketFlow Node": "one visit of a PocketFlow node,"
    " recorded",
    "agent CPU, 500 processes with 20 events/s each": "CPU of an agent for 500"
    " processes with 20 events/s each",
}
# The peers that it shows beside them; the page has the others.
HIGHLIGHT_PEERS: Final = (
    *("prometheus_client", "statsd over UDP", "OpenTelemetry SDK"),
    *("not instrumented", "statsd, 1 per packet", "collectd, 1 per packet"),
)
HIGHLIGHTS_HEADER: Final = "| | kaywatch | for comparison |"
HIGHLIGHTS_TABLE: Final = re.compile(
    rf"{re.escape(HIGHLIGHTS_HEADER)}\n.*?\n\n", re.DOTALL
)


def render(document: dict[str, Any]) -> str:
    """Return the sentence about a run and its table, as Markdown."""
    machine = document["machine"]
    command = "make bench QUICK=1" if document["quick"] else "make bench"
    sentence = (
        f"Measured by `{command}` with kaywatch {__version__} on"
        f" {machine['date'][:10]}, in"
        f" {document['seconds'] / 60:.0f} minutes, on a virtual machine with"
        f" {machine['cores']} cores ({machine['cpu']}), Python {machine['python']},"
        f" Linux; load {machine['load_average']:.1f} at the start. Brackets contain the"
        f' minimum and maximum of the rounds; "(3.3{TIMES})" means that the peer takes'
        " 3.3 times as much."
    )
    lines = [f"{HEADER} they take |", "|---|---|---|---|"]
    lines += [_line(row) for row in document["rows"]]
    return "\n".join((sentence, "", *lines)) + "\n\n"


def render_highlights(document: dict[str, Any]) -> str:
    """Return the table of the README, as Markdown."""
    rows = {row["what"]: row for row in document["rows"]}
    lines = [HIGHLIGHTS_HEADER, "|---|---|---|"]
    for what, label in HIGHLIGHTS.items():
        row = rows[what]
        peers = "; ".join(
            f"{peer['who']}: {format_number(peer['median'])} {row['unit']}"
            for peer in row["peers"]
            if peer["who"] in HIGHLIGHT_PEERS and peer["median"] is not None
        )
        ours = f"**{format_number(row['ours']['median'])} {row['unit']}**"
        lines.append(f"| {label} | {ours} | {peers} |".replace("|  |", "| |"))
    return "\n".join(lines) + "\n\n"


def _line(row: dict[str, Any]) -> str:
    peers = "; ".join(_peer(peer, row["unit"]) for peer in row["peers"])
    ours = _figure(row["ours"], row["unit"])
    return f"| {row['what']} | {ours} | {_promise(row)} | {peers} |"


def _figure(figure: dict[str, Any], unit: str, mark: str = "**") -> str:
    """Return a median with its extremes and its note."""
    if figure["median"] is None:
        return str(figure["note"])
    text = f"{mark}{format_number(figure['median'])} {unit}{mark}"
    if figure["rounds"] > 1:
        low, high = format_number(figure["low"]), format_number(figure["high"])
        text += f" ({low} to {high})"
    return f"{text}, {figure['note']}" if figure["note"] else text


def _peer(peer: dict[str, Any], unit: str) -> str:
    text = f"{peer['who']}: {_figure({**peer, 'rounds': 1}, unit, mark='')}"
    ratio = peer["ratio"]
    return text if ratio is None else f"{text} ({format_ratio(ratio)}{TIMES})"


def _promise(row: dict[str, Any]) -> str:
    promise = row["promise"]
    if promise is None or promise["kept"] is None:
        return ""
    sign = "≥" if promise["at_least"] else "≤"
    result = "kept" if promise["kept"] else "**missed**"
    return f"{sign} {promise['limit']:,.10g}: {result}"


def main() -> None:
    source = Path(sys.argv[1] if len(sys.argv) > 1 else "bench.json")
    document = json.loads(source.read_text())
    replace(PAGE, FIGURES, render(document))
    replace(README, HIGHLIGHTS_TABLE, render_highlights(document))
    draw_plots(document)


def replace(page: Path, pattern: re.Pattern[str], table: str) -> None:
    """Replace the one table of a page that matches a pattern."""
    text, count = pattern.subn(lambda _: table, page.read_text())
    if count != 1:
        sys.exit(f"{page}: {count} tables match {pattern.pattern!r}, expected one")
    page.write_text(text)


if __name__ == "__main__":
    main()
