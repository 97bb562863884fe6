"""Compare figures with promises and peers: as a table and as JSON."""

from __future__ import annotations

import datetime as dt
import os
import platform
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from tests.bench import peers

__all__ = [
    "OURS",
    "Figure",
    "Promise",
    "Row",
    "missing_figure",
    "differences",
    "as_json",
    "describe_machine",
    "failed_row",
    "summarize",
    "overhead",
    "format_number",
    "format_ratio",
    "print_table",
]

OURS = "kaywatch"
WIDTH = 170  # columns, if the output is not a terminal


@dataclass(frozen=True)
class Figure:
    """The figure of kaywatch or a peer, in the unit of its row.

    Attributes:
        who: `kaywatch`, or the name of the peer.
        median, low, high: over the rounds; None if it was not measured.
        rounds: the number of rounds.
        note: a remark, such as losses, or why it was not measured.
    """

    who: str
    median: float | None
    low: float | None
    high: float | None
    rounds: int
    note: str = ""


@dataclass(frozen=True)
class Promise:
    """A promise of the design: a maximum, or a minimum."""

    limit: float
    at_least: bool = False

    def is_met(self, value: float) -> bool:
        """Return whether `value` keeps the promise."""
        return value >= self.limit if self.at_least else value <= self.limit


@dataclass(frozen=True)
class Row:
    """One measurement: the figures of kaywatch and its peers."""

    what: str
    unit: str
    ours: Figure
    promise: Promise | None = None
    peers: tuple[Figure, ...] = ()

    def ratio(self, peer: Figure) -> float | None:
        """Return the peer's figure divided by ours."""
        if not self.ours.median or not peer.median:
            return None
        return peer.median / self.ours.median


def summarize(who: str, samples: Sequence[float], note: str = "") -> Figure:
    """Return the median, minimum and maximum of some rounds."""
    return Figure(
        who, statistics.median(samples), min(samples), max(samples), len(samples), note
    )


def missing_figure(who: str, reason: str) -> Figure:
    """Return the figure of a peer that cannot be measured."""
    return Figure(who, None, None, None, 0, reason)


def failed_row(module: str, reason: str) -> Row:
    """Return the row of a module that failed. It has no figures."""
    return Row(f"bench_{module}", "", missing_figure(OURS, f"FAILED: {reason}"))


def differences(ours: Sequence[float], baseline: Sequence[float]) -> list[float]:
    """Return the difference to the baseline, round by round."""
    return [high - low for high, low in zip(ours, baseline, strict=True)]


def overhead(ours: Sequence[float], baseline: Sequence[float], unit: str) -> Figure:
    """Return what kaywatch adds to the baseline."""
    note = f"on top of {format_number(statistics.median(baseline))} {unit}"
    return summarize(OURS, differences(ours, baseline), note)


def describe_machine() -> dict[str, Any]:
    """Return the environment of the figures, before benchmarks put load on it."""
    return {
        "cpu": cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "date": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "load_average": os.getloadavg()[0],
        "versions": peers.versions(),
    }


def cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.machine()


def as_json(row: Row) -> dict[str, Any]:
    """Return a row as plain values, with its ratios."""
    promise, value = row.promise, row.ours.median
    met = None if promise is None or value is None else promise.is_met(value)
    return {
        "what": row.what,
        "unit": row.unit,
        "ours": vars(row.ours),
        "promise": promise and {**vars(promise), "kept": met},
        "peers": [{**vars(peer), "ratio": row.ratio(peer)} for peer in row.peers],
    }


def print_table(rows: Sequence[Row], machine: dict[str, Any]) -> None:
    """Print the table."""
    console = Console(width=None if sys.stdout.isatty() else WIDTH, highlight=False)
    table = Table(
        "measurement", "kaywatch", "promise", "kept?", "peers", show_lines=True
    )
    for row in rows:
        table.add_row(
            row.what,
            _format_figure(row.ours, row.unit),
            *_format_promise(row),
            "\n".join(_format_peer(row, peer) for peer in row.peers),
        )
    console.print(table)
    console.print(
        "Medians, with the extremes of the rounds in brackets. {cpu}, {cores} cores,"
        " Python {python}, Linux {kernel}, {date}, load {load_average:.1f} at the"
        " start.".format(**machine)
    )
    versions = machine["versions"].items()
    console.print(", ".join(f"{name} {version}" for name, version in versions))


def _format_figure(value: Figure, unit: str) -> str:
    if value.median is None or value.low is None or value.high is None:
        return value.note
    text = f"{format_number(value.median)} {unit}"
    if value.rounds > 1:
        text += f" ({format_number(value.low)} to {format_number(value.high)})"
    return f"{text}, {value.note}" if value.note else text


def _format_promise(row: Row) -> tuple[str, str]:
    promise, value = row.promise, row.ours.median
    if promise is None or value is None:
        return "", ""
    sign = ">=" if promise.at_least else "<="
    limit = f"{promise.limit:,.10g}"
    return f"{sign} {limit} {row.unit}", "yes" if promise.is_met(value) else "NO"


def _format_peer(row: Row, peer: Figure) -> str:
    ratio = row.ratio(peer)
    times = "" if ratio is None else f", {format_ratio(ratio)} times as much"
    return f"{peer.who}: {_format_figure(peer, row.unit)}{times}"


def format_number(value: float) -> str:
    """Format three significant digits, or all digits before the point."""
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2
    return f"{value:,.{digits}f}"


def format_ratio(ratio: float) -> str:
    """Format a ratio with two significant digits below 10."""
    return f"{ratio:.{1 if ratio >= 0.95 else 2}f}"
