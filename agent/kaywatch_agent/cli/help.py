"""The parts of `--help` besides the options: chapters, examples, exit codes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import click

__all__ = ["CHAPTERS", "Chapters", "Ordered", "manual"]

# The commands of `kaywatch` in the order in which somebody new needs them.
CHAPTERS: Final[Mapping[str, tuple[str, ...]]] = {
    "Run": ("serve", "run", "check", "service", "doctor", "demo"),
    "Look": ("status", "top", "tail", "stats"),
    "Alerts": ("alerts", "why", "rules", "silence", "notify", "outbox"),
    "Traffic": ("capture", "replay"),
}

# click's mark of a paragraph whose lines stay as they are.
_AS_IT_IS: Final = "\b\n"


def manual(*examples: str, exits: str = "") -> str:
    """Return the end of a command's help.

    Args:
        examples: command lines; what comes after two spaces and a # says what for.
        exits: what exit codes mean, where they are more than 0 for fine.
    """
    shown = "\n".join(f"  {example}" for example in examples)
    parts = [f"{_AS_IT_IS}Examples:\n{shown}"] if examples else []
    if exits:
        parts.append(f"Exit codes: {exits}")
    return "\n\n".join(parts)


class Ordered(click.Group):
    """A group that lists its commands in the order in which they were added."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        """Return the names."""
        return list(self.commands)


class Chapters(click.Group):
    """The group of all commands, listed by chapters."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        """Return the names, in the order of the chapters."""
        ordered = [name for names in CHAPTERS.values() for name in names]
        return [name for name in ordered if name in self.commands]

    def format_commands(
        self,
        ctx: click.Context,  # noqa: ARG002
        formatter: click.HelpFormatter,
    ) -> None:
        """Write a list for each chapter."""
        # As wide as the longest name, so that the columns of all chapters meet.
        column = max(map(len, self.commands))
        limit = formatter.width - 6 - column
        for chapter, names in CHAPTERS.items():
            rows = [
                (name.ljust(column), command.get_short_help_str(limit))
                for name in names
                if (command := self.commands.get(name)) is not None
            ]
            if rows:
                with formatter.section(chapter):
                    formatter.write_dl(rows)
