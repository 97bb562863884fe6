"""Instrumented classes that are pickled by value."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

APPLICATION = """
import sys
import pocketflow
import kaywatch
assert kaywatch.instrument() == ["pocketflow"]
class Embed(pocketflow.Node):
    def __init__(self):
        super().__init__()
        self.add = 1
    def prep(self, shared):
        return shared["x"]
    def exec(self, x):
        return x + self.add
    def post(self, shared, prep_res, exec_res):
        shared["y"] = exec_res
import {library}
sys.stdout.buffer.write({library}.dumps((Embed(), Embed, Embed.exec)))
"""
# A finder that refuses kaywatch stands for an environment without it.
WORKER = """
import importlib, sys
class Absent:
    def find_spec(self, name, *_):
        if name.startswith("kaywatch"):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Absent())
library = importlib.import_module(sys.argv[1])
node, cls, function = library.loads(sys.stdin.buffer.read())
shared = {"x": 1}
node.run(shared)
assert shared["y"] == 2, shared
cls().run(shared)
assert function(node, 3) == 4
assert not hasattr(cls.exec, "__wrapped__")
print("ran without" if "kaywatch" not in sys.modules else "ran with kaywatch")
"""


@pytest.mark.parametrize("library", ["cloudpickle", "dill"])
def test_a_class_of_a_script_loads_where_kaywatch_is_missing(
    library: str, tmp_path: Path
) -> None:
    script = tmp_path / "application.py"
    script.write_text(APPLICATION.format(library=library))
    written = subprocess.run([sys.executable, script], capture_output=True)
    assert written.returncode == 0, written.stderr.decode()
    loaded = subprocess.run(
        [sys.executable, "-c", WORKER, library],
        input=written.stdout,
        capture_output=True,
    )
    assert loaded.stdout == b"ran without\n", loaded.stderr.decode()
