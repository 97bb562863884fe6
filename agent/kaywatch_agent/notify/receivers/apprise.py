"""Sends through Apprise, an optional dependency: https://github.com/caronc/apprise.

Apprise blocks, cannot be cancelled, and reports only success or failure. It therefore
has its own threads, and every failed message is retried.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from kaywatch_agent.model.alerts import Notification
from kaywatch_agent.notify import formatting
from kaywatch_agent.notify.config import AppriseConfig
from kaywatch_agent.notify.result import DeliveryResult, no_response, sent

__all__ = ["Apprise", "render"]

THREADS: Final = 2
SECONDS: Final = 30.0
MAX_BODY: Final = 3_000  # most services accept about 4,000 characters


def render(notification: Notification, now: float) -> dict[str, str]:
    """Return the arguments of `apprise.Apprise.notify`."""
    title, _, body = formatting.plain_text(notification, now).partition("\n")
    kind = "success"
    if formatting.status(notification) == "firing":
        severity = notification.alerts[0].severity
        kind = {"info": "info", "warning": "warning"}.get(severity, "failure")
    text = formatting.truncate(body.strip(), MAX_BODY)
    return {"title": title, "body": text, "notify_type": kind}


class Apprise:
    """Sends to the URLs of one secret."""

    render = staticmethod(render)

    def __init__(self, config: AppriseConfig) -> None:
        self._config = config
        self._threads = ThreadPoolExecutor(THREADS, "kaywatch-apprise")

    async def send(self, notification: Notification, now: float) -> DeliveryResult:
        """Send a message to all URLs."""
        loop = asyncio.get_running_loop()
        message = render(notification, now)
        urls = self._config.urls.read()
        try:
            async with asyncio.timeout(SECONDS):
                return await loop.run_in_executor(self._threads, _notify, urls, message)
        except ImportError:
            error = "apprise is not installed; run pip install 'kaywatch[apprise]'"
            return no_response(error, undelivered=True)
        except TimeoutError:
            return no_response(f"no response in {SECONDS:.0f} s")
        except Exception as error:  # noqa: BLE001 - 170 services with their own errors
            return no_response(f"apprise failed ({type(error).__name__})")

    def close(self) -> None:
        """Stop without waiting for threads: a send cannot be cancelled."""
        self._threads.shutdown(wait=False, cancel_futures=True)


def _notify(urls: str, message: Mapping[str, str]) -> DeliveryResult:
    import apprise

    service: Any = apprise.Apprise()
    invalid = sum(not service.add(url) for url in urls.split())
    if invalid or not len(service):
        text = f"{invalid} of the URLs are not valid Apprise URLs"
        return no_response(text, undelivered=True)
    delivered = service.notify(**message)
    return sent() if delivered else no_response("apprise could not deliver the message")
