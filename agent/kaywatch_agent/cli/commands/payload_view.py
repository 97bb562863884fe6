"""Shows the payload of a notification."""

from __future__ import annotations

import json
from typing import Any

import click

from kaywatch_agent.cli.tables import clean

__all__ = ["show_payload"]


def show_payload(body: Any) -> None:
    """Show a body as JSON that people read."""
    for line in json.dumps(body, indent=2, ensure_ascii=False).splitlines():
        click.echo(f"        {clean(line)}")
