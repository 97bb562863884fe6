from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import pytest

from kaywatch_agent.config import assemble, find_unused
from kaywatch_agent.errors import ConfigError
from kaywatch_agent.notify.config import (
    EmailConfig,
    HeartbeatConfig,
    parse,
    parse_heartbeat,
    policies,
)
from kaywatch_agent.notify.config_check import find_defects, find_warnings
from kaywatch_agent.notify.policy import SendRate
from kaywatch_agent.rules.rule import Grouping

HOOK = "https://hooks.slack.com/services/T0/B0/sosecret"
SLACK: dict[str, Any] = {"type": "slack", "webhook_url": HOOK}
MAIL: dict[str, Any] = {
    "type": "email",
    "host": "smtp.example.org",
    "from": "kaywatch <kaywatch@example.org>",
    "to": ["ops@example.org"],
}
PAGER: dict[str, Any] = {"type": "pagerduty", "routing_key_env": "PD_KEY"}


@pytest.mark.parametrize(
    ("table", "complaint"),
    [
        ({}, "receiver.ops.type: missing; expected slack, teams, discord, "),
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
            'receiver.ops.channel: missing; a bot needs a channel such as "#alerts"',
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
        (
            {"type": "alertmanager", "urls": ["x"]},
            "receiver.ops.urls[0]: expected a URL",
        ),
        (
            {
                "type": "alertmanager",
                "urls": ["http://a:9093"],
                "resend_interval": "0",
            },
            'receiver.ops.resend_interval: "0": expected more than 0',
        ),
        ({**SLACK, "max_age": "0"}, 'receiver.ops.max_age: "0": expected more than 0'),
        (
            {**SLACK, "channel": "#ops"},
            "receiver.ops.channel: a webhook has a channel of its own; remove it",
        ),
        (
            {**SLACK, "mode": "thread"},
            'receiver.ops.mode: "thread": a webhook cannot reply; remove it',
        ),
        (
            {"type": "webhook", "url_env": "U", "secret": "sosecret"},
            "receiver.ops.secret: requests are not signed; set signature =",
        ),
        (
            {"type": "webhook", "url_env": "U", "external_url": "wiki"},
            'receiver.ops.external_url: "wiki": expected a URL such as',
        ),
        (
            {
                **PAGER,
                "url": "https://events.pagerduty.com/integration/sosecret/enqueue",
            },
            "receiver.ops.url: expected https://events.pagerduty.com/v2/enqueue",
        ),
        (
            {**PAGER, "url": "https://acme.pagerduty.com", "region": "eu"},
            "receiver.ops.url: expected https://events.eu.pagerduty.com/v2/enqueue",
        ),
        ({"type": "pagerduty"}, "receiver.ops.routing_key: missing; set one of"),
        (
            {"type": "webhook", "url_env": "U", "signature": "github"},
            "receiver.ops.secret: missing; the signature github needs a secret_file",
        ),
        ({"type": "teams"}, "receiver.ops.webhook_url: missing; set one of"),
        ({"type": "discord"}, "receiver.ops.webhook_url: missing; set one of"),
        (
            {"type": "discord", "webhook_url_env": "U", "mode": "thread"},
            "receiver.ops.mode: 'thread' is not one of 'update', 'post'",
        ),
        ({"type": "opsgenie"}, "receiver.ops.api_key: missing; set one of"),
        (
            {"type": "opsgenie", "api_key_env": "K", "url": "api.opsgenie.com"},
            "receiver.ops.url: expected a URL such as",
        ),
        ({"type": "email"}, "receiver.ops.host: missing"),
        (
            {**MAIL, "host": "smtp://smtp.example.org:587"},
            "receiver.ops.host: 'smtp://smtp.example.org:587': expected a name such as",
        ),
        ({**MAIL, "port": 70_000}, "receiver.ops.port: 70000: expected a port such as"),
        (
            {**MAIL, "username": "kay"},
            "receiver.ops.password: missing, but username is set; set password_file",
        ),
        (
            {**MAIL, "password": "sosecret"},
            "receiver.ops.username: missing, but password is set; set username",
        ),
        (
            {**MAIL, "tls": "none", "username": "kay", "password_env": "P"},
            'receiver.ops.tls: "none" would send the password unencrypted',
        ),
        (
            {**MAIL, "from": "kaywatch"},
            "receiver.ops.from: 'kaywatch': expected",
        ),
        (
            {**MAIL, "from": "a\n <a@b.c>"},
            "receiver.ops.from: 'a\\n <a@b.c>'",
        ),
        ({**MAIL, "to": []}, "receiver.ops.to: 0 addresses: expected 1 to 100"),
        (
            {**MAIL, "to": ["a@b.c", "x@y.z\r\nRCPT TO:<e@x.y>"]},
            "receiver.ops.to[1]: 'x@y.z\\r\\nRCPT TO:<e@x.y>': expected an address",
        ),
        ({**MAIL, "proxy": "http://p:3128"}, "receiver.ops.proxy: Email does not supp"),
    ],
)
def test_an_error_names_the_key_and_the_fix_but_no_secret(
    table: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        parse({"ops": table, "pd": PAGER})

    assert str(caught.value).startswith(complaint)
    assert "sosecret" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "https://events.pagerduty.com/v2/enqueue/",
        "https://EVENTS.eu.pagerduty.com",
        "http://proxy.example.org/pagerduty/v2/enqueue",
        "http://127.0.0.1:8080",
    ],
)
def test_a_pasted_url_of_pagerduty_and_one_of_a_proxy_are_accepted(url: str) -> None:
    (used,) = parse({"pd": {**PAGER, "url": url}})["pd"].urls_to_reach()
    assert used == url.rstrip("/").removesuffix("/v2/enqueue")


