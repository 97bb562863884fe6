"""Checks from the view of an application: the agent's socket, and its environment."""

from __future__ import annotations

import contextlib
import errno
import grp
import importlib.metadata
import importlib.util
import os
import pwd
import stat
import sys
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import urlsplit

from kaywatch._instrument.frameworks import FRAMEWORKS, SDKS
from kaywatch._send import broker as brokers
from kaywatch._send.connecting import check_usable
from kaywatch._send.transport import candidates
from kaywatch._settings import parse_tags, settings_from_environment
from kaywatch.errors import ConfigurationError
from kaywatch_agent.cli.doctor.context import CheckContext, group_name, user_name
from kaywatch_agent.cli.doctor.result import (
    CheckResult,
    CheckResults,
    ok,
    problem,
    unchecked,
    warning,
)
from kaywatch_agent.cli.doctor.servers import check_broker
from kaywatch_agent.cli.service.installer import find_closed_folder

# -- the agent's socket --------------------------------------------------------------


def check_socket_access(context: CheckContext) -> CheckResults:
    """Check that the socket exists, and show who can push."""
    path = Path(context.socket)
    folder = find_closed_folder(path)
    try:
        info = path.lstat()
    except OSError as error:
        yield _explain_missing(path, folder, error)
        return
    if not stat.S_ISSOCK(info.st_mode):
        yield problem(f"{path} is not a socket", "move it, and restart the agent")
        return
    ingest = context.config.ingest
    groups = [f"members of {name}" for name in ingest.allow_gids]
    allowed = ", ".join((*ingest.allow_uids, *groups))
    yield _check_mode(path, info, allowed)
    if allowed:
        yield ok(f"only {allowed} and root can push (ingest.allow_uids, allow_gids)")
    if folder is not None:
        yield warning(
            f"some users cannot enter {_describe_mode(folder, folder.stat())}",
            f"chmod o+x {folder}, if other users should push",
        )


def _explain_missing(path: Path, folder: Path | None, error: OSError) -> CheckResult:
    if isinstance(error, PermissionError):
        return problem(
            f"{path}: this user cannot enter {folder}",
            f"chmod o+x {folder}, or set ingest.socket to another path",
        )
    return problem(
        f"{path}: {os.strerror(error.errno or 0).lower()}",
        "start the agent; if its socket is elsewhere, pass --socket here, and set"
        " KAYWATCH_ENDPOINT for applications",
    )


def _check_mode(path: Path, info: os.stat_result, allowed: str) -> CheckResult:
    where, group = _describe_mode(path, info), group_name(info.st_gid)
    if info.st_mode & stat.S_IWOTH:
        if allowed:
            return ok(f"{where}: every user of this host can connect")
        return warning(
            f"{where}: every user of this host can push",
            f'set ingest.mode = "0660", and add users who push to the group {group}',
        )
    owner = user_name(info.st_uid)
    pushing = [owner] if info.st_mode & stat.S_IWUSR else []
    if info.st_mode & stat.S_IWGRP:
        pushing.append(f"the group {group}{_list_members(info.st_gid, owner)}")
    if not pushing:
        return problem(f"{where}: only root can push", 'set ingest.mode = "0660"')
    return ok(f"{where}: {' and '.join(pushing)} can push")


def _list_members(gid: int, owner: str) -> str:
    try:
        members = [name for name in grp.getgrgid(gid).gr_mem if name != owner]
    except KeyError:
        return ""
    return f" ({', '.join(members[:10])})" if members else ""


def _describe_mode(path: Path, info: os.stat_result) -> str:
    owners = f"{user_name(info.st_uid)}:{group_name(info.st_gid)}"
    return f"{path} ({stat.S_IMODE(info.st_mode):04o} {owners})"


def check_socket_connection(context: CheckContext) -> CheckResults:
    """Check that this user can connect, as an application of this user would."""
    user, error = user_name(os.geteuid()), context.listener
    if context.socket_activated:
        yield ok("not connected: systemd listens, and would start the agent")
    elif isinstance(error, OSError):
        if os.path.exists(context.socket) or error.errno == errno.EACCES:
            yield _explain_refusal(context.socket, user, error)
    elif os.geteuid() == 0:
        yield ok("root can connect")
    elif not context.config.ingest.access.admits(_ThisProcess()):
        yield problem(
            f"{user} can connect, but is not in allow_uids or allow_gids",
            f'add "{user}" to ingest.allow_uids, and reload the configuration',
        )
    else:
        yield ok(f"{user} can connect")


class _ThisProcess:
    """This process as an `access.Peer`, as the agent would identify it."""

    uid = property(lambda _: os.geteuid())
    gids = property(lambda _: (os.getegid(), *os.getgroups()))
    trusted = False


