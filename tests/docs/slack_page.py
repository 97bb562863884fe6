"""What Slack makes of a payload of ours, as HTML: the blocks that we send, no others.

The rules are Slack's: https://docs.slack.dev/reference/block-kit and, for the text,
https://docs.slack.dev/messaging/formatting-message-text. The looks are our own.
"""

from __future__ import annotations

import html
import re
from typing import Any

__all__ = ["page"]

EMOJI = {
    "red_circle": "🔴",
    "large_orange_circle": "🟠",
    "large_blue_circle": "🔵",
    "white_check_mark": "✅",
}

STYLE = """
* { box-sizing: border-box; margin: 0; }
body { width: 720px; background: #fff; color: #1d1c1d; padding: 14px 20px 16px;
  font: 15px/22px Lato, "DejaVu Sans", sans-serif; }
.message { display: flex; gap: 8px; }
.icon { width: 36px; height: 36px; border-radius: 4px; background: #24292f; color: #fff;
  font-size: 18px; font-weight: 900; line-height: 36px; text-align: center;
  flex: none; }
.who { font-weight: 900; } .app { background: #e8e8e8; border-radius: 2px;
  color: #616061; font-size: 10px; font-weight: 700; padding: 1px 3px; margin: 0 4px;
  vertical-align: 2px; } .at { color: #616061; font-size: 12px; }
b { font-weight: 900; } a { color: #1264a3; text-decoration: none; }
.attachment { display: flex; margin-top: 6px; max-width: 600px; }
.bar { width: 4px; border-radius: 8px; flex: none; margin-right: 12px; }
.block + .block { margin-top: 8px; } .attachment .blocks { flex: 1; }
.fields { display: grid; grid-template-columns: 1fr 1fr; gap: 8px 16px; }
.context { color: #616061; font-size: 13px; line-height: 18px; }
"""


def page(payload: dict[str, Any], at: str) -> str:
    """Return a page with one message.

    Args:
        payload: what Slack is sent.
        at: the time that Slack shows.
    """
    attachments = "".join(map(_attachment, payload["attachments"]))
    return f"""<!doctype html>
<html lang="en"><meta charset="utf-8"><title>{_plain(payload["text"])}</title>
<style>{STYLE}</style>
<div class="message"><div class="icon">k</div><div>
<span class="who">kaywatch</span><span class="app">APP</span>
<span class="at">{html.escape(at)}</span>
<div>{mrkdwn(payload["text"])}</div>
{attachments}</div></div></html>
"""


def mrkdwn(text: str) -> str:
    """Return a text in Slack's own markup as HTML."""
    # What is sent has its three characters escaped, as HTML has them.
    result = text.replace('"', "&quot;")
    result = re.sub(r"<(https?://[^|>]+)\|([^>]+)>", r'<a href="\1">\2</a>', result)
    result = re.sub(r":(\w+):", lambda m: EMOJI[m[1]], result)
    result = re.sub(r"(?<![\w*])\*([^*\n]+)\*(?![\w*])", r"<b>\1</b>", result)
    result = re.sub(r"(?<!\w)_([^_\n]+)_(?!\w)", r"<i>\1</i>", result)
    return result.replace("\n", "<br>\n")


# -- inside --------------------------------------------------------------------------


def _attachment(attachment: dict[str, Any]) -> str:
    blocks = "".join(map(_block, attachment["blocks"]))
    bar = f'<div class="bar" style="background:{attachment["color"]}"></div>'
    return f'<div class="attachment">{bar}<div class="blocks">{blocks}</div></div>'


def _block(block: dict[str, Any]) -> str:
    match block:
        case {"type": "section", "text": text}:
            return f'<div class="block">{_text(text)}</div>\n'
        case {"type": "section", "fields": fields}:
            cells = "".join(f"<div>{_text(field)}</div>\n" for field in fields)
            return f'<div class="block fields">{cells}</div>\n'
        case {"type": "context", "elements": elements}:
            return f'<div class="block context">{"".join(map(_text, elements))}</div>\n'
    raise ValueError(f"a block of a kind that isn't drawn: {block}")


def _text(text: dict[str, str]) -> str:
    if text["type"] != "mrkdwn":
        raise ValueError(f"a text of a kind that isn't drawn: {text}")
    return mrkdwn(text["text"])


def _plain(text: str) -> str:
    return text.partition("\n")[0].strip("*")
