"""The table of all checks, and how they run: at once, each for a limited time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Final

from kaywatch_agent.cli.doctor import (
    agent,
    application,
    configuration,
    exports,
    host,
    servers,
)
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
        agent.check_health,
        agent.check_stages,
        agent.check_names,
        agent.check_versions,
        servers.check_agent_certificate,
    ),
    "configuration": (
        configuration.check_configuration,
        configuration.check_http_access,
        configuration.check_rules,
    ),
    "socket": (
        application.check_socket_access,
        application.check_socket_connection,
        application.check_socket_discovery,
    ),
    "processes": (
        host.check_listener,
        host.check_client_identities,
        host.check_process_metrics,
    ),
    "clock": (agent.check_clocks,),
    "store": (
        agent.check_store_space,
        agent.check_store_access,
        agent.check_store_commits,
        agent.check_store_integrity,
    ),
    "receivers": (
        servers.check_receiver_connections,
        servers.check_receiver_deliveries,
    ),
    "brokers": (
        servers.check_broker_sessions,
        servers.check_broker_connections,
    ),
    "exports": (
        exports.check_export_stages,
        exports.check_canaries,
    ),
    "host": (
        host.check_open_files,
        host.check_memory_limit,
    ),
    "service": (
        host.check_service_unit,
        host.check_service_files,
        host.check_service_sandbox,
    ),
    "application": (
        application.check_recording,
        application.check_endpoint,
        application.check_variables,
        application.check_frameworks,
    ),
}


def run_checks(
    context: CheckContext,
    sections: Collection[str] = SECTIONS,
    seconds: float = CHECK_SECONDS,
) -> Iterator[tuple[str, list[CheckResult]]]:
    """Run checks, and yield the results of each section in order.

    Args:
        context: the facts that the checks start from.
        sections: which sections to check.
        seconds: how long the checks may take; they all run at once.
    """
    unknown = _find_unknown(context)
    started = {
        section: [] if section in unknown else [_start(c, context) for c in checks]
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
        if section in unknown:
            results = [unchecked(f"its {section}", unknown[section])]
        yield section, results


def _find_unknown(context: CheckContext) -> dict[str, str]:
    """Return why sections cannot be checked, by name."""
    if not context.is_foreign:
        return {}
    unknown: dict[str, str] = {}
    if not context.socket:
        unknown |= dict.fromkeys(("socket", "processes"), "unknown; pass --socket")
    if context.store is None:
        unknown["store"] = "unknown; pass --store"
    return unknown


def _start(
    check: Check, context: CheckContext
) -> tuple[threading.Thread, list[CheckResult]]:
    """Start a check in a thread; return the thread, and a list that it fills."""
    results: list[CheckResult] = []
    name = check.__name__.removeprefix("check_").replace("_", " ")

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
