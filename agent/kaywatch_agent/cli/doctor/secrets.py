"""Why a secret can't be read, and whether that is a problem or only this user's."""

from __future__ import annotations

from typing import Final

from kaywatch_agent.cli.doctor.finding import Finding, problem, unchecked

__all__ = ["unread"]

MEND: Final = "make the file, or set the variable, that the key names"


def unread(text: str, mend: str = MEND) -> Finding:
    """Return what it means that something couldn't be read.

    Args:
        text: what went wrong, without the secret.
        mend: what to do about it, unless it is only this user who can't.
    """
    if "CREDENTIALS_DIRECTORY" in text:
        return unchecked(text, "only the service has its credentials")
    if "permission denied" in text.lower():
        return unchecked(text, "the agent's user may read it, and this one may not")
    return problem(text, mend)
