"""Checks the files of the HTTP server before the agent starts.

It imports no aiohttp: systemd runs `kaywatch check` before each start.
"""

from __future__ import annotations

from kaywatch_agent.web.config import HttpConfig
from kaywatch_agent.web.guard.tls import Tls
from kaywatch_agent.web.guard.tokens import Tokens

__all__ = ["check_files"]


def check_files(config: HttpConfig) -> None:
    """Read the tokens and the certificate.

    Raises:
        ConfigError: they cannot be used.
    """
    Tokens(config.read_tokens, config.admin_tokens)
    if config.tls:
        Tls(config.tls_certificate_file, config.tls_key)
