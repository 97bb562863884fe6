"""Every command and snippet of every page is valid; other tests run most of them."""

from __future__ import annotations

import ast
import re
import shlex
import textwrap
import tomllib
from collections.abc import Iterator
from typing import NamedTuple

import click
import pytest
from tests.docs.test_help import find
from tests.docs.test_pages import PAGES, ROOT

from kaywatch_agent import config
from kaywatch_agent.config import Sections
from kaywatch_agent.errors import ConfigError

BLOCK = re.compile(r"^( *)```(\w*)[^\n]*\n(.*?)^ *```", re.MULTILINE | re.DOTALL)
# Words that stand for one of the reader's own.
PLACEHOLDER = re.compile(r"^(RULE|NAME|FILE|HOST|COMMAND|ALERT|ID)$|…|\.\.\.$")
SECTIONS = {*Sections.__dataclass_fields__, "alerting", "defaults", "rule", "receiver"}


class Snippet(NamedTuple):
    where: str
    text: str


def blocks(*languages: str) -> Iterator[Snippet]:
    for page in PAGES:
        text = page.read_text()
        for match in BLOCK.finditer(text):
            if match[2] in languages:
                line = text.count("\n", 0, match.start()) + 1
                where = f"{page.relative_to(ROOT)}:{line}"
                yield Snippet(where, textwrap.dedent(match[3]))


def commands() -> Iterator[Snippet]:
    for where, text in blocks("", "sh", "console", "ini"):
        for line in text.replace("\\\n", " ").splitlines():
            command = re.match(
                r"^(?:\$ |# )?(?:[A-Z_]+=\S+ |sudo |ExecStart=)*"
                r"(?:[\w./]+/)?(kaywatch [a-z].*)$",
                line,
            )
            if command:
                yield Snippet(where, command[1])
    for page in PAGES:
        text = BLOCK.sub("", page.read_text())
        for inline in re.findall(r"`(kaywatch [a-z][^`]*)`", text):
            yield Snippet(str(page.relative_to(ROOT)), inline)


COMMANDS = [*dict.fromkeys(commands())]
SIGNATURE = re.compile(r"^[\w.]+\(.*\)( -> .*)?$", re.DOTALL)
PYTHON = [s for s in blocks("python") if not SIGNATURE.match(s.text.strip())]
TOML = [*blocks("toml")]


def test_there_are_snippets_of_each_kind() -> None:
    assert len(COMMANDS) > 150
    assert len(PYTHON) > 30
    assert len(TOML) > 30


@pytest.mark.parametrize("where", sorted({where for where, _ in COMMANDS}))
def test_the_commands_exist_with_their_options(where: str) -> None:
    for _, command in (each for each in COMMANDS if each.where == where):
        plain = re.split(r" [|>]|&&|  +#| # |;", command)[0].rstrip(",. ")
        _, *words = shlex.split(plain)
        name, rest = find(words)
        if not isinstance(name, click.Group) and words[0] != "run":
            check(name, rest, command)


def check(command: click.Command, words: list[str], text: str) -> None:
    """Check the options; parse the command as well if it is complete."""
    known = {option for each in command.params for option in each.opts}
    used = {word.partition("=")[0] for word in words if re.match(r"--?[a-z]", word)}
    assert used <= known | {"--help", "-h"}, text
    needed = sum(
        1
        for each in command.params
        if isinstance(each, click.Argument) and each.required
    )
    values = [word for word in words if not word.startswith("-")]
    # A mention, such as `kaywatch why`, or one with a placeholder.
    if len(values) < needed or any(map(PLACEHOLDER.search, words)):
        return
    if used and words[-1] in used and not _is_flag(command, words[-1]):
        return
    command.make_context("kaywatch", [*words], resilient_parsing=False)


def _is_flag(command: click.Command, name: str) -> bool:
    return any(
        isinstance(each, click.Option) and each.is_flag and name in each.opts
        for each in command.params
    )


@pytest.mark.parametrize("snippet", PYTHON, ids=lambda each: each.where)
def test_the_code_compiles(snippet: Snippet) -> None:
    flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT | ast.PyCF_ONLY_AST
    compile(snippet.text, snippet.where, "exec", flags)


@pytest.mark.parametrize("snippet", TOML, ids=lambda each: each.where)
def test_the_toml_is_a_configuration_if_it_has_its_tables(snippet: Snippet) -> None:
    value = tomllib.loads(snippet.text)
    if value.keys() <= SECTIONS and all(
        isinstance(each, dict | list) for each in value.values()
    ):
        try:
            config.parse(snippet.text)
        except ConfigError as error:
            # The users and groups of the reader's host.
            errors = (error, *error.others)
            assert all(re.search("unknown (user|group)", str(each)) for each in errors)
