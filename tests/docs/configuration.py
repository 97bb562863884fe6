"""Generates docs/configuration.md from the types of the configuration.

`python -m tests.docs.configuration` rewrites it and the tables of docs/alerts.md.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import inspect
import json
import re
import types
import typing
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

from kaywatch_agent.config import Sections
from kaywatch_agent.export.config import ExportConfig
from kaywatch_agent.notify.config import TYPES, HeartbeatConfig, ReceiverConfig
from kaywatch_agent.notify.secret import secret_names
from kaywatch_agent.rules import config as rules
from kaywatch_agent.rules.mute_config import MuteConfig
from kaywatch_agent.settings.reader import Unit

DOCS: Final = Path(__file__).parents[2] / "docs"

START: Final = """\
# Configuration

Every key of the agent's configuration. This page is generated from the types of the \
configuration by `python -m tests.docs.configuration`. \
[deploy/kaywatch.toml](../deploy/kaywatch.toml) is an example.

The agent reads `/etc/kaywatch/kaywatch.toml` if it exists, or the file of `--config`; \
options of `kaywatch serve` override the file. No key is required. \
`kaywatch check` validates a file; unknown keys are errors. \
On SIGHUP the agent reloads the file. An invalid file changes nothing. Changes to \
sockets and to the store's file take effect after a restart, which the agent logs.

A duration is `"90s"`, `"5m"`, `"1h30m"`, `"500ms"` or `"7d"`; a plain \
number is in seconds. A size is `"64MB"`, `"1.5GB"` (powers of 1000) or `"512MiB"` \
(powers of 1024). Prefer the keys that end with `_file` for secrets: the file is read \
at each use, so a secret can be rotated without a reload.
"""

# The other sources of a secret, by the suffix of its key; see `notify/secret.py`.
ELSEWHERE: Final = {
    "_file": "a file that holds it",
    "_env": "an environment variable that holds it",
    "_credential": "a systemd credential that holds it (`LoadCredential=`)",
}
WORDS: Final = {
    str: "string",
    int: "whole number",
    float: "number",
    bool: "`true`, `false`",
    dt.datetime: "date and time",
}


class Key(NamedTuple):
    """One key of a table.

    Attributes:
        name: as it is written.
        takes: the type of its value.
        default: as it would be written; empty for none.
        what: its description, in Markdown.
    """

    name: str
    takes: str
    default: str
    what: str


class Page(NamedTuple):
    """A heading, the text below it, and a table of keys.

    Attributes:
        level: of the heading.
        title: the heading.
        text: below it.
        keys: the table's rows.
    """

    level: int
    title: str
    text: str
    keys: tuple[Key, ...]


def generate_pages() -> dict[Path, str]:
    """Return the pages by their paths."""
    exports = _section("[export]", ExportConfig, "export", 2)
    pages = [*_sections(), *_rules(), *_receivers(), *exports]
    alerts = DOCS / "alerts.md"
    shared = {"rule": rule_keys(), "alerting": keys_of(rules.AlertingConfig)}
    return {
        DOCS / "configuration.md": START + "".join(map(_page, pages)),
        alerts: re.sub(
            r"<!-- keys: (\w+) -->\n(?:\|.*\n)*",
            lambda mark: f"<!-- keys: {mark[1]} -->\n{table(shared[mark[1]])}",
            alerts.read_text(),
        ),
    }


def _page(page: Page) -> str:
    text = f"\n{'#' * page.level} {page.title}\n\n{page.text}\n"
    return f"{text}\n{table(page.keys)}" if page.keys else text


def table(rows: Iterable[Key]) -> str:
    """Return keys as a table in Markdown."""
    lines = ["| key | takes | default | what |", "|---|---|---|---|"]
    for key in rows:
        default = f"`{key.default}`" if key.default not in ("", '""') else ""
        cells = [f"`{key.name}`", key.takes, default, key.what]
        row = " | ".join(cell.replace("|", "\\|") for cell in cells)
        lines.append(f"| {row} |".replace("|  |", "| |"))
    return "\n".join(lines) + "\n"


# -- tables that are dataclasses -------------------------------------------------------


def _sections() -> Iterator[Page]:
    for section in dataclasses.fields(Sections):
        kind = typing.get_type_hints(Sections)[section.name]
        yield from _section(f"[{section.name}]", kind, section.name, 2)


def _section(title: str, kind: Any, path: str, level: int) -> Iterator[Page]:
    """Return the page of a dataclass, and of those within it."""
    yield Page(level, f"`{title}`", _first(kind), tuple(keys_of(kind)))
    hints = typing.get_type_hints(kind, include_extras=True)
    for field in dataclasses.fields(kind):
        for inner in (hints[field.name], *typing.get_args(hints[field.name])):
            if isinstance(inner, type) and dataclasses.is_dataclass(inner):
                several = inner is not hints[field.name]
                name = f"{path}.{field.name}"
                name = f"[[{name}]]" if several else f"[{name}]"
                yield from _section(name, inner, f"{path}.{field.name}", level + 1)


def keys_of(kind: Any, but: Iterable[str] = ()) -> Iterator[Key]:
    """Return the keys of a dataclass, described as its docstring does.

    Raises:
        KeyError: a key has no description.
    """
    texts = attributes(kind)
    hints = typing.get_type_hints(kind, include_extras=True)
    for field in dataclasses.fields(kind):
        if field.name in but:
            continue
        if field.name in secret_names(kind):
            yield from _secret_keys(field.name, texts[field.name])
            continue
        what = texts.get(field.name, "")
        if not what or what == texts.get(_stem(field.name)):
            what = _elsewhere(field.name, texts)
        if dataclasses.MISSING is field.default is field.default_factory:
            what = f"required; {what}"
        name = field.name.rstrip("_")
        yield Key(name, _takes(hints[field.name]), _default(field), what)


def _secret_keys(name: str, what: str) -> Iterator[Key]:
    yield Key(name, "string", '""', what)
    for source, where in ELSEWHERE.items():
        yield Key(name + source, "string", '""', f"`{name}`, from {where}")


def attributes(kind: Any) -> dict[str, str]:
    """Return the attribute descriptions of a class and its base classes."""
    result: dict[str, str] = {}
    for part in reversed(kind.__mro__):
        text = inspect.cleandoc(part.__dict__.get("__doc__") or "")
        listed = text.partition("\nAttributes:\n")[2].partition("\n\n")[0]
        for names, what in re.findall(
            r"^    ([\w, ]+):\s+(.*(?:\n     .*)*)", listed, re.MULTILINE
        ):
            words = " ".join(what.split()).removesuffix(".")
            result |= dict.fromkeys(names.split(", "), words)
    return result


def _stem(name: str) -> str:
    """Return the key of the secret that this key refers to, or an empty string."""
    stems = (name.removesuffix(end) for end in ELSEWHERE if name.endswith(end))
    return next(stems, "")


def _elsewhere(name: str, texts: dict[str, str]) -> str:
    stem = _stem(name)
    if stem in texts:
        return f"`{stem}`, from {ELSEWHERE[name.removeprefix(stem)]}"
    raise KeyError(f"{name}: describe it in its class's docstring, under Attributes")


def _first(kind: Any) -> str:
    """Return a docstring up to its Attributes, without the table's name."""
    text = inspect.cleandoc(kind.__doc__ or "").partition("\nAttributes:")[0]
    text = re.sub(r" \(`\[+[\w.]+\]+`\)", "", text)
    return "\n\n".join(" ".join(part.split()) for part in text.strip().split("\n\n"))


