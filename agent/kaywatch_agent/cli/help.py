"""Formats `--help`: chapters of commands, examples, and exit codes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

__all__ = ["ChapterGroup", "OrderedGroup", "epilog"]

# click does not wrap a paragraph that starts with this.
_VERBATIM = "\b\n"


def epilog(*examples: str, exits: str = "") -> str:
    """Return the end of a command's help.

    Args:
        examples: command lines; two spaces and a # separate a comment.
        exits: the meaning of exit codes other than 0.
    """
    lines = "\n".join(f"  {example}" for example in examples)
    parts = [f"{_VERBATIM}Examples:\n{lines}"] if examples else []
    if exits:
        parts.append(f"Exit codes: {exits}")
    return "\n\n".join(parts)


class OrderedGroup(click.Group):
    """A group that lists its commands in the order in which they were added."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        """Return the names."""
        return list(self.commands)


class ChapterGroup(OrderedGroup):
    """A group that lists its commands in chapters."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self._chapters: dict[str, Sequence[click.Command]] = {}

    def add_chapter(self, title: str, commands: Sequence[click.Command]) -> None:
        """Add commands, and list them under a title."""
        self._chapters[title] = commands
        for command in commands:
            self.add_command(command)

    def format_commands(
        self,
        ctx: click.Context,  # noqa: ARG002
        formatter: click.HelpFormatter,
    ) -> None:
        """Write a list for each chapter."""
        # Padded to the longest name, so that the columns of all chapters are aligned.
        width = max(map(len, self.commands))
        limit = formatter.width - 6 - width
        for title, commands in self._chapters.items():
            with formatter.section(title):
                formatter.write_dl(
                    [
                        ((c.name or "").ljust(width), c.get_short_help_str(limit))
                        for c in commands
                    ]
                )
