"""The page at /: the version, and links to all paths."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable
from html import escape
from typing import Final

__all__ = ["PAGE_POLICY", "html"]

_STYLE: Final = """
body { font-family: system-ui, sans-serif; margin: 2rem auto; max-width: 46rem;
  padding: 0 1rem; line-height: 1.5; color-scheme: light dark; }
td { padding: .15rem 1rem .15rem 0; vertical-align: top; }
"""
_DIGEST: Final = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()

# No script but the agent's own runs, whatever names and messages a page shows.
PAGE_POLICY: Final = "; ".join(
    (
        "default-src 'none'",
        "base-uri 'none'",
        "connect-src 'self'",
        "font-src 'self'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "img-src 'self' data:",
        "script-src 'self'",
        f"style-src 'self' 'sha256-{_DIGEST}'",
    )
)

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>kaywatch</title>
<style>{style}</style>
</head>
<body>
<h1>kaywatch {version}</h1>
<p>The agent is running.</p>
<table>
{rows}
</table>
</body>
</html>
"""


def html(version: str, paths: Iterable[tuple[str, str]]) -> str:
    """Return the page.

    Args:
        version: the agent's version.
        paths: pairs of path and summary to list.
    """
    rows = "\n".join(
        f"<tr><td>{_link(path)}</td><td>{escape(summary)}</td></tr>"
        for path, summary in paths
    )
    return _PAGE.format(version=escape(version), rows=rows, style=_STYLE)


def _link(path: str) -> str:
    code = f"<code>{escape(path)}</code>"
    return code if "{" in path else f'<a href="{escape(path)}">{code}</a>'
