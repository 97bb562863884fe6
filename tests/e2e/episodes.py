"""Check that no notification is lost while receivers fail and the agent is killed.

Gauges rise above a threshold and fall below it; each time, every unit has an episode.
`python -m tests.e2e.episodes --units 100 --flips 10 --kills 10` is the long form.
"""

from __future__ import annotations

import argparse
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple
from urllib.request import urlopen

from tests.agents import DEADLINE, Agent, until
from tests.receivers import Request, run_receivers

CONFIG = """
[alerting]
group_wait = "0"
group_interval = "0"
group_by = ["alertname", "unit"]
max_alerts_per_rule = 5000
thresholds = {{ success_rate_min = false, error_rate_max = false, \
avg_execution_time_max = false, memory_usage_max = false }}

[[rule]]
name = "level"
metric = "custom.level.last"
op = ">"
value = 0.5
window = "1m"
per = ["unit"]
for = "0"
keep_firing_for = "0"
cooldown = "0"
repeat_interval = "0"
severity = "critical"

[receiver.hook]
type = "webhook"
url = "{url}/hook"
rate = "1000/s"
"""

DRIVER = """
import kaywatch, sys, time
units = int(sys.argv[1])
for line in sys.stdin:
    for unit in range(units):
        kaywatch.gauge("level", float(line), unit=f"u{unit}")
    print("set", flush=True)
"""


@dataclass
class Result:
    """The notifications that arrived.

    Attributes:
        episodes: the number of episodes.
        problems: the errors in the notifications, as text.
        requests: the number of requests, by response.
        messages: the number of accepted messages.
        twice: the number of messages that were accepted twice, because the agent was
            killed before it had stored the first response.
        kills: how often the agent was killed.
    """

    episodes: int
    problems: list[str] = field(default_factory=list)
    requests: Counter[int] = field(default_factory=Counter)
    messages: int = 0
    twice: int = 0
    kills: int = 0


class Kill(NamedTuple):
    """A kill of the agent, in the order of the requests.

    Attributes:
        before: the number of requests before the signal.
        after: the number of requests when the next agent was ready. A request of the
            killed agent may be read only after its end.
    """

    before: int
    after: int


class Notice(NamedTuple):
    """What one message states about one unit."""

    request: int
    episode: int
    status: str


def any_kill_between(kills: Sequence[Kill], first: int, second: int) -> bool:
    """Whether the agent was killed between two requests, given by their indices."""
    return any(first < kill.after and second >= kill.before for kill in kills)


def run(
    agent: Agent,
    folder: Path,
    *,
    units: int,
    flips: int,
    kills: int,
    seed: int = 1,
    rejected: float = 0.0,
) -> Result:
    """Run `flips` episodes of every unit, and check the notifications."""
    chance = random.Random(seed)
    with run_receivers() as receivers:
        receivers.fail(0.3, seed, rejected)
        config = folder / "kaywatch.toml"
        config.write_text(CONFIG.format(url=receivers.url))
        agent.start("--config", str(config))
        driver = agent.spawn(DRIVER, str(units))
        killed: list[Kill] = []
        for flip in range(2 * flips):
            high = flip % 2 == 0
            send_line(driver, "1" if high else "0")
            if len(killed) < kills and chance.random() < 0.7:
                time.sleep(chance.random() * 1.5)
                before = len(receivers.requests)
                agent.stop(signal.SIGKILL)
                agent.start("--config", str(config))
                killed.append(Kill(before, len(receivers.requests)))
            settle(agent, units, "firing" if high else "ok")
        until(lambda: count_waiting(agent) == 0, "everything is delivered", 900)
        assert driver.stdin is not None
        driver.stdin.close()
        driver.wait(DEADLINE)
        agent.stop()
        return compare_notifications(receivers.requests, units, flips, killed)


def send_line(driver: subprocess.Popen[str], line: str) -> None:
    assert driver.stdin is not None and driver.stdout is not None
    driver.stdin.write(line + "\n")
    driver.stdin.flush()
    assert driver.stdout.readline() == "set\n"


