"""Does the checks, each for a bounded time, and goes on whatever one of them does."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from kaywatch_agent.cli.doctor import (
    agent,
    brokers,
    clock,
    configuration,
    environment,
    machine,
    peers,
    receivers,
    service,
    sockets,
    store,
)
from kaywatch_agent.cli.doctor.finding import (
    FAMILIES,
    Finding,
    Findings,
    problem,
    unchecked,
)
from kaywatch_agent.cli.doctor.ground import Ground

__all__ = ["CHECKS", "examine"]

# A mount that hangs, a name server that says nothing: the others are still told.
CHECK_SECONDS: Final = 15.0

Check = Callable[[Ground], Findings]

CHECKS: Final[Mapping[str, Sequence[Check]]] = {
    "agent": agent.CHECKS,
    "configuration": configuration.CHECKS,
    "socket": sockets.CHECKS,
    "peers": peers.CHECKS,
    "clock": clock.CHECKS,
    "store": store.CHECKS,
    "receivers": receivers.CHECKS,
    "brokers": brokers.CHECKS,
    "machine": machine.CHECKS,
    "service": service.CHECKS,
    "application": environment.CHECKS,
}


class _Running(NamedTuple):
    name: str
    findings: list[Finding]
    thread: threading.Thread


def examine(
    ground: Ground,
    chosen: Collection[str] = FAMILIES,
    seconds: float = CHECK_SECONDS,
) -> Iterator[tuple[str, list[Finding]]]:
    """Yield what was found, a family at a time.

    Args:
        ground: what is known already.
        chosen: the families; all by default.
        seconds: how long a check may take. All are done at once.
    """
    running = {
        family: [_start(check, ground) for check in CHECKS[family]]
        for family in FAMILIES
        if family in chosen
    }
    end = time.monotonic() + seconds
    for family, checks in running.items():
        found: list[Finding] = []
        for check in checks:
            check.thread.join(max(0.0, end - time.monotonic()))
            found += check.findings
            if check.thread.is_alive():
                found.append(unchecked(check.name, f"no end of it in {seconds:g} s"))
        yield family, found


def _start(check: Check, ground: Ground) -> _Running:
    findings: list[Finding] = []
    name = check.__name__.replace("_", " ")

    def work() -> None:
        try:
            findings.extend(check(ground))
        except Exception as error:  # noqa: BLE001
            findings.append(
                problem(
                    f"{name}: {type(error).__name__}: {error}",
                    "this is a mistake of the doctor's: please report it",
                )
            )

    # A daemon: one that hangs must not keep the command from ending.
    thread = threading.Thread(target=work, name=f"doctor {name}", daemon=True)
    thread.start()
    return _Running(name, findings, thread)
