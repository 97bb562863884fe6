"""Writes the man pages of `kaywatch` and its commands to `man/`, for the sdist.

Strategy: the pages are made from the commands themselves, as `--help` is. A command
with subcommands has one page for all of them. The format is man(7).
"""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Iterator
from contextlib import redirect_stdout, suppress
from pathlib import Path
from typing import Final

import click

from kaywatch import launch
from kaywatch._version import __version__
from kaywatch_agent.cli.main import kaywatch

__all__ = ["man_pages", "write_pages"]

ROOT: Final = Path(__file__).parents[1]
MAN: Final = ROOT / "man"


def write_pages(folder: Path) -> list[Path]:
    """Write all pages into a folder; return their paths."""
    folder.mkdir(exist_ok=True)
    for old in folder.glob("*.1"):
        old.unlink()
    paths = []
    for name, text in man_pages().items():
        paths.append(folder / f"{name}.1")
        paths[-1].write_text(text)
    return paths


def man_pages() -> dict[str, str]:
    """Return the pages by their names, such as `kaywatch-serve`."""
    settings = kaywatch.context_settings
    context = click.Context(kaywatch, info_name="kaywatch", **settings)
    names = kaywatch.list_commands(context)
    others = ", ".join(f"\\fBkaywatch-{name}\\fR(1)" for name in names)
    pages = {"kaywatch": _page(kaywatch, context, f".SH SEE ALSO\n{others}\n")}
    for name in names:
        command, below = _subcommand(kaywatch, context, name)
        body = _run_page() if name == "run" else None
        more = ".SH SEE ALSO\n\\fBkaywatch\\fR(1)\n"
        pages[f"kaywatch-{name}"] = _page(command, below, more, body)
    return pages


def _subcommand(
    group: click.Group, context: click.Context, name: str
) -> tuple[click.Command, click.Context]:
    command = group.get_command(context, name)
    if command is None:
        raise KeyError(name)
    return command, click.Context(command, parent=context, info_name=name)


def _page(
    command: click.Command, context: click.Context, more: str, body: str | None = None
) -> str:
    title = context.command_path.replace(" ", "-")
    # Of the version, and not of the day, so that a build can be reproduced.
    head = f'.TH "{title.upper()}" 1 "" "kaywatch {__version__}" "kaywatch"\n'
    purpose = _text(command.get_short_help_str(200)).removesuffix(".")
    name = f".SH NAME\n{_text(title)} \\- {purpose}\n"
    return head + name + (body or "".join(_sections(command, context))) + more


def _sections(
    command: click.Command, context: click.Context, heading: str = ".SH"
) -> Iterator[str]:
    """Yield the parts of a page that describe a command and its subcommands."""
    usage = " ".join(command.collect_usage_pieces(context))
    path = _text(context.command_path)
    yield f"{heading} SYNOPSIS\n\\fB{path}\\fR {_text(usage)}\n"
    yield f"{heading} DESCRIPTION\n{_paragraphs(command.help or '')}"
    options = [
        parameter.get_help_record(context)
        for parameter in command.get_params(context)
        if isinstance(parameter, click.Option)
    ]
    listed = "".join(
        f".TP\n\\fB{_text(r[0])}\\fR\n{_text(r[1])}\n" for r in options if r
    )
    yield f"{heading} OPTIONS\n{listed}"
    if command.epilog:
        yield _epilog(command.epilog, heading)
    if isinstance(command, click.Group):
        yield from _subcommands(command, context)


def _subcommands(group: click.Group, context: click.Context) -> Iterator[str]:
    # Each command without a parent has a page.
    listed = context.parent is None
    if listed:
        yield ".SH COMMANDS\n"
    for name in group.list_commands(context):
        command, below = _subcommand(group, context, name)
        if listed:
            yield f".TP\n\\fB{name}\\fR\n{_text(command.get_short_help_str(200))}\n"
        else:
            yield f".SH {_text(below.command_path.upper())}\n"
            yield from _sections(command, below, ".SS")


def _epilog(text: str, heading: str) -> str:
    """Return the examples and the exit codes at the end of a command's help."""
    examples, _, rest = text.partition("\n\n")
    lines = examples.replace("\b\n", "").removeprefix("Examples:\n")
    result = f"{heading} EXAMPLES\n.nf\n{_text(lines)}\n.fi\n"
    if rest:
        codes = rest.removeprefix("Exit codes: ")
        result += f"{heading} EXIT STATUS\n{_text(codes)}\n"
    return result


def _run_page() -> str:
    """Return the page of `kaywatch run`, whose parser is another."""
    with redirect_stdout(io.StringIO()) as out, suppress(SystemExit):
        launch.main(["--help"])
    parts = out.getvalue().strip().split("\n\n")
    usage, about, options, notes, examples, codes = parts
    synopsis = usage.removeprefix("usage: kaywatch run ")
    listed = options.removeprefix("options:\n")
    return (
        f".SH SYNOPSIS\n\\fBkaywatch run\\fR {_text(synopsis)}\n"
        f".SH DESCRIPTION\n{_paragraphs(about)}.PP\n{_paragraphs(notes)}"
        f".SH OPTIONS\n.nf\n{_text(listed)}\n.fi\n"
    ) + _epilog(f"{examples}\n\n{codes}", ".SH")


def _paragraphs(text: str) -> str:
    parts = re.split(r"\n\s*\n", text.replace("\b\n", "").strip())
    return ".PP\n".join(_text(" ".join(part.split())) + "\n" for part in parts)


def _text(text: str) -> str:
    """Escape a text for man(7)."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-")
    # A dot or an apostrophe at the start of a line would be a request.
    return re.sub(r"^([.'])", r"\\&\1", escaped, flags=re.MULTILINE)


if __name__ == "__main__":
    print(f"{MAN.name}: {len(write_pages(MAN))} pages", file=sys.stderr)
