"""The table of all checks, and how they run: at once, each for a limited time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Final

from kaywatch_agent.cli.doctor import agent, application, host, servers
from kaywatch_agent.cli.doctor.context import CheckContext
from kaywatch_agent.cli.doctor.result import (
    SECTIONS,
    CheckResult,
    CheckResults,
    problem,
    unchecked,
)

__all__ = ["CHECKS", "run_checks"]

# A mount or a name server that hangs must not delay the other checks for long.
CHECK_SECONDS: Final = 15.0

Check = Callable[[CheckContext], CheckResults]

CHECKS: Final[Mapping[str, tuple[Check, ...]]] = {
    "agent": (
        *(agent.health, agent.stages, agent.versions),
        servers.agent_certificate,
    ),
    "configuration": (agent.configuration, agent.http_access, agent.rules),
    "socket": (
        application.socket_access,
        application.socket_connection,
        application.socket_discovery,
    ),
    "processes": (host.listener, host.client_identities, host.process_metrics),
    "clock": (agent.clocks,),
    "store": (
        *(agent.store_space, agent.store_access),
        *(agent.store_commits, agent.store_integrity),
    ),
    "receivers": (servers.receiver_connections, servers.receiver_deliveries),
    "brokers": (servers.broker_sessions, servers.broker_connections),
    "host": (host.open_files, host.memory_limit),
    "service": (host.service_unit, host.service_files, host.service_sandbox),
    "application": (
        *(application.recording, application.endpoint),
        *(application.variables, application.frameworks),
    ),
}


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
    started = {
        section: [_start(check, context) for check in checks]
        for section, checks in CHECKS.items()
        if section in sections
    }
    end = time.monotonic() + seconds
    for section, checks in started.items():
        results: list[CheckResult] = []
        for thread, check_results in checks:
            thread.join(max(0.0, end - time.monotonic()))
            results += check_results
            if thread.is_alive():
                results.append(unchecked(thread.name, f"no result in {seconds:g} s"))
        yield section, results


def _start(
    check: Check, context: CheckContext
) -> tuple[threading.Thread, list[CheckResult]]:
    """Start a check in a thread; return the thread, and a list that it fills."""
    results: list[CheckResult] = []
    name = check.__name__.replace("_", " ")

    def run() -> None:
        try:
            results.extend(check(context))
        except Exception as error:  # noqa: BLE001
            text = f"{name}: {type(error).__name__}: {error}"
            results.append(problem(text, "this is a bug in kaywatch: please report it"))

    # A daemon thread: a check that hangs must not keep the command from ending.
    thread = threading.Thread(target=run, name=name, daemon=True)
    thread.start()
    return thread, results
