"""Reload the configuration, as SIGHUP does."""

from __future__ import annotations

from kaywatch_agent.web.api.parameters import NoQuery
from kaywatch_agent.web.api.schema import ResponseBody
from kaywatch_agent.web.problems import Problem
from kaywatch_agent.web.view import AgentView

__all__ = ["ReloadResponse", "reload"]


class ReloadResponse(ResponseBody):
    """The configuration was read and applied."""

    reloaded: bool


def reload(agent: AgentView, _: NoQuery, __: None) -> ReloadResponse:
    """Read the configuration and apply it, completely or not at all.

    Raises:
        Problem: 400 with all errors of the configuration, and nothing was changed.
    """
    errors = agent.reload()
    if errors:
        raise Problem(
            400,
            "invalid_configuration",
            "; ".join(errors),
            "nothing was changed; `kaywatch check` validates a file",
        )
    return ReloadResponse(reloaded=True)
