"""Checks the repository against its own rules and documentation."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import os
import pkgutil
import subprocess
import sys
import textwrap
import tomllib
from pathlib import Path

import pytest

import kaywatch
import kaywatch._instrument.frameworks
import kaywatch.launch
import kaywatch_agent
import kaywatch_agent.errors
from kaywatch_agent.config import Config, Sections, load, parse
from kaywatch_agent.ingest.brokers import BrokerConfig

ROOT = Path(__file__).parent.parent


# Imports all modules. If no module imports one whose own import is unfinished, apart
# from the packages that contain it, then none depends on what was imported before.
IMPORT_ALL = """
import builtins, sys
from importlib import import_module
from importlib.util import resolve_name

def lineage(name):
    parts = name.split(".")
    return [".".join(parts[:n]) for n in range(1, len(parts) + 1)]

def is_unfinished(name):
    spec = getattr(sys.modules.get(name), "__spec__", None)
    return getattr(spec, "_initializing", False)

def checked(name, globals=None, locals=None, fromlist=(), level=0):
    scope = globals or {}
    importer = lineage(scope.get("__name__", ""))
    if importer[0] in OURS:
        target = resolve_name("." * level + name, scope.get("__package__"))
        for end in (target, *(f"{target}.{item}" for item in fromlist or ())):
            for each in lineage(end):
                if is_unfinished(each) and each not in importer:
                    sys.exit(f"{importer[-1]} and {each} import each other")
    return unchecked(name, globals, locals, fromlist, level)

OURS = ("kaywatch", "kaywatch_agent")
unchecked, builtins.__import__ = builtins.__import__, checked
for name in sys.argv[1:]:
    import_module(name)
    print(name)
"""


def modules() -> list[str]:
    return [
        info.name
        for package in (kaywatch, kaywatch_agent)
        for info in pkgutil.walk_packages(package.__path__, package.__name__ + ".")
        if info.name != "kaywatch_agent.__main__"
    ]


def test_every_public_name_is_there_and_no_other() -> None:
    for name in kaywatch.__all__:
        assert getattr(kaywatch, name) is not None
    public = {
        name
        for name, value in vars(kaywatch).items()
        if not name.startswith("_") and not isinstance(value, type(sys))
    }
    assert public - {"annotations", "TYPE_CHECKING", "Any"} <= set(kaywatch.__all__)


def test_each_module_exports_the_names_in_its_all() -> None:
    missing = [
        f"{name}.{exported}"
        for name in modules()
        for exported in getattr(importlib.import_module(name), "__all__", [])
        if not hasattr(importlib.import_module(name), exported)
    ]
    assert missing == []


def import_all(*names: str, path: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", IMPORT_ALL, *names],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
    )


def test_every_module_imports_alone_without_a_warning() -> None:
    done = import_all(*modules())

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split() == modules()


@pytest.mark.parametrize(
    ("files", "cycle"),
    [
        ({"a": "from kaywatch_agent import b", "b": "import kaywatch_agent.a"}, True),
        ({"a": "from . import b", "b": "from .a import x"}, True),
        ({"__init__": "from . import a", "a": "from kaywatch.b import x"}, True),
        ({"__init__": "x = 1\nfrom . import a", "a": "from . import x"}, False),
        ({"a": "from . import b", "b": ""}, False),
    ],
)
def test_modules_that_import_each_other_are_an_error(
    files: dict[str, str], cycle: bool, tmp_path: Path
) -> None:
    for package in ("kaywatch", "kaywatch_agent"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").touch()
    (tmp_path / "kaywatch/b.py").write_text("from kaywatch_agent import a\nx = 1")
    for name, code in files.items():
        (tmp_path / f"kaywatch_agent/{name}.py").write_text(code)
    done = import_all("kaywatch_agent.a", path=str(tmp_path))

    assert done.returncode == cycle, done.stderr
    assert ("import each other" in done.stderr) == cycle


def test_a_check_of_the_configuration_imports_no_http_server() -> None:
    """systemd runs it before each start, which it would delay by half."""
    code = (
        "import sys; from kaywatch_agent.cli.main import main\n"
        "sys.argv = ['kaywatch', 'check', '--quiet']\n"
        "try: main()\n"
        "except SystemExit as end: print(end.code, 'aiohttp' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)

    assert (done.stdout, done.stderr) == ("None False\n", "")


def run_code(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_the_client_imports_nothing_else_and_starts_no_thread() -> None:
    output = run_code("""
        import sys
        before = set(sys.modules)
        import kaywatch
        print(sorted(set(sys.modules) - before))
        import threading
        print(threading.active_count())
    """)

    assert output == "['atexit', 'kaywatch', 'kaywatch._early']\n1\n"


def test_using_the_client_imports_no_third_party_module_and_starts_no_thread() -> None:
    output = run_code("""
        import sys, threading
        before = set(sys.modules)
        import kaywatch
        kaywatch.count, kaywatch.execution, kaywatch.configure
        new = {m.split(".")[0] for m in set(sys.modules) - before}
        print(sorted(new - set(sys.stdlib_module_names)), threading.active_count())
        print(sorted(new & {"socket", "asyncio", "logging", "inspect"}))
    """)

    assert output == "['kaywatch'] 1\n[]\n"


def test_what_interrupts_the_first_use_of_the_client_is_recorded_after_it() -> None:
    """A finalizer or signal handler may run in the midst of the import."""
    output = run_code("""
        import sys
        import kaywatch

        class Interruption:
            def find_spec(self, name, path=None, target=None):
                if name == "kaywatch.recorder":
                    kaywatch.observe("size", 3, kind="early")
                    with kaywatch.execution("g", "early"):
                        pass

        sys.meta_path.insert(0, Interruption())
        kaywatch.count("calls")
        kaywatch.flush(1)
        from kaywatch._process import process
        names = [key[1] for key in process.recorder.points_table.keys.values()]
        print(names, list(process.recorder.series_table.keys.values()))
        print(kaywatch.client_stats()["recorded"])
    """)

    assert output == "['size', 'calls'] [('g', 'early')]\n3\n"


def test_the_example_configuration_names_every_key_with_its_default() -> None:
    path = ROOT / "deploy" / "kaywatch.toml"

    assert load(path) == Config()
    value = tomllib.loads(path.read_text())
    sections = {section.name: section for section in dataclasses.fields(Sections)}
    assert set(value) == {*sections, "alerting", "defaults"}
    for name in sections:
        keys = {field.name for field in dataclasses.fields(getattr(Config(), name))}
        assert set(value[name]) == keys - {"mqtt"}


def test_the_example_of_a_broker_names_every_key_with_its_default() -> None:
    text = (ROOT / "deploy" / "kaywatch.toml").read_text()
    start = text.index("# [[ingest.mqtt]]")
    shown = [
        line.removeprefix("# ")
        for line in text[start : text.index("[http]")].splitlines()
        if " = " in line or "[[" in line
    ]
    (value,) = tomllib.loads("\n".join(shown))["ingest"]["mqtt"]
    url = value["url"]

    assert BrokerConfig(**value) == BrokerConfig(url)
    assert list(value) == [field.name for field in dataclasses.fields(BrokerConfig)]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[htp]", "htp: unknown key; did you mean http? (known: alerting, defaults"),
        ("[http]\nlisten = 9", "http.listen: expected a string, got 9"),
        ("[limits]\nserie = 9", "limits.serie: unknown key; did you mean series?"),
        ("[limits]\nseries = true", "limits.series: expected a whole number"),
        ("[log]\nlevel = 'loud'", "log.level: 'loud' is not one of 'debug', 'info'"),
        ("[ingest]\nmode = '0999'", 'ingest.mode: "0999": expected octal digits'),
        (
            "[[ingest.mqtt]]\nurl = 'mqtt://b'\n[[ingest.mqtt]]\nurl = 'amqp://b'",
            "ingest.mqtt[1].url: 'amqp://b': unknown scheme 'amqp'; expected mqtt://",
        ),
        (
            "[[ingest.mqtt]]\nurl = 'mqtt://u:secret@b/$share/g/kaywatch'",
            "ingest.mqtt[0].url: 'mqtt://u:***@b/$share/g/kaywatch': $share is not",
        ),
        ("[[ingest.mqtt]]\nhost = 'b'", "ingest.mqtt[0].host: unknown key"),
        ("[[ingest.mqtt]]\nca = 'b'", "ingest.mqtt[0].url: missing"),
        (
            "[ingest]\nmqtt = 'b'",
            "ingest.mqtt: expected a list of tables [[ingest.mqtt]]",
        ),
        (
            "[[ingest.mqtt]]\nurl = 'mqtt://b'\n[[ingest.mqtt]]\nurl = 'mqtt://b'",
            "ingest: mqtt: b:1883/kaywatch is configured twice",
        ),
        ("http = 3", "http: expected a table [http], got 3"),
        ("[http", "invalid TOML"),
    ],
)
def test_a_wrong_configuration_names_the_key_and_the_fix(
    text: str, complaint: str
) -> None:
    with pytest.raises(kaywatch_agent.errors.ConfigError) as caught:
        parse(text)

    assert str(caught.value).startswith(complaint)


def test_all_errors_of_a_file_are_reported_together() -> None:
    text = """
