"""The configuration file as editors write it."""

from __future__ import annotations

import codecs
from pathlib import Path

from kaywatch_agent import config


def test_a_file_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    """As editors on Windows write it."""
    file = tmp_path / "kaywatch.toml"
    file.write_bytes(codecs.BOM_UTF8 + b'[log]\nlevel = "debug"\n')

    assert config.load(file).log.level == "debug"
