"""The short form of `make chaos-mqtt`."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.e2e import chaos, chaos_mqtt


@pytest.mark.parametrize(
    ("broker", "only_old"),
    [("mosquitto", False), ("mosquitto", True), ("rumqttd", False)],
    ids=["v5", "v3.1.1", "rumqttd"],
)
def test_nothing_is_lost_or_counted_twice_whatever_breaks(
    broker: str, only_old: bool, tmp_path: Path
) -> None:
    result, done = chaos_mqtt.run(
        tmp_path,
        broker=broker,
        strikes=len(chaos_mqtt.KINDS),
        processes=2,
        only_old=only_old,
        pause=chaos.SHORT_PAUSE,
    )

    assert result.differences == []
    assert result.events > 10_000
    assert done == dict.fromkeys(chaos_mqtt.KINDS, 1)
