"""The page at /: what this is, and where the rest is."""

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

# Nothing runs in a page that isn't ours, whatever names and messages it shows.
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


def html(version: str, routes: Iterable[tuple[str, str]]) -> bytes:
    """Return the page.

    Args:
        version: the agent's.
        routes: (path, summary) of what is to be listed.
    """
    rows = "\n".join(
        f"<tr><td>{_link(path)}</td><td>{escape(summary)}</td></tr>"
        for path, summary in routes
    )
    return _PAGE.format(version=escape(version), rows=rows, style=_STYLE).encode()


def _link(path: str) -> str:
    shown = f"<code>{escape(path)}</code>"
    return shown if "{" in path else f'<a href="{escape(path)}">{shown}</a>'
