"""The set-up of logging, together with the application's own logging."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from kaywatch import ConfigurationError
from kaywatch.logs import (
    ContextFilter,
    remove_logging,
    setup_production_logging,
    setup_structured_logging,
)

# Each part of it may be replaced, and nothing else is said on stderr.
PROGRAM = """
import logging, sys
import pocketflow, kaywatch
from kaywatch.logs import setup_production_logging, setup_structured_logging
from kaywatch.testing import capture
recorded = capture()
recorded.__enter__()  # otherwise the lack of an agent is logged
kaywatch.instrument()

class Load(pocketflow.Node):
    def exec(self, prep_res):
        logging.getLogger("shop").info("loading")

def run():
    pocketflow.Flow(Load()).run({})

folder = sys.argv[1]
"""
LINES = 5  # of one run: the graph's and the node's start and end, and the node's own


def execute(
    code: str, folder: Path, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run a program of an application's; it has to end well."""
    without = {k: v for k, v in os.environ.items() if k != "ENVIRONMENT"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM + code, str(folder)],
        env=without | environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done


def lines(folder: Path, name: str = "kaygraph.log") -> list[str]:
    return (folder / name).read_text().splitlines()


# -- levels --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environment", "level"),
    [
        ({"ENVIRONMENT": "production"}, "INFO"),
        ({"ENVIRONMENT": "development"}, "DEBUG"),
        ({}, "DEBUG"),
    ],
)
def test_the_environment_chooses_the_level(
    tmp_path: Path, environment: dict[str, str], level: str
) -> None:
    code = """
setup_production_logging(directory=folder)
logging.getLogger("shop").debug("detail")
print(logging.getLevelName(logging.getLogger().level))
"""
    done = execute(code, tmp_path, **environment)

    assert done.stdout == f"{level}\n"
    assert done.stderr == ""
    assert len(lines(tmp_path)) == (level == "DEBUG")


def test_console_and_files_get_their_levels(tmp_path: Path) -> None:
    code = """
setup_production_logging(directory=folder)
for level in ("debug", "info", "warning", "error", "critical"):
    getattr(logging.getLogger("shop"), level)(level)
"""
    done = execute(code, tmp_path)

    def without_time(text: list[str]) -> list[str]:
        return [line.rpartition(" - ")[2] for line in text]

    everything = ["debug", "info", "warning", "error", "critical"]
    assert without_time(lines(tmp_path)) == everything
    assert without_time(done.stderr.splitlines()) == everything[1:]
    assert without_time(lines(tmp_path, "kaygraph_errors.log")) == everything[3:]


def test_level_is_raised_only_on_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ENVIRONMENT", "production")
    root = logging.getLogger()
    before = root.level
    root.setLevel(logging.DEBUG)
    try:
        setup_production_logging(directory=tmp_path)
        assert root.level == logging.DEBUG
        setup_production_logging(directory=tmp_path, level="INFO")
        assert root.level == logging.INFO
        remove_logging()
        assert root.level == logging.DEBUG
    finally:
        root.setLevel(before)


def test_level_argument_overrides_the_environment(tmp_path: Path) -> None:
    setup_production_logging(directory=tmp_path, level="warning")
    assert logging.getLogger().level == logging.WARNING
    setup_production_logging(directory=tmp_path, level=logging.ERROR)
    assert logging.getLogger().level == logging.ERROR


# -- twice in a row ------------------------------------------------------------------


def test_second_identical_call_adds_nothing(tmp_path: Path) -> None:
    code = """
for _ in range(3):
    setup_production_logging(directory=folder)
run()
"""
    done = execute(code, tmp_path)

    assert len(lines(tmp_path)) == len(done.stderr.splitlines()) == LINES


def test_last_call_wins(tmp_path: Path) -> None:
    code = """
import os
os.mkdir(folder + "/other")
setup_production_logging(directory=folder)
setup_production_logging(directory=folder + "/other", console=False)
run()
"""
    done = execute(code, tmp_path)

    assert lines(tmp_path) == []
    assert len(lines(tmp_path / "other")) == LINES
    assert done.stderr == ""


def test_both_set_ups_share_the_console(tmp_path: Path) -> None:
    code = """
setup_production_logging(directory=folder)
setup_structured_logging(directory=folder)
run()
"""
    done = execute(code, tmp_path)

    assert len(lines(tmp_path)) == LINES
    assert len(lines(tmp_path, "kaygraph.jsonl")) == LINES
    assert len(done.stderr.splitlines()) == LINES
    assert all(line.startswith("{") for line in done.stderr.splitlines())


