"""Checks of the configuration: secrets, access over HTTP, rules."""

from __future__ import annotations

import os
import stat

from kaywatch_agent.cli.doctor.context import CheckContext
from kaywatch_agent.cli.doctor.result import (
    CheckResults,
    ok,
    problem,
    unchecked,
    unreadable,
    warning,
)
from kaywatch_agent.errors import ConfigError
from kaywatch_agent.notify.config_check import find_defects, find_warnings
from kaywatch_agent.web.check import check_files

__all__ = ["check_configuration", "check_http_access", "check_rules"]


def check_configuration(context: CheckContext) -> CheckResults:
    """Check the configuration file, and that other users cannot read its secrets."""
    path, error = context.path, context.config_error
    if context.is_foreign:
        yield unchecked("its configuration", "its file is unknown; pass --config")
    elif path is None:
        yield ok("no configuration file; all settings have their defaults")
    elif error is not None and path.exists() and not os.access(path, os.R_OK):
        yield unchecked(str(path), "this user cannot read it; run as root")
    elif error is not None:
        for one in (error, *error.others):
            yield problem(str(one), "fix it, then run `kaywatch check`")
    else:
        yield ok(f"{path} is valid")
        notify = context.config.notify
        secrets = find_warnings(notify.receivers, notify.heartbeat)
        mode = stat.S_IMODE(path.stat().st_mode)
        if secrets and mode & stat.S_IROTH:
            yield problem(
                f"{path} has secrets, and every user can read it ({mode:04o})",
                f"chmod o-r {path}",
            )
        for defect in find_defects(notify.receivers, notify.heartbeat):
            yield problem(defect.text, defect.fix)
        for text, fix in secrets:
            yield warning(text, fix)


def check_http_access(context: CheckContext) -> CheckResults:
    """Check who can use HTTP, and that tokens and certificates are readable."""
    config = context.config.http
    if context.is_foreign:
        return
    try:
        check_files(config)
    except ConfigError as error:
        yield unreadable(error, "create it as docs/security.md describes")
        return
    if config.insecure_public_listener and not (config.has_tokens and config.tls):
        yield warning(
            f"{config.listen}: other hosts can reach it without a token or without TLS",
            "put an authenticating proxy in front of the agent; see docs/security.md",
        )
    elif config.has_tokens:
        yield ok("HTTP requires a token")
    elif config.unix_path:
        yield ok(f"HTTP is open to users who can open {config.unix_path}")
    else:
        yield ok("only this host can use HTTP, without a token")


def check_rules(context: CheckContext) -> CheckResults:
    """Check for warnings about rules, and that each rule notifies a receiver."""
    config, configured = context.config, context.config.alerts.rules
    if context.is_foreign:
        yield from _check_rules_of(context)
        return
    for text in config.alerts.warnings:
        yield warning(text, "see docs/alerts.md")
    if not config.notify.receivers:
        yield warning(
            f"{len(configured)} rules, but no receiver: no notifications are sent",
            "add a [receiver.NAME]; see docs/receivers.md",
        )
        return
    silent = [name for name, rule in configured.items() if not rule.notify]
    if silent:
        yield warning(
            f"rules that notify no receiver: {', '.join(silent)}",
            "set their notify = [...], or remove the key to notify all receivers",
        )
    used = {name for rule in configured.values() for name in rule.notify}
    used |= {config.notify.receivers[name].fallback for name in used}
    for name in config.notify.receivers.keys() - used:
        yield warning(
            f"receiver.{name}: no rule notifies it",
            "add it to the notify key of a rule, or remove it",
        )
    if not silent:
        yield ok(f"{len(configured)} rules notify {', '.join(sorted(used - {''}))}")


def _check_rules_of(context: CheckContext) -> CheckResults:
    """Check what an agent, whose file is unknown, answers about its rules."""
    rules, receivers = context.get("/api/v1/rules"), context.get("/api/v1/receivers")
    if rules is None or receivers is None:
        return
    for text in rules["warnings"]:
        yield warning(text, "see docs/alerts.md")
    names = [one["name"] for one in receivers["receivers"]]
    count = len(rules["rules"])
    if names:
        yield ok(f"{count} rules, receivers: {', '.join(names)}")
    else:
        yield warning(
            f"{count} rules, but no receiver: no notifications are sent",
            "add a [receiver.NAME]; see docs/receivers.md",
        )
