"""Checks of exports: a canary that is written to each server, and read back."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from kaywatch_agent.cli.doctor.context import CheckContext
from kaywatch_agent.cli.doctor.result import (
    CheckResult,
    CheckResults,
    ok,
    problem,
    unchecked,
    warning,
)
from kaywatch_agent.export.config import RemoteWriteConfig

MAX_CANARIES: Final = 8  # at once

CLASSIC: Final = 'set histograms = "classic"'


def check_canaries(context: CheckContext) -> CheckResults:
    """Write a counter and a histogram to each server, and read them back."""
    servers = context.config.export.remote_write
    with ThreadPoolExecutor(MAX_CANARIES, "doctor export") as pool:
        for results in pool.map(lambda each: list(_check_server(each)), servers):
            yield from results


def check_export_stages(context: CheckContext) -> CheckResults:
    """Check what the agent reports of each server."""
    stages = context.health["stages"] if context.health else {}
    for name, stage in stages.items():
        if name.startswith(("remote write ", "otlp ")) and stage["problem"]:
            page = "otlp.md" if name.startswith("otlp ") else "prometheus.md"
            yield problem(f"{name}: {stage['problem']}", f"see docs/{page}")


def _check_server(config: RemoteWriteConfig) -> CheckResults:
    # It imports protobuf, which is only needed with exports.
    from kaywatch_agent.export.canary import COUNTER, HISTOGRAM, send_canary

    where = f"remote write {config.identity}"
    result = asyncio.run(send_canary(config))
    if result.refused:
        text = f"{where}: the canary was refused: {result.refused}"
        if "permission denied" in result.refused:
            yield unchecked(text, "run as root: the agent's user may have access")
        else:
            yield problem(text, "check url, the credentials, and the server's log")
        return
    if result.native_refused:
        yield _lost_histogram(config, f"{where}: native histograms are refused")
    if result.unread:
        text = f"{where}: the canary was accepted; whether it was stored is not known"
        fix = f"{result.unread}: set query_url, and credentials that may query"
        yield unchecked(text, fix)
    elif COUNTER in result.missing:
        yield problem(
            f"{where}: the canary was accepted, and {COUNTER} cannot be found",
            "check that query_url is the same server and tenant as url",
        )
    elif HISTOGRAM in result.missing:
        text = f"{where}: {HISTOGRAM} was accepted and silently discarded"
        yield _lost_histogram(config, text)
        yield ok(f"{where}: the counter of the canary was stored")
    else:
        yield ok(f"{where}: the canary was stored, and read back")


def _lost_histogram(config: RemoteWriteConfig, text: str) -> CheckResult:
    if config.histograms == "auto":
        return warning(f"{text}; the agent sends classic ones", CLASSIC)
    return problem(text, CLASSIC)