def _explain_refusal(path: str, user: str, error: OSError) -> CheckResult:
    if error.errno == errno.ECONNREFUSED:
        return problem(
            f"{path}: no process listens",
            "its agent was killed; start an agent, which replaces the socket",
        )
    if error.errno == errno.EACCES:
        return problem(f"{user} cannot connect to {path}", _access_fix(path, user))
    if isinstance(error, TimeoutError):
        return problem(
            f"{path}: connections are not accepted",
            "the agent hangs: read its log, and restart it",
        )
    return unchecked(f"{path}: {error}", "check that it is an agent's socket")


def _access_fix(path: str, user: str) -> str:
    """Return how to permit a user to connect."""
    try:
        info = os.stat(path)
    except OSError:
        folder = find_closed_folder(Path(path))
        return f"chmod o+x {folder}: other users cannot enter it"
    group = group_name(info.st_gid)
    if not info.st_mode & stat.S_IWGRP:
        return 'set ingest.mode = "0660", and restart the agent'
    with contextlib.suppress(KeyError):
        if info.st_gid in os.getgrouplist(user, pwd.getpwnam(user).pw_gid):
            return f"log in again: {user} was added to {group} after the last login"
    return f"as root: usermod -aG {group} {user}; then log in again"


def check_socket_discovery(context: CheckContext) -> CheckResults:
    """Check that applications find the socket without configuration."""
    if os.environ.get("KAYWATCH_ENDPOINT"):
        return  # `check_endpoint` checks it
    paths = list(candidates(None))
    if next(filter(os.path.exists, paths), None) == context.socket:
        yield ok("applications of this user find the socket without configuration")
    elif os.path.exists(context.socket):
        yield warning(
            f"applications of this user look at {' and '.join(paths)}",
            f"set KAYWATCH_ENDPOINT=unix://{context.socket} for them",
        )


# -- the environment -----------------------------------------------------------------


def check_recording(_: CheckContext) -> CheckResults:
    """Check that the environment does not disable the client."""
    if settings_from_environment().enabled:
        yield ok("applications record their executions")
    else:
        value = os.environ.get("KAYGRAPH_COLLECT_METRICS")
        yield warning(
            f"KAYGRAPH_COLLECT_METRICS={value}: applications record nothing",
            "unset it, or set it to true",
        )


def check_endpoint(context: CheckContext) -> CheckResults:
    """Check that `KAYWATCH_ENDPOINT` leads to an agent or a broker."""
    value = os.environ.get("KAYWATCH_ENDPOINT")
    if not value:
        return
    try:
        check_usable(value)
        if urlsplit(value).scheme in brokers.SCHEMES:
            broker = brokers.from_environment(value)
            yield from check_broker(f"KAYWATCH_ENDPOINT ({broker.url})", broker)
            return
    except ConfigurationError as error:
        yield problem(f"KAYWATCH_ENDPOINT: {error}", "correct or unset it")
        return
    if os.path.exists(urlsplit(value).path):
        yield ok(f"KAYWATCH_ENDPOINT={value}")
    else:
        yield problem(
            f"KAYWATCH_ENDPOINT={value}: no such file",
            f"set it to unix://{context.config.ingest.path}, or unset it",
        )


def check_variables(_: CheckContext) -> CheckResults:
    """Check the other environment variables of the client."""
    invalid = parse_tags(os.environ.get("KAYWATCH_TAGS", ""))[1]
    if invalid:
        yield warning(
            f"KAYWATCH_TAGS: {', '.join(invalid)} is ignored", "write key=value,..."
        )
    prices = os.environ.get("KAYWATCH_PRICES")
    if prices and not Path(prices).is_file():
        yield problem(f"KAYWATCH_PRICES={prices}: no such file", "correct or unset it")


def check_frameworks(_: CheckContext) -> CheckResults:
    """Check that a framework that can be monitored is installed."""
    python = f"in this Python ({sys.prefix})"
    if installed := _list_installed(FRAMEWORKS):
        yield ok(f"{installed} {python}")
    else:
        yield unchecked(
            f"neither {' nor '.join(FRAMEWORKS)} is installed {python}",
            "run `kaywatch doctor` in the environment of the application",
        )
    if installed := _list_installed(SDKS):
        yield ok(f"calls of these language model SDKs are recorded: {installed}")


def _list_installed(modules: Iterable[str]) -> str:
    """Return the installed modules with their versions, without importing them."""
    installed = []
    for name in modules:
        try:
            if importlib.util.find_spec(name) is None:
                continue
            installed.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            installed.append(f"{name} of an unknown version")
        except (ImportError, ValueError):
            continue
    return ", ".join(installed)
