"""Nothing that users read contains a phrase that the project has retired."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.docs.test_pages import CODE, PAGES

ROOT = Path(__file__).parents[2]
SOURCES = [
    *(ROOT / "client").rglob("*.py"),
    *(ROOT / "agent" / "kaywatch_agent").rglob("*.py"),
    *(ROOT / "examples").rglob("*.py"),
]
WEB_PAGE = [
    path
    for path in (ROOT / "agent" / "dashboard" / "src").rglob("*.ts*")
    if ".test." not in path.name
]
CONFIGURATION = [*(ROOT / "deploy").rglob("*.toml"), *(ROOT / "deploy").rglob("*.yml")]

# Each takes a native speaker a second look; the standard term is as short.
RETIRED = {
    "notify, report or log": r"\b(tell|tells|told|telling)\b",
    "state, contain or mean": r"\bsays?\b",
    "fix": r"\bmend(s|ed|ing)?\b",
    "badly": r"\bill\b",
    "cannot open": r"\bnot to be had\b",
    "no receiver": r"\bnobody\b",
    "name the thing": r"\bsuch (a|an) ones?\b|\bthose (that|who|which)\b",
    "a limit or a duration": r"\bso (long|many) (a|an|the|at|in|is|are)\b",
    "override": r"\bgo(es)? before\b",
    "invalid": r"\bis no (number|duration|length|size|name|time|key)\b",
    "the subject first": r"^(Kept|Shown|Sent|Counted|Told) (is|are)\b",
    "a noun": r"^(Of|With|Among) (it|them|these|those|which|whom)\b",
    "access control": r"\blets? whom\b",
}
PATTERNS = {
    fix: re.compile(text, re.IGNORECASE | re.MULTILINE) for fix, text in RETIRED.items()
}


def prose(path: Path) -> Iterator[tuple[int, str]]:
    """Return the texts of a file that its users may read, with their lines."""
    text = path.read_text()
    if path.suffix == ".py":
        for node in ast.walk(ast.parse(text)):
            # A text without a space is a key or a name.
            if (
                isinstance(node, ast.Constant)
                and isinstance(node.value, str)
                and " " in node.value
            ):
                yield node.lineno, node.value
    elif path.suffix in (".ts", ".tsx"):
        for match in re.finditer(r"\"[^\"\n]*\"|'[^'\n]*'|`[^`]*`|>[^<>{}]+<", text):
            yield text.count("\n", 0, match.start()) + 1, match[0]
    else:
        # A name in code may be an old one.
        code = re.compile(r"`[^`\n]*`")
        yield 1, code.sub("``", CODE.sub("", text)) if path.suffix == ".md" else text


@pytest.mark.parametrize(
    "paths",
    [PAGES, SOURCES, WEB_PAGE, CONFIGURATION],
    ids=["pages", "sources", "web page", "configuration"],
)
def test_no_retired_phrase_is_left(paths: list[Path]) -> None:
    assert paths
    assert [
        f"{path.relative_to(ROOT)}:{line}: {match[0]!r}: {fix}"
        for path in paths
        for line, text in prose(path)
        for fix, pattern in PATTERNS.items()
        for match in pattern.finditer(text)
    ] == []
