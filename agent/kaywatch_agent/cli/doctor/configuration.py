"""Whether the configuration is right, and wise."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Final

from kaywatch_agent.cli.doctor.finding import Findings, ok, problem, unchecked, warning
from kaywatch_agent.cli.doctor.ground import Ground
from kaywatch_agent.cli.doctor.secrets import unread
from kaywatch_agent.errors import ConfigError
from kaywatch_agent.notify.config import warnings
from kaywatch_agent.web.server import check

__all__ = ["CHECKS"]


def file(ground: Ground) -> Findings:
    """The file is right."""
    if ground.path is None:
        yield ok("no file: all is as by default")
        return
    if ground.wrong is None:
        yield ok(f"{ground.path} is right")
        yield from _readers(ground.path, ground)
        return
    if ground.path.exists() and not os.access(ground.path, os.R_OK):
        yield unchecked(
            f"{ground.path}", "this user may not read it: try as root; defaults here"
        )
        return
    for wrong in (ground.wrong, *ground.wrong.others):
        yield problem(str(wrong), "`kaywatch check` says when it is right again")


def http(ground: Ground) -> Findings:
    """Tokens and certificates of HTTP are there, and it isn't open to all."""
    config = ground.config.http
    try:
        check(config)
    except ConfigError as error:
        yield unread(str(error), "docs/security.md has how to make it")
        return
    if config.insecure_public_listener and not (config.guarded and config.tls):
        yield warning(
            f"{config.listen}: other hosts may reach it without a token or without TLS",
            "is something in front that guards it? See docs/security.md",
        )
    elif config.guarded:
        yield ok("HTTP asks for a token")
    elif config.unix_path:
        yield ok(f"HTTP is for those who may open {config.unix_path}")
    else:
        yield ok("HTTP is for this host, without a token")


def secrets(ground: Ground) -> Findings:
    """No secret stands in the file itself."""
    for text in warnings(ground.config.notify.receivers):
        yield warning(text, "put it into a file of mode 0600, or a credential")


def rules(ground: Ground) -> Findings:
    """Rules make sense, and somebody hears of them."""
    config = ground.config
    for text in config.alerts.warnings:
        yield warning(text, "docs/alerts.md has what the key does")
    known = config.alerts.rules
    if not config.notify.receivers:
        yield warning(
            f"{len(known)} rules, and no receiver: nobody is told",
            "add a [receiver.NAME], see docs/receivers.md",
        )
        return
    silent = [name for name, rule in known.items() if not rule.notify]
    if silent:
        yield warning(
            f"rules that tell nobody: {', '.join(silent)}",
            "give them notify = [...], or nothing if all receivers are meant",
        )
    used = {name for rule in known.values() for name in rule.notify}
    used |= {config.notify.receivers[name].fallback for name in used}
    for name in config.notify.receivers.keys() - used:
        yield warning(
            f"receiver.{name}: no rule tells it", "name it in notify, or take it out"
        )
    if not silent:
        yield ok(f"{len(known)} rules tell {', '.join(sorted(used - {''}))}")


def _readers(path: Path, ground: Ground) -> Findings:
    """Others may not read what has secrets in it."""
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & stat.S_IROTH and any(warnings(ground.config.notify.receivers)):
        yield problem(
            f"{path} holds secrets, and everybody may read it ({mode:04o})",
            f"chmod o-r {path}",
        )


CHECKS: Final = (file, http, secrets, rules)
