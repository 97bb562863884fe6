"""One thing to tell one receiver, before it is part of a message."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from kaywatch_agent.model.alerts import Alert, NoticeKind
from kaywatch_agent.notify.lane import Lane
from kaywatch_agent.notify.ledger import Episode
from kaywatch_agent.notify.policy import Policy

__all__ = ["Notice"]


class Notice(msgspec.Struct, frozen=True):
    """One thing to tell one receiver."""

    receiver: str
    kind: NoticeKind
    alert: Alert
    text: str = ""
    stand_in: str = ""  # for whom, when it is a fallback that is told

    @property
    def episode(self) -> Episode:
        """What the alert's episode is known by to the receiver."""
        alert = self.alert
        return (f"{self.receiver}<{self.stand_in}", alert.dedup_key, alert.episode)

    def group(self, policy: Policy) -> dict[str, str]:
        """Return the labels of the group that it belongs to."""
        if not policy.grouped or self.kind in (NoticeKind.TEST, NoticeKind.SUMMARY):
            return {}
        labels = self.alert.all_labels
        return {name: labels[name] for name in policy.group_by if name in labels}

    def stream(self, policy: Policy, group: Mapping[str, str]) -> str:
        """Return what has to arrive in order with it."""
        if self.kind in (NoticeKind.TEST, NoticeKind.SUMMARY):
            name = str(self.kind)
        elif not policy.grouped:
            name = self.alert.dedup_key
        else:
            pairs = (f"{k}={msgspec.json.encode(v).decode()}" for k, v in group.items())
            name = "{" + ", ".join(pairs) + "}"
        return f"{self.stand_in}<{name}" if self.stand_in else name

    def diverted(self, fallback: str, lanes: Mapping[str, Lane]) -> Notice:
        """Return the same to the fallback, which is told why it is told."""
        lane = lanes.get(self.receiver)
        why = (lane.disabled or lane.error) if lane else ""
        text = f"Sent here because {self.receiver} can't be reached"
        return Notice(
            fallback,
            self.kind,
            self.alert,
            f"{text} ({why})" if why else text,
            self.receiver,
        )