def test_removing_restores_the_previous_state(tmp_path: Path) -> None:
    root = logging.getLogger()
    before = root.handlers[:], root.level
    setup_production_logging(directory=tmp_path)
    setup_structured_logging(directory=tmp_path)
    assert len(root.handlers) == len(before[0]) + 5
    remove_logging()

    assert (root.handlers, root.level) == before
    remove_logging()


# -- together with the application's own logging -------------------------------------


def test_earlier_basic_config_keeps_its_lines_without_repetition(
    tmp_path: Path,
) -> None:
    code = """
logging.basicConfig(level=logging.INFO, format="mine %(levelname)s %(message)s")
setup_production_logging(directory=folder)
run()
logging.getLogger("shop").debug("detail")
"""
    done = execute(code, tmp_path)

    console = done.stderr.splitlines()
    assert len(console) == LINES
    assert all(line.startswith("mine INFO ") for line in console)
    assert len(lines(tmp_path)) == LINES + 1  # with the detail
    assert "mine" not in "".join(lines(tmp_path))


def test_application_handlers_get_no_additional_records(tmp_path: Path) -> None:
    code = """
logging.basicConfig(format="mine %(levelname)s %(message)s")
own = logging.FileHandler(folder + "/own.log")
logging.getLogger("shop.sales").addHandler(own)
logging.getLogger("loud").setLevel(logging.DEBUG)
setup_production_logging(directory=folder)
logging.getLogger("shop.sales").info("sold")
logging.getLogger("shop.sales").warning("sold out")
logging.getLogger("loud").debug("detail")
"""
    done = execute(code, tmp_path)

    # What the application did not show, ours shows from INFO on.
    console = done.stderr.splitlines()
    assert console[0].endswith(" - sold")
    assert console[1:] == ["mine WARNING sold out", "mine DEBUG detail"]
    assert lines(tmp_path, "own.log") == ["sold out"]
    assert len(lines(tmp_path)) == 3


def test_later_level_of_the_application_is_respected(tmp_path: Path) -> None:
    code = """
own = logging.FileHandler(folder + "/own.log")
logging.getLogger().addHandler(own)
setup_production_logging(directory=folder, level="INFO", console=False)
logging.getLogger("shop").info("sold")
logging.getLogger().setLevel(logging.DEBUG)
logging.getLogger("shop").debug("detail")
"""
    execute(code, tmp_path)

    assert lines(tmp_path, "own.log") == ["detail"]


def test_later_basic_config_is_harmless(tmp_path: Path) -> None:
    code = """
setup_production_logging(directory=folder)
logging.basicConfig(level=logging.INFO, format="mine %(message)s")
run()
logging.basicConfig(level=logging.INFO, format="mine %(message)s", force=True)
run()
"""
    done = execute(code, tmp_path)

    # The first call does nothing; `force` removes all handlers.
    assert len(lines(tmp_path)) == LINES
    console = done.stderr.splitlines()
    assert len(console) == 2 * LINES
    assert [line.startswith("mine") for line in console] == [False] * 5 + [True] * 5


def test_later_console_handler_repeats_no_line(tmp_path: Path) -> None:
    code = """
setup_production_logging(directory=folder)
own = logging.StreamHandler()
own.setLevel(logging.WARNING)
own.setFormatter(logging.Formatter("mine %(message)s"))
logging.getLogger().addHandler(own)
logging.getLogger("shop").info("sold")
logging.getLogger("shop").warning("sold out")
"""
    done = execute(code, tmp_path)

    sold, sold_out = done.stderr.splitlines()
    assert sold.endswith(" - sold")
    assert sold_out == "mine sold out"