def test_the_pasted_url_of_an_alertmanager_s_api_is_accepted() -> None:
    urls = ["http://a:9093/api/v2/alerts", "http://b:9093/am/"]
    config = parse({"am": {"type": "alertmanager", "urls": urls}})["am"]
    assert list(config.urls_to_reach()) == ["http://a:9093", "http://b:9093/am"]


def test_invalid_keys_do_not_hide_errors_of_others() -> None:
    webhook = {"type": "webhook", "rate": "x", "timeout": "1h", "proxy": "x"}
    more = {"signature": "github", "max_attempts": 0, "fallback": "x", "ca": "/no"}
    with pytest.raises(ConfigError) as caught:
        parse({"hook": {**webhook, **more}, "pd": {**PAGER, "fallback": "hok"}})

    keys = [error.key for error in (caught.value, *caught.value.others)]
    names = "ca max_attempts proxy rate secret timeout url"
    assert sorted(keys) == [
        *(f"receiver.hook.{name}" for name in names.split()),
        "receiver.pd.fallback",
    ]


def test_a_receiver_with_errors_is_no_unknown_fallback() -> None:
    with pytest.raises(ConfigError) as caught:
        parse({"ops": {**SLACK, "rate": "x"}, "pd": {**PAGER, "fallback": "ops"}})
    assert [caught.value.key, *caught.value.others] == ["receiver.ops.rate"]


