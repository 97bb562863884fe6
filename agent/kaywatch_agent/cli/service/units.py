"""The units of an installation, as text."""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib import resources
from typing import Final

from kaywatch_agent.errors import ConfigError

__all__ = ["HEADER", "UNITS", "Installation", "render"]

# Says who wrote a unit, and by which command: the units can be made again from it.
HEADER: Final = "# Written by: "

HTTP: Final = "kaywatch-http.socket"
UNITS: Final = ("kaywatch.socket", HTTP, "kaywatch.service")

# The first with Type=notify-reload, which waits for the end of a reload.
NOTIFY_RELOAD: Final = 253

# No word of a unit file that systemd would split, unquote or expand.
_PLAIN: Final = re.compile(r"[A-Za-z0-9_./:@+,\[\]-]+")


@dataclass(frozen=True)
class Installation:
    """What differs from one installation to the other.

    Attributes:
        command: the path of `kaywatch`.
        config: the path of the configuration; empty for the default one.
        socket: the path that applications push to; empty for the default one.
        mode: its permissions.
        listen: where systemd holds HTTP; empty if the agent itself listens.
        user: whether it is the service of a user, and not of the machine.
        version: systemd's.
    """

    command: str
    config: str = ""
    socket: str = ""
    mode: str = "0660"
    listen: str = ""
    user: bool = False
    version: int = NOTIFY_RELOAD - 1


def render(installation: Installation) -> dict[str, str]:
    """Return the text of each unit by its name.

    Raises:
        ConfigError: a path that can't be written into a unit.
    """
    fixed = (
        "%t/kaywatch/ingest.sock" if installation.user else "/run/kaywatch/ingest.sock"
    )
    options = f" --config {_word(installation.config)}" if installation.config else ""
    command = _word(installation.command)
    words = {
        "command": command,
        "options": options,
        "socket": _word(installation.socket) if installation.socket else fixed,
        "mode": installation.mode,
        "listen": _word(installation.listen) if installation.listen else "",
        **_reload(installation, command, options),
    }
    first = f"{HEADER}{_command_line(installation)}\n"
    return {
        name: first + _filled(name, words, installation.user)
        for name in UNITS
        if name != HTTP or installation.listen
    }


def _reload(installation: Installation, command: str, options: str) -> dict[str, str]:
    """Return how the manager reloads it: a file that is wrong is refused, and why."""
    check = f"ExecReload={command} check --quiet{options}"
    if installation.version >= NOTIFY_RELOAD:
        return {"type": "Type=notify-reload", "reload": check}
    return {
        "type": "Type=notify",
        "reload": f"{check}\nExecReload=/bin/kill -HUP $MAINPID",
    }


def _command_line(installation: Installation) -> str:
    words = ["kaywatch service install"]
    if installation.user:
        words.append("--user")
    if installation.config:
        words.append(f"--config {installation.config}")
    if installation.listen:
        words.append("--http-socket")
    return " ".join(words)


def _filled(name: str, words: dict[str, str], user: bool) -> str:
    folder = resources.files(__package__) / "units"
    own = folder / "user" / name
    found = own if user and own.is_file() else folder / name
    text = found.read_text(encoding="utf-8")
    return re.sub(r"@([a-z]+)@", lambda word: words[word[1]], text)


def _word(text: str) -> str:
    if not _PLAIN.fullmatch(text):
        raise ConfigError("", f"{text!r} can't stand in a unit file: use a plain path")
    return text
