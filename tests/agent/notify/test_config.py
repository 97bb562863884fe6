from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from kaywatch_agent.config import assemble
from kaywatch_agent.errors import ConfigError
from kaywatch_agent.notify.config import (
    HeartbeatConfig,
    parse,
    parse_heartbeat,
    policies,
    warnings,
)
from kaywatch_agent.notify.policy import SendRate
from kaywatch_agent.rules.rule import Grouping

HOOK = "https://hooks.slack.com/services/T0/B0/sosecret"
SLACK: dict[str, Any] = {"type": "slack", "webhook_url": HOOK}
PAGER: dict[str, Any] = {"type": "pagerduty", "routing_key_env": "PD_KEY"}


@pytest.mark.parametrize(
    ("table", "complaint"),
    [
        ({}, "receiver.ops.type: None is not one of slack, pagerduty, webhook"),
        ({"type": "slak"}, "receiver.ops.type: 'slak' is not one of slack"),
        (
            {"type": "slack"},
            "receiver.ops.webhook_url: missing; set webhook_url_file, or bot",
        ),
        (
            {"type": "slack", "webhook_ur": HOOK},
            "receiver.ops.webhook_ur: unknown key; did you mean webhook_url?",
        ),
        (
            {**SLACK, "webhook_url": [HOOK]},
            "receiver.ops.webhook_url: expected a string",
        ),
        (
            {**SLACK, "webhook_url_file": "/x"},
            "receiver.ops.webhook_url_file: webhook_url and webhook_url_file: set only",
        ),
        (
            {**SLACK, "bot_token_env": "T"},
            "receiver.ops.bot_token_env: set either bot_token or webhook_url, not both",
        ),
        (
            {"type": "slack", "bot_token_env": "T"},
            "receiver.ops.channel: missing; a bot needs a channel",
        ),
        (
            {**SLACK, "rate": "fast"},
            'receiver.ops.rate: invalid rate "fast": expected',
        ),
        (
            {**SLACK, "max_age": "1 day"},
            'receiver.ops.max_age: invalid duration "1 day"',
        ),
        (
            {**SLACK, "min_severity": "high"},
            "receiver.ops.min_severity: 'high' is not one of 'info', 'warning'",
        ),
        (
            {**SLACK, "fallback": "nobody"},
            "receiver.ops.fallback: 'nobody' is not another receiver (pd)",
        ),
        ({**SLACK, "name": "x"}, "receiver.ops.name: unknown key"),
        (
            {"type": "alertmanager"},
            'receiver.ops.urls: missing; for example ["http://127.0.0.1:9093"]',
        ),
        ({"type": "alertmanager", "urls": "x"}, "receiver.ops.urls: expected a list"),
        ({"type": "alertmanager", "urls": ["x"]}, "receiver.ops.urls: expected a URL"),
        ({"type": "pagerduty"}, "receiver.ops.routing_key: missing; set one of"),
        (
            {"type": "webhook", "url_env": "U", "signature": "github"},
            "receiver.ops.secret: missing; the signature github needs a secret_file",
        ),
    ],
)
def test_an_error_names_the_key_and_the_fix_but_no_secret(
    table: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        parse({"ops": table, "pd": PAGER})

    assert str(caught.value).startswith(complaint)
    assert "sosecret" not in str(caught.value)


def test_all_errors_of_a_receiver_are_reported_together() -> None:
    table = {"type": "pagerduty", "regoin": "eu", "max_age": "1 day"}
    with pytest.raises(ConfigError) as caught:
        parse({"pd": table})

    errors = [caught.value, *caught.value.others]
    assert [error.key for error in errors] == [
        "receiver.pd.routing_key",
        "receiver.pd.regoin",
        "receiver.pd.max_age",
    ]


@pytest.mark.parametrize("tables", [5, True, 1.5, "x", ["x"]])
def test_receivers_must_be_a_table(tables: object) -> None:
    with pytest.raises(ConfigError, match=r"receiver: expected a table \[receiver\]"):
        assemble({"receiver": tables})


def test_a_name_has_only_letters_digits_and_punctuation() -> None:
    with pytest.raises(ConfigError, match="letters, digits"):
        parse({"a b": SLACK})


def test_an_inline_secret_is_hidden_and_warned_about() -> None:
    configs = parse({"ops": SLACK})

    assert "sosecret" not in repr(configs)
    assert "sosecret" not in repr(configs["ops"].secrets()["webhook_url"])
    (warning,) = warnings(configs)
    assert warning.startswith("receiver.ops.webhook_url: a secret in the config")
    assert warnings(parse({"pd": PAGER})) == []


def test_a_secret_is_read_from_a_file_a_variable_or_a_credential(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "key").write_text("from-file\n")
    (tmp_path / "kaywatch_ours").write_text("from-our-folder\n")
    monkeypatch.setenv("PD_KEY", "from-env")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    ways = {
        "routing_key_file": (str(tmp_path / "key"), "from-file"),
        "routing_key_env": ("PD_KEY", "from-env"),
        "routing_key_credential": ("key", "from-file"),
    }
    # systemd prefixes the credentials that the unit loads from a folder.
    parsed = parse({"pd": {"type": "pagerduty", "routing_key_credential": "ours"}})
    assert parsed["pd"].secrets()["routing_key"].read() == "from-our-folder"
    for key, (where, value) in ways.items():
        configs = parse({"pd": {"type": "pagerduty", key: where}})
        assert configs["pd"].secrets()["routing_key"].read() == value


@pytest.mark.parametrize(
    ("key", "where", "complaint"),
    [
        ("routing_key_file", "/no/such", "cannot read /no/such: no such file"),
        ("routing_key_env", "NO_SUCH", "the environment variable NO_SUCH is not set"),
        ("routing_key_credential", "pd", "CREDENTIALS_DIRECTORY is not set"),
    ],
)
def test_reading_a_missing_secret_names_its_key_and_location(
    key: str, where: str, complaint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    configs = parse({"pd": {"type": "pagerduty", key: where}})
    with pytest.raises(ConfigError, match=complaint) as caught:
        configs["pd"].secrets()["routing_key"].read()
    assert caught.value.key == f"receiver.pd.{key}"


def test_policies_reflect_the_configuration() -> None:
    tables = {
        "ops": SLACK,
        "bot": {"type": "slack", "bot_token_env": "T", "channel": "#x"},
        "pd": {**PAGER, "min_severity": "error", "fallback": "ops"},
        "am": {"type": "alertmanager", "urls": ["http://127.0.0.1:9093"]},
    }
    before = copy.deepcopy(tables)
    result = policies(parse(tables), Grouping(group_wait=3.0))

    assert tables == before
    assert set(result) == {"ops", "bot", "pd"}
    assert (result["ops"].follow_up, result["bot"].follow_up) == ("post", "update")
    assert (result["ops"].grouped, result["ops"].group_wait) == (True, 3.0)
    assert (result["pd"].grouped, result["pd"].fallback) == (False, "ops")
    assert result["pd"].rate == SendRate(100, 60.0)
    assert result["pd"].accepts("error")
    assert not result["pd"].accepts("warning")


def test_a_heartbeat_without_url_is_valid_and_an_invalid_interval_is_not() -> None:
    assert HeartbeatConfig().url is None
    with pytest.raises(ConfigError, match=r'heartbeat.interval: invalid duration "x"'):
        parse_heartbeat({"interval": "x"})
