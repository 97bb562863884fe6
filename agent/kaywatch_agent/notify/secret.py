"""A secret of the configuration: where it is, and what it is when it is needed."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from kaywatch_agent.errors import ConfigError

__all__ = ["Secret", "secret"]

MAX_BYTES: Final = 65_536

# How a secret can be given, by the ending of its key; see systemd.exec(5) for the last.
SOURCES: Final = ("", "_file", "_env", "_credential")


class Secret:
    """Reads its value anew at each use, so that a rotated file needs no reload."""

    def __init__(self, key: str, source: str, where: str) -> None:
        """Read nothing yet.

        Args:
            key: the path of the key that gave it, for complaints.
            source: one of SOURCES.
            where: the file, the variable, the credential's name, or the secret itself.
        """
        self.key = key
        self.inline = source == ""
        self._source = source
        self._where = where

    def __repr__(self) -> str:
        return f"<secret {self.key}>"

    def read(self) -> str:
        """Return the secret.

        Raises:
            ConfigError: it is not where it should be; names the key, not the secret.
        """
        if self.inline:
            return self._where
        found = self._environment() if self._source == "_env" else self._file()
        if not found:
            raise ConfigError(self.key, "it is empty")
        return found

    def _environment(self) -> str:
        try:
            return os.environ[self._where].strip()
        except KeyError:
            raise ConfigError(self.key, f"{self._where} is not set") from None

    def _file(self) -> str:
        path = Path(self._where)
        if self._source == "_credential":
            folder = os.environ.get("CREDENTIALS_DIRECTORY")
            if folder is None:
                raise ConfigError(
                    self.key, "no CREDENTIALS_DIRECTORY; is LoadCredential= set?"
                )
            path = _credential(Path(folder), self._where)
        try:
            with path.open("rb") as file:
                return file.read(MAX_BYTES).decode().strip()
        except UnicodeDecodeError:
            raise ConfigError(self.key, f"{path} is no text") from None
        except OSError as error:
            text = error.strerror or "unreadable"
            raise ConfigError(self.key, f"can't read {path}: {text.lower()}") from None


def _credential(folder: Path, name: str) -> Path:
    """Return a credential's file: its own, or that of the folder our unit loads."""
    loaded = folder / f"kaywatch_{name}"  # LoadCredential=kaywatch:FOLDER
    return loaded if loaded.exists() else folder / name


def secret(path: str, name: str, fields: Mapping[str, str]) -> Secret | None:
    """Return the secret that a section gives in one of four ways; None for none.

    Args:
        path: what its keys begin with in a complaint, such as `receiver.ops.`.
        name: the secret's, such as `webhook_url`.
        fields: the section's values by key.

    Raises:
        ConfigError: it is given twice.
    """
    given = [s for s in SOURCES if fields.get(name + s)]
    if len(given) > 1:
        keys = " and ".join(name + source for source in given)
        raise ConfigError(f"{path}{name}{given[1]}", f"{keys}: give one of them")
    if not given:
        return None
    key = name + given[0]
    return Secret(f"{path}{key}", given[0], fields[key])
