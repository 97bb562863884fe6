"""A batch job for cron: it reads documents, classifies each, and stores the classes.

python nightly_batch.py 200
"""

from __future__ import annotations

import sys
from typing import Any

import model
from pocketflow import BatchNode, Flow, Node

import kaywatch

kaywatch.configure(service="nightly")
kaywatch.instrument()


class Read(Node):
    """Finds the documents of the day."""

    def prep(self, shared: dict[str, Any]) -> int:
        return shared["count"]

    def exec(self, count: int) -> list[str]:
        kaywatch.gauge("documents", count)
        return [f"document {number}" for number in range(count)]

    def post(self, shared: dict[str, Any], prep_res: int, exec_res: list[str]) -> None:
        shared["documents"] = exec_res


class Classify(BatchNode):
    """Asks the model about each document; three failures make it "unknown"."""

    def prep(self, shared: dict[str, Any]) -> list[str]:
        return shared["documents"]

    def exec(self, document: str) -> str:
        kaywatch.observe("document_length", len(document))
        return model.ask(document)

    def exec_fallback(self, document: str, error: Exception) -> str:
        kaywatch.count("unclassified")
        return "unknown"

    def post(
        self, shared: dict[str, Any], prep_res: list[str], exec_res: list[str]
    ) -> None:
        shared["classes"] = exec_res


class Store(Node):
    """Stores the result."""

    def prep(self, shared: dict[str, Any]) -> list[str]:
        return shared["classes"]

    def exec(self, classes: list[str]) -> int:
        return len(classes)

    def post(self, shared: dict[str, Any], prep_res: list[str], exec_res: int) -> None:
        print(f"{exec_res} documents, {prep_res.count('unknown')} unclassified")


class Nightly(Flow):
    """The whole job."""


def main() -> None:
    """Classify as many documents as the command line asks for."""
    read, classify, store = Read(), Classify(max_retries=3), Store()
    read >> classify >> store
    Nightly(start=read).run({"count": int(sys.argv[1])})


if __name__ == "__main__":
    main()
