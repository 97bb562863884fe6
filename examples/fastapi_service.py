"""A service that streams its answers.

A node ends when its functions have returned, which is before the first word is sent.
`kaywatch.execution(...).stream` therefore measures the stream as an execution of its
own, until the last word is sent or the reader disconnects.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import model
from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from pocketflow import Flow, Node

import kaywatch

kaywatch.configure(service="answers")
kaywatch.instrument()

app = FastAPI()


class Retrieve(Node):
    """Looks up what is known about the question."""

    def exec(self, prep_res: None) -> list[str]:
        return ["one document", "another document"]

    def post(self, shared: dict[str, Any], prep_res: None, exec_res: list[str]) -> None:
        shared["documents"] = exec_res


class Answer(Node):
    """Starts the answer; its words are read by the response."""

    def prep(self, shared: dict[str, Any]) -> str:
        return " ".join([shared["question"], *shared["documents"]])

    def exec(self, prompt: str) -> Iterator[str]:
        return kaywatch.execution("Answers", "Answer.words").stream(
            model.stream(prompt)
        )

    def post(
        self, shared: dict[str, Any], prep_res: str, exec_res: Iterator[str]
    ) -> None:
        shared["words"] = exec_res


class Answers(Flow):
    """Retrieves documents, then answers."""


@app.get("/answer")
def answer(question: str) -> StreamingResponse:
    shared: dict[str, Any] = {"question": question}
    retrieve = Retrieve()
    retrieve >> Answer()
    Answers(start=retrieve).run(shared)
    return StreamingResponse(shared["words"], media_type="text/plain")