[http]
conections = 1
[store]
max_size = "much"
[[ingest.mqtt]]
url = "mqtt://b"
session_seconds = "x"
[alerting]
group_wait = "soon"
[[rule]]
name = "a"
metric = "error_rate"
op = ">"
value = "high"
window = "5x"
match = ['graph="g"', "("]
[[rule]]
kind = "unheard"
[[silence]]
match = []
[receiver.ops]
type = "slack"
max_age = true
[receiver.pager]
type = "pagerduty"
[heartbeat]
interval = "often"
"""
    with pytest.raises(kaywatch_agent.errors.ConfigError) as caught:
        kaywatch_agent.config.parse(text)
    result = [
        str(error).partition(":")[0] for error in (caught.value, *caught.value.others)
    ]
    assert result == [
        "http.conections",
        "store.max_size",
        "ingest.mqtt[0].session_seconds",
        "receiver.ops.max_age",
        "receiver.ops.webhook_url",
        "receiver.pager.routing_key",
        "heartbeat.interval",
        "alerting.group_wait",
        "rule[0].value",
        "rule[0].window",
        "rule[0].match[1]",
        "rule[1].kind",
        "rule[1].name",
        "silence[0].starts",
        "silence[0].ends",
    ]


def test_modules_loaded_by_any_python_have_old_syntax() -> None:
    path = Path(kaywatch.launch.FOLDER) / "sitecustomize.py"
    tree = ast.parse(path.read_text(), feature_version=(3, 7))

    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.JoinedStr)]
    assert not [
        f for f in functions if f.returns or any(a.annotation for a in f.args.args)
    ]
    frameworks = next(
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "FRAMEWORKS"
    )
    assert frameworks == kaywatch._instrument.frameworks.FRAMEWORKS
