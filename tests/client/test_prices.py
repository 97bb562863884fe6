"""The cost of tokens, built-in and configured."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import kaywatch
from kaywatch import Price, prices


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    yield
    prices.use({})


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("gpt-4o", "gpt-4o"),
        ("gpt-4o-2024-08-06", "gpt-4o"),
        ("gpt-4o-2024-05-13", "gpt-4o-2024-05-13"),
        ("gpt-4o-mini-2024-07-18", "gpt-4o-mini"),
        ("claude-opus-4-1-20250805", "claude-opus-4-1"),
        ("claude-opus-4-20250514", "claude-opus-4"),
        ("claude-opus-4@20250514", "claude-opus-4"),
        ("claude-3-7-sonnet-latest", "claude-3-7-sonnet"),
    ],
)
def test_a_dated_version_has_the_price_of_its_model(model: str, name: str) -> None:
    assert prices.find(model) == prices.DEFAULT[name]


@pytest.mark.parametrize(
    "model", ["gpt-5-pro", "gpt-4o-audio-preview", "o1-pro", "gpt-4.1-mega", "", "gpt"]
)
def test_another_model_has_no_price(model: str) -> None:
    assert prices.find(model) is None


def test_the_list_is_dated() -> None:
    year, month, day = map(int, prices.AS_OF.split("-"))
    assert year >= 2026 and 1 <= month <= 12 and 1 <= day <= 31


def test_the_cost_of_each_kind_of_token() -> None:
    price = Price(10, 50, cached_input=1, cache_write=12.5, cache_write_long=20)

    assert price.cost(1_000_000, 0) == 10
    assert price.cost(1_000_000, 1_000_000) == 60
    assert price.cost(100, 10, 20, 30, 40) == pytest.approx(
        (10 * 10 + 10 * 50 + 20 * 1 + 30 * 12.5 + 40 * 20) / 1e6
    )
    assert Price(10).cost(100, 10, 100) == pytest.approx(100 * 10 / 1e6)
    assert Price(10, cache_write=5).cost(100, 0, 0, 0, 100) == pytest.approx(5e-4)


def test_user_prices_override_and_the_longest_name_wins() -> None:
    kaywatch.configure(
        prices={"mine": Price(1), "mine-*": Price(2), "gpt-4o": Price(3)}
    )

    assert prices.find("mine") == Price(1)
    assert prices.find("mine-large") == Price(2)
    assert prices.find("gpt-4o-2024-08-06") == Price(3)
    assert prices.find("gpt-4o-mini") == prices.DEFAULT["gpt-4o-mini"]
    kaywatch.configure(prices={})
    assert prices.find("gpt-4o") == prices.DEFAULT["gpt-4o"]


def test_prices_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "prices.toml"
    path.write_text('["my-model-1.5"]\ninput = 0.5\noutput = 2\ncached_input = 0.1\n')

    kaywatch.configure(prices=path)

    assert prices.find("my-model-1.5") == Price(0.5, 2, 0.1)


@pytest.mark.parametrize(
    ("invalid", "problem"),
    [
        ({"m": 3}, "prices['m']: expected a kaywatch.Price, got 3"),
        ({3: Price(1)}, "prices: 3 is not a model's name"),
        ({"*": Price(1)}, "prices: '*' is not a model's name"),
        (3, "prices=3: expected a mapping of models' names, or a file's path"),
        ("/nowhere/prices.toml", "/nowhere/prices.toml: No such file or directory"),
    ],
)
def test_invalid_prices_are_rejected_before_anything_changes(
    invalid: Any, problem: str
) -> None:
    before = kaywatch.client_stats()

    with pytest.raises(kaywatch.ConfigurationError) as caught:
        kaywatch.configure(service="other", prices=invalid)

    assert str(caught.value) == problem
    assert kaywatch.client_stats() == before


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[m]\noutput = 1", '["m"]: input: missing'),
        (
            "[m]\ninput = 1\nprompt = 2",
            '["m"]: prompt: unknown key (known: input, output, cached_input, ',
        ),
        (
            "[m]\ninput = -1",
            '["m"]: input = -1: expected US dollars per million tokens',
        ),
        ("[m]\ninput = true", "input = True: expected US dollars per million tokens"),
        ("m = 3", '["m"]: expected a table, got 3; quote a name that has dots'),
        ("[m", "invalid TOML: Expected ']'"),
    ],
)
def test_invalid_file_names_the_model_and_the_key(
    text: str, problem: str, tmp_path: Path
) -> None:
    path = tmp_path / "prices.toml"
    path.write_text(text)

    with pytest.raises(kaywatch.ConfigurationError) as caught:
        kaywatch.configure(prices=str(path))

    assert str(caught.value).startswith(f"{path}: ")
    assert problem in str(caught.value)


CODE = """
import kaywatch, logging
logging.basicConfig(format="%(levelname)s %(message)s")
from kaywatch import prices
print([p and p.input for p in map(prices.find, ["mine", "gpt-4o", "else"])])
kaywatch.configure(prices={"else": kaywatch.Price(9)})
print(prices.find("else").input)
"""


def run(path: Path) -> tuple[str, str]:
    done = subprocess.run(
        [sys.executable, "-c", CODE],
        env={"KAYWATCH_PRICES": str(path)},
        capture_output=True,
        text=True,
    )
    return done.stdout, done.stderr


def test_prices_from_the_environment(tmp_path: Path) -> None:
    path = tmp_path / "prices.toml"
    path.write_text("[mine]\ninput = 7\n[gpt-4o]\ninput = 8")

    assert run(path) == ("[7, 8, None]\n9\n", "")


def test_invalid_file_from_the_environment_is_logged_once(tmp_path: Path) -> None:
    path = tmp_path / "prices.toml"
    path.write_text("[mine]\ninput = 'much'")

    out, err = run(path)

    assert out == "[None, 2.5, None]\n9\n"
    assert err == (
        f"WARNING KAYWATCH_PRICES is ignored: {path}: [\"mine\"]: input = 'much':"
        " expected US dollars per million tokens\n"
    )
