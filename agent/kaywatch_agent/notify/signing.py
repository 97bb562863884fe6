"""The signatures of webhooks."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from typing import Final

__all__ = ["sign_github", "sign_standard"]

WHSEC: Final = "whsec_"


def sign_standard(key: str, message_id: str, stamp: int, body: bytes) -> dict[str, str]:
    """Return the headers of Standard Webhooks 1.0.0.

    Args:
        key: `whsec_` and base64; several, separated by spaces, while keys are rotated.
        message_id: the same for all attempts.
        stamp: Unix seconds of this attempt.
        body: the bytes that are sent.

    Raises:
        ValueError: a key is not base64.
    """
    signed = f"{message_id}.{stamp}.".encode() + body
    signatures = []
    for part in key.split():
        try:
            raw = base64.b64decode(part.removeprefix(WHSEC), validate=True)
        except binascii.Error as error:
            raise ValueError(str(error)) from None
        digest = hmac.new(raw, signed, hashlib.sha256).digest()
        signatures.append("v1," + base64.b64encode(digest).decode())
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(stamp),
        "webhook-signature": " ".join(signatures),
    }


def sign_github(key: str, body: bytes) -> str:
    """Return GitHub's signature of a body."""
    return "sha256=" + hmac.new(key.encode(), body, hashlib.sha256).hexdigest()
