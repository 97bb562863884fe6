"""Checks of exports: a canary for each server, read back where it can be queried."""

from __future__ import annotations

import asyncio
import importlib.util
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from kaywatch_agent.cli.doctor.context import CheckContext
from kaywatch_agent.cli.doctor.result import (
    CheckResult,
    CheckResults,
    ok,
    problem,
    unchecked,
    unreadable,
    warning,
)
from kaywatch_agent.export.config import OtlpConfig, RemoteWriteConfig

if TYPE_CHECKING:
    from kaywatch_agent.export.otlp_canary import OtlpCanaryResult

MAX_CANARIES: Final = 8  # at once

CLASSIC: Final = 'set histograms = "classic"'

OTLP_PATH: Final = "/v1/metrics"
GRPC_PORT: Final = 4317
# Fixes by the HTTP status of an OTLP server's answer.
_OTLP_FIXES: Final = {
    401: "check bearer_token, or username and password",
    403: "allow these credentials to write metrics",
    413: "raise the server's limit on the size of requests",
    415: "let the server accept application/x-protobuf with gzip",
    429: "raise the server's limits; the agent retries meanwhile",
}
_REDIRECTS: Final = range(300, 400)
_NOT_FOUND: Final = (404, 405)


def check_canaries(context: CheckContext) -> CheckResults:
    """Send a counter and a histogram to each server; read them back if possible."""
    export = context.config.export
    checks = [
        *(partial(_check_remote_write, server) for server in export.remote_write),
        *(partial(_check_otlp, server) for server in export.otlp),
    ]
    with ThreadPoolExecutor(MAX_CANARIES, "doctor export") as pool:
        for results in pool.map(lambda check: list(check()), checks):
            yield from results


def check_export_stages(context: CheckContext) -> CheckResults:
    """Check the state of each server in the agent."""
    stages = context.health["stages"] if context.health else {}
    for name, stage in stages.items():
        if name.startswith(("remote write ", "otlp ")) and stage["problem"]:
            page = "otlp.md" if name.startswith("otlp ") else "prometheus.md"
            yield problem(f"{name}: {stage['problem']}", f"see docs/{page}")


def _check_remote_write(config: RemoteWriteConfig) -> CheckResults:
    # It imports protobuf, which is only needed with exports.
    from kaywatch_agent.export.canary import COUNTER, HISTOGRAM, send_canary

    where = f"remote write {config.identity}"
    result = asyncio.run(send_canary(config))
    if result.refused:
        text = f"{where}: the canary was refused: {result.refused}"
        yield unreadable(text, _write_fix(result.refused))
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


def _write_fix(refused: str) -> str:
    """Return the fix for a canary of remote write that was refused."""
    if refused.startswith("HTTP 415"):
        return (
            "the server does not receive remote write 1.0: send to an OpenTelemetry"
            " Collector by [[export.otlp]]"
        )
    if refused.startswith("HTTP 404"):
        return (
            "check the path of url; Prometheus needs --web.enable-remote-write-receiver"
        )
    return "check url, the credentials, and the server's log"


def _lost_histogram(config: RemoteWriteConfig, text: str) -> CheckResult:
    if config.histograms == "auto":
        return warning(f"{text}; the agent sends classic ones", CLASSIC)
    return problem(text, CLASSIC)


def _check_otlp(config: OtlpConfig) -> CheckResults:
    where = f"otlp {config.identity}"
    if importlib.util.find_spec("opentelemetry") is None:
        fix = "pip install 'kaywatch[otlp]'"
        yield problem(f"{where}: needs a package that is not installed", fix)
        return
    # It imports protobuf, which is only needed with exports.
    from kaywatch_agent.export.otlp_canary import POINTS, send_otlp_canary

    result = asyncio.run(send_otlp_canary(config))
    if result.unavailable:
        text = f"{where}: no answer to the canary: {result.unavailable}"
        yield unreadable(text, _connection_fix(config, result.unavailable))
    elif not 200 <= result.status < 300:
        reason = f"HTTP {result.status}{result.message and f': {result.message}'}"
        text = f"{where}: the canary was refused: {reason}"
        yield problem(text, _refusal_fix(config, result))
    elif not result.is_otlp:
        text = f"{where}: HTTP {result.status}, but the answer is not an OTLP response"
        yield problem(text, _path_fix(config))
    elif result.rejected:
        text = f"{where}: {result.rejected} of the canary's {POINTS} points were"
        text += f" rejected: {result.message or 'the collector gave no reason'}"
        yield problem(text, "see the collector's log and pipeline")
    else:
        if result.message:
            text = f"{where}: the canary was accepted with a warning"
            yield warning(f"{text}: {result.message}", "see the collector's log")
        yield ok(
            f"{where}: the canary was accepted; OTLP cannot read back what the"
            " collector does with it"
        )


def _connection_fix(config: OtlpConfig, problem: str) -> str:
    if urlsplit(config.url).port == GRPC_PORT:
        return f"{GRPC_PORT} is the port of OTLP over gRPC: use HTTP, usually port 4318"
    if "certificate" in problem:
        return "set ca to the CA of the server's certificate, and url to a name in it"
    if "TLS" in problem:
        return "use http:// in url if the server does not use TLS"
    return "check url, and whether the collector is running"


def _refusal_fix(config: OtlpConfig, result: OtlpCanaryResult) -> str:
    if result.status in _REDIRECTS:
        return "set url to the address that the server redirects to"
    if result.status in _NOT_FOUND:
        return _path_fix(config)
    if result.status in _OTLP_FIXES:
        return _OTLP_FIXES[result.status]
    if result.status >= 500:
        return "see the collector's log; the agent retries meanwhile"
    if "HTTPS" in result.message:
        return "use https:// in url"
    return "see the collector's log"


def _path_fix(config: OtlpConfig) -> str:
    path = urlsplit(config.url).path
    if path.endswith(OTLP_PATH):
        return f"check url: nothing receives OTLP metrics at {path}"
    return f"check url: its path is {path or '/'}, and usually {OTLP_PATH}"
