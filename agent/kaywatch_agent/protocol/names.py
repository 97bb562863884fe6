"""Names and texts as all later stages get them: cut, and safe to print.

An application chooses its names, perhaps from its own input. They are shown in
terminals, messages, metrics and logs, and none of these should have to deal with a name
that moves the cursor, forges a line or reverses the text after it.
"""

from __future__ import annotations

import re
from typing import Final

from kaywatch.wire import MAX_NAME

__all__ = ["clean_name", "clean_text"]

# Control characters (C0, DEL, C1), marks and overrides of the writing direction,
# separators of lines and paragraphs, invisible characters, and halves of surrogate
# pairs. Joiners of emojis and of scripts are kept. Tags (the last range) can hide a
# whole text.
_UNSAFE: Final = (
    "\x00-\x1f\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f"
    "\ufeff\ufff9-\ufffb\ud800-\udfff\U0001bca0-\U0001bca3\U0001d173-\U0001d17a"
    "\U000e0000-\U000e007f"
)
_UNSAFE_IN_NAME: Final = re.compile(f"[{_UNSAFE}]")
_UNSAFE_IN_TEXT: Final = re.compile(f"(?![\n\t])[{_UNSAFE}]")

REPLACEMENT: Final = "\N{REPLACEMENT CHARACTER}"


def clean_name(name: str) -> str:
    """Return a name of at most MAX_NAME characters, all of which can be printed."""
    name = name[:MAX_NAME]
    if name.isprintable():
        return name
    return _UNSAFE_IN_NAME.sub(REPLACEMENT, name)


def clean_text(text: str, limit: int | None = None) -> str:
    """Return a text of at most `limit` characters, which may have several lines."""
    text = text[:limit]
    if text.isprintable():
        return text
    return _UNSAFE_IN_TEXT.sub(REPLACEMENT, text.replace("\r\n", "\n"))
