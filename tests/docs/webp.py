"""Pictures as WebP, which takes a third of the bytes of PNG."""

from __future__ import annotations

import base64

from playwright.sync_api import Page

__all__ = ["to_webp"]

# The browser encodes WebP, so that no other program is needed.
_ENCODE = """async (png) => {
    const image = await createImageBitmap(await (await fetch(png)).blob());
    const canvas = new OffscreenCanvas(image.width, image.height);
    canvas.getContext("2d").drawImage(image, 0, 0);
    const blob = await canvas.convertToBlob({ type: "image/webp", quality: 0.8 });
    const bytes = new Uint8Array(await blob.arrayBuffer());
    return btoa(Array.from(bytes, (byte) => String.fromCharCode(byte)).join(""));
}"""


def to_webp(page: Page, png: bytes) -> bytes:
    """Return a picture as WebP; `page` is any page of a browser."""
    url = "data:image/png;base64," + base64.b64encode(png).decode()
    result: str = page.evaluate(_ENCODE, url)
    return base64.b64decode(result)
