"""Renders the systemd units of an installation."""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib import resources
from typing import Final

from kaywatch_agent.errors import ConfigError

__all__ = ["HEADER", "UNITS", "Installation", "render"]

# The first line of a unit: the command that wrote it, and can write it again.
HEADER: Final = "# Written by: "

HTTP: Final = "kaywatch-http.socket"
UNITS: Final = ("kaywatch.socket", HTTP, "kaywatch.service")

# The first version with Type=notify-reload, which waits until a reload is done.
NOTIFY_RELOAD: Final = 253

# Words that systemd neither splits, unquotes nor expands.
_PLAIN_WORD: Final = re.compile(r"[A-Za-z0-9_./:@+,\[\]-]+")


@dataclass(frozen=True)
class Installation:
    """The parts of the units that differ between installations.

    Attributes:
        command: the path of `kaywatch`.
        config: the path of the configuration; empty for the default one.
        socket: the path that applications push to; empty for the default one.
        mode: its permissions.
        listen: where systemd listens for HTTP; empty if the agent does.
        user: whether it is a user's service, not the system's.
        version: the version of systemd.
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
        ConfigError: a path has characters that are special in a unit.
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
        name: first + _fill(name, words, installation.user)
        for name in UNITS
        if name != HTTP or installation.listen
    }


def _reload(installation: Installation, command: str, options: str) -> dict[str, str]:
    """Return the lines for a reload, which first checks the configuration."""
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


def _fill(name: str, words: dict[str, str], user: bool) -> str:
    folder = resources.files(__package__) / "units"
    template = folder / "user" / name
    if not user or not template.is_file():
        template = folder / name
    text = template.read_text(encoding="utf-8")
    return re.sub(r"@([a-z]+)@", lambda word: words[word[1]], text)


def _word(text: str) -> str:
    if not _PLAIN_WORD.fullmatch(text):
        allowed = "letters, digits and _./:@+,[]-"
        raise ConfigError("", f"{text!r} cannot be used in a unit: only {allowed}")
    return text