def settle(agent: Agent, count: int, state: str) -> None:
    """Wait until all alerts durably have a state."""
    # Count alerts in this state, because a restarted agent has none in any other.
    until(
        lambda: agent.get("/api/v1/alerts", state=state)["matching"] == count,
        f"{count} alerts are {state}",
    )
    commits = sum_metric(agent, "kaywatch_commits_total")
    until(
        lambda: sum_metric(agent, "kaywatch_commits_total") >= commits + 2,
        "that is committed",
    )


def sum_metric(agent: Agent, name: str) -> float:
    """Return the sum of one of the agent's metrics; the labels may be part of it."""
    with urlopen(f"{agent.url}/metrics", timeout=DEADLINE) as answer:
        lines = answer.read().decode().splitlines()
    return sum(
        float(line.rpartition(" ")[2]) for line in lines if line.startswith(name)
    )


def count_waiting(agent: Agent) -> float:
    return sum_metric(agent, "kaywatch_outbox_depth")


def compare_notifications(
    requests: Sequence[Request], units: int, flips: int, kills: Sequence[Kill]
) -> Result:
    """Compare the notifications that arrived with the episodes."""
    result = Result(units * flips, kills=len(kills))
    story: dict[str, list[Notice]] = defaultdict(list)
    accepted: dict[str, int] = {}  # the last request that accepted a message, by its id
    for number, request in enumerate(requests):
        body, status = request.json, request.reply.status
        result.requests[status] += 1
        if not 200 <= status < 300:
            continue
        last = accepted.get(body["id"])
        accepted[body["id"]] = number
        if last is not None:
            result.twice += 1
            # Only what was accepted since the last commit is sent again.
            if not any_kill_between(kills, last, number):
                result.problems.append(f"{body['id']} was repeated without a kill")
            continue
        # Within a message, firing alerts come first; they were notified immediately.
        for alert in sorted(body["alerts"], key=lambda alert: alert["episode"]):
            notice = Notice(number, alert["episode"], alert["status"])
            story[alert["labels"]["unit"]].append(notice)
    result.messages = len(accepted)
    for unit in (f"u{n}" for n in range(units)):
        result.problems += find_errors(unit, story[unit], flips, kills)
    return result


def find_errors(
    unit: str, story: Sequence[Notice], flips: int, kills: Sequence[Kill]
) -> list[str]:
    """Return the errors in the notifications about one unit.

    An episode that begins and ends while a receiver is down is reported only as
    resolved. After a kill, the agent may not know that a message was accepted; what it
    reported as resolved is then also part of a later message.
    """
    problems = []
    last = Notice(-1, 0, "resolved")
    resolved: dict[int, int] = {}  # the request that resolved an episode
    for notice in story:
        number, episode, status = notice
        if status == "resolved":
            first = resolved.setdefault(episode, number)
            if first < number and any_kill_between(kills, first, number):
                continue
        begins = last.status == "resolved" and episode == last.episode + 1
        ends = status == "resolved" and last[1:] == (episode, "firing")
        again = last[1:] == notice[1:] and any_kill_between(kills, last.request, number)
        if not (begins or ends or again):
            problems.append(f"{unit}: {status} of episode {episode} after {last}")
        last = notice
    if last[1:] != (flips, "resolved"):
        problems.append(f"{unit}: the last notification is {last}, of {flips}")
    return problems


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--units", type=int, default=100)
    parser.add_argument("--flips", type=int, default=10)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--rejected", type=float, default=0.01)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="kw-") as folder:
        agent = Agent(Path(folder))
        try:
            result = run(
                agent,
                Path(folder),
                units=asked.units,
                flips=asked.flips,
                kills=asked.kills,
                rejected=asked.rejected,
            )
        finally:
            agent.close()
    for problem in result.problems[:20]:
        print(problem)
    answers = ", ".join(
        f"{status or 'reset'}: {n}" for status, n in sorted(result.requests.items())
    )
    print(
        f"{result.episodes:,} episodes, {result.kills} kills; answers: {answers};"
        f" {result.messages:,} messages, {result.twice} of them twice;"
        f" {len(result.problems)} problems"
    )
    return bool(result.problems)


if __name__ == "__main__":
    sys.exit(main())
