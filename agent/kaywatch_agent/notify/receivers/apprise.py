"""Whatever Apprise can reach: https://github.com/caronc/apprise, an extra of ours.

It blocks, can't be cancelled, and says no more than whether it worked. So it has
threads of its own, and a message that failed is tried again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from kaywatch_agent.model.alerts import Notification
from kaywatch_agent.notify import formatting
from kaywatch_agent.notify.config import AppriseConfig
from kaywatch_agent.notify.result import DeliveryResult, Outcome, no_answer, sent

__all__ = ["Apprise", "render"]

THREADS: Final = 2
SECONDS: Final = 30.0
MAX_BODY: Final = 3_000  # most services take some 4,000 characters


class Apprise:
    """Sends to the URLs of one secret."""

    def __init__(self, config: AppriseConfig) -> None:
        self._config = config
        self._threads = ThreadPoolExecutor(THREADS, "kaywatch-apprise")

    def render(self, notification: Notification, now: float) -> dict[str, str]:
        """Return the arguments of `apprise.Apprise.notify`."""
        return render(notification, now)

    async def send(self, notification: Notification, now: float) -> DeliveryResult:
        """Send a message to all of the URLs."""
        loop = asyncio.get_running_loop()
        message = self.render(notification, now)
        urls = self._config.need("urls").read()
        try:
            async with asyncio.timeout(SECONDS):
                return await loop.run_in_executor(self._threads, _notify, urls, message)
        except ImportError:
            missing = "apprise is not installed; pip install 'kaywatch[apprise]'"
            return DeliveryResult(Outcome.RETRY, 0, missing, undelivered=True)
        except TimeoutError:
            return no_answer(f"no answer in {SECONDS:.0f} s")
        except Exception as error:  # noqa: BLE001 - 170 services, each with errors of its own
            return no_answer(f"apprise failed ({type(error).__name__})")

    def close(self) -> None:
        """Wait for no thread: a send can't be cancelled."""
        self._threads.shutdown(wait=False, cancel_futures=True)


def render(notification: Notification, now: float) -> dict[str, str]:
    """Return the arguments of `apprise.Apprise.notify`."""
    title, _, body = formatting.plain_text(notification, now).partition("\n")
    if all(alert.resolved for alert in notification.alerts):
        kind = "success"
    else:
        severity = notification.alerts[0].severity
        kind = {"info": "info", "warning": "warning"}.get(severity, "failure")
    text = formatting.truncate(body.strip(), MAX_BODY)
    return {"title": title, "body": text, "notify_type": kind}


def _notify(urls: str, message: Mapping[str, str]) -> DeliveryResult:
    import apprise

    service: Any = apprise.Apprise()
    wrong = sum(not service.add(url) for url in urls.split())
    if wrong or not len(service):
        text = f"{wrong} of the URLs are none that apprise knows"
        return DeliveryResult(Outcome.RETRY, 0, text, undelivered=True)
    done = service.notify(**message)
    return sent() if done else no_answer("apprise could not deliver it")
