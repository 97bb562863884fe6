"""Commands about alerts: what they are asked, and what they show."""

from __future__ import annotations

from typing import Final

import click

from kaywatch_agent.commands.alerts import alerts, why
from kaywatch_agent.commands.messages import notify, outbox
from kaywatch_agent.commands.rules import rules
from kaywatch_agent.commands.silences import silence

__all__ = ["COMMANDS"]

COMMANDS: Final[tuple[click.Command, ...]] = (
    alerts,
    why,
    rules,
    silence,
    notify,
    outbox,
)
