"""Messages and receivers over HTTP."""

from __future__ import annotations

import pytest
from tests.agent.web.serving import Served

PATH = "/api/v1/notifications"
JSON = {"Content-Type": "application/json"}


def test_messages_and_receivers_are_listed_and_filtered(served: Served) -> None:
    response = served.get(PATH)
    assert [row["id"] for row in response["notifications"]] == ["msg_1", "msg_2"]
    (subject,) = response["notifications"][0]["alerts"]
    assert subject["summary"] == "slow: checkout / pay: it is slow"
    few = served.get(PATH, limit=1)
    assert (few["matching"], len(few["notifications"])) == (2, 1)
    assert not served.get(PATH, status="sent")["notifications"]
    names = [row["name"] for row in served.get("/api/v1/receivers")["receivers"]]
    assert names == ["ops", "am"]


@pytest.mark.parametrize(
    ("path", "status", "words"),
    [
        (f"{PATH}?status=odd", 400, "expected one of pending, sent, dead, superseded"),
        ("/api/v1/receivers/opz/test", 404, "ops"),
        ("/api/v1/receivers/am/test", 400, "Alertmanager"),
    ],
)
def test_an_impossible_action_is_rejected_with_the_reason(
    served: Served, path: str, status: int, words: str
) -> None:
    method = "POST" if path.endswith("test") else "GET"
    answer = served.ask(path, JSON, method=method)
    assert answer.status == status
    assert words in answer.body.decode()


def test_a_receiver_is_tested(served: Served) -> None:
    answer = served.ask("/api/v1/receivers/ops/test", JSON, method="POST")
    assert (answer.status, answer.json) == (200, {"count": 2})
    assert "test for ops" in served.source.delivery.dead


def test_another_site_can_test_nothing(served: Served) -> None:
    headers = {"Origin": "https://example.com", **JSON}
    answer = served.ask("/api/v1/receivers/ops/test", headers, method="POST")
    assert answer.status == 403
