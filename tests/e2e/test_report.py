"""A real browser shows the report of a real agent."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

from tests.agents import Agent, free_port
from tests.browser import render_page

HOSTILE = "<script>document.title='taken'</script>"
APPLICATION = """
import sys
import kaywatch
kaywatch.configure(service="shop")
for n in range(30):
    try:
        with kaywatch.execution("checkout", "pay"):
            if n % 3 == 0:
                raise TimeoutError(f"no answer; api_key=sk-secret{n} {sys.argv[1]}")
    except TimeoutError:
        pass
with kaywatch.execution("checkout", sys.argv[1]):
    kaywatch.record_llm(model="gpt-x", input_tokens=10, output_tokens=5, cost_usd=0.25)
with kaywatch.execution("", "alone"):
    pass
kaywatch.flush(10)
"""


class Cells(HTMLParser):
    """Collects the texts of the cells of tables, row by row."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.tags: set[str] = set()

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.add(tag)
        if tag == "tr":
            self.rows.append([])
        elif tag == "td":
            self.rows[-1].append("")

    def handle_data(self, data: str) -> None:
        if self.rows and self.rows[-1]:
            self.rows[-1][-1] += data

    def row(self, name: str) -> list[str]:
        """Return the first row that starts with a name."""
        return next(row for row in self.rows if row and row[0] == name)


def test_a_report_has_the_figures_of_stats(agent: Agent, tmp_path: Path) -> None:
    agent.run(APPLICATION, HOSTILE)
    file = tmp_path / "report.html"
    assert agent.command("report", "--since", "1h", "-o", str(file)) == f"{file}\n"

    page = Cells()
    page.feed(file.read_text())
    stats = json.loads(agent.command("stats", "pay", "--window", "1h", "--json"))
    assert page.row("pay")[1:3] == ["30", "66.7 %"]
    assert page.row("pay")[1] == str(stats["total_executions"])
    assert page.row("alone")[1] == "1"
    assert page.row("gpt-x")[-2] == "$0.25"
    assert page.row("shop")[3] in ("connected", "ended", "disconnected")
    assert sum("TimeoutError" in row for row in page.rows) == 10
    assert "sk-secret" not in file.read_text()


def test_a_hostile_name_is_text_in_a_report(agent: Agent, tmp_path: Path) -> None:
    agent.run(APPLICATION, HOSTILE)
    text = agent.command("report", "-o", "-")
    page = Cells()
    page.feed(text)
    assert "script" not in page.tags
    assert page.row(HOSTILE)[1] == "1"
    # The file needs no other file and no connection.
    assert not re.findall(r"(?:src|href|url)\s*[=(]", re.sub("&[a-z]+;", "", text))

    file = tmp_path / "report.html"
    file.write_text(text)
    shown = render_page(file.as_uri())
    assert "<title>kaywatch report, 1d" in shown
    assert "<path d=" in shown


def test_a_report_that_cannot_be_made_has_one_clear_error(
    agent: Agent, tmp_path: Path
) -> None:
    file = tmp_path / "missing" / "report.html"
    assert agent.command("report", "-o", str(file), code=1) == (
        f"kaywatch: cannot write {file}: No such file or directory;"
        " choose another file with --output\n"
    )
    url = f"http://127.0.0.1:{free_port()}"
    error = agent.command("report", "--url", url, "-o", str(file), code=1)
    assert error.startswith("kaywatch: ")
    assert url in error
    assert error.count("\n") == 1
    error = agent.command("report", "--since", "soon", code=2)
    assert 'invalid duration "soon"' in error


def test_a_report_without_data_says_so(agent: Agent) -> None:
    text = agent.command("report", "-o", "-")
    for sentence in (
        "No alert was active.",
        "Nothing was executed in this period.",
        "No failure is kept from this period.",
        "No model was called.",
        "No process sent data within the last hour.",
    ):
        assert sentence in text
