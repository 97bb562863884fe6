"""Commands in modules of their own: what they are asked, and what they show."""

from __future__ import annotations

import importlib
from typing import Final

import click

from kaywatch_agent.cli.commands.alerts import alerts, why
from kaywatch_agent.cli.commands.doctor import doctor
from kaywatch_agent.cli.commands.notify import notify, outbox
from kaywatch_agent.cli.commands.silence import silence

__all__ = ["COMMANDS"]


class _Later(click.Group):
    """A group whose module is imported when it is used: it needs the whole agent."""

    def __init__(self, name: str, module: str, text: str) -> None:
        super().__init__(name, help=text)
        self._module = module

    def list_commands(self, ctx: click.Context) -> list[str]:
        return self._group.list_commands(ctx)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        return self._group.get_command(ctx, cmd_name)

    @property
    def _group(self) -> click.Group:
        found: click.Group = getattr(
            importlib.import_module(self._module), str(self.name)
        )
        return found


_rules = _Later(
    "rules",
    "kaywatch_agent.cli.commands.rules",
    "Check rules, test them, and try them on the past.",
)

_service = _Later(
    "service",
    "kaywatch_agent.cli.commands.service",
    "Run the agent as a systemd service.",
)

COMMANDS: Final[tuple[click.Command, ...]] = (
    alerts,
    why,
    _rules,
    silence,
    notify,
    outbox,
    _service,
    doctor,
)
