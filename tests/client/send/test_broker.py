"""A broker's address and account are parsed, validated and shown without secrets."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from kaywatch import ConfigurationError
from kaywatch._send.broker import (
    Broker,
    MqttVersion,
    from_environment,
    parse,
    without_secret,
)
from kaywatch._send.connecting import check_endpoint


@pytest.mark.parametrize(
    ("url", "broker"),
    [
        ("mqtt://b", Broker("b", 1883)),
        ("mqtts://b", Broker("b", 8883, tls=True)),
        ("mqtt://b:1884/", Broker("b", 1884)),
        ("mqtt://b/a/b/", Broker("b", 1883, prefix="a/b")),
        ("mqtt://me@b/x", Broker("b", 1883, prefix="x", user="me")),
        ("mqtt://me:p%40ss@b", Broker("b", 1883, user="me", password="p@ss")),
        ("mqtt://[::1]:7/x", Broker("::1", 7, prefix="x")),
    ],
)
def test_url_is_parsed_into_a_broker(url: str, broker: Broker) -> None:
    assert parse(url) == broker
    assert parse(broker.url) == parse(url.replace(":p%40ss", ""))


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("amqp://b", "unknown scheme 'amqp'"),
        ("mqtt:///x", "the host is missing"),
        ("mqtt://b:0", "the port is 0"),
        ("mqtt://b:99999", "port"),
        ("mqtt://[b", "the host is missing"),
        ("mqtt://b/x?y", "? and # are not allowed"),
        ("mqtt://b/+/x", "invalid topic prefix '+/x': expected at most"),
        ("mqtt://b/$SYS", "without $ at the start"),
        ("mqtt://b/$share/g/x", "a shared subscription"),
    ],
)
def test_invalid_url_is_rejected_with_a_reason(url: str, problem: str) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(problem)):
        parse(url.replace("//", "//me:hidden@"))


@pytest.mark.parametrize("url", ["mqtt://me:hidden@b:x", "amqp://me:hidden@b"])
def test_error_does_not_show_a_password(url: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        check_endpoint(url)
    assert "hidden" not in str(caught.value)


def test_repr_and_url_do_not_show_a_password() -> None:
    broker = parse("mqtts://me:hidden@b/x")
    assert "hidden" not in repr(broker) + str(broker) + broker.url
    assert without_secret("mqtts://me:hidden@b/x") == "mqtts://me:***@b/x"


def test_password_is_read_from_url_file_or_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "password"
    file.write_text("of the file\n")
    url = "mqtt://me:old@b"
    assert parse(url).secret() == "old"
    assert from_environment(url, {"KAYWATCH_MQTT_PASSWORD": "new"}).secret() == "new"
    broker = from_environment(url, {"KAYWATCH_MQTT_PASSWORD_FILE": str(file)})
    assert broker.secret() == "of the file"
    file.write_text("of the next file")
    assert broker.secret() == "of the next file"
    monkeypatch.setenv("THAT", "of the variable")
    assert parse(url, password_env="THAT").secret() == "of the variable"


def test_missing_file_is_named_in_the_error(tmp_path: Path) -> None:
    absent = str(tmp_path / "absent")
    for settings in ({"password_file": absent}, {"password_env": "KW_ABSENT"}):
        with pytest.raises(ConfigurationError, match=r"absent|KW_ABSENT"):
            parse("mqtts://me@b", **settings).secret()
    for settings in ({"ca": absent}, {"cert": absent, "key": absent}):
        with pytest.raises(ConfigurationError, match="absent"):
            parse("mqtts://b", **settings).context()
    with pytest.raises(ConfigurationError, match="need TLS"):
        parse("mqtt://b", ca=absent)


def test_old_broker_gets_mqtt_3_1_1() -> None:
    version = MqttVersion()
    assert version.is_5
    assert version.switch_if_unconfirmed()  # the first time: it may be an old broker
    version.confirm()
    assert not version.is_5


def test_stopping_broker_is_not_mistaken_for_an_old_one() -> None:
    version = MqttVersion()
    version.confirm()
    for _ in range(10):
        assert not version.switch_if_unconfirmed()
    assert version.is_5
    assert version.switch()  # the explicit default remains
    assert not version.is_5


def test_broker_that_closes_both_versions_is_not_retried_at_once_forever() -> None:
    version = MqttVersion()
    assert [version.switch_if_unconfirmed() for _ in range(4)] == [
        True,
        False,
        True,
        False,
    ]
