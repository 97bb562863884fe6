"""Generates docs/cli.md, docs/api.md and docs/http-reference.md from the code.

`python -m tests.docs.reference` rewrites all three.
"""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import click
from tests.docs.http_reference import http_page
from tests.docs.test_help import ALL, show_help, show_run_help

import kaywatch
import kaywatch.logs
import kaywatch.testing

__all__ = ["MODULES", "api_page", "cli_page", "examples", "sections"]

DOCS: Final = Path(__file__).parents[2] / "docs"
MODULES: Final = (kaywatch, kaywatch.testing, kaywatch.logs)
# The sections of a docstring in Google's style, and one of ours.
SECTION: Final = re.compile(
    r"^(Args|Attributes|Returns|Raises|Example|Threads and forks):$", re.MULTILINE
)
WIDTH: Final = 88

CLI: Final = """\
# Command line

The help of each command. This page is generated from the commands by \
`python -m tests.docs.reference`; [commands.md](commands.md) shows the output of some.
"""
API: Final = """\
# Python API

Every public name of the client. This page is generated from the docstrings by \
`python -m tests.docs.reference`; [python.md](python.md) is an introduction.

**Errors.** Recording never raises: what cannot be recorded is counted in \
`kaywatch.client_stats()`. Functions that set up kaywatch or query the agent raise the \
exceptions below, which are all subclasses of `kaywatch.KaywatchError`.

**Threads.** Every function that records may be called from any thread, any coroutine, \
a signal handler or a finalizer, and never blocks. One background thread sends the \
events; it is started by the first event.

**Forks.** The child of a fork is a client of its own, with the settings and the \
instrumentation of its parent. Events that the parent has recorded are sent by the \
parent only. This also applies to forks by C code, such as those of uWSGI.

**Units.** Durations are seconds, times are Unix seconds, sizes are bytes, and costs \
are US dollars, unless a name contains another unit.
"""
TITLES: Final = {
    "kaywatch": "kaywatch",
    "kaywatch.testing": "kaywatch.testing",
    "kaywatch.logs": "kaywatch.logs",
}


def cli_page() -> str:
    """Return the page of the command line."""
    parts = [CLI]
    for words in ALL:
        text = show_run_help() if words == ("run",) else show_help(words)
        title = " ".join(("kaywatch", *words))
        level = "##" if len(words) < 2 else "###"
        parts.append(f"{level} {title}\n\n```text\n{text.rstrip()}\n```\n")
    return "\n".join(parts)


def api_page() -> str:
    """Return the page of the Python API."""
    parts = [API]
    for module in MODULES:
        parts.append(f"## {TITLES[module.__name__]}\n")
        if module is not kaywatch:
            parts.append(f"{first_sentence(module)}\n")
        # Functions first, then classes and exceptions.
        for name in sorted(module.__all__, key=lambda name: (name[0].isupper(), name)):
            parts += _entry(module, name)
    return "\n".join(parts)


def first_sentence(module: ModuleType) -> str:
    """Return the first line of a module's docstring."""
    return (inspect.getdoc(module) or "").splitlines()[0]


def _entry(module: ModuleType, name: str) -> Iterator[str]:
    """Yield the heading, the signature and the docstring of a public name."""
    value = getattr(module, name)
    yield f"### `{module.__name__}.{name}`\n"
    if isinstance(value, str):
        # A constant has no docstring, and a version changes.
        known = {"__version__": "The version of kaywatch, a `str`."}
        yield known.get(name, f"`{value}`") + "\n"
        return
    if not (isinstance(value, type) and issubclass(value, Exception)):
        yield f"```python\n{signature(f'{module.__name__}.{name}', value)}\n```\n"
    text, parts = sections(inspect.getdoc(value) or "")
    yield text + "\n"
    for title, body in parts:
        if title == "Example":
            yield f"```python\n{body}\n```\n"
        elif title in ("Args", "Attributes", "Raises"):
            yield f"**{title}**\n\n{_list(body)}\n"
        else:
            yield f"**{title}**: {body}\n"


def signature(name: str, value: Any) -> str:
    """Return a signature in one line, or with a line for each parameter."""
    full = inspect.signature(value)
    parameters = [_parameter(p) for p in full.parameters.values()]
    kinds = [p.kind for p in full.parameters.values()]
    if inspect.Parameter.KEYWORD_ONLY in kinds and "**" not in parameters[0]:
        parameters.insert(kinds.index(inspect.Parameter.KEYWORD_ONLY), "*")
    parameters = [re.sub(r"ForwardRef\((.*)\)", r"\1", p) for p in parameters]
    result = full.return_annotation
    returns = "" if isinstance(value, type) else f" -> {_annotation(result)}"
    line = f"{name}({', '.join(parameters)}){returns}"
    if len(line) <= WIDTH:
        return line
    return f"{name}(\n" + "".join(f"    {p},\n" for p in parameters) + f"){returns}"


def _parameter(parameter: inspect.Parameter) -> str:
    """Return a parameter with its annotation unquoted, and its default as in code."""
    empty = inspect.Parameter.empty
    text = str(parameter.replace(default=empty)).replace("'", "")
    default = parameter.default
    if default is empty:
        return text
    equals = "=" if parameter.annotation is empty else " = "
    quoted = f'"{default}"' if isinstance(default, str) else repr(default)
    return f"{text}{equals}{quoted}"


def _annotation(value: Any) -> str:
    return "None" if value is inspect.Signature.empty else str(value).strip("'")


def sections(doc: str) -> tuple[str, list[tuple[str, str]]]:
    """Return the text of a docstring, and its sections by their titles."""
    text, *rest = SECTION.split(doc)
    bodies = [textwrap.dedent(body).strip("\n") for body in rest[1::2]]
    return text.strip(), list(zip(rest[::2], bodies, strict=True))


def _list(body: str) -> str:
    """Return lines such as `name: text`, which may be continued, as a list."""
    entries = re.findall(r"^(\S.*?): +(.*(?:\n +.*)*)", body, re.MULTILINE)
    return "\n".join(
        f"- `{names.replace('*', '')}`: {' '.join(text.split())}"
        for names, text in entries
    )


def examples() -> Iterator[tuple[str, str]]:
    """Yield each public name with the code of its example."""
    for module in MODULES:
        for name in module.__all__:
            value = getattr(module, name)
            if not isinstance(value, str):
                _, parts = sections(inspect.getdoc(value) or "")
                code = "\n".join(body for title, body in parts if title == "Example")
                yield f"{module.__name__}.{name}", code


def main() -> None:
    """Write the pages."""
    (DOCS / "cli.md").write_text(cli_page())
    (DOCS / "api.md").write_text(api_page())
    (DOCS / "http-reference.md").write_text(http_page())
    click.echo("docs/cli.md, docs/api.md, docs/http-reference.md")


if __name__ == "__main__":
    main()
