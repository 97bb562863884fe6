"""Installs and removes the systemd units, and compares them with the installed ones."""

from __future__ import annotations

import os
import shlex
import shutil
import stat
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import kaywatch_agent
from kaywatch_agent.cli.service.units import HEADER, UNITS, Installation, render
from kaywatch_agent.config import find, load
from kaywatch_agent.errors import StartError

__all__ = [
    "InstalledFile",
    "Manager",
    "Steps",
    "find_closed_folder",
    "install",
    "plan_files",
    "replan_files",
    "uninstall",
]

SYSTEM_UNITS: Final = Path("/etc/systemd/system")
SYSUSERS: Final = Path("/etc/sysusers.d/kaywatch.conf")
CREDENTIALS: Final = Path("/etc/kaywatch/credentials")
STATE: Final = Path("/var/lib/kaywatch")

# ProtectHome= and PrivateTmp= hide these from the service.
HIDDEN_FOLDERS: Final = ("/home", "/root", "/run/user", "/tmp", "/var/tmp")  # noqa: S108

ELSEWHERE: Final = (
    "install kaywatch elsewhere, with the system's Python: python3 -m venv"
    " /opt/kaywatch && /opt/kaywatch/bin/pip install 'kaywatch[agent]'; or use --user"
)

GROUP: Final = """\
# Members of this group may push to the agent; see systemd-sysusers.
g kaywatch -
"""

Steps = Iterator[str]


class Manager:
    """The system's service manager (systemd), or a user's."""

    def __init__(self, user: bool = False) -> None:
        self.user = user
        self._options = ("--user",) if user else ()

    @property
    def folder(self) -> Path:
        """The folder of local units."""
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
        """Run systemctl; see `run`."""
        return self.run("systemctl", *self._options, *arguments)

    def properties(self, unit: str, *names: str) -> dict[str, str]:
        """Return some of a unit's properties."""
        text = self.systemctl("show", f"--property={','.join(names)}", unit)
        return dict(line.split("=", 1) for line in text.splitlines() if "=" in line)

    def exposure(self) -> str:
        """Return the exposure level that systemd-analyze computes, such as `1.4 OK`."""
        command = ("systemd-analyze", *self._options, "security", "--no-pager")
        *_, last = self.run(*command, "kaywatch.service").splitlines() or [""]
        return " ".join(last.rpartition(": ")[2].split()[:2])

    def run(self, *command: str) -> str:
        """Run a command, and return its output.

        Raises:
            StartError: the command failed, or is not installed.
        """
        program = shutil.which(command[0])
        if program is None:
            raise StartError(f"{command[0]} is not installed; a service needs systemd")
        process = subprocess.run(  # noqa: S603
            [program, *command[1:]], capture_output=True, text=True, check=False
        )
        if process.returncode:
            output = (process.stderr or process.stdout).strip()
            raise StartError(f"{shlex.join(command)} failed: {output}")
        return process.stdout


@dataclass(frozen=True)
class InstalledFile:
    """A file of an installation.

    Attributes:
        path: where it belongs.
        text: the content that this version writes.
        installed: its content now; None if there is no such file.
    """

    path: Path
    text: str
    installed: str | None

    @property
    def state(self) -> str:
        """`missing`, `up to date` or `differs`."""
        if self.installed is None:
            return "missing"
        return "up to date" if self.installed == self.text else "differs"


def plan_files(manager: Manager, config: str, http: bool) -> list[InstalledFile]:
    """Return the files of an installation, with their current content.

    Args:
        manager: the manager of the service.
        config: the path of the configuration; empty for the default one.
        http: whether systemd listens for HTTP.

    Raises:
        ConfigError: the configuration is invalid.
        StartError: a service cannot run from this installation.
    """
    units = render(_describe_installation(manager, config, http))
    texts = {manager.folder / name: text for name, text in units.items()}
    if not manager.user:
        texts[SYSUSERS] = GROUP
    return [InstalledFile(path, text, _read(path)) for path, text in texts.items()]


def replan_files(manager: Manager) -> list[InstalledFile] | None:
    """Return the files for the options of the last `install`; None without one.

    Raises:
        ConfigError: the configuration is invalid.
        StartError: a service cannot run from this installation.
    """
    first = (_read(manager.folder / "kaywatch.service") or "").partition("\n")[0]
    if not first.startswith(HEADER):
        return None
    words = first.removeprefix(HEADER).split()
    config = words[words.index("--config") + 1] if "--config" in words else ""
    return plan_files(manager, config, "--http-socket" in words)


