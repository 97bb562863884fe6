"""structlog: the page's code compared with ours, and an application's own set-up."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import structlog
from pocketflow import Flow, Node

from kaywatch import ConfigurationError
from kaywatch.logs import add_context, setup_structured_logging


def read(folder: Path) -> list[dict[str, Any]]:
    lines = (folder / "kaygraph.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


class StructuredLoggingNode(Node):
    """Logs its own life with structlog, by the events that KayGraph's page names."""

    def __init__(self) -> None:
        super().__init__()
        self.node_id = "structured_logger"
        self.log = structlog.get_logger().bind(node_id=self.node_id)

    def _run(self, shared: Any) -> Any:
        keys = [*shared]
        self.log.info("node_execution_start", params=self.params, shared_keys=keys)
        try:
            action = super()._run(shared)
        except Exception as error:
            kind = type(error).__name__
            self.log.error("node_execution_error", error=str(error), error_type=kind)
            raise
        self.log.info("node_execution_success", action=action)
        return action


class Broken(StructuredLoggingNode):
    def exec(self, prep_res: Any) -> Any:
        raise ValueError("broken")


def test_the_pages_node_works_unchanged(tmp_path: Path) -> None:
    setup_structured_logging(directory=tmp_path, console=False)
    StructuredLoggingNode().run({"user": 1})
    with pytest.raises(ValueError, match="broken"):
        Flow(Broken()).run({})

    events = [e for e in read(tmp_path) if not e["event"].startswith("graph")]
    theirs = [e for e in events if e["logger"] == __name__]
    ours = [e for e in events if e["logger"] != __name__]
    assert [e["event"] for e in theirs] == [e["event"] for e in ours]
    assert theirs[0] == {
        "event": "node_execution_start",
        "node_id": "structured_logger",
        "params": {},
        "shared_keys": ["user"],
        "logger": __name__,
        "level": "info",
        "timestamp": theirs[0]["timestamp"],
    }
    assert theirs[-1]["event"] == "node_execution_error"
    # Within a run, the page's lines can be joined with the metrics too.
    assert theirs[-1]["run_id"] == ours[-1]["run_id"]
    errors = (tmp_path / "kaygraph_errors.jsonl").read_text().splitlines()
    assert [json.loads(line)["event"] for line in errors] == [
        "node_execution_error"
    ] * 2


def test_every_line_is_a_json_object(tmp_path: Path) -> None:
    setup_structured_logging(directory=tmp_path, console=False)
    logger = logging.getLogger("shop")
    logger.info("sold %d", 3, extra={"order": 7})
    logger.info('{"looks": "like json"}')
    logger.info("{not json}")
    try:
        raise KeyError("x")
    except KeyError:
        logger.exception("failed")
        structlog.get_logger("shop").exception("failed too", order=8)
    logger.info("stack", stack_info=True)

    sold, looks, other, failed, failed_too, stack = read(tmp_path)
    assert (sold["event"], sold["order"]) == ("sold 3", 7)
    assert (sold["logger"], sold["level"]) == ("shop", "info")
    assert sold["timestamp"].startswith("20")
    assert looks["looks"] == "like json"
    assert other["event"] == "{not json}"
    assert "KeyError: 'x'" in failed["exception"]
    assert (failed_too["order"], failed_too["level"]) == (8, "error")
    assert "KeyError: 'x'" in failed_too["exception"]
    assert "stack_info=True" in stack["stack"]


def test_bound_context_is_in_node_events(tmp_path: Path) -> None:
    setup_structured_logging(directory=tmp_path, console=False)
    with structlog.contextvars.bound_contextvars(request_id="r-1"):
        Flow(Node()).run({})

    assert [e["request_id"] for e in read(tmp_path)] == ["r-1"] * 4


def test_second_identical_call_adds_nothing(tmp_path: Path) -> None:
    for _ in range(3):
        setup_structured_logging(directory=tmp_path, console=False)
    structlog.get_logger("shop").info("sold", order=7)
    Flow(Node()).run({})

    assert len(read(tmp_path)) == 5


def test_an_applications_own_configuration_stays(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    structlog.configure(
        processors=[structlog.processors.KeyValueRenderer()],
        logger_factory=structlog.PrintLoggerFactory(),
    )
    before = structlog.get_config()
    setup_structured_logging(directory=tmp_path, console=False)
    structlog.get_logger().info("mine", a=1)
    Flow(Node()).run({})

    assert structlog.get_config() == before
    assert capsys.readouterr().out == "a=1 event='mine'\n"
    assert len(read(tmp_path)) == 4


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("last", ["json", "wrap"])
def test_json_rendered_by_the_application_stays_one_object(
    tmp_path: Path, last: str, before: bool
) -> None:
    def configure() -> None:
        structlog.configure(
            processors=[
                structlog.stdlib.add_log_level,
                add_context,
                structlog.processors.JSONRenderer()
                if last == "json"
                else structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
            ],
            logger_factory=structlog.stdlib.LoggerFactory(),
            wrapper_class=structlog.stdlib.BoundLogger,
        )

    class Sells(Node):
        def exec(self, prep_res: Any) -> Any:
            structlog.get_logger("shop").info("sold", order=7)

    if before:
        configure()
    setup_structured_logging(directory=tmp_path, console=False)
    if not before:
        configure()
    Flow(Sells()).run({})

    (sold,) = [e for e in read(tmp_path) if e["event"] == "sold"]
    assert (sold["order"], sold["level"]) == (7, "info")
    assert (sold["node_id"], sold["graph"]) == ("Sells", "Flow[Sells]")
    assert sold["run_id"]


def test_missing_structlog_names_the_package() -> None:
    code = (
        "import sys; sys.modules['structlog'] = None\n"
        "import kaywatch\n"
        "from kaywatch.logs import setup_production_logging, setup_structured_logging\n"
        "try: setup_structured_logging()\n"
        "except kaywatch.ConfigurationError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)

    assert done.stdout == (
        "setup_structured_logging needs structlog: pip install 'kaywatch[logs]'\n"
    ), done.stderr


def test_the_plain_set_up_does_not_import_structlog(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from kaywatch.logs import setup_production_logging\n"
        "setup_production_logging(directory=sys.argv[1])\n"
        "print('structlog' in sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True
    )

    assert done.stdout == "False\n", done.stderr


def test_invalid_argument_does_not_configure_structlog(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError):
        setup_structured_logging(directory=tmp_path / "missing")

    assert not structlog.is_configured()
