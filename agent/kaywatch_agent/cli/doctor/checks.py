"""The table of all checks, and how they run: at once, each for a limited time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterator
from typing import Final, NamedTuple

from kaywatch_agent.cli.doctor import agent, host, network
from kaywatch_agent.cli.doctor.context import CheckContext
from kaywatch_agent.cli.doctor.result import (
    SECTIONS,
    CheckResult,
    CheckResults,
    problem,
    unchecked,
)

__all__ = ["CHECKS", "Check", "run_checks"]

# A mount or a name server that hangs must not hold up the other checks.
CHECK_SECONDS: Final = 15.0


class Check(NamedTuple):
    """One check of a section."""

    section: str
    title: str
    run: Callable[[CheckContext], CheckResults]


CHECKS: Final = (
    Check("agent", "answer", agent.answer),
    Check("agent", "stages", agent.stages),
    Check("agent", "versions", agent.versions),
    Check("agent", "certificate", network.certificate),
    Check("configuration", "file", agent.configuration),
    Check("configuration", "HTTP access", agent.http_access),
    Check("configuration", "rules", agent.rules),
    Check("socket", "access", network.socket_access),
    Check("socket", "connection", network.socket_connect),
    Check("socket", "discovery", network.socket_discovery),
    Check("processes", "listener", host.listener),
    Check("processes", "identities", host.identities),
    Check("processes", "memory and CPU", host.process_memory),
    Check("clock", "clocks", agent.clocks),
    Check("store", "disk space", agent.store_space),
    Check("store", "access", agent.store_access),
    Check("store", "commits", agent.store_commits),
    Check("store", "integrity", agent.store_integrity),
    Check("receivers", "connections", network.receivers_reached),
    Check("receivers", "deliveries", network.receivers_delivering),
    Check("brokers", "sessions", network.broker_sessions),
    Check("brokers", "connections", network.brokers_reached),
    Check("host", "open files", host.open_files),
    Check("host", "memory", host.memory_limit),
    Check("service", "unit", host.unit),
    Check("service", "files", host.unit_files),
    Check("service", "sandbox", host.sandbox),
    Check("application", "recording", host.recording),
    Check("application", "endpoint", host.endpoint),
    Check("application", "variables", host.variables),
    Check("application", "frameworks", host.frameworks),
)


def run_checks(
    context: CheckContext,
    sections: Collection[str] = SECTIONS,
    seconds: float = CHECK_SECONDS,
) -> Iterator[tuple[str, list[CheckResult]]]:
    """Run checks, and yield the results of each section in order.

    Args:
        context: what the checks start from.
        sections: which sections to check.
        seconds: how long the checks may take; they all run at once.
    """
    running = [
        _Running(check, context) for check in CHECKS if check.section in sections
    ]
    end = time.monotonic() + seconds
    for section in SECTIONS:
        if section not in sections:
            continue
        results: list[CheckResult] = []
        for one in running:
            if one.check.section == section:
                one.thread.join(max(0.0, end - time.monotonic()))
                results += one.results
                if one.thread.is_alive():
                    why = f"not finished within {seconds:g} s"
                    results.append(unchecked(one.check.title, why))
        yield section, results


class _Running:
    """One check in its thread."""

    def __init__(self, check: Check, context: CheckContext) -> None:
        self.check = check
        self.results: list[CheckResult] = []
        # A daemon thread: a check that hangs must not keep the command from ending.
        self.thread = threading.Thread(target=self._run, args=(context,), daemon=True)
        self.thread.start()

    def _run(self, context: CheckContext) -> None:
        try:
            self.results.extend(self.check.run(context))
        except Exception as error:  # noqa: BLE001
            text = f"{self.check.title}: {type(error).__name__}: {error}"
            self.results.append(
                problem(text, "this is a bug of the doctor: please report it")
            )