def _takes(kind: Any) -> str:
    choices = typing.get_args(kind)
    origin = typing.get_origin(kind)
    if origin is typing.Annotated:
        unit: Unit = choices[1]
        return unit.name
    if origin is typing.Literal:
        names = [str(c).lower() if isinstance(c, bool) else c for c in choices]
        return ", ".join(f"`{name}`" for name in names)
    if origin is tuple:
        is_table = dataclasses.is_dataclass(choices[0])
        if is_table or typing.get_origin(choices[0]) is dict:
            return "list of tables"
        return "list of strings"
    if origin is dict:
        return "table of strings"
    if origin in (types.UnionType, typing.Union):
        return " or ".join(_takes(c) for c in choices if c is not types.NoneType)
    return "table" if dataclasses.is_dataclass(kind) else WORDS[kind]


def _default(field: dataclasses.Field[Any]) -> str:
    if field.default_factory is not dataclasses.MISSING:
        value = field.default_factory()
    else:
        value = field.default
    if dataclasses.is_dataclass(value) or value is dataclasses.MISSING or value is None:
        return ""
    if isinstance(value, tuple) and value and dataclasses.is_dataclass(value[0]):
        return ""
    # TOML writes these values as JSON does.
    return json.dumps(list(value) if isinstance(value, tuple) else value)


# -- tables about alerts ---------------------------------------------------------------


def _rules() -> Iterator[Page]:
    yield from _section("[alerting]", rules.AlertingConfig, "alerting", 2)
    yield Page(2, "`[[rule]]`", _first(rules.RuleConfig), rule_keys())
    common = [field.name for field in dataclasses.fields(rules.RuleConfig)]
    for name, kind in rules.KINDS.items():
        own = tuple(keys_of(kind, common))
        text = f'{_first(kind)}\n\nWith `kind = "{name}"`'
        yield Page(
            3,
            name,
            text + (", additionally:" if own else "; it has no other keys."),
            own,
        )
    yield from _section("[[rule.tiers]]", rules.TierConfig, "rule.tiers", 3)
    yield from _section("[[inhibit]]", rules.InhibitConfig, "inhibit", 2)
    yield from _section("[[silence]]", rules.SilenceConfig, "silence", 2)
    yield from _section("[[mute]]", MuteConfig, "mute", 2)


def rule_keys() -> tuple[Key, ...]:
    """Return the keys of every rule: the ones that `[defaults]` lacks first."""
    defaults = [field.name for field in dataclasses.fields(rules.RuleDefaults)]
    own = keys_of(rules.RuleConfig, defaults)
    return (*own, *keys_of(rules.RuleDefaults))


# -- receivers -------------------------------------------------------------------------


def _receivers() -> Iterator[Page]:
    yield Page(
        2,
        "`[receiver.NAME]`",
        "A receiver of notifications; NAME is up to you. [receivers.md](receivers.md)"
        " describes the messages. `rate` has another default where its table below has"
        " one.",
        tuple(keys_of(ReceiverConfig, ["name"])),
    )
    usual = {field.name: field.default for field in dataclasses.fields(ReceiverConfig)}
    for name, kind in TYPES.items():
        same = [
            field.name
            for field in dataclasses.fields(kind)
            if field.name in usual and field.default == usual[field.name]
        ]
        text = f'{_first(kind)}\n\nWith `type = "{name}"`, additionally:'
        yield Page(3, name, text, tuple(keys_of(kind, same)))
    yield from _section("[heartbeat]", HeartbeatConfig, "heartbeat", 2)


if __name__ == "__main__":
    for path, text in generate_pages().items():
        path.write_text(text)
