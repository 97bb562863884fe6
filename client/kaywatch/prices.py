"""The cost of tokens: a small list of well-known models, and the user's own prices.

The list holds standard prices: those of Claude are from Anthropic's price page, those
of OpenAI's models from public listings, not verified against OpenAI's page or a bill.
Models whose price depends on the prompt's length are left out: a call without a price
is counted as such, while a wrong price would go unnoticed. Discounts (batch, flex) and
surcharges (priority, regions) are not considered.
"""

from __future__ import annotations

import logging
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Any, Final

from kaywatch.errors import ConfigurationError

__all__ = ["AS_OF", "DEFAULT", "Price", "find", "load", "use"]

VARIABLE: Final = "KAYWATCH_PRICES"

AS_OF: Final = "2026-11-24"  # the date of the list

# The suffix of a model's version: `-2024-08-06`, `-20250929`, `-0613`, `@20250929`,
# `-latest`. Anything else is another model, maybe at ten times the price: `gpt-5-pro`
# is not a version of `gpt-5`.
_VERSION: Final = re.compile(r"[-@](\d{4}-\d\d-\d\d|\d{8}|\d{4}|latest)")

# Names whose price is cached. Models are few, but the application chooses the names.
MAX_CACHED: Final = 1_024

log = logging.getLogger("kaywatch")


def _is_amount(value: object) -> bool:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return number and 0 <= value < math.inf  # type: ignore[operator]


@dataclass(frozen=True)
class Price:
    """The cost of a model in US dollars per million tokens.

    Attributes:
        input: for tokens of the prompt.
        output: for tokens of the answer.
        cached_input: for tokens of the prompt read from the provider's cache. Default:
            `input`.
        cache_write: for tokens written to the cache. Default: `input`.
        cache_write_long: for tokens written to the cache for an hour. Default:
            `cache_write`.

    Example:
        kaywatch.configure(prices={"large": kaywatch.Price(input=3, output=15)})

    Raises:
        ConfigurationError: a value is not a number, or it is negative.
    """

    input: float
    output: float = 0.0
    cached_input: float | None = None
    cache_write: float | None = None
    cache_write_long: float | None = None

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            optional = field.default is None
            if not (_is_amount(value) or (optional and value is None)):
                raise ConfigurationError(
                    f"{field.name} = {value!r}: expected US dollars per million tokens"
                )

    def cost(
        self,
        input: float,
        output: float,
        cached: float = 0.0,
        written: float = 0.0,
        written_long: float = 0.0,
    ) -> float:
        """Return the cost of a call in US dollars.

        Args:
            input: all tokens of the prompt.
            output: tokens of the answer.
            cached: tokens of the prompt read from the cache.
            written: tokens of the prompt written to the cache.
            written_long: tokens of the prompt written to the cache for an hour.
        """
        plain = max(0.0, input - cached - written - written_long)
        write = _first(self.cache_write, self.input)
        dollars = (
            plain * self.input
            + cached * _first(self.cached_input, self.input)
            + written * write
            + written_long * _first(self.cache_write_long, write)
            + output * self.output
        )
        return dollars / 1e6


def _claude(input: float, cached: float = 0.1) -> Price:
    # Output costs five times the input; writing to the cache 1.25 times, for an hour 2.
    return Price(input, input * 5, input * cached, input * 1.25, input * 2)


DEFAULT: Final[Mapping[str, Price]] = {
    # To compare with: https://developers.openai.com/api/docs/pricing
    "gpt-5.2": Price(1.75, 14.0, 0.175),
    "gpt-5.1": Price(1.25, 10.0, 0.125),
    "gpt-5": Price(1.25, 10.0, 0.125),
    "gpt-5-mini": Price(0.25, 2.0, 0.025),
    "gpt-5-nano": Price(0.05, 0.4, 0.005),
    "gpt-4.1": Price(2.0, 8.0, 0.5),
    "gpt-4.1-mini": Price(0.4, 1.6, 0.1),
    "gpt-4.1-nano": Price(0.1, 0.4, 0.025),
    "gpt-4o": Price(2.5, 10.0, 1.25),
    "gpt-4o-2024-05-13": Price(5.0, 15.0),
    "gpt-4o-mini": Price(0.15, 0.6, 0.075),
    "o1": Price(15.0, 60.0, 7.5),
    "o3": Price(2.0, 8.0, 0.5),
    "o3-mini": Price(1.1, 4.4, 0.55),
    "o4-mini": Price(1.1, 4.4, 0.275),
    "text-embedding-3-large": Price(0.13),
    "text-embedding-3-small": Price(0.02),
    "text-embedding-ada-002": Price(0.1),
    # https://platform.claude.com/docs/en/about-claude/pricing
    "claude-opus-5-5": _claude(4.0, cached=0.05),
    "claude-opus-5": _claude(5.0),
    "claude-opus-4-8": _claude(5.0),
    "claude-opus-4-7": _claude(5.0),
    "claude-opus-4-6": _claude(5.0),
    "claude-opus-4-5": _claude(5.0),
    "claude-opus-4-1": _claude(15.0),
    "claude-opus-4": _claude(15.0),
    # Cache reads: halved in October 2026 according to third parties, not to the page.
    "claude-sonnet-5-5": _claude(2.0, cached=0.05),
    "claude-sonnet-5": _claude(2.0),
    "claude-sonnet-4-6": _claude(3.0),
    "claude-sonnet-4-5": _claude(3.0),
    "claude-sonnet-4": _claude(3.0),
    "claude-3-7-sonnet": _claude(3.0),
    "claude-haiku-4-5": _claude(1.0),
    "claude-3-5-haiku": _claude(0.8),
    "claude-3-haiku": Price(0.25, 1.25, 0.03, 0.3, 0.5),
}

