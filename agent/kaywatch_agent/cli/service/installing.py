"""Puts the units where systemd finds them, takes them away, and compares."""

from __future__ import annotations

import os
import shlex
import shutil
import stat
import subprocess
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import kaywatch_agent
from kaywatch_agent.cli.service.units import HEADER, UNITS, Installation, render
from kaywatch_agent.config import find, load
from kaywatch_agent.errors import StartError

__all__ = ["Manager", "Steps", "asked_for", "describe", "install", "plan", "uninstall"]

SYSTEM_UNITS: Final = Path("/etc/systemd/system")
SYSUSERS: Final = Path("/etc/sysusers.d/kaywatch.conf")
CREDENTIALS: Final = Path("/etc/kaywatch/credentials")
STATE: Final = Path("/var/lib/kaywatch")

# What a service with ProtectHome= and PrivateTmp= does not see.
HIDDEN: Final = ("/home", "/root", "/run/user", "/tmp", "/var/tmp")  # noqa: S108

OUTSIDE: Final = (
    "install kaywatch outside, with the system's Python, as by"
    " python3 -m venv /opt/kaywatch && /opt/kaywatch/bin/pip install 'kaywatch[agent]'"
    "; or see --user"
)

GROUP: Final = """\
# Whose members may push to the agent; see systemd-sysusers.
g kaywatch -
"""

Steps = Iterator[str]


