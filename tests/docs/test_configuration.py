"""The pages on the configuration are what the types say, and the loader takes."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from typing import Any

import pytest
from tests.docs.configuration import SHARED, written

from kaywatch_agent.errors import ConfigError
from kaywatch_agent.rules import keys
from kaywatch_agent.rules.keys import Key
from kaywatch_agent.rules.load import load

# Of each kind, what it needs.
LEAST: dict[str, dict[str, Any]] = {
    "threshold": {"metric": "error_rate", "op": ">", "value": 0.1},
    "absence": {"max_age": "5m"},
    "burn_rate": {"objective": 0.99},
    "transition_share": {"action": "x", "above": 0.1},
    "stuck": {},
    "process_died": {},
    "runaway": {"max_visits": 3},
}
TIER = {"factor": 2.0, "long": "1h", "short": "5m"}
INHIBIT = {"source": ["a=b"], "target": ["a=c"]}
SILENCE = tomllib.loads(
    "match = ['a=b']\nstarts = 2026-12-01T22:00:00Z\nends = 2026-12-02T22:00:00Z"
)


def rule(kind: str, **more: Any) -> dict[str, Any]:
    return {"rule": [{"name": "r", "kind": kind, **LEAST[kind], **more}]}


def tier(**more: Any) -> dict[str, Any]:
    return rule("burn_rate", tiers=[{**TIER, **more}])


# Each table: its keys, and how it is written with some more of them.
TABLES: dict[str, tuple[tuple[Key, ...], Any]] = {
    "alerting": (keys.ALERTING, lambda **more: {"alerting": more}),
    "thresholds": (
        keys.THRESHOLDS,
        lambda **more: {"alerting": {"thresholds": more}},
    ),
    "defaults": (keys.COMMON[3:], lambda **more: {"defaults": more}),
    "tiers": (keys.TIERS, tier),
    "inhibit": (keys.INHIBIT, lambda **more: {"inhibit": [{**INHIBIT, **more}]}),
    "silence": (keys.SILENCE, lambda **more: {"silence": [{**SILENCE, **more}]}),
    **{
        kind: ((*keys.COMMON, *own), lambda kind=kind, **more: rule(kind, **more))
        for kind, own in keys.KIND_KEYS.items()
    },
}


def taken(table: dict[str, Any]) -> set[str]:
    """The keys that the loader would have taken instead of `strange`."""
    with pytest.raises(ConfigError, match="strange: unknown key") as caught:
        load(table)
    return set(str(caught.value).partition("(known: ")[2].rstrip(")").split(", "))


def names(found: Iterable[Key]) -> set[str]:
    return {key.name for key in found}


def test_the_pages_are_what_the_types_say() -> None:
    for path, text in written().items():
        assert path.read_text() == text, "python -m tests.docs.configuration"
    assert all(f"<!-- keys: {name} -->" in text for name in SHARED)


@pytest.mark.parametrize("name", TABLES)
def test_the_keys_of_a_table_about_alerts_are_those_that_the_loader_takes(
    name: str,
) -> None:
    described, write = TABLES[name]
    found = taken(write(strange=1))
    if name == "threshold":
        when = {"name": "r", "when": "error_rate > 1", "strange": 1}
        found |= taken({"rule": [when]})
    assert found == names(described)


@pytest.mark.parametrize(
    ("name", "key"),
    [
        (name, key)
        for name, (described, _) in TABLES.items()
        for key in described
        if key.default
        # Each kind has its table, and the usual change needs an action.
        and key.name not in ("kind", "action")
    ],
    ids=lambda value: value.name if isinstance(value, Key) else value,
)
def test_a_default_of_alerts_that_is_written_changes_nothing(
    name: str, key: Key
) -> None:
    value = tomllib.loads(f"x = {key.default}")["x"]
    _, write = TABLES[name]

    assert load(write(**{key.name: value})) == load(write())