@pytest.mark.parametrize("root", [True, False])
def test_later_dict_config_is_harmless(tmp_path: Path, root: bool) -> None:
    code = f"""
import logging.config
setup_production_logging(directory=folder)
own = {{"class": "logging.StreamHandler", "formatter": "mine"}}
config = {{
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {{"mine": {{"format": "mine %(message)s"}}}},
    "handlers": {{"own": own}},
}}
part = {{"level": "INFO", "handlers": ["own"]}}
if {root}:
    config["root"] = part
else:
    config["loggers"] = {{"shop": part}}
logging.config.dictConfig(config)
run()
setup_production_logging(directory=folder)
run()
"""
    done = execute(code, tmp_path)

    console = done.stderr.splitlines()
    if root:  # it takes the root logger for itself, until ours are set up again
        assert len(lines(tmp_path)) == LINES
        assert [line[:5] for line in console] == ["mine "] * LINES * 2
    else:  # it closes ours, which open again
        assert len(lines(tmp_path)) == 2 * LINES
        assert [line for line in console if line.startswith("mine")] == [
            "mine loading"
        ] * 2


def test_rich_handler_repeats_no_line(tmp_path: Path) -> None:
    code = """
import rich.console, rich.logging
console = rich.console.Console(file=sys.stderr)
logging.getLogger().addHandler(rich.logging.RichHandler(console=console))
setup_production_logging(directory=folder, level="INFO")
logging.getLogger().setLevel(logging.DEBUG)
logging.getLogger("shop").info("sold")
"""
    done = execute(code, tmp_path)

    assert done.stderr.count("sold") == 1


def test_files_stay_when_the_working_directory_changes(tmp_path: Path) -> None:
    code = """
import os
os.chdir(folder)
setup_production_logging(console=False)
os.mkdir("elsewhere")
os.chdir("elsewhere")
run()
"""
    execute(code, tmp_path)

    assert len(lines(tmp_path)) == LINES
    assert list((tmp_path / "elsewhere").iterdir()) == []


# -- the context ---------------------------------------------------------------------


def test_application_handler_can_show_node_and_run(tmp_path: Path) -> None:
    code = """
from kaywatch.logs import ContextFilter
logging.basicConfig(level=logging.INFO, format="%(run_id)s|%(graph)s|%(node_id)s")
logging.getLogger().handlers[0].addFilter(ContextFilter())
logging.getLogger("shop").info("outside")
run()
"""
    done = execute(code, tmp_path)

    outside, inside = done.stderr.splitlines()
    assert outside == "||"
    run, graph, node = inside.split("|")
    assert run.endswith("-1")
    assert (graph, node) == ("Flow[Load]", "Load")


def test_context_keeps_existing_attributes() -> None:
    record = logging.makeLogRecord({"run_id": "theirs"})

    assert ContextFilter().filter(record)
    assert vars(record)["run_id"] == "theirs"
    assert vars(record)["node_id"] == ""


# -- mistakes ------------------------------------------------------------------------


@pytest.mark.parametrize("setup", [setup_production_logging, setup_structured_logging])
def test_invalid_argument_names_the_fix_and_changes_nothing(
    tmp_path: Path, setup: type
) -> None:
    root = logging.getLogger()
    before = root.handlers[:], root.level
    file = tmp_path / "file"
    file.touch()
    (tmp_path / "kaygraph_errors.log").mkdir()
    (tmp_path / "kaygraph_errors.jsonl").mkdir()
    missing = tmp_path / "missing"
    for arguments, problem in (
        ({"directory": missing}, f"{missing} does not exist; create it (mkdir -p"),
        ({"directory": file}, f"{file} is not a directory"),
        ({"directory": tmp_path}, "cannot write .*kaygraph_errors"),
        ({"directory": tmp_path, "max_bytes": -1}, "max_bytes=-1"),
        ({"directory": tmp_path, "backups": "5"}, "backups='5'"),
        ({"directory": tmp_path, "level": "LOUD"}, "level='LOUD'"),
    ):
        match = problem.replace("(", r"\(")
        with pytest.raises(ConfigurationError, match=match):
            setup(**arguments)
        assert (root.handlers, root.level) == before


def test_invalid_format_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="format='plain'"):
        setup_production_logging(directory=tmp_path, format="plain")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become another user")
def test_unwritable_directory_is_rejected() -> None:
    code = """
import os
os.setuid(65534)
try:
    setup_production_logging(directory=folder)
except kaywatch.ConfigurationError as error:
    print(error)
"""
    with tempfile.TemporaryDirectory(prefix="kw-") as name:  # pytest's are private
        folder = Path(name)
        folder.chmod(0o755)
        done = execute(code, folder)

    assert f"cannot write {folder}/kaygraph.log (Permission denied)" in done.stdout
    assert f"chown -R 65534 {folder}" in done.stdout