def install(manager: Manager, files: list[InstalledFile], *, start: bool) -> Steps:
    """Write the files that are missing or differ, and yield each step that was done.

    Raises:
        StartError: another unit has the same path, or a step is not permitted.
    """
    _require_root(manager)
    for file in files:
        unit = file.path.name in UNITS
        if unit and not (file.installed or HEADER).startswith(HEADER):
            raise StartError(
                f"{file.path} was not written by kaywatch; move it away. For your own"
                " changes use `systemctl edit`"
            )
    for file in files:
        if file.installed != file.text:
            _write(file)
            yield f"wrote {file.path}"
    if not manager.user:
        yield from _make_folders()
        manager.run("systemd-sysusers", str(SYSUSERS))
        yield "created the group kaywatch if it was missing; its members may push"
    manager.systemctl("daemon-reload")
    yield "reloaded systemd's units"
    if start:
        units = [file.path.name for file in files if file.path.name in UNITS]
        manager.systemctl("enable", *units)
        # Sockets first: systemd cannot pass a socket to a service that already runs.
        manager.systemctl("start", *units)
        yield f"enabled and started {', '.join(units)}"


def uninstall(manager: Manager) -> Steps:
    """Stop the service and remove its units; data and configuration stay.

    Raises:
        StartError: a step is not permitted.
    """
    _require_root(manager)
    units = [
        path
        for path in (manager.folder / name for name in UNITS)
        if (_read(path) or "").startswith(HEADER)
    ]
    if units:
        # Sockets first: a connection to one would start the service again.
        manager.systemctl("disable", "--now", *(path.name for path in units))
        yield f"stopped and disabled {', '.join(path.name for path in units)}"
    for path in [*units, *([] if manager.user else [SYSUSERS])]:
        if path.exists():
            path.unlink()
            yield f"removed {path}"
    manager.systemctl("daemon-reload")
    yield "reloaded systemd's units"
    if not manager.user:
        yield f"kept {STATE}, {CREDENTIALS.parent} and the group kaywatch"


def find_closed_folder(path: Path) -> Path | None:
    """Return the first folder above a path that other users cannot enter."""
    for folder in reversed(path.absolute().parents):
        try:
            if not folder.stat().st_mode & stat.S_IXOTH:
                return folder
        except OSError:
            return folder
    return None


def _describe_installation(manager: Manager, config: str, http: bool) -> Installation:
    path = find(os.path.abspath(config) if config else None)
    settings = load(path)
    if http and settings.http.address[1] == 0:
        raise StartError("http.listen: --http-socket needs a fixed port, not 0")
    command = Path(sysconfig.get_path("scripts")) / "kaywatch"
    if not command.exists():
        raise StartError(
            f"{command} does not exist; install kaywatch in this environment:"
            " pip install 'kaywatch[agent]'"
        )
    if not manager.user:
        _check_visible(command, path)
    return Installation(
        command=str(command),
        config=str(path) if config and path else "",
        socket=settings.ingest.socket,
        mode=settings.ingest.mode,
        listen=settings.http.listen if http else "",
        user=manager.user,
        version=manager.version,
    )


def _check_visible(command: Path, config: Path | None) -> None:
    """Check that the service's user can read the installation and its configuration.

    Raises:
        StartError: the sandbox or a mode prevents it.
    """
    config_fix = f"move it to /etc/kaywatch, and keep secrets in {CREDENTIALS}"
    fixes = dict.fromkeys(
        (command, Path(sys.base_prefix), Path(kaywatch_agent.__file__ or "")), ELSEWHERE
    )
    for path, fix in {**fixes, **({config: config_fix} if config else {})}.items():
        target = path.resolve()
        for place in (path, target):
            if any(place.is_relative_to(folder) for folder in HIDDEN_FOLDERS):
                why = "is hidden from the service (ProtectHome=, PrivateTmp=)"
                raise StartError(f"{place} {why}; {fix}")
        closed = find_closed_folder(target)
        if closed is None and not target.stat().st_mode & stat.S_IROTH:
            closed = target
        if closed is not None:
            raise StartError(
                f"the service cannot read {closed}; chmod o+rX {closed}, or {fix}"
            )


def _require_root(manager: Manager) -> None:
    if not manager.user and os.geteuid() != 0:
        raise StartError("this needs root: use sudo, or --user for your own service")


def _make_folders() -> Steps:
    for folder, mode in ((CREDENTIALS.parent, 0o755), (CREDENTIALS, 0o700)):
        if not folder.exists():
            folder.mkdir(mode)
            yield f"created {folder}"


def _write(file: InstalledFile) -> None:
    try:
        file.path.parent.mkdir(parents=True, exist_ok=True)
        # Renamed into place, so that systemd never reads half a file.
        draft = file.path.with_suffix(file.path.suffix + ".new")
        draft.write_text(file.text, encoding="utf-8")
        draft.chmod(0o644)
        draft.replace(file.path)
    except OSError as error:
        raise StartError(f"cannot write {file.path}: {error.strerror}") from None


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise StartError(f"cannot read {path}: {error}") from None
