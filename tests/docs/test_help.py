"""`--help` is the epilog: everything is explained, in order, within 80 columns."""

from __future__ import annotations

import io
import re
import shlex
from collections.abc import Iterator
from contextlib import redirect_stdout

import click
import pytest
from click.testing import CliRunner

from kaywatch import launch
from kaywatch_agent.cli.commands import CHAPTERS, load_command
from kaywatch_agent.cli.main import kaywatch

WIDTH = 80


def commands(
    group: click.Group = kaywatch, words: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    yield words, group
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from commands(command, (*words, name))
        else:
            yield (*words, name), command


ALL = dict(commands())
# `run` has the help of argparse.
OURS = {words: command for words, command in ALL.items() if words != ("run",)}


def show_help(words: tuple[str, ...]) -> str:
    done = CliRunner().invoke(
        kaywatch, [*words, "--help"], terminal_width=WIDTH, prog_name="kaywatch"
    )
    assert done.exit_code == 0, done.output
    return done.output


def show_run_help() -> str:
    with redirect_stdout(io.StringIO()) as out, pytest.raises(SystemExit):
        launch.main(["--help"])
    return out.getvalue()


def examples(text: str) -> list[str]:
    block = text.partition("Examples:\n")[2].partition("\n\n")[0]
    return [line.partition("  #")[0].strip() for line in block.splitlines()]


def test_every_command_has_its_chapter() -> None:
    listed = [name for chapter in CHAPTERS.values() for name in chapter]

    assert listed == list(dict.fromkeys(words[0] for words in ALL if words))
    assert load_command("unknown") is None
    text = show_help(())
    assert [text.index(f"\n{chapter}:\n") for chapter in CHAPTERS] == sorted(
        text.index(f"\n{chapter}:\n") for chapter in CHAPTERS
    )


@pytest.mark.parametrize("words", OURS, ids=" ".join)
def test_every_option_is_explained(words: tuple[str, ...]) -> None:
    for parameter in OURS[words].params:
        if isinstance(parameter, click.Option):
            text = parameter.help or ""
            assert re.match(r"[A-Z].*[.:\])]$", text), f"{parameter.opts}: {text!r}"
            # The names of click's types, such as INTEGER RANGE, are not helpful.
            described = parameter.is_flag or isinstance(parameter.type, click.Choice)
            assert described or parameter.metavar, parameter.opts
        else:
            # The text of the command explains its arguments.
            name = parameter.make_metavar(click.Context(OURS[words])).strip("[].")
            assert name.split("=")[0] in (OURS[words].help or ""), name


@pytest.mark.parametrize("words", OURS, ids=" ".join)
def test_help_fits_a_terminal(words: tuple[str, ...]) -> None:
    text = show_help(words)

    assert all(len(line) <= WIDTH for line in text.splitlines())
    # No description in a list of commands is cut.
    assert not re.search(r" .*[^\]]\.\.\.$", text.partition("\n\n")[2], re.MULTILINE)
    if not isinstance(OURS[words], click.Group):
        assert examples(text), "no example"


@pytest.mark.parametrize("words", ALL, ids=" ".join)
def test_the_examples_are_valid_commands(
    words: tuple[str, ...],
) -> None:
    for example in examples(show_run_help() if words == ("run",) else show_help(words)):
        first, *arguments = shlex.split(re.split(r" && | \| ", example)[0])
        assert first == "kaywatch"
        command, rest = find(arguments)
        if not words:
            continue
        assert command is ALL[words], example
        # Parsed, but not run.
        command.make_context(" ".join(words), rest, resilient_parsing=False)


def find(arguments: list[str]) -> tuple[click.Command, list[str]]:
    group, rest = kaywatch, arguments
    while True:
        command = group.get_command(click.Context(group), rest[0])
        assert command is not None, arguments
        rest = rest[1:]
        if not isinstance(command, click.Group):
            return command, rest
        group = command


def test_the_help_of_run_fits_a_terminal() -> None:
    text = show_run_help()

    assert all(len(line) <= WIDTH for line in text.splitlines())
    assert examples(text)
    assert "Exit codes: " in text


def test_the_help_of_serve_explains_configuration_and_reload() -> None:
    text = " ".join(show_help(("serve",)).split())

    for word in ("docs/configuration.md", "SIGHUP", "STATE_DIRECTORY", "Exit codes"):
        assert word in text
