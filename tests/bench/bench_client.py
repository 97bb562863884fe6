"""Measure the cost of an event in the application: call, process, import, memory.

Every library runs in its own process (`clients`) and sends to a receiver that accepts
everything (`receivers`), so the figures include the export.
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
from tests.bench.report import OURS, Figure, Promise, Row, missing_figure, summarize
from tests.bench.rounds import Effort, Measurements, interleave, run_python

from kaywatch.recorder import Recorder

EVENTS = 1_000_000
CALLS = 100_000
REPEAT = 7


@dataclass(frozen=True)
class Library:
    """A client library to measure.

    Attributes:
        driver: the library's module in `clients`.
        imports: the modules that a program imports to use it.
        packages: the distributions that must be installed.
        receiver: opens a receiver, and yields its address.
    """

    driver: str
    imports: str
    packages: tuple[str, ...]
    receiver: Callable[[], contextlib.AbstractContextManager[str]]


@contextlib.contextmanager
def agent() -> Iterator[str]:
    with running_agent(fork=False) as running:
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


def measure_library(library: Library, events: int) -> Measurements:
    """Record events in a new process; return the cost that it prints."""
    with library.receiver() as address:
        return run_python(
            "-m", "tests.bench.clients", library.driver, address, str(events)
        )


def measure_import(modules: str) -> Measurements:
    """Import in a new interpreter; return the CPU time, and the memory after it."""
    code = (
        "import time; started = time.process_time()\n"
        f"import {modules}\n"
        "used = time.process_time() - started\n"
        "from tests.bench.usage import resident_mb\n"
        "import json; print(json.dumps("
        "{'import_ms': used * 1e3, 'resident_mb': resident_mb()}))"
    )
    return run_python("-c", code)


def measure_first_event(library: Library) -> Measurements:
    """Import, connect and record one event; return the CPU time of the process."""
    code = (
        "import sys, time; started = time.process_time()\n"
        f"from tests.bench.clients.{library.driver} import connect\n"
        "client = connect(sys.argv[1], ['pay'])\n"
        "client.records[0](0.0123)\n"
        "used = time.process_time() - started\n"
        "import json, os; print(json.dumps({'first_ms': used * 1e3}), flush=True)\n"
        "os._exit(0)"
    )
    with library.receiver() as address:
        return run_python("-c", code, address)


def measure_call() -> float:
    """Return the nanoseconds of our call alone, without a sender thread."""
    recorder = Recorder()
    record = recorder.series("checkout", "pay").record_plain
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
    absentees = missing_peers()
    chosen = {
        name: library
        for name, library in LIBRARIES.items()
        if not missing_package(*library.packages)
    }
    calls = interleave(effort.rounds, {"call alone": measure_call})["call alone"]
    driven = interleave(
        effort.rounds,
        {name: partial(measure_library, chosen[name], events) for name in chosen},
    )
    imports = interleave(effort.rounds, import_measures(chosen))
    firsts = interleave(
        effort.rounds,
        {name: partial(measure_first_event, chosen[name]) for name in chosen},
    )
    rows = [
        row(
            "recording call, while a thread packs and sends", "ns", driven, "thread_ns"
        ),
        row("CPU of the client process per event", "ns", driven, "process_ns", 600),
        row("CPU of the import", "ms", imports, "import_ms", 20),
        row("CPU of the import and the first event", "ms", firsts, "first_ms"),
        row("memory after import", "MB", imports, "resident_mb"),
        row(f"memory after {events:,} events", "MB", driven, "resident_mb"),
    ]
    alone = Row("recording call alone", "ns", summarize(OURS, calls), Promise(200))
    return [replace(each, peers=(*each.peers, *absentees)) for each in [alone, *rows]]


def missing_peers() -> list[Figure]:
    """Return the peers that are not installed, with the reason."""
    reasons = {n: missing_package(*known.packages) for n, known in LIBRARIES.items()}
    return [missing_figure(name, reason) for name, reason in reasons.items() if reason]


def import_measures(
    chosen: dict[str, Library],
) -> dict[str, Callable[[], Measurements]]:
    """Return the measures of imports, one for libraries with the same imports."""
    first = {library.imports: name for name, library in reversed(chosen.items())}
    measures = {
        name: partial(measure_import, modules)
        for modules, name in reversed(first.items())
    }
    return {**measures, "Python alone": partial(measure_import, "sys")}


def row(
    what: str,
    unit: str,
    measurements: dict[str, list[Measurements]],
    key: str,
    limit: float | None = None,
) -> Row:
    """Return the row of the measurements under `key`."""
    ours, *others = (
        summarize(name, [each[key] for each in samples])
        for name, samples in measurements.items()
    )
    return Row(what, unit, ours, Promise(limit) if limit else None, tuple(others))
