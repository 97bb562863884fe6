"""The generated pages are those of this code, and every example runs."""

from __future__ import annotations

import inspect
import logging
from pathlib import Path

import pytest
import structlog
from pocketflow import Flow, Node
from tests.agents import Agent, running_agent
from tests.docs.http_reference import http_page
from tests.docs.reference import DOCS, MODULES, api_page, cli_page, examples, sections

import kaywatch
import kaywatch.logs
import kaywatch.testing

EXAMPLES = dict(examples())


def test_the_pages_are_up_to_date() -> None:
    hint = "run `python -m tests.docs.reference`"
    assert (DOCS / "cli.md").read_text() == cli_page(), hint
    assert (DOCS / "api.md").read_text() == api_page(), hint
    assert (DOCS / "http-reference.md").read_text() == http_page(), hint


def test_every_parameter_of_a_public_function_is_explained() -> None:
    for module in MODULES:
        for name in module.__all__:
            value = getattr(module, name)
            # The parameters of `add_context` are those of every processor of structlog.
            if inspect.isroutine(value) and name != "add_context":
                text, parts = sections(inspect.getdoc(value) or "")
                args = text + dict(parts).get("Args", "")
                for parameter in inspect.signature(value).parameters:
                    assert parameter in args, f"{name}: {parameter}"


@pytest.fixture(scope="module")
def agent() -> Agent:
    with running_agent() as agent:
        agent.run(
            "import kaywatch\n"
            "with kaywatch.execution('SupportDesk', 'Draft'): pass\n"
            "assert kaywatch.flush(10)"
        )
        yield agent


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_example_runs(
    name: str,
    agent: Agent,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    code = EXAMPLES[name]
    assert code, "every public name has an example"
    monkeypatch.setenv("KAYWATCH_URL", agent.url)
    kaywatch.configure(endpoint=agent.endpoint)
    names = {
        "Flow": Flow,
        "Node": Node,
        "kaywatch": kaywatch,
        "logging": logging,
        "structlog": structlog,
        "folder": str(tmp_path),
    }
    try:
        exec(compile(code, name, "exec"), names)
        assert kaywatch.flush(10)
    finally:
        kaywatch.logs.remove_logging()
        kaywatch.uninstrument()
        structlog.reset_defaults()
        if handler := names.get("handler"):
            handler.close()