_user_prices: Mapping[str, Price] = {}


def find(model: str) -> Price | None:
    """Return a model's price, None if it is unknown.

    A name matches itself and its dated versions; one that ends with `*` matches
    everything with that prefix. The longest matching name wins; for the same name,
    `configure` overrides the file, and the file overrides the built-in list.
    """
    return _find(model) if model else None


def use(prices: object) -> None:
    """Use the prices given in code, which replace prices given earlier.

    Args:
        prices: a mapping of models' names, or a file's path.

    Raises:
        ConfigurationError: naming the price or file that cannot be used.
    """
    global _user_prices  # noqa: PLW0603 - a setting of the process
    if isinstance(prices, (str, os.PathLike)):
        _user_prices = load(os.fspath(prices))
    else:
        _user_prices = _validate(prices)
    _list.cache_clear()
    _find.cache_clear()


def load(path: str) -> dict[str, Price]:
    """Return the prices in a TOML file: a table for each model.

        ["my-model"]
        input = 0.5
        output = 1.5

    Raises:
        ConfigurationError: naming the file, the model and the key.
    """
    import tomllib

    try:
        with open(path, "rb") as file:
            tables = tomllib.load(file)
    except OSError as error:
        raise ConfigurationError(f"{path}: {error.strerror or error}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path}: invalid TOML: {error}") from error
    return _validate({model: _price(path, model, t) for model, t in tables.items()})


# -- inside --------------------------------------------------------------------------


def _validate(prices: object) -> dict[str, Price]:
    if not isinstance(prices, Mapping):
        raise ConfigurationError(
            f"prices={prices!r}: expected a mapping of models' names, or a file's path"
        )
    for model, price in prices.items():
        if not isinstance(model, str) or not model.rstrip("*"):
            raise ConfigurationError(f"prices: {model!r} is not a model's name")
        if not isinstance(price, Price):
            raise ConfigurationError(
                f"prices[{model!r}]: expected a kaywatch.Price, got {price!r}"
            )
    return dict(prices)


def _price(path: str, model: str, table: Any) -> Price:
    where = f'{path}: ["{model}"]'
    if not isinstance(table, dict):
        raise ConfigurationError(
            f"{where}: expected a table, got {table!r}; quote a name that has dots"
        )
    names = [field.name for field in fields(Price)]
    for key in table:
        if key not in names:
            raise ConfigurationError(
                f"{where}: {key}: unknown key (known: {', '.join(names)})"
            )
    if "input" not in table:
        raise ConfigurationError(
            f"{where}: input: missing; set the price of a million tokens"
        )
    try:
        return Price(**table)
    except ConfigurationError as error:
        raise ConfigurationError(f"{where}: {error}") from None


@lru_cache(maxsize=MAX_CACHED)
def _find(model: str) -> Price | None:
    prices = _list()
    matching = [name for name in prices if _matches(name, model)]
    return prices[max(matching, key=len)] if matching else None


def _matches(name: str, model: str) -> bool:
    if name.endswith("*"):
        return model.startswith(name[:-1])
    return model.startswith(name) and (
        len(model) == len(name) or _VERSION.fullmatch(model, len(name)) is not None
    )


@lru_cache(maxsize=1)
def _list() -> Mapping[str, Price]:
    return {**DEFAULT, **_load_file(os.environ.get(VARIABLE, "")), **_user_prices}


@lru_cache(maxsize=1)
def _load_file(path: str) -> Mapping[str, Price]:
    """Return the prices in the environment's file, none if it cannot be used.

    Cached, so that the file is read once and a problem is logged once.
    """
    try:
        return load(path) if path else {}
    except ConfigurationError as error:
        # Not raised, because it must not stop the application.
        log.warning("%s is ignored: %s", VARIABLE, error)
        return {}


def _first(value: float | None, otherwise: float) -> float:
    return otherwise if value is None else value
