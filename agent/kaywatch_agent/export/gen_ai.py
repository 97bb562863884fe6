"""OpenTelemetry's names of what kaywatch measures of language models.

Source: OpenTelemetry's GenAI conventions: semantic-conventions-genai 0.1.0, all of it
"Development", for the new names, and semantic-conventions 1.36 for the old ones. There
is no convention for cost. The conventions require `gen_ai.provider.name`, which
kaywatch does not record.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal, NamedTuple

from kaywatch_agent.model.series import Labels

__all__ = ["CALLS", "GenAiName", "GenAiNames", "gen_ai_labels", "gen_ai_names"]

GenAiNames = Literal["none", "old", "new", "both"]

# The family that counts the calls behind the tokens.
CALLS: Final = "kaygraph_llm_calls_total"


class GenAiName(NamedTuple):
    """A metric of the conventions.

    Attributes:
        name: its name.
        unit: its unit.
        labels: attributes that kaywatch's metric does not have.
    """

    name: str
    unit: str
    labels: Labels = ()


_CHAT: Final = (("gen_ai.operation.name", "chat"),)
_WORKFLOW: Final = (("gen_ai.operation.name", "invoke_workflow"),)
_USAGE: Final = "gen_ai.client.inference.usage"


def _tokens(kind: str) -> GenAiName:
    labels = (*_CHAT, ("gen_ai.token.type", kind))
    return GenAiName("gen_ai.client.token.usage", "{token}", labels)


# By our own names.
_OLD: Final[Mapping[str, GenAiName]] = {
    "kaygraph_llm_duration_seconds": GenAiName(
        "gen_ai.client.operation.duration", "s", _CHAT
    ),
    "kaygraph_llm_input_tokens_total": _tokens("input"),
    "kaygraph_llm_output_tokens_total": _tokens("output"),
}
_NEW: Final[Mapping[str, GenAiName]] = {
    "kaygraph_llm_duration_seconds": GenAiName(
        "gen_ai.client.inference.duration", "s", _CHAT
    ),
    "kaygraph_llm_first_token_seconds": GenAiName(
        "gen_ai.client.inference.time_to_first_chunk", "s", _CHAT
    ),
    "kaygraph_llm_input_tokens_total": GenAiName(
        f"{_USAGE}.input_tokens", "{token}", _CHAT
    ),
    "kaygraph_llm_output_tokens_total": GenAiName(
        f"{_USAGE}.output_tokens", "{token}", _CHAT
    ),
    "kaygraph_llm_cached_tokens_total": GenAiName(
        f"{_USAGE}.cache_read.input_tokens", "{token}", _CHAT
    ),
    "kaygraph_graph_duration_seconds": GenAiName(
        "gen_ai.invoke_agent.duration", "s", _WORKFLOW
    ),
}
_TABLES: Final[Mapping[GenAiNames, tuple[Mapping[str, GenAiName], ...]]] = {
    "none": (),
    "old": (_OLD,),
    "new": (_NEW,),
    "both": (_OLD, _NEW),
}

# Our labels, and the attributes of the conventions.
_LABELS: Final = {"model": "gen_ai.request.model", "type": "error.type"}


def gen_ai_names(names: GenAiNames, ours: str) -> list[GenAiName]:
    """Return the names that the conventions have for one of our metrics."""
    return [table[ours] for table in _TABLES[names] if ours in table]


def gen_ai_labels(name: GenAiName, labels: Labels) -> Labels:
    """Return the attributes of a metric of the conventions."""
    renamed = tuple((_LABELS.get(label, label), value) for label, value in labels)
    if name.labels == _WORKFLOW:
        renamed += tuple(
            ("gen_ai.agent.name", value) for label, value in labels if label == "graph"
        )
    return (*name.labels, *renamed)
