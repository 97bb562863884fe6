"""How requests to a receiver are sent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["RequestOptions"]


@dataclass(frozen=True)
class RequestOptions:
    """How a receiver's requests are sent.

    Attributes:
        timeout: the seconds that a request may take; None for the client's default.
        headers: in addition to those of kaywatch, which they override.
        proxy: the URL of a proxy, or `environment` for `HTTPS_PROXY`, `HTTP_PROXY` and
            `NO_PROXY`; empty for none.
        ca: a file of trusted CA certificates; empty for those of the system.
    """

    timeout: float | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    proxy: str = ""
    ca: str = ""
