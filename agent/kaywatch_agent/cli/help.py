"""Formats `--help`: chapters of commands, examples, and exit codes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
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


class ChapterGroup(click.Group):
    """A group that lists its commands in chapters, and loads them when needed."""

    def __init__(
        self,
        *args: Any,
        chapters: Mapping[str, Iterable[str]],
        load: Callable[[str], click.Command | None],
        **settings: Any,
    ) -> None:
        """Create the group.

        Args:
            *args: those of `click.Group`.
            chapters: the names of the commands by the title of their chapter.
            load: returns the command with a name; None if there is none.
            **settings: those of `click.Group`.
        """
        super().__init__(*args, **settings)
        self._chapters = chapters
        self._load = load

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        """Return the names."""
        return [name for names in self._chapters.values() for name in names]

    def get_command(
        self,
        ctx: click.Context,  # noqa: ARG002
        cmd_name: str,
    ) -> click.Command | None:
        """Return the command with a name; None if there is none."""
        return self._load(cmd_name)

    def format_commands(
        self, ctx: click.Context, formatter: click.HelpFormatter
    ) -> None:
        """Write a list for each chapter."""
        # Padded to the longest name, so that the columns of all chapters are aligned.
        width = max(map(len, self.list_commands(ctx)))
        limit = formatter.width - 6 - width
        for title, names in self._chapters.items():
            commands = {name: self.get_command(ctx, name) for name in names}
            with formatter.section(title):
                formatter.write_dl(
                    [
                        (name.ljust(width), command.get_short_help_str(limit))
                        for name, command in commands.items()
                        if command is not None
                    ]
                )
