"""Whether the agent answers, is well, and is of this version."""

from __future__ import annotations

import contextlib
import ssl
import time
from typing import Final
from urllib.parse import urlsplit

from kaywatch._version import __version__
from kaywatch.errors import AgentRefused
from kaywatch_agent import units as quantities
from kaywatch_agent.cli.doctor import brokers, tls
from kaywatch_agent.cli.doctor.finding import Findings, ok, problem, unchecked, warning
from kaywatch_agent.cli.doctor.ground import Ground

__all__ = ["CHECKS"]


def answer(ground: Ground) -> Findings:
    """HTTP answers, at all and to us."""
    if ground.health is not None:
        uptime = quantities.span(ground.health["uptime"])
        yield ok(f"answers at {ground.url}, up {uptime}")
        if ground.clients is None:
            yield problem(
                "it answers /health, and refuses to say more",
                _TOKEN,
            )
        return
    silence = ground.silence
    if isinstance(silence, AgentRefused):
        yield problem(f"at {ground.url}: {silence}", _TOKEN)
    elif silence is not None and "certificate verify failed" in str(silence):
        yield problem(
            f"at {ground.url}: its certificate is not trusted here",
            f"SSL_CERT_FILE={ground.config.http.tls_certificate_file or 'FILE'}, or"
            " that of the authority that signed it",
        )
    else:
        yield problem(
            f"no agent answers at {ground.url}",
            "start one with `kaywatch serve`, or `systemctl start kaywatch`; if it"
            " runs, say where with --url",
        )


def stages(ground: Ground) -> Findings:
    """Each of its stages does its work."""
    if ground.health is None:
        return
    known = {
        name: stage
        for name, stage in ground.health["stages"].items()
        if not name.startswith(brokers.STAGE)
    }
    for name, stage in known.items():
        if stage["status"] == "unhealthy":
            yield problem(
                f"{name}: {stage['problem'] or 'no sign of life'}",
                "look into its log: journalctl -u kaywatch",
            )
        elif stage["status"] == "degraded":
            yield warning(f"{name}: {stage['problem']}", "docs/operations.md has more")
    well = [name for name, stage in known.items() if stage["status"] == "healthy"]
    if well:
        yield ok(f"well: {', '.join(well)}")


def version(ground: Ground) -> Findings:
    """It is the version that is installed here, and clients are."""
    if ground.health is None:
        return
    running = ground.health["version"]
    if running == __version__:
        yield ok(f"version {running}, as installed here")
    else:
        yield warning(
            f"version {running} runs, and {__version__} is installed here",
            "restart it, if that was an upgrade: systemctl restart kaywatch",
        )
    others = {
        client["sdk"]
        for client in ground.clients or ()
        if client["state"] == "connected" and client["sdk"].startswith("kaywatch-")
    } - {f"kaywatch-python/{running}"}
    if others:
        yield warning(
            f"clients of other versions: {', '.join(sorted(others))}",
            "they go on working; restart the applications after an upgrade",
        )


def certificate(ground: Ground) -> Findings:
    """Its certificate goes on being valid."""
    parts = urlsplit(ground.url)
    if parts.scheme != "https" or not parts.hostname:
        return
    try:
        found = tls.look(parts.hostname, parts.port or 443, context=_own(ground))
    except OSError as error:  # ssl.SSLError is one
        yield unchecked("its certificate", f"no connection: {error}")
        return
    yield from tls.judged(f"the certificate of {ground.url}", found, time.time())


def _own(ground: Ground) -> ssl.SSLContext:
    """Return what trusts the agent's own certificate, whoever signed it."""
    context = ssl.create_default_context()
    with contextlib.suppress(OSError):
        context.load_verify_locations(ground.config.http.tls_certificate_file)
        # Else it would have to be an authority's.
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    return context


_TOKEN: Final = "give a token that may read, in KAYWATCH_TOKEN_FILE"  # noqa: S105

CHECKS: Final = (answer, stages, version, certificate)
