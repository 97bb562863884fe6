"""What is kept of failures, and what is left out of their messages."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from kaywatch_agent.config import parse
from kaywatch_agent.errors import ConfigError
from kaywatch_agent.model.bounds import MAX_LIST, MAX_MESSAGE
from kaywatch_agent.model.records import FailureRecord
from kaywatch_agent.protocol.redact import (
    MAX_WAYS,
    REDACTED,
    SECRETS,
    WITHHELD,
    FailureConfig,
    Privacy,
    ways,
)

SECRET = "s3cr3t-v4lue-0f-n0b0dy"
JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmN"


def failure(message: str, traceback: str = "") -> FailureRecord:
    return FailureRecord(
        time=1.0, node="n", type="E", message=message, traceback=traceback
    )


def cleaned(message: str, **config: object) -> str:
    (found,) = Privacy(FailureConfig(**config)).failures([failure(message)])  # type: ignore[arg-type]
    return found.message


@pytest.mark.parametrize(
    "message",
    [
        f"token={SECRET}",
        f"Token: {SECRET}",
        f"api_key={SECRET} is wrong",
        f"{{'api-key': '{SECRET}', 'q': 1}}",
        f'{{"client_secret": "{SECRET}"}}',
        f"https://api.example.org/v1?access_token={SECRET}&q=1",
        f"401 for Authorization: Bearer {SECRET}",
        f"authorization: basic {SECRET}==",
        f"could not log in with password={SECRET};",
        f"PGPASSWORD={SECRET}",
        f"no route to postgresql://shop:{SECRET}@db.internal:5432/orders",
        f"redis://:{SECRET}@cache/0",
        f"bearer {SECRET}",
        f"secret = {SECRET}",
        f"passphrase:{SECRET}",
    ],
)
def test_what_stands_behind_a_key_is_left_out(message: str) -> None:
    found = cleaned(message)
    assert SECRET not in found
    assert REDACTED in found
    # And the rest is there, to tell what went wrong.
    assert found.partition(REDACTED)[0] == message.partition(SECRET)[0].removesuffix(
        "Bearer "
    ).removesuffix("basic ")


@pytest.mark.parametrize(
    "secret",
    [
        "sk-proj-abcdefghijklmnopqrstuvwx",
        "sk-ant-api03-abcdefghijklmnop",
        "ghp_abcdefghijklmnopqrstuvwxyz0123456789",
        "github_pat_11ABCDEFG0abcdefghij",
        "glpat-abcdefghijklmnopqrst",
        "xoxb-123456789012-abcdefghijkl",
        "AKIAIOSFODNN7EXAMPLE",
        "AIzaSyA1234567890abcdefghijklmnopqrstuv",
        "hf_abcdefghijklmnopqrstuvwxyz",
        "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        JWT,
        "ann.lee+shop@mail.example.org",
    ],
)
def test_a_secret_that_shows_what_it_is_is_left_out(secret: str) -> None:
    for text in (secret, f"got {secret}, which is refused", f"({secret})"):
        assert secret not in cleaned(text)
    assert cleaned(f"for {secret} there is none").startswith(f"for {REDACTED}")


def test_a_private_key_is_left_out() -> None:
    key = f"-----BEGIN RSA PRIVATE KEY-----\n{SECRET.replace('-', '+')}\n-----END"
    assert "s3cr3t" not in cleaned(f"bad key {key}")


@pytest.mark.parametrize(
    "message",
    [
        "maximum context length is 8192 tokens, you asked for 9000",
        "max_tokens: 512 is over the limit",
        "token: 512",
        "KeyError: 'order_id'",
        "no key 'a' in {'b': 1, 'keys': 2}",
        "no answer from http://payments.internal:8080/charge after 3 attempts",
        "expected 3 columns, got 4 @ line 7",
        "[Errno 2] No such file or directory: '/srv/shop/orders.csv'",
        "Zürich → 東京",
        "task-1234567890123456",
        "",
    ],
)
def test_what_is_no_secret_stays(message: str) -> None:
    assert cleaned(message) == message


def test_one_s_own_patterns_are_left_out_too() -> None:
    mine = (r"order (?P<value>[0-9]{6,12})", r"\bIBAN [A-Z0-9]{10,34}")
    text = "order 123456 of IBAN DE02120300000000202051 failed, order 12 not"
    assert cleaned(text, redact=mine) == (
        f"order {REDACTED} of {REDACTED} failed, order 12 not"
    )
    assert cleaned("token=abc", redact_secrets=False) == "token=abc"


@pytest.mark.parametrize(
    ("detail", "message", "traceback"),
    [
        ("type", "", ""),
        ("message", f"token={REDACTED}", ""),
        ("traceback", f"token={REDACTED}", f"a.py:1 in f\ntoken={REDACTED}"),
    ],
)
def test_so_much_is_kept_as_is_asked_for(
    detail: str, message: str, traceback: str
) -> None:
    privacy = Privacy(FailureConfig(detail=detail))  # type: ignore[arg-type]
    sent = failure(f"token={SECRET}", f"a.py:1 in f\ntoken={SECRET}")
    (found,) = privacy.failures([sent])
    assert (found.message, found.traceback) == (message, traceback)
    assert replace(found, message="", traceback="") == failure("")


# -- what it may cost ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "complaint"),
    [
        ("(a+)+b", "may take for ever"),
        ("(a|a)*b", "may take for ever"),
        ("(a|ab)*c", "may take for ever"),
        (r"(\w{1,5})*x", "may take for ever"),
        (r"(x?)+y", "may take for ever"),
        ("a.*b.*c", r"write \{1,40\} or the like"),
        (r"\d+\s+\d+", r"write \{1,40\} or the like"),
        (r"(.{0,60}){0,60}", "too many ways|too long"),
        (r"(a)\1+", "a reference to a group"),
        ("(", "missing \\)|unterminated subpattern"),
        ("x" * 10 + "?" * 1 + "y?" * 20, "too long"),
    ],
)
def test_a_pattern_without_a_bound_on_its_cost_is_refused(
    pattern: str, complaint: str
) -> None:
    with pytest.raises(ConfigError, match=complaint) as caught:
        parse(f"[failures]\nredact = ['{pattern}']")
    assert str(caught.value).startswith(f"failures: redact: {pattern!r}: ")


def test_many_patterns_share_the_bound() -> None:
    FailureConfig(redact=(r"a\S+",) * 8)
    with pytest.raises(ValueError, match="fewer patterns"):
        FailureConfig(redact=(r"a\S+",) * 9)


@pytest.mark.parametrize("pattern", SECRETS)
def test_the_built_in_patterns_repeat_without_an_end_once_at_most(pattern: str) -> None:
    # Their parts exclude each other, so few of these ways are ever begun.
    assert ways(pattern) <= 250_000
    assert "value" in re.compile(pattern).groupindex.__str__()


pieces = st.sampled_from(
    ["a", "ab", ".", r"\d", r"\S", "[a-c]", "(?:a|b)", "(?:ab|c)", "(?=a)", "^", r"\b"]
)
repeats = st.sampled_from(["", "?", "{0,3}", "{2}", "+", "*", "{1,9}", "+?", "*+"])


@given(st.lists(st.tuples(pieces, repeats), min_size=1, max_size=6))
def test_a_pattern_that_is_taken_ends_soon_on_unfortunate_texts(
    parts: list[tuple[str, str]],
) -> None:
    pattern = "".join(map("".join, parts))
    try:
        bound = ways(pattern)
    except (re.error, ValueError):
        return
    if bound > MAX_WAYS:
        return
    # A test that hangs is how this would fail: there is a deadline for each.
    for text in ("a" * MAX_MESSAGE, "ab" * 250, "1" * 499 + "x", "abc" * 166):
        re.sub(pattern, "", text)


def test_of_a_batch_that_costs_too_much_the_rest_is_withheld(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("kaywatch_agent.protocol.redact.BATCH_SECONDS", 0.005)
    privacy = Privacy(FailureConfig())
    many = [failure(f"{n} {'x@' * 200} token={SECRET}") for n in range(MAX_LIST)]
    found = privacy.failures(many)
    assert len(found) == MAX_LIST
    assert not [f for f in found if SECRET in f.message]
    assert privacy.withheld == sum(f.message == WITHHELD for f in found) > 0
    # What was seen before costs next to nothing.
    monkeypatch.undo()
    again = Privacy(FailureConfig()).failures([failure(f"token={SECRET}")] * 1_000)
    assert {f.message for f in again} == {f"token={REDACTED}"}


@given(st.text(max_size=MAX_MESSAGE))
def test_any_text_is_bounded_and_stays_text(text: str) -> None:
    found = cleaned(text)
    assert len(found) <= MAX_MESSAGE
    found.encode("utf-8", "surrogatepass")
