"""What an event costs the application: the call, the whole process, import, memory.

Every library runs in a process of its own (`clients`) and sends to something that
takes all of it (`receivers`), so that its export is in the figure.
"""

from __future__ import annotations

import contextlib
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from tests.agents import running_agent
from tests.bench import receivers
from tests.bench.peers import missing_package
from tests.bench.report import OURS, Figure, Promise, Row, absent, figure
from tests.bench.rounds import Effort, Measured, in_turns, python

from kaywatch.recorder import Recorder

EVENTS = 1_000_000
CALLS = 100_000
REPEAT = 7


@dataclass(frozen=True)
class Library:
    """A client library to measure.

    Attributes:
        driver: its module in `clients`.
        imports: what a program imports to use it.
        packages: what has to be installed.
        receiver: opens what it sends to, and yields the address.
    """

    driver: str
    imports: str
    packages: tuple[str, ...]
    receiver: Callable[[], contextlib.AbstractContextManager[str]]


@contextlib.contextmanager
def agent() -> Iterator[str]:
    with running_agent() as running:
        yield running.endpoint


@contextlib.contextmanager
def udp() -> Iterator[str]:
    with receivers.datagrams() as receiver:
        yield receiver.address


@contextlib.contextmanager
def unix() -> Iterator[str]:
    with (
        tempfile.TemporaryDirectory(prefix="kw-") as folder,
        receivers.datagrams(Path(folder) / "socket") as receiver,
    ):
        yield receiver.address


@contextlib.contextmanager
def file() -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="kw-") as folder:
        yield str(Path(folder) / "log")


DATADOG = "datadog.dogstatsd"
SDK = "opentelemetry.sdk.metrics"
OTLP = "opentelemetry.exporter.otlp.proto.http.metric_exporter"

LIBRARIES = {
    OURS: Library("kaywatch_client", OURS, (), agent),
    "prometheus_client": Library(
        "prometheus_client_histogram",
        "prometheus_client",
        ("prometheus-client",),
        receivers.scraping,
    ),
    "statsd over UDP": Library("statsd_udp", "statsd", ("statsd",), udp),
    "datadog over UNIX": Library("datadog_unix", DATADOG, ("datadog",), unix),
    "datadog, buffered": Library("datadog_buffered", DATADOG, ("datadog",), unix),
    "OpenTelemetry SDK": Library(
        "opentelemetry_sdk",
        f"{SDK}, {OTLP}",
        ("opentelemetry-sdk", "opentelemetry-exporter-otlp-proto-http"),
        receivers.otlp,
    ),
    "a line of logging": Library("logging_line", "logging", (), file),
}


def drive(library: Library, events: int) -> Measured:
    """Record events in a fresh process; return what it says that cost."""
    with library.receiver() as address:
        return python("-m", "tests.bench.clients", library.driver, address, str(events))


def imported(modules: str) -> Measured:
    """Import in a fresh interpreter; return the CPU time and the memory after it."""
    code = (
        "import time; started = time.process_time()\n"
        f"import {modules}\n"
        "used = time.process_time() - started\n"
        "from tests.bench.usage import resident_mb\n"
        "import json; print(json.dumps("
        "{'import_ms': used * 1e3, 'resident_mb': resident_mb()}))"
    )
    return python("-c", code)


def hot_call() -> float:
    """Return the nanoseconds of our call alone: no sender shares the interpreter."""
    recorder = Recorder()
    record = recorder.series("checkout", "pay").record
    figures = []
    for _ in range(REPEAT):
        recorder.forget()
        for events in recorder.pending:
            events.watermark[0] = 10**9
        started = time.thread_time()
        for _ in range(CALLS):
            record(0.0123)
        figures.append((time.thread_time() - started) / CALLS * 1e9)
    return statistics.median(figures)


def measure(effort: Effort) -> list[Row]:
    """Return the rows of all libraries."""
    events = effort.of(EVENTS)
    absentees = missing()
    chosen = {
        name: library
        for name, library in LIBRARIES.items()
        if not missing_package(*library.packages)
    }
    calls = in_turns(effort.rounds, {"the call alone": hot_call})["the call alone"]
    driven = in_turns(
        effort.rounds, {name: partial(drive, chosen[name], events) for name in chosen}
    )
    imports = in_turns(effort.rounds, import_measures(chosen))
    rows = [
        row("the call, while a thread packs and sends", "ns", driven, "thread_ns"),
        row("CPU of the whole client process", "ns", driven, "process_ns", 600),
        row("import", "ms", imports, "import_ms", 20),
        row("memory after import", "MB", imports, "resident_mb"),
        row(f"memory after {events:,} events", "MB", driven, "resident_mb"),
    ]
    alone = Row("the call alone", "ns", figure(OURS, calls), Promise(200))
    return [replace(each, peers=(*each.peers, *absentees)) for each in [alone, *rows]]


def missing() -> list[Figure]:
    """Return the peers that are not here, with the reason."""
    reasons = {n: missing_package(*known.packages) for n, known in LIBRARIES.items()}
    return [absent(name, reason) for name, reason in reasons.items() if reason]


def import_measures(chosen: dict[str, Library]) -> dict[str, Callable[[], Measured]]:
    """Return what imports each library, of those that import the same the first."""
    first = {library.imports: name for name, library in reversed(chosen.items())}
    measures = {
        name: partial(imported, modules) for modules, name in reversed(first.items())
    }
    return {**measures, "Python alone": partial(imported, "sys")}


def row(
    what: str,
    unit: str,
    measurements: dict[str, list[Measured]],
    key: str,
    limit: float | None = None,
) -> Row:
    """Return what was measurements under `key`, ours first."""
    ours, *others = (
        figure(name, [each[key] for each in samples])
        for name, samples in measurements.items()
    )
    return Row(what, unit, ours, Promise(limit) if limit else None, tuple(others))
