"""Secrets of the configuration: where each is stored, and how it is read."""

from __future__ import annotations

import dataclasses
import os
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar, cast

from kaywatch_agent.errors import ConfigError
from kaywatch_agent.settings.reader import ErrorCollector, valid_section

__all__ = ["SOURCES", "Secret", "secret_names", "section_with_secrets"]

MAX_BYTES: Final = 65_536

# The suffix of a secret's key says where the secret is stored: in the configuration
# itself, a file, an environment variable, or a systemd credential (systemd.exec(5)).
SOURCES: Final = ("", "_file", "_env", "_credential")

_Section = TypeVar("_Section")


class Secret(NamedTuple):
    """A secret, read again at each use: a rotated file needs no reload.

    Attributes:
        key: the path of the key that sets it, for error messages.
        source: one of SOURCES.
        location: the file, variable or credential name; or the secret itself.
    """

    key: str
    source: str
    location: str

    def __repr__(self) -> str:
        return f"<secret {self.key}>"

    def read(self) -> str:
        """Return the secret.

        Raises:
            ConfigError: it cannot be read; names the key, never the secret.
        """
        if not self.source:
            return self.location
        value = self._variable() if self.source == "_env" else self._file()
        if not value:
            raise ConfigError(self.key, "the secret is empty")
        return value

    def _variable(self) -> str:
        try:
            return os.environ[self.location].strip()
        except KeyError:
            message = f"the environment variable {self.location} is not set"
            raise ConfigError(self.key, message) from None

    def _file(self) -> str:
        if "://" in self.location:
            # Without the value: it may be the secret, under the wrong key.
            raise ConfigError(self.key, "expected the path of a file, got a URL")
        path = Path(self.location)
        if self.source == "_credential":
            folder = os.environ.get("CREDENTIALS_DIRECTORY")
            if folder is None:
                raise ConfigError(
                    self.key,
                    "CREDENTIALS_DIRECTORY is not set; add LoadCredential= to the unit",
                )
            path = _credential(Path(folder), self.location)
        try:
            with path.open("rb") as file:
                # Editors on Windows begin a file with a byte order mark.
                return file.read(MAX_BYTES).decode("utf-8-sig").strip()
        except UnicodeDecodeError:
            raise ConfigError(self.key, f"{path} is not UTF-8 text") from None
        except OSError as error:
            reason = (error.strerror or "unreadable").lower()
            raise ConfigError(self.key, f"cannot read {path}: {reason}") from None


def _credential(folder: Path, name: str) -> Path:
    """Return the path of a credential, whether loaded alone or with a folder."""
    # systemd prefixes the files of a folder: LoadCredential=kaywatch:FOLDER, as in the
    # unit that kaywatch installs.
    prefixed = folder / f"kaywatch_{name}"
    return prefixed if prefixed.exists() else folder / name


def secret_names(kind: type[Any]) -> dict[str, bool]:
    """Return the names of a section's secrets, and whether each is required."""
    hints = typing.get_type_hints(kind)
    return {
        field.name: hints[field.name] is Secret
        for field in dataclasses.fields(kind)
        if Secret in (hints[field.name], *typing.get_args(hints[field.name]))
    }


def section_with_secrets(
    kind: type[_Section], table: Mapping[str, Any], path: str
) -> _Section:
    """Return a dataclass filled from a table; see `settings.reader.section`.

    Args:
        kind: the dataclass; its fields of type `Secret` have a key for each source.
        table: the values.
        path: where the table is in the file, such as `receiver.ops`.

    Raises:
        ConfigError: all errors, each with its key.
    """
    names = secret_names(cast("type[Any]", kind))
    keys = [name + source for name in names for source in SOURCES]
    values = {key: value for key, value in table.items() if key not in keys}
    problems = ErrorCollector()
    for name, required in names.items():
        # Stands in for a secret with an error, so that other errors are found as well.
        values[name] = Secret(f"{path}.{name}", "", "")
        with problems.collect():
            secret = _find_secret(name, table, path)
            if secret is not None:
                values[name] = secret
            elif required:
                others = ", ".join(name + source for source in SOURCES[1:])
                raise ConfigError(f"{path}.{name}", f"missing; set one of {others}")
            else:
                del values[name]
    config = valid_section(kind, values, path, problems, keys)
    problems.raise_all()
    return cast("_Section", config)  # without errors, it is one


def _find_secret(name: str, table: Mapping[str, Any], path: str) -> Secret | None:
    present = [source for source in SOURCES if table.get(name + source)]
    for source in present:
        if not isinstance(table[name + source], str):
            # Without the value: it may be a secret that lacks its quotes.
            raise ConfigError(f"{path}.{name}{source}", "expected a string")
    if len(present) > 1:
        keys = " and ".join(name + source for source in present)
        raise ConfigError(f"{path}.{name}{present[1]}", f"{keys}: set only one")
    if not present:
        return None
    (source,) = present
    return Secret(f"{path}.{name}{source}", source, table[name + source])
