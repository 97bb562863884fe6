"""How much of a failure is kept, and the redaction of its message."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from kaywatch_agent.config import parse
from kaywatch_agent.errors import ConfigError
from kaywatch_agent.model.bounds import MAX_LIST, MAX_MESSAGE
from kaywatch_agent.model.records import FailureRecord
from kaywatch_agent.protocol.redact import (
    MAX_SECRETS,
    REDACTED,
    SECRETS,
    WITHHELD,
    FailureConfig,
    Privacy,
)

SECRET = "s3cr3t-v4lue-0f-n0b0dy"
JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmN"


def failure(message: str, traceback: str = "") -> FailureRecord:
    return FailureRecord(
        time=1.0, node="n", type="E", message=message, traceback=traceback
    )


def redact(message: str, **config: object) -> str:
    (result,) = Privacy(FailureConfig(**config)).redact([failure(message)])  # type: ignore[arg-type]
    return result.message


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
def test_the_value_after_a_secret_key_is_left_out(message: str) -> None:
    clean = redact(message)
    assert SECRET not in clean
    assert REDACTED in clean
    # The rest of the message remains.
    assert clean.partition(REDACTED)[0] == message.partition(SECRET)[0].removesuffix(
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
def test_a_recognizable_secret_is_left_out(secret: str) -> None:
    for text in (secret, f"got {secret}, which is refused", f"({secret})"):
        assert secret not in redact(text)
    assert redact(f"for {secret} there is none").startswith(f"for {REDACTED}")


def test_a_private_key_is_left_out() -> None:
    key = f"-----BEGIN RSA PRIVATE KEY-----\n{SECRET.replace('-', '+')}\n-----END"
    assert "s3cr3t" not in redact(f"bad key {key}")


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
def test_harmless_text_stays(message: str) -> None:
    assert redact(message) == message


def test_one_s_own_patterns_are_left_out_too() -> None:
    mine = (r"order (?P<value>[0-9]{6,12})", r"\bIBAN [A-Z0-9]{10,34}")
    text = "order 123456 of IBAN DE02120300000000202051 failed, order 12 not"
    assert redact(text, redact=mine) == (
        f"order {REDACTED} of {REDACTED} failed, order 12 not"
    )
    assert redact("token=abc", redact_secrets=False) == "token=abc"


@pytest.mark.parametrize(
    ("detail", "message", "traceback"),
    [
        ("type", "", ""),
        ("message", f"token={REDACTED}", ""),
        ("traceback", f"token={REDACTED}", f"a.py:1 in f\ntoken={REDACTED}"),
    ],
)
def test_the_configured_detail_is_kept(
    detail: str, message: str, traceback: str
) -> None:
    privacy = Privacy(FailureConfig(detail=detail))  # type: ignore[arg-type]
    sent = failure(f"token={SECRET}", f"a.py:1 in f\ntoken={SECRET}")
    (result,) = privacy.redact([sent])
    assert (result.message, result.traceback) == (message, traceback)
    assert replace(result, message="", traceback="") == failure("")


# -- cost ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "complaint"),
    [
        (r"(a)\1+", "backreferences and some escapes"),
        ("a(?=b)", "look-around"),
        ("(?<!a)b", "look-around"),
        ("(?>a+)b", "atomic groups"),
        ("a*+b", "possessive"),
        ("(", r"missing \)"),
        ("[a", r"missing \]"),
        ("(.{0,900}){0,900}", "repetition size|too large"),
    ],
)
def test_a_pattern_that_is_not_supported_is_refused(
    pattern: str, complaint: str
) -> None:
    with pytest.raises(ConfigError, match=complaint) as caught:
        parse(f"[failures]\nredact = ['{pattern}']")
    assert str(caught.value).startswith(f"failures: redact: {pattern!r}: ")


@pytest.mark.parametrize("pattern", SECRETS)
def test_the_built_in_patterns_name_the_secret_left_out(pattern: str) -> None:
    assert pattern.count("(?P<value>") == 1


pieces = st.sampled_from(
    ["a", "ab", ".", r"\d", r"\S", "[a-c]", "(?:a|b)", "(?:ab|c)", "(a+)", "^", r"\b"]
)
repeats = st.sampled_from(["", "?", "{0,3}", "{2}", "+", "*", "{1,9}", "+?"])


@given(st.lists(st.tuples(pieces, repeats), min_size=1, max_size=6))
def test_any_pattern_ends_soon_on_unfortunate_texts(
    parts: list[tuple[str, str]],
) -> None:
    pattern = "".join(map("".join, parts))
    # A test that hangs is how this would fail: there is a deadline for each.
    privacy = Privacy(FailureConfig(redact=(pattern,)))
    for text in ("a" * MAX_MESSAGE, "ab" * 250, "1" * 499 + "x", "abc" * 166):
        privacy.redact([failure(text)])


@pytest.mark.parametrize("pattern", ["(a+)+b", "(a|a)*b", r"(\w{1,5})*x", "a.*b.*c"])
def test_patterns_with_exponential_backtracking_are_fast(pattern: str) -> None:
    privacy = Privacy(FailureConfig(redact=(pattern,)))
    texts = [failure(f"{n}" + "a" * 490) for n in range(MAX_LIST)]

    assert privacy.redact(texts)[0].message == texts[0].message


def test_the_rest_of_a_batch_with_too_many_secrets_is_withheld() -> None:
    privacy = Privacy(FailureConfig())
    many = [failure(f"{n} token={SECRET} " + "pwd=a " * 70) for n in range(MAX_LIST)]
    result = privacy.redact(many)
    assert len(result) == MAX_LIST
    assert not [f for f in result if SECRET in f.message]
    withheld = [f for f in result if f.message == WITHHELD]
    assert privacy.withheld == len(withheld) == MAX_LIST - -(-MAX_SECRETS // 71)
    # A known text costs almost nothing; the next batch has its own limit.
    again = privacy.redact([*many[:3], *[failure(f"token={SECRET}")] * MAX_LIST])
    assert [f.message for f in again[:3]] == [f.message for f in result[:3]]
    assert {f.message for f in again[3:]} == {f"token={REDACTED}"}


def test_failures_without_secrets_are_never_withheld() -> None:
    privacy = Privacy(FailureConfig())
    many = [failure(f"{n} " + "x@" * 240) for n in range(MAX_LIST)]
    assert privacy.redact(many) == tuple(many)
    assert privacy.withheld == 0


@pytest.mark.parametrize("text", ["token=\ud800secret", "token=ab\udfffsecret"])
def test_half_a_character_hides_no_secret(text: str) -> None:
    assert "secret" not in redact(text)


@given(st.text(max_size=MAX_MESSAGE))
def test_any_text_is_bounded_and_stays_text(text: str) -> None:
    clean = redact(text)
    assert len(clean) <= MAX_MESSAGE
    clean.encode("utf-8", "surrogatepass")