class Manager:
    """The system's systemd, or a user's."""

    def __init__(self, user: bool = False) -> None:
        self.user = user
        self._options = ("--user",) if user else ()

    @property
    def folder(self) -> Path:
        """Where an administrator's units are, or the user's."""
        if not self.user:
            return SYSTEM_UNITS
        home = os.environ.get("XDG_CONFIG_HOME")
        return (Path(home) if home else Path.home() / ".config") / "systemd/user"

    @property
    def version(self) -> int:
        """The number of systemd's release."""
        words = self.run("systemctl", "--version").split()
        return int(words[1]) if len(words) > 1 and words[1].isdigit() else 0

    def systemctl(self, *arguments: str) -> str:
        """Ask for something; see `run`."""
        return self.run("systemctl", *self._options, *arguments)

    def properties(self, unit: str, *names: str) -> dict[str, str]:
        """Return some of a unit's properties."""
        text = self.systemctl("show", f"--property={','.join(names)}", unit)
        return dict(line.split("=", 1) for line in text.splitlines() if "=" in line)

    def exposure(self) -> str:
        """Return what systemd-analyze says of the sandbox, such as `1.4 OK`."""
        command = ("systemd-analyze", *self._options, "security", "--no-pager")
        *_, last = self.run(*command, "kaywatch.service").splitlines() or [""]
        return " ".join(last.rpartition(": ")[2].split()[:2])

    def run(self, *command: str) -> str:
        """Run a command, and return what it printed.

        Raises:
            StartError: it failed, or is not there.
        """
        found = shutil.which(command[0])
        if found is None:
            raise StartError(f"no {command[0]} here: is this a machine with systemd?")
        done = subprocess.run(  # noqa: S603
            [found, *command[1:]],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            said = (done.stderr or done.stdout).strip()
            raise StartError(f"{shlex.join(command)} failed: {said}")
        return done.stdout


@dataclass(frozen=True)
class File:
    """A file of an installation, and what is there now; None for nothing."""

    path: Path
    text: str
    found: str | None

    @property
    def state(self) -> str:
        """How what is there compares."""
        if self.found is None:
            return "absent"
        return "as it should be" if self.found == self.text else "differs"


def describe(manager: Manager, config: str, http: bool) -> Installation:
    """Return the installation that this command is part of.

    Raises:
        ConfigError: the configuration is wrong.
        StartError: a service could not run it from where it is.
    """
    path = find(os.path.abspath(config) if config else None)
    settings = load(path)
    if http and settings.http.address[1] == 0:
        raise StartError("http.listen: systemd can't hold port 0: give a fixed one")
    command = Path(sysconfig.get_path("scripts")) / "kaywatch"
    if not command.exists():
        raise StartError(
            f"{command} is not there: install kaywatch into this environment, as by"
            " pip install 'kaywatch[agent]'"
        )
    if not manager.user:
        _refuse_hidden(command, path)
    return Installation(
        command=str(command),
        config=str(path) if config and path else "",
        socket=settings.ingest.socket,
        mode=settings.ingest.mode,
        listen=settings.http.listen if http else "",
        user=manager.user,
        version=manager.version,
    )


def plan(manager: Manager, installation: Installation) -> list[File]:
    """Return the files of an installation."""
    texts = {manager.folder / n: text for n, text in render(installation).items()}
    if not manager.user:
        texts[SYSUSERS] = GROUP
    return [File(path, text, _read(path)) for path, text in texts.items()]


def install(manager: Manager, files: list[File], *, start: bool) -> Steps:
    """Write what is absent or differs, and yield what was done.

    Raises:
        StartError: a unit is there that is not ours, or something is not allowed.
    """
    _need_rights(manager)
    for file in files:
        if file.path.name in UNITS and not (file.found or HEADER).startswith(HEADER):
            raise StartError(
                f"{file.path} is not ours: move it away; for changes of your own there"
                " is `systemctl edit`"
            )
    for file in files:
        if file.found != file.text:
            _write(file)
            yield f"wrote {file.path}"
    if not manager.user:
        yield from _make_folders()
        manager.run("systemd-sysusers", str(SYSUSERS))
        yield "made the group kaywatch, unless it was there: its members may push"
    manager.systemctl("daemon-reload")
    yield "told systemd (daemon-reload)"
    if start:
        units = [file.path.name for file in files if file.path.name in UNITS]
        manager.systemctl("enable", *units)
        # Sockets first: one that listens can't be given to a service that runs.
        manager.systemctl("start", *units)
        yield f"enabled and started {', '.join(units)}"


def uninstall(manager: Manager) -> Steps:
    """Stop the service and remove its units; data and configuration stay.

    Raises:
        StartError: it is not allowed.
    """
    _need_rights(manager)
    ours = [
        path
        for path in (manager.folder / name for name in UNITS)
        if (_read(path) or "").startswith(HEADER)
    ]
    if ours:
        # Sockets first: one that listens would start the service again.
        manager.systemctl("disable", "--now", *(path.name for path in ours))
        yield f"stopped and disabled {', '.join(path.name for path in ours)}"
    for path in [*ours, *([] if manager.user else [SYSUSERS])]:
        if path.exists():
            path.unlink()
            yield f"removed {path}"
    manager.systemctl("daemon-reload")
    yield "told systemd (daemon-reload)"
    if not manager.user:
        yield f"left {STATE}, {CREDENTIALS.parent} and the group kaywatch as they are"


def asked_for(folder: Path) -> Mapping[str, str] | None:
    """Return the options that an installation was made with; None if there is none."""
    first = (_read(folder / "kaywatch.service") or "").partition("\n")[0]
    if not first.startswith(HEADER):
        return None
    words = first.removeprefix(HEADER).split()
    config = words[words.index("--config") + 1] if "--config" in words else ""
    return {"config": config, "http": "yes" if "--http-socket" in words else ""}


def _refuse_hidden(command: Path, config: Path | None) -> None:
    """Refuse what the sandbox would hide from the service."""
    package = Path(kaywatch_agent.__file__ or "")
    for path in (command, Path(sys.base_prefix), package):
        if hidden := _hidden(path):
            raise StartError(f"{hidden}: {OUTSIDE}")
        if closed := _closed(path):
            raise StartError(f"{closed} is closed to the service: chmod o+rx {closed}")
    if config is not None and (hidden := _hidden(config)):
        raise StartError(f"{hidden}: put it below /etc/kaywatch")
    if config is not None and (closed := _closed(config)):
        raise StartError(
            f"{closed} is closed to the service: chmod o+rX {closed}, and keep secrets"
            f" in {CREDENTIALS}"
        )


def _hidden(path: Path) -> str:
    """Return why a service doesn't see a path; empty if it does."""
    for place in (path, path.resolve()):
        if any(place.is_relative_to(folder) for folder in HIDDEN):
            return f"{place} is hidden from the service (ProtectHome=, PrivateTmp=)"
    return ""


def _closed(path: Path) -> Path | None:
    """Return what keeps another user from reading a path; None if nothing does."""
    path = path.resolve()
    for folder in reversed(path.parents):
        if not folder.stat().st_mode & stat.S_IXOTH:
            return folder
    return None if path.stat().st_mode & stat.S_IROTH else path


def _need_rights(manager: Manager) -> None:
    if not manager.user and os.geteuid() != 0:
        raise StartError("this needs root: use sudo, or --user for a service of yours")


def _make_folders() -> Steps:
    for folder, mode in ((CREDENTIALS.parent, 0o755), (CREDENTIALS, 0o700)):
        if not folder.exists():
            folder.mkdir(mode)
            yield f"made {folder}"


def _write(file: File) -> None:
    try:
        file.path.parent.mkdir(parents=True, exist_ok=True)
        # Whole or not at all, should systemd look meanwhile.
        draft = file.path.with_suffix(file.path.suffix + ".new")
        draft.write_text(file.text, encoding="utf-8")
        draft.chmod(0o644)
        draft.replace(file.path)
    except OSError as error:
        raise StartError(f"can't write {file.path}: {error.strerror}") from None


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise StartError(f"can't read {path}: {error}") from None
