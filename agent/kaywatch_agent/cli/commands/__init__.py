"""Lists the commands by chapter of `kaywatch --help`, and imports them when used.

The agent runs for months, so it must not keep the modules of `top` and `doctor` in
memory.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from functools import cache
from typing import Final

import click

__all__ = ["CHAPTERS", "load_command"]

# The module of each command, in the order in which a new user needs them.
CHAPTERS: Final[Mapping[str, Mapping[str, str]]] = {
    "Run": {
        "serve": "serve",
        "run": "serve",
        "check": "serve",
        "service": "service",
        "doctor": "doctor",
        "demo": "demo",
    },
    "Inspect": {
        "open": "open",
        "status": "status",
        "top": "live",
        "tail": "live",
        "stats": "status",
        "report": "report",
        "bundle": "bundle",
    },
    "Alerts": {
        "alerts": "alerts",
        "why": "alerts",
        "rules": "rules",
        "silence": "silence",
        "notify": "notify",
        "outbox": "notify",
    },
    "Traffic": {"capture": "capture", "replay": "capture"},
}


class LazyGroup(click.Group):
    """A group that is imported when used: its module imports the whole agent."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return self._group.list_commands(ctx)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        return self._group.get_command(ctx, cmd_name)

    @property
    def _group(self) -> click.Group:
        module = importlib.import_module(f"{__name__}.{self.name}")
        group: click.Group = getattr(module, str(self.name))
        return group


_LAZY_GROUPS: Final = {
    "rules": "Check, test, backtest and export alert rules.\n\nThese commands send"
    " nothing, and need no running agent. docs/alerts.md explains rules.",
    "service": "Run the agent as a systemd service.",
}


@cache
def load_command(name: str) -> click.Command | None:
    """Return the command with a name; None for an unknown name."""
    if name in _LAZY_GROUPS:
        return LazyGroup(name, help=_LAZY_GROUPS[name])
    for modules in CHAPTERS.values():
        if name in modules:
            return _import_command(modules[name], name)
    return None


def _import_command(module: str, name: str) -> click.Command:
    members = vars(importlib.import_module(f"{__name__}.{module}")).values()
    return next(
        member
        for member in members
        if isinstance(member, click.Command) and member.name == name
    )
