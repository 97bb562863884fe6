"""The commands, by the chapters of `kaywatch --help`."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Final

import click

from kaywatch_agent.cli.commands.alerts import alerts, why
from kaywatch_agent.cli.commands.capture import capture, replay
from kaywatch_agent.cli.commands.demo import demo
from kaywatch_agent.cli.commands.doctor import doctor
from kaywatch_agent.cli.commands.live import tail, top
from kaywatch_agent.cli.commands.notify import notify, outbox
from kaywatch_agent.cli.commands.open import open_page
from kaywatch_agent.cli.commands.report import report
from kaywatch_agent.cli.commands.serve import check, run, serve
from kaywatch_agent.cli.commands.silence import silence
from kaywatch_agent.cli.commands.status import stats, status

__all__ = ["CHAPTERS"]


class LazyGroup(click.Group):
    """A group whose module, which imports the whole agent, is imported when used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return self._group.list_commands(ctx)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        return self._group.get_command(ctx, cmd_name)

    @property
    def _group(self) -> click.Group:
        module = importlib.import_module(f"kaywatch_agent.cli.commands.{self.name}")
        group: click.Group = getattr(module, str(self.name))
        return group


_rules = LazyGroup("rules", help="Check, test and backtest alert rules.")
_service = LazyGroup("service", help="Run the agent as a systemd service.")

# In the order in which a new user needs them.
CHAPTERS: Final[Mapping[str, tuple[click.Command, ...]]] = {
    "Run": (serve, run, check, _service, doctor, demo),
    "Inspect": (open_page, status, top, tail, stats, report),
    "Alerts": (alerts, why, _rules, silence, notify, outbox),
    "Traffic": (capture, replay),
}
