"""Whether the socket is there, who may push to it, and whether this user can."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import Final

from kaywatch._send.transport import candidates
from kaywatch_agent.cli.doctor import who
from kaywatch_agent.cli.doctor.finding import (
    Finding,
    Findings,
    ok,
    problem,
    unchecked,
    warning,
)
from kaywatch_agent.cli.doctor.ground import Ground, connected

__all__ = ["CHECKS"]

START: Final = (
    "start the agent there, or say where it is: --socket here, KAYWATCH_ENDPOINT for"
    " applications"
)


def rights(ground: Ground) -> Findings:
    """Who may push."""
    path = ground.socket
    try:
        found = os.lstat(path)
    except PermissionError:
        folder = who.closed_folder(Path(path))
        yield problem(
            f"{path}: this user may not go through {folder}",
            f"chmod o+x {folder}, or put the socket elsewhere (ingest.socket)",
        )
        return
    except OSError as error:
        yield problem(f"{path}: {os.strerror(error.errno or 0).lower()}", START)
        return
    if not stat.S_ISSOCK(found.st_mode):
        yield problem(f"{path} is no socket", "move it away, and restart the agent")
        return
    yield _who_may(path, found, narrowed=bool(_named(ground)))
    if named := _named(ground):
        yield ok(f"of these, only {named} and root may (ingest.allow_uids, allow_gids)")
    folder = who.closed_folder(Path(path))
    if folder is not None:
        mode = stat.S_IMODE(folder.stat().st_mode)
        yield warning(
            f"not everybody may go through {folder} ({mode:04o}"
            f" {who.user(folder.stat().st_uid)}:{who.group(folder.stat().st_gid)}),"
            " whatever the socket's own rights are",
            f"chmod o+x {folder}, if others shall push",
        )


def connect(ground: Ground) -> Findings:
    """This user can connect, as an application of theirs would."""
    me = who.user(os.geteuid())
    if ground.waiting:
        yield ok("systemd holds it: a connect would start the agent, and isn't tried")
        return
    try:
        connected(ground.socket).close()
    except OSError as error:
        if os.path.exists(ground.socket) or error.errno == errno.EACCES:
            yield _refused(ground.socket, me, error)
        return
    access = ground.config.ingest.access
    if os.geteuid() == 0:
        yield ok("root can connect, whatever the rights are")
    elif not access.admits(_Me()):
        yield problem(
            f"{me} can connect, and is refused: not in allow_uids or allow_gids",
            f'add "{me}" to ingest.allow_uids, and reload the configuration',
        )
    else:
        yield ok(f"{me} can connect")


def found_by_clients(ground: Ground) -> Findings:
    """Applications find it without being told."""
    endpoint = os.environ.get("KAYWATCH_ENDPOINT")
    if endpoint:
        return  # said of the application's environment
    first = next((p for p in candidates(None) if os.path.exists(p)), None)
    if first == ground.socket:
        yield ok("applications of this user find it without being told where it is")
    elif os.path.exists(ground.socket):
        yield warning(
            f"applications of this user look at {' and '.join(candidates(None))}",
            f"set KAYWATCH_ENDPOINT=unix://{ground.socket} for them",
        )


class _Me:
    """This process, as the agent sees who connects."""

    uid = property(lambda _: os.geteuid())
    gids = property(lambda _: (os.getegid(), *os.getgroups()))
    trusted = False


def _named(ground: Ground) -> str:
    """Return whom the configuration names; empty if it names nobody."""
    config = ground.config.ingest
    groups = [f"members of {name}" for name in config.allow_gids]
    return ", ".join((*config.allow_uids, *groups))


def _who_may(path: str, found: os.stat_result, *, narrowed: bool) -> Finding:
    mode = stat.S_IMODE(found.st_mode)
    owner, group = who.user(found.st_uid), who.group(found.st_gid)
    where = f"{path} ({mode:04o} {owner}:{group})"
    if mode & stat.S_IWOTH and narrowed:
        return ok(f"{where}: everybody on this host may connect")
    if mode & stat.S_IWOTH:
        return warning(
            f"{where}: everybody on this host may push",
            f'set ingest.mode = "0660", and have those who push in the group {group}',
        )
    allowed = [owner] if mode & stat.S_IWUSR else []
    if mode & stat.S_IWGRP:
        names = [name for name in who.members(found.st_gid) if name != owner]
        listed = f" ({', '.join(names[:10])})" if names else ""
        allowed.append(f"the group {group}{listed}")
    if not allowed:
        return problem(f"{where}: nobody but root may push", 'ingest.mode = "0660"')
    return ok(f"{where}: {' and '.join(allowed)} may push")


def _refused(path: str, me: str, error: OSError) -> Finding:
    if error.errno == errno.ECONNREFUSED:
        return problem(
            f"{path}: nobody listens",
            "the agent that made it is gone; the next one takes its place",
        )
    if error.errno == errno.EACCES:
        return problem(f"{me} may not connect to {path}", _way_in(path, me))
    if isinstance(error, TimeoutError):
        return problem(
            f"{path}: nobody accepts connections",
            "the agent hangs: look into its log, and restart it",
        )
    return unchecked(f"{path}: {error}", "is it an agent's?")


def _way_in(path: str, me: str) -> str:
    try:
        found = os.stat(path)
    except OSError:
        folder = who.closed_folder(Path(path))
        return f"the way is closed at {folder}: chmod o+x {folder}"
    group = who.group(found.st_gid)
    if not found.st_mode & stat.S_IWGRP:
        return 'set ingest.mode = "0660", and restart the agent'
    if found.st_gid in who.groups_of(me):
        return f"{me} is in {group} since the last login: log in again"
    return f"as root: usermod -aG {group} {me}; then log in again"


CHECKS: Final = (rights, connect, found_by_clients)
