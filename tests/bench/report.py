"""Figures beside their promises and their peers: one table, and the same as JSON."""

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
    "absent",
    "added",
    "as_json",
    "describe_machine",
    "failure",
    "figure",
    "more",
    "show",
]

OURS = "kaywatch"
WIDTH = 170  # where the output is no terminal


@dataclass(frozen=True)
class Figure:
    """What the rounds of one party came to, in the unit of its row.

    Attributes:
        who: `kaywatch`, or the peer.
        median, low, high: over the rounds; None where it was not measured.
        rounds: how many there were.
        note: what else there is to know: losses, or why it was not measured.
    """

    who: str
    median: float | None
    low: float | None
    high: float | None
    rounds: int
    note: str = ""


@dataclass(frozen=True)
class Promise:
    """What the design promises: a figure to stay under, or to reach."""

    limit: float
    at_least: bool = False

    def is_met(self, value: float) -> bool:
        """Return whether `value` keeps it."""
        return value >= self.limit if self.at_least else value <= self.limit


@dataclass(frozen=True)
class Row:
    """One thing that was measured, of ours and of peers."""

    what: str
    unit: str
    ours: Figure
    promise: Promise | None = None
    peers: tuple[Figure, ...] = ()

    def ratio(self, peer: Figure) -> float | None:
        """Return how many times as much the peer takes."""
        if not self.ours.median or not peer.median:
            return None
        return peer.median / self.ours.median


def figure(who: str, samples: Sequence[float], note: str = "") -> Figure:
    """Return the median of some rounds, with their extremes."""
    return Figure(
        who, statistics.median(samples), min(samples), max(samples), len(samples), note
    )


def absent(who: str, reason: str) -> Figure:
    """Return the figure of a peer that is not here to be measured."""
    return Figure(who, None, None, None, 0, reason)


def failure(module: str, reason: str) -> Row:
    """Return the row of a module that failed: it has no figures."""
    return Row(f"bench_{module}", "", absent(OURS, f"FAILED: {reason}"))


def added(with_it: Sequence[float], without: Sequence[float]) -> list[float]:
    """Return how much more it was, round by round."""
    return [more - less for more, less in zip(with_it, without, strict=True)]


def more(with_it: Sequence[float], without: Sequence[float], unit: str) -> Figure:
    """Return how much we add to what takes so long without us."""
    than = f"on top of {_number(statistics.median(without))} {unit}"
    return figure(OURS, added(with_it, without), than)


def describe_machine() -> dict[str, Any]:
    """Return what the figures depend on; before the load of the measuring itself."""
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
    """Return a row as plain values, with what follows from them."""
    promise, value = row.promise, row.ours.median
    met = None if promise is None or value is None else promise.is_met(value)
    return {
        "what": row.what,
        "unit": row.unit,
        "ours": vars(row.ours),
        "promise": promise and {**vars(promise), "kept": met},
        "peers": [{**vars(peer), "ratio": row.ratio(peer)} for peer in row.peers],
    }


def show(rows: Sequence[Row], machine: dict[str, Any]) -> None:
    """Print the table."""
    console = Console(width=None if sys.stdout.isatty() else WIDTH, highlight=False)
    table = Table("what", "kaywatch", "promise", "kept?", "peers", show_lines=True)
    for row in rows:
        table.add_row(
            row.what,
            _with_spread(row.ours, row.unit),
            *_against_promise(row),
            "\n".join(_peer(row, peer) for peer in row.peers),
        )
    console.print(table)
    console.print(
        "Medians, with the extremes of the rounds in brackets. {cpu}, {cores} cores,"
        " Python {python}, Linux {kernel}, {date}, load {load_average:.1f} at the"
        " start.".format(**machine)
    )
    versions = machine["versions"].items()
    console.print(", ".join(f"{name} {version}" for name, version in versions))


def _with_spread(value: Figure, unit: str) -> str:
    if value.median is None or value.low is None or value.high is None:
        return value.note
    text = f"{_number(value.median)} {unit}"
    if value.rounds > 1:
        text += f" ({_number(value.low)} to {_number(value.high)})"
    return f"{text}, {value.note}" if value.note else text


def _against_promise(row: Row) -> tuple[str, str]:
    promise, value = row.promise, row.ours.median
    if promise is None or value is None:
        return "", ""
    sign = ">=" if promise.at_least else "<="
    limit = f"{promise.limit:,.10g}"
    return f"{sign} {limit} {row.unit}", "yes" if promise.is_met(value) else "NO"


def _peer(row: Row, peer: Figure) -> str:
    ratio = row.ratio(peer)
    times = (
        ""
        if ratio is None
        else f", {ratio:.{1 if ratio >= 0.95 else 2}f} times as much"
    )
    return f"{peer.who}: {_with_spread(peer, row.unit)}{times}"


def _number(value: float) -> str:
    """Write three significant digits, or all of those before the point."""
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2
    return f"{value:,.{digits}f}"