def test_a_file_without_certificates_is_reported(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("no certificate")
    with pytest.raises(ConfigError, match="no valid certificate; expected the PEM"):
        parse({"ops": {**SLACK, "ca": str(tmp_path / "ca.pem")}})


def test_the_heartbeat_s_url_in_the_configuration_is_warned_about() -> None:
    heartbeat = parse_heartbeat({"url": "https://hc-ping.com/sosecret"})
    (warning,) = find_warnings({}, heartbeat)
    assert str(warning).startswith("heartbeat.url: the configuration file contains a")


def test_a_heartbeat_s_interval_is_at_least_a_second() -> None:
    with pytest.raises(
        ConfigError, match=r'heartbeat\.interval: "0": expected at least'
    ):
        parse_heartbeat({"url_env": "U", "interval": "0"})


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
    with pytest.raises(ConfigError, match="invalid name: expected up to 100 letters"):
        parse({"a b": SLACK})


def test_an_inline_secret_is_hidden_and_warned_about() -> None:
    configs = parse({"ops": SLACK})

    assert "sosecret" not in repr(configs)
    assert "sosecret" not in repr(configs["ops"].secrets()["webhook_url"])
    (warning,) = find_warnings(configs, HeartbeatConfig())
    assert (
        warning.text
        == "receiver.ops.webhook_url: the configuration file contains a secret"
    )
    assert warning.fix.startswith("set webhook_url_file")
    assert find_warnings(parse({"pd": PAGER}), HeartbeatConfig()) == []


@pytest.mark.parametrize(
    ("url", "is_secret"),
    [
        ("http://127.0.0.1:8088/", False),
        ("http://localhost", False),
        ("http://127.0.0.1:8088/hook", True),
        ("http://host/?token=x", True),
        ("http://user:password@host/", True),
    ],
)
def test_the_url_of_a_host_alone_is_no_secret(url: str, is_secret: bool) -> None:
    configs = parse({"ops": {"type": "webhook", "url": url}})

    assert bool(find_warnings(configs, HeartbeatConfig())) is is_secret


@pytest.mark.parametrize(
    ("table", "defect"),
    [
        ({"type": "slack", "webhook_url_file": "/no/file"}, "cannot read /no/file"),
        ({"type": "slack", "webhook_url_env": "NO_SUCH"}, "NO_SUCH is not set"),
        ({"type": "webhook", "url": "example.com/x"}, "expected a URL such as"),
        ({"type": "webhook", "url": "https://example.com/a b"}, "expected a URL"),
        ({"type": "webhook", "url": "https://example.com:99999/"}, "expected a URL"),
        ({"type": "webhook", "url": "https://hooks.slack.com/x"}, 'for type = "slack"'),
        (
            {"type": "slack", "webhook_url": "https://events.pagerduty.com/v2/enqueue"},
            'for type = "pagerduty"',
        ),
        ({"type": "pagerduty", "routing_key": "abc"}, "3 characters, expected 32"),
        ({"type": "pagerduty", "routing_key": "a" * 31 + "\n"}, "another invalid char"),
        ({"type": "pagerduty", "routing_key": "ä" * 32}, "another invalid character"),
        ({"type": "opsgenie", "api_key": '"0123"'}, "a quote or another invalid"),
        ({"type": "slack", "bot_token": "xoxb 1", "channel": "#a"}, "contains a space"),
        (
            {
                "type": "webhook",
                "url": "https://example.com/x",
                "signature": "standard",
                "secret": "whsec_%%",
            },
            "invalid secret",
        ),
        (
            {"type": "webhook", "url": "https://discord.com/api/webhooks/1/t"},
            'for type = "discord"',
        ),
        (
            {"type": "slack", "webhook_url": "https://x.1.logic.azure.com/workflows"},
            'for type = "teams"',
        ),
        (
            {"type": "teams", "webhook_url": "https://a.webhook.office.com/x"},
            "the URL of an Office 365 connector, which is retired",
        ),
    ],
)
def test_a_receiver_that_cannot_work_is_a_defect(
    table: dict[str, str], defect: str
) -> None:
    (note,) = find_defects(parse({"ops": table}), HeartbeatConfig())

    assert note.text.startswith("receiver.ops.")
    assert defect in note.text
    assert note.fix


@pytest.mark.parametrize(
    "table",
    [
        {"type": "teams", "webhook_url": "https://x.1.logic.azure.com/workflows"},
        {"type": "teams", "webhook_url": "https://d.0.api.powerplatform.com/workflows"},
        {"type": "webhook", "url": "https://x.1.logic.azure.com/workflows"},
        {"type": "discord", "webhook_url": "https://discord.com/api/webhooks/1/t"},
        {"type": "discord", "webhook_url": "https://proxy.example.org/1/t"},
        {"type": "webhook", "url": "https://notdiscord.com/x"},
    ],
)
def test_a_url_of_the_service_or_of_another_is_no_defect(table: dict[str, str]) -> None:
    assert find_defects(parse({"ops": table}), HeartbeatConfig()) == []


def test_a_secret_file_that_others_can_read_is_warned_about(tmp_path: Path) -> None:
    secret = tmp_path / "url"
    secret.write_bytes(b"\xef\xbb\xbfhttps://example.com/\r\n")
    configs = parse({"ops": {"type": "webhook", "url_file": str(secret)}})
    secret.chmod(0o644)
    (warning,) = find_warnings(configs, HeartbeatConfig())
    assert warning.fix == f"chmod 0600 {secret}"
    secret.chmod(0o600)
    assert find_warnings(configs, HeartbeatConfig()) == []
    # A byte order mark and an end of line are no part of the URL.
    assert find_defects(configs, HeartbeatConfig()) == []


@pytest.mark.parametrize(
    ("more", "error"),
    [
        ({"timeout": "0s"}, "receiver.ops.timeout"),
        ({"timeout": "10m"}, '"10m": expected a duration from 100ms to 60s'),
        ({"proxy": "proxy:3128"}, "receiver.ops.proxy: expected a URL"),
        ({"proxy": "env"}, 'http://host:3128, or "environment"'),
        ({"headers": {"a b": "x"}}, "receiver.ops.headers.a b"),
        ({"headers": {"X-A": "x\ny"}}, "receiver.ops.headers.X-A"),
        ({"headers": {"Host": "x"}}, "receiver.ops.headers.Host"),
        ({"ca": "/no/ca.pem"}, "receiver.ops.ca: no such file: /no/ca.pem"),
        ({"max_attempts": 0}, "receiver.ops.max_attempts: 0: expected at least 1"),
    ],
)
def test_how_requests_are_sent_is_validated(more: dict[str, Any], error: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(error)):
        parse({"ops": {**SLACK, **more}})


def test_unused_receivers_are_found() -> None:
    table = {"receiver": {"used": SLACK, "unused": SLACK, "second": SLACK}}
    table["receiver"]["used"] = {**SLACK, "fallback": "second"}
    config = assemble({**table, "alerting": {"default_notify": ["used"]}})

    (text,) = find_unused(config.notify, config.alerts)
    assert text.startswith("receiver.unused: no rule notifies it")


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


@pytest.mark.parametrize(
    ("keys", "port"),
    [
        ({}, 587),
        ({"tls": "tls"}, 465),
        ({"tls": "none"}, 25),
        ({"tls": "none", "port": 2525}, 2525),
    ],
)
def test_the_port_of_a_mail_server_follows_from_its_encryption(
    keys: dict[str, Any], port: int
) -> None:
    config = parse({"ops": {**MAIL, **keys}})["ops"]
    assert isinstance(config, EmailConfig)
    assert (config.server_port, config.sender) == (port, "kaywatch@example.org")
    assert config.follow_up == "thread"


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
