"""What happens in a test of rules, as its file says it, each kind by its table."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from msgspec.structs import replace

from kaywatch.wire import Outcome, Phase
from kaywatch_agent.model.client import Client
from kaywatch_agent.model.records import InFlight, NodeRevisits, ProcessSample
from kaywatch_agent.model.series import ClientState, ErrorKey, Kind, SeriesKey
from kaywatch_agent.settings.reader import Table
from kaywatch_agent.simulation.case import Stimulus
from kaywatch_agent.simulation.lab import SyntheticSource

__all__ = ["HAPPENINGS"]


def _times(table: Table, length: float) -> tuple[float, ...]:
    start = table.duration("from", "0")
    end = table.duration("to") if "to" in table else length
    every = table.duration("every", "10s")
    if every < 1:
        raise table.error("every", 'at least "1s"')
    if end < start:
        raise table.error("to", "is before from")
    count = int((end - start) // every) + 1
    # The end isn't part of it, but for what happens once.
    times = [start + n * every for n in range(count)]
    return tuple(time for time in times if time < end or end == start)


def _series(table: Table, kind: Kind) -> SeriesKey:
    return SeriesKey(
        kind,
        table.text("service", "app"),
        table.text("graph"),
        "" if kind is Kind.RUN else table.text("node"),
    )


def _executions(table: Table, length: float, kind: Kind = Kind.NODE) -> Stimulus:
    key, times = _series(table, kind), _times(table, length)
    if kind is Kind.NODE and not key.node:
        raise table.error("node", "missing")
    count = table.whole("count", 1)
    others = {
        outcome: table.whole(word)
        for word, outcome in (
            ("errors", Outcome.ERROR),
            ("suppressed", Outcome.SUPPRESSED),
            ("fallbacks", Outcome.FALLBACK),
            ("cancelled", Outcome.CANCELLED),
        )
    }
    rest = count - sum(others.values())
    if rest < 0:
        raise table.error("count", f"{count}: fewer than those that fail")
    outcomes = {Outcome.OK: rest, **others}
    seconds = table.number("seconds", 0.1)
    attempts = (
        table.whole("visits", 1, 1) if kind is Kind.RUN else table.whole("retries") + 1
    )
    action = "" if kind is Kind.RUN else table.text("action")
    phase = table.choice("phase", tuple(map(str, Phase)), "exec")
    error = ErrorKey(table.text("error", "Error"), phase)
    table.done()

    def do(lab: SyntheticSource, time: float, _: int) -> None:
        lab.ran(
            key,
            time,
            outcomes,
            seconds=seconds,
            attempts=attempts,
            action=action,
            error=error,
        )

    return Stimulus(times, do)


def _runs(table: Table, length: float) -> Stimulus:
    return _executions(table, length, Kind.RUN)


def _metric(table: Table, length: float) -> Stimulus:
    name, times = table.text("name"), _times(table, length)
    if not name:
        raise table.error("name", "missing: the metric's, as the application calls it")
    kind = Kind[table.choice("kind", ("gauge", "count", "observe"), "gauge").upper()]
    labels = tuple(sorted(table.strings("labels").items()))
    key = _series(table, kind)._replace(metric=name, labels=labels)
    values = table.either("values", None)
    if values is None:
        values = [table.number("value")]
    if (
        not isinstance(values, list)
        or not values
        or any(not isinstance(v, int | float) or isinstance(v, bool) for v in values)
    ):
        raise table.error("values", "expected numbers, one after the other")
    table.done()

    def do(lab: SyntheticSource, time: float, number: int) -> None:
        # The last one goes on.
        lab.observed(key, time, [float(values[min(number, len(values) - 1)])])

    return Stimulus(times, do)


def _process(table: Table, _: float) -> Stimulus:
    pid, at = table.whole("pid", 1, 1), table.duration("at", "0")
    service, host = table.text("service", "app"), table.text("host", "test")
    state = ClientState(
        table.choice("state", tuple(map(str, ClientState)), "connected")
    )
    memory = table.number("memory_mb") * 2.0**20 if "memory_mb" in table else None
    cpu = table.number("cpu_percent") if "cpu_percent" in table else None
    flights = [_flight(part) for part in table.tables("in_flight")]
    loops = tuple([_loop(part) for part in table.tables("loops")])
    table.done()

    def do(lab: SyntheticSource, time: float, _: int) -> None:
        sample = ProcessSample(rss_bytes=int(memory or 0), cpu_seconds=0.0)
        lab.processes[pid] = Client(
            id=str(pid),
            service=service,
            host=host,
            pid=pid,
            state=state,
            since=time,
            sample=None if memory is None else sample,
            cpu_percent=cpu,
            in_flight=tuple(
                [replace(flight, start=time - flight.start) for flight in flights]
            ),
            loops=loops,
        )

    return Stimulus((at,), do)


def _flight(table: Table) -> InFlight:
    found = InFlight(
        table.text("graph"),
        table.text("node"),
        table.duration("age", "0"),
        table.text("run"),
        table.whole("visits"),
    )
    table.done()
    return found


def _loop(table: Table) -> NodeRevisits:
    found = NodeRevisits(
        table.text("graph"),
        table.text("node"),
        table.whole("visits"),
        table.text("run"),
    )
    table.done()
    return found


# The tables of a test by their key; each is read with the test's length in seconds.
HAPPENINGS: Final[Mapping[str, Callable[[Table, float], Stimulus]]] = {
    "executions": _executions,
    "runs": _runs,
    "metric": _metric,
    "process": _process,
}
