"""Tasks that run a flow in the processes of a Celery worker.

`python celery_worker.py N` queues N tasks. The worker forks its processes, and replaces
them after some tasks; kaywatch needs no setting for either.
"""

from __future__ import annotations

import os
import sys
from typing import Any

import model
from celery import Celery
from pocketflow import Flow, Node

import kaywatch

kaywatch.configure(service="summaries")
kaywatch.instrument()

app = Celery("summaries", broker=os.environ.get("BROKER", "redis://127.0.0.1:6379"))
app.conf.task_ignore_result = True


class Summarize(Node):
    """Asks the model, at most three times."""

    def prep(self, shared: dict[str, Any]) -> str:
        return shared["text"]

    def exec(self, text: str) -> str:
        return model.ask(text)

    def exec_fallback(self, text: str, error: Exception) -> str:
        return text[:20]

    def post(self, shared: dict[str, Any], prep_res: str, exec_res: str) -> None:
        shared["summary"] = exec_res


class Summaries(Flow):
    """One summary."""


@app.task(name="summarize")
def summarize(text: str) -> None:
    Summaries(start=Summarize(max_retries=3)).run({"text": text})


if __name__ == "__main__":
    for number in range(int(sys.argv[1])):
        summarize.delay(f"text {number}")
